"""What belongs to which zone, and what was made of it, as the watches have shown it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from kumulus_api import DNSRecord, DNSZone, DNSZoneClaim, Network
from kumulus_api.dns import DNSZoneClaimSpec, zone_claim_name
from kumulus_operator.dns.plan import REVERSE, Verdict
from kumulus_operator.views import Key

if TYPE_CHECKING:
    from kumulus_operator.cloud import Cloud


class ZoneBook:
    """Indexes by zone. Keys are those of DNSZone objects, whether these are there or not."""

    def __init__(self) -> None:
        self.records: dict[Key, set[Key]] = defaultdict(set)
        """Records that name a zone."""
        self.networks: dict[Key, set[Key]] = defaultdict(set)
        """Networks whose servers have names in a zone."""
        self.verdicts: dict[Key, Verdict] = {}
        """What their zones have made of records."""


def holds(cloud: Cloud, zone: DNSZone) -> bool:
    """Give whether a zone holds its domain."""
    claim = cloud.dns_zone_claims.get("", zone_claim_name(zone.spec.domain))
    return claim is not None and holder_of(claim.spec) == zone.key


def domains_of(cloud: Cloud, namespace: str) -> list[str]:
    """Give the domains that are held in a namespace."""
    claims = (claim.spec for claim in cloud.dns_zone_claims)
    return [claim.domain for claim in claims if claim.claim_ref.namespace == namespace]


def quota_changed(cloud: Cloud, namespace: str) -> None:
    """Have the zones looked at that may have waited for more quota."""
    for zone in cloud.dns_zones.in_namespace(namespace):
        if not holds(cloud, zone):
            cloud.queues.dns_zones.add(zone.key)


def holder_of(claim: DNSZoneClaimSpec) -> Key:
    """Give the zone that a claim is for."""
    return claim.claim_ref.namespace, claim.claim_ref.name


def is_reverse(zone: DNSZone) -> bool:
    """Give whether a zone has names of addresses."""
    return zone.spec.domain.endswith(REVERSE)


def zone_named_by(network: Network | None) -> Key | None:
    """Give the zone in which a network's servers have names."""
    if network is None or network.spec.dns_zone is None:
        return None
    return network.key[0], network.spec.dns_zone.name


def reverse_zones_changed(cloud: Cloud, namespace: str) -> None:
    """Have the reverse zones of a project looked at: names of its servers have changed."""
    for zone in cloud.dns_zones.in_namespace(namespace):
        if is_reverse(zone):
            cloud.queues.dns_zones.add(zone.key)


def servers_changed(cloud: Cloud, network: Key) -> None:
    """Take in that other servers, or other addresses of servers, are on a network."""
    zone = zone_named_by(cloud.networks.get(*network))
    if zone is not None:
        cloud.queues.dns_zones.add(zone)
        reverse_zones_changed(cloud, zone[0])


def network_changed(cloud: Cloud, former: Network | None, new: Network | None) -> None:
    """Take in that a network names a zone, or does so no more."""
    zones = zone_named_by(former), zone_named_by(new)
    item = new or former
    if item is None or zones[0] == zones[1]:
        return
    if zones[0] is not None:
        cloud.names.networks[zones[0]].discard(item.key)
    if zones[1] is not None:
        cloud.names.networks[zones[1]].add(item.key)
    for zone in zones:
        if zone is not None:
            cloud.queues.dns_zones.add(zone)
    reverse_zones_changed(cloud, item.key[0])


def zone_seen(cloud: Cloud, former: DNSZone | None, new: DNSZone | None) -> None:
    """Take a zone in."""
    item = new or former
    if item is None:
        return
    before, after = _kept(former), _kept(new)
    if before == after:
        return
    cloud.queues.dns_zones.add(item.key)
    if before is None or after is None or before[:2] != after[:2]:
        for zone in (former, new):
            if zone is not None:
                cloud.queues.dns_zones.add(("", zone.spec.domain))
                cloud.queues.claims.add(("DNSZoneClaim", zone_claim_name(zone.spec.domain)))
        for record in cloud.names.records.get(item.key, ()):
            cloud.names.verdicts.pop(record, None)
            cloud.queues.dns_records.add(record)
        reverse_zones_changed(cloud, item.key[0])


def _kept(zone: DNSZone | None) -> tuple[object, ...] | None:
    """Give what a zone's contents depend on; None if it is gone or about to go."""
    return None if zone is None or zone.deleting else (zone.metadata.uid, zone.spec.domain, zone.spec)


def record_seen(cloud: Cloud, former: DNSRecord | None, new: DNSRecord | None) -> None:
    """Take a record in."""
    for record, known in ((former, False), (new, True)):
        if record is not None:
            records = cloud.names.records[record.key[0], record.spec.zone.name]
            (records.add if known else records.discard)(record.key)
    before, after = (
        None if item is None or item.deleting else (item.metadata.uid, item.spec) for item in (former, new)
    )
    if before != after:
        for item in (former, new):
            if item is not None:
                cloud.queues.dns_zones.add((item.key[0], item.spec.zone.name))
    if new is not None:
        cloud.queues.dns_records.add(new.key)
    elif former is not None:
        cloud.names.verdicts.pop(former.key, None)


def claim_seen(cloud: Cloud, former: DNSZoneClaim | None, new: DNSZoneClaim | None) -> None:
    """Take the claim on a domain in: what waits for the domain is looked at when it is free."""
    if new is not None and former is None:
        cloud.usage_changed(new.spec.claim_ref.namespace)
        cloud.queues.claims.add_after(("DNSZoneClaim", new.metadata.name), cloud.settings.claim_quarantine)
    elif new is None and former is not None:
        cloud.abandoned.pop(former.metadata.name, None)
        cloud.usage_changed(former.spec.claim_ref.namespace)
        for zone in cloud.dns_zones:
            if not holds(cloud, zone):
                cloud.queues.dns_zones.add(zone.key)
