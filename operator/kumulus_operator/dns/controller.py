"""Reconcile DNSZones and DNSRecords: hold the domain, publish the zone, say what became of it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import structlog

from kumulus_api import DNSRecord, DNSZone, DNSZoneClaim
from kumulus_api.dns import DNSRecordReason, DNSZoneReason, zone_claim_name
from kumulus_operator.cloud import Cloud
from kumulus_operator.dns.book import domains_of, holder_of, holds, is_reverse, reverse_zones_changed
from kumulus_operator.dns.plan import (
    Contents,
    HostName,
    Published,
    Verdict,
    contents,
    domain_fault,
    record_status,
    server_name,
    zone_status,
)
from kumulus_operator.dns.values import canonical
from kumulus_operator.dns.zonefile import Authority
from kumulus_operator.pacing import Turns
from kumulus_operator.views import Key
from kumulus_runtime.errors import AlreadyExists
from kumulus_runtime.workqueue import Retry

_BURST = 20
"""So many zones are published at once after a quiet time."""

_LOG = structlog.stdlib.get_logger(__name__)
_NO_SERVER = (DNSZoneReason.NO_NAME_SERVER, "name server: the cloud has none; permanent: an administrator installs it")
_NO_ROOM = (
    DNSZoneReason.TOO_LARGE,
    "records: the zone is larger than there is room for; transient: goes on when records are deleted",
)
_QUOTA = "quota: {limit} zones are allowed; transient: goes on when zones are deleted or the quota is raised"

Fault = tuple[DNSZoneReason, str]


class ZoneController:
    """Publishes zones: at once after a quiet time, else what gathered in `zones_debounce` seconds.

    Keys are those of DNSZones; one without namespace is a domain, whose zone file goes if no zone holds it.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._turns = Turns(cloud.settings.zones_per_second, _BURST)
        self._written_at: dict[Key, float] = {}
        self._claiming = asyncio.Lock()

    async def reconcile(self, key: Key) -> float | None:
        """Bring one zone up to date; give the seconds until its turn."""
        if not key[0]:
            await self._sweep(key[1])
            return None
        zone = self._cloud.dns_zones.get(*key)
        if zone is None or zone.deleting:
            self._written_at.pop(key, None)
            self._turns.done(key)
            return None
        quiet = self._written_at.get(key, 0.0) + self._cloud.settings.zones_debounce
        wait = self._turns.wait(key, time.monotonic(), quiet)
        if wait > 0:
            return wait
        self._turns.done(key)
        outcome: Published | Fault | None = await self._admit(zone)
        if outcome is None:
            outcome = await self._publish(zone)
        if not isinstance(outcome, Published):
            self._judge(key, {record: self._not_ready(record, outcome[0]) for record in self._records(key)})
        await self._write_status(zone, outcome)
        return None

    async def _admit(self, zone: DNSZone) -> Fault | None:
        """Hold the zone's domain; give the fault if that cannot be."""
        cloud = self._cloud
        if cloud.settings.zone_shards == 0:
            return _NO_SERVER
        if holds(cloud, zone):
            return None
        # One at a time: of two zones of which one lies below the other, the second sees the first.
        async with self._claiming:
            held = {claim.spec.domain: holder_of(claim.spec) for claim in cloud.dns_zone_claims}
            fault = domain_fault(zone, held)
            if fault is not None:
                return DNSZoneReason.DOMAIN_TAKEN, fault
            limit = cloud.quota_of(zone.key[0]).dns_zones
            if limit is not None and len(domains_of(cloud, zone.key[0])) >= limit:
                return DNSZoneReason.QUOTA_EXCEEDED, _QUOTA.format(limit=limit)
            await self._claim(zone)
        reverse_zones_changed(cloud, zone.key[0])
        return None

    async def _claim(self, zone: DNSZone) -> None:
        cloud, (namespace, name) = self._cloud, zone.key
        domain = zone.spec.domain
        holder = {"kind": "DNSZone", "namespace": namespace, "name": name, "instance": zone.metadata.uid}
        body = {"metadata": {"name": zone_claim_name(domain)}, "spec": {"domain": domain, "claimRef": holder}}
        try:
            cloud.take(DNSZoneClaim, await cloud.client.create(DNSZoneClaim, body))
        except AlreadyExists:
            found = await cloud.client.get(DNSZoneClaim, zone_claim_name(domain))
            if found is not None:
                cloud.take(DNSZoneClaim, found)
            raise Retry(0.1, "the claim on the domain was not known") from None
        _LOG.info("domain claimed", namespace=namespace, name=name, domain=domain)

    async def _publish(self, zone: DNSZone) -> Published | Fault:
        """Bring the zone file up to date, and judge the zone's records."""
        cloud = self._cloud
        records = [record for key in self._records(zone.key) if (record := cloud.dns_records.get(*key)) is not None]
        wanted: Contents = await asyncio.to_thread(contents, zone, records, self._hosts(zone), canonical)
        servers = cloud.settings.nameserver_names
        authority = Authority(zone.spec.domain, zone.spec.email, zone.spec.ttl, servers)
        known = zone.status.serial if zone.status is not None else None
        serial = await cloud.zone_files.ensure(authority, wanted.entries, known)
        if serial is None:
            return _NO_ROOM
        if serial != known:
            cloud.zone_files_written()
            self._written_at[zone.key] = time.monotonic()
        self._judge(zone.key, wanted.verdicts)
        return Published(serial, wanted.count, servers)

    def _records(self, zone: Key) -> list[Key]:
        """Give the records of a zone that are not about to go."""
        keys = self._cloud.names.records.get(zone, set())
        return [key for key in keys if (item := self._cloud.dns_records.get(*key)) is not None and not item.deleting]

    def _hosts(self, zone: DNSZone) -> list[HostName]:
        """Give the servers that have names in a zone, or for a reverse zone those of all zones of its project."""
        zones = [zone]
        if is_reverse(zone):
            others = self._cloud.dns_zones.in_namespace(zone.key[0])
            zones = [item for item in others if not item.deleting and not is_reverse(item) and holds(self._cloud, item)]
        return [host for item in zones for host in self._named(item)]

    def _named(self, zone: DNSZone) -> list[HostName]:
        cloud, out = self._cloud, []
        for network in cloud.names.networks.get(zone.key, ()):
            for key in cloud.users_of_network.get(network, ()):
                server = cloud.servers.get(*key)
                given = server.spec.assignment if server is not None else None
                for port in given.ports if given is not None else ():
                    if (port.network_namespace, port.network) == network:
                        name = server_name(key, network, zone.spec.domain)
                        out.append(HostName(name, tuple(port.addresses)))
            out += self._floating(network, zone.spec.domain)
        return out

    def _floating(self, network: Key, domain: str) -> list[HostName]:
        """Give the names of servers that floating addresses of an external network lead to."""
        cloud, out = self._cloud, []
        for key in cloud.edges.floating_in.get(network, ()):
            item = cloud.floating_ips.get(*key)
            given = item.spec.assignment if item is not None and not item.deleting else None
            port = item.spec.port if item is not None else None
            holder = cloud.ledger.held_by(("Port", key[0], port.name)) if port is not None else None
            if given is not None and given.fixed_address is not None and holder is not None:
                out.append(HostName(server_name((key[0], holder), network, domain), (given.address,)))
        return out

    def _not_ready(self, record: Key, reason: DNSZoneReason) -> Verdict:
        found = self._cloud.dns_records.get(*record)
        generation = found.metadata.generation if found is not None else 0
        text = f"zone: it is not served ({reason}); transient: goes on when it is"
        return Verdict(DNSRecordReason.ZONE_NOT_READY, text, generation)

    def _judge(self, zone: Key, verdicts: dict[Key, Verdict]) -> None:
        """Note what became of records; each has its status written by itself."""
        names = self._cloud.names
        for key, verdict in verdicts.items():
            if names.verdicts.get(key) != verdict and key in names.records.get(zone, ()):
                names.verdicts[key] = verdict
                self._cloud.queues.dns_records.add(key)

    async def _write_status(self, zone: DNSZone, outcome: Published | Fault) -> None:
        status = zone_status(zone, outcome, datetime.now(UTC))
        if status is not None:
            await self._cloud.write_status(zone, status)

    async def _sweep(self, domain: str) -> None:
        """Have a domain's zone looked at; take the zone file away if there is none any more."""
        cloud = self._cloud
        if cloud.settings.zone_shards == 0:
            return
        claim = cloud.dns_zone_claims.get("", zone_claim_name(domain))
        if claim is not None:
            namespace, name = holder_of(claim.spec)
            zone = cloud.dns_zones.get(namespace, name)
            if zone is not None and zone.spec.domain == domain and not zone.deleting:
                cloud.queues.dns_zones.add(zone.key)
                return
            body = await cloud.client.get(DNSZone, name, namespace)
            if body is not None and body["spec"]["domain"] == domain and "deletionTimestamp" not in body["metadata"]:
                cloud.take(DNSZone, body)
                return
        await cloud.zone_files.absent(domain)
        cloud.zone_files_written()


class RecordController:
    """Says of each record what its zone has made of it.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> float | None:
        """Bring the status of one record up to date."""
        cloud = self._cloud
        record = cloud.dns_records.get(*key)
        if record is None or record.deleting:
            return None
        verdict = self._verdict(record)
        if verdict is None or verdict.generation != record.metadata.generation:
            return None  # Its zone is about to be looked at.
        status: dict[str, Any] | None = record_status(record, verdict, datetime.now(UTC))
        if status is not None:
            await cloud.write_status(record, status)
        return None

    def _verdict(self, record: DNSRecord) -> Verdict | None:
        zone = self._cloud.dns_zones.get(record.key[0], record.spec.zone.name)
        if zone is not None and not zone.deleting:
            return self._cloud.names.verdicts.get(record.key)
        text = f"zone: there is no zone {record.spec.zone.name}; transient: goes on when it is made"
        return Verdict(DNSRecordReason.ZONE_UNKNOWN, text, record.metadata.generation)
