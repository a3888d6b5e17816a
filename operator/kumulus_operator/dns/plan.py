"""Plan a zone: whether its domain can be its own, what its records come to, what it says of itself (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from kumulus_api import DNSRecord, DNSZone
from kumulus_api.dns import DNSRecordReason, DNSZoneReason, RecordType
from kumulus_operator.dns.zonefile import Entry, is_name
from kumulus_operator.views import Key
from kumulus_runtime.conditions import set_condition

Canonical = Callable[[RecordType, str], str]
"""Gives a value as a zone file has it, or raises ValueError; see `kumulus_operator.dns.values`."""

REVERSE = (".in-addr.arpa.", ".ip6.arpa.")
"""How the domains of reverse zones end."""


@dataclass(frozen=True)
class Verdict:
    """What a zone made of a record.

    Attributes:
        reason: of its Ready condition.
        message: a sentence for its user.
        generation: of the record, which was looked at.
    """

    reason: DNSRecordReason
    message: str
    generation: int

    @property
    def good(self) -> bool:
        """Whether the record is published."""
        return self.reason is DNSRecordReason.PUBLISHED


@dataclass(frozen=True)
class HostName:
    """A name that a server has by being on a network.

    Attributes:
        name: absolute.
        addresses: of its port.
    """

    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Contents:
    """What a zone has beside its start of authority, and what became of each of its records."""

    entries: tuple[Entry, ...]
    verdicts: dict[Key, Verdict]

    @property
    def count(self) -> int:
        """How many records there are."""
        return sum(len(entry.values) for entry in self.entries)


def domain_fault(zone: DNSZone, held: Mapping[str, Key]) -> str | None:
    """Say why a zone cannot have its domain, or None. Zones of other projects are not named.

    A domain below a project's zone is that project's own, and so is one that holds a zone of it (as in Designate).

    Args:
        zone: that has not got its domain yet.
        held: domains and the zones that hold them.
    """
    domain, project = zone.spec.domain, zone.key[0]
    end = "; transient: goes on when that is deleted"
    holder = held.get(domain)
    if holder is not None and holder != zone.key:
        who = f"zone {holder[1]}" if holder[0] == project else "a zone of another project"
        return f"domain: {domain} is held by {who}{end}"
    labels = domain.split(".")
    for start in range(1, len(labels) - 1):
        above = held.get(".".join(labels[start:]))
        if above is not None and above[0] != project:
            return f"domain: {domain} lies below a zone of another project{end}"
    if any(other.endswith(f".{domain}") and holder[0] != project for other, holder in held.items()):
        return f"domain: another project has a zone below {domain}{end}"
    return None


def absolute(name: str, domain: str) -> str | None:
    """Give a record's name in full, or None if it is none in the zone."""
    if name == "@":
        return domain
    full = name if name.endswith(".") else f"{name}.{domain}"
    return full if is_name(full) and (full == domain or full.endswith(f".{domain}")) else None


def contents(zone: DNSZone, records: Iterable[DNSRecord], hosts: Iterable[HostName], canonical: Canonical) -> Contents:
    """Give what is in a zone.

    What users wrote goes before what servers have by themselves; of two records that exclude each other the older
    stays.

    Args:
        zone: that holds its domain.
        records: that name it.
        hosts: names of servers in it, or of servers whose addresses are in it.
        canonical: checks values.
    """
    taken: dict[str, dict[str, str]] = {}
    entries: list[Entry] = []
    verdicts: dict[Key, Verdict] = {}
    for record in sorted(records, key=lambda item: (item.metadata.creation_timestamp or "", item.metadata.name)):
        found = _entry(zone, record, taken, canonical)
        generation = record.metadata.generation
        if isinstance(found, Entry):
            taken.setdefault(found.name, {})[found.type] = record.metadata.name
            entries.append(found)
            message = f"{found.name} is in the zone"
            verdicts[record.key] = Verdict(DNSRecordReason.PUBLISHED, message, generation)
        else:
            verdicts[record.key] = Verdict(*found, generation)
    for entry in automatic(zone, hosts):
        known = taken.get(entry.name, {})
        if entry.type not in known and RecordType.CNAME not in known:
            entries.append(entry)
    return Contents(tuple(sorted(entries)), verdicts)


def _entry(
    zone: DNSZone, record: DNSRecord, taken: Mapping[str, Mapping[str, str]], canonical: Canonical
) -> Entry | tuple[DNSRecordReason, str]:
    """Give a record's entry, or why it has none."""
    spec, domain = record.spec, zone.spec.domain
    name = absolute(spec.name, domain)
    if name is None:
        text = f"name: {spec.name[:64]} is no name in {domain}; permanent: make a record with another name"
        return DNSRecordReason.NAME_INVALID, text
    if name == domain and spec.type in (RecordType.NS, RecordType.CNAME):
        text = f"name: the zone itself has no {spec.type} record but those of the cloud; permanent: delete the record"
        return DNSRecordReason.NAME_INVALID, text
    values = []
    for text in spec.records:
        try:
            values.append(canonical(spec.type, text))
        except ValueError as error:
            told = f"records: {text[:64]!r} is no value of type {spec.type}: {error}; permanent: correct it"
            return DNSRecordReason.VALUE_INVALID, told
    known = taken.get(name, {})
    rival = known.get(spec.type) or known.get(RecordType.CNAME)
    if rival is None and spec.type is RecordType.CNAME:
        rival = next(iter(known.values()), None)
    if rival is not None:
        told = f"name: record {rival} has {name} already; transient: goes on when that is deleted"
        return DNSRecordReason.CONFLICT, told
    ttl = zone.spec.ttl if spec.ttl is None else spec.ttl
    return Entry(name, spec.type.value, ttl, tuple(sorted(set(values))))


def automatic(zone: DNSZone, hosts: Iterable[HostName]) -> list[Entry]:
    """Give what a zone has of servers: their addresses by name, and in a reverse zone their names by address."""
    found: dict[tuple[str, str], set[str]] = {}
    domain = zone.spec.domain
    reverse = domain.endswith(REVERSE)
    for host in hosts:
        for text in host.addresses:
            address = ip_address(text)
            if reverse:
                pointer = f"{address.reverse_pointer}."
                if pointer.endswith(f".{domain}"):
                    found.setdefault((pointer, RecordType.PTR.value), set()).add(host.name)
            elif host.name.endswith(f".{domain}"):
                kind = RecordType.A if address.version == 4 else RecordType.AAAA
                found.setdefault((host.name, kind.value), set()).add(str(address))
    return [
        Entry(name, kind, zone.spec.ttl, tuple(sorted(values)))
        for (name, kind), values in found.items()
        if is_name(name)
    ]


def server_name(server: Key, network: Key, domain: str) -> str:
    """Give a server's name by its network: servers of other projects have theirs in between, so that none is taken."""
    return f"{server[1]}.{domain}" if server[0] == network[0] else f"{server[1]}.{server[0]}.{domain}"


@dataclass(frozen=True)
class Published:
    """What a zone's name servers were given.

    Attributes:
        serial: of the zone file.
        records: how many there are in it.
        nameservers: that answer for the zone.
    """

    serial: int
    records: int
    nameservers: Sequence[str]


def zone_status(zone: DNSZone, outcome: Published | tuple[DNSZoneReason, str], now: datetime) -> dict[str, Any] | None:
    """Give the status to write, or None if it says so already; a serial stays known while a zone is not served."""
    found = zone.status.dump() if zone.status is not None else {}
    generation = zone.metadata.generation
    wanted: dict[str, Any] = {"observedGeneration": generation}
    if isinstance(outcome, Published):
        verdict = (True, DNSZoneReason.PUBLISHED, f"{zone.spec.domain} is given to the name servers")
        wanted |= {"serial": outcome.serial, "records": outcome.records, "nameservers": list(outcome.nameservers)}
    else:
        verdict = (False, *outcome)
        wanted |= {"serial": found["serial"]} if "serial" in found else {}
    wanted["conditions"] = set_condition(found.get("conditions", []), "Ready", *verdict, generation, now)
    return None if wanted == found else wanted


def record_status(record: DNSRecord, verdict: Verdict, now: datetime) -> dict[str, Any] | None:
    """Give the status to write, or None if it says so already."""
    found = record.status.dump() if record.status is not None else {}
    said = (verdict.good, verdict.reason, verdict.message, verdict.generation, now)
    conditions = set_condition(found.get("conditions", []), "Ready", *said)
    wanted = {"observedGeneration": verdict.generation, "conditions": conditions}
    return None if wanted == found else wanted
