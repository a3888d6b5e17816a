"""Filters: named checks, each a pure function; the first that fails names the host's refusal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from kumulus_api.quantities import format_quantity
from kumulus_api.server_group import GroupPolicy
from kumulus_operator.placement.extra_specs import unmet
from kumulus_operator.placement.facts import NOTHING, Amounts, Candidate, HostFacts, Terms, Wish

ROOM = "a host has room"
_ROUNDING = 0.01
"""Bytes of disk: what is divided by a ratio is no whole number."""
_MOST_TOLD = 8
"""How many reasons a refusal tells: some have numbers of their host in them."""


class Objection(NamedTuple):
    """Why not this host, to be read after a count or a name; and after `placed as soon as`, what would change it."""

    why: str
    remedy: str = ROOM


HostFilter = Callable[[HostFacts, Terms], Objection | None]
"""Judges a host whatever runs on it."""

RoomFilter = Callable[[Candidate, Wish], Objection | None]
"""Judges what changes with every placement: room, and where the servers of the group are."""


def existing(host: HostFacts, _terms: Terms) -> Objection | None:
    """A decommissioned host never returns."""
    return Objection("decommissioned") if host.decommissioned else None


def healthy(host: HostFacts, _terms: Terms) -> Objection | None:
    """A host says itself whether it can run guests."""
    return None if host.ready else Objection("not Ready")


def open_to_new(host: HostFacts, _terms: Terms) -> Objection | None:
    """Administrators keep servers away from a host."""
    if host.maintenance:
        return Objection("in maintenance")
    return None if host.schedulable else Objection("not schedulable")


def reachable(host: HostFacts, _terms: Terms) -> Objection | None:
    """Without a tunnel address other hosts cannot send to it."""
    return None if host.tunnel else Objection("without a tunnel address")


def in_zone(host: HostFacts, terms: Terms) -> Objection | None:
    """A zone is asked for by name; a host that aggregates put into several zones is in none."""
    if terms.zone is None or host.zones == {terms.zone}:
        return None
    remedy = f"a HostAggregate puts a host into zone {terms.zone}"
    if len(host.zones) > 1:
        return Objection(f"in several zones at once ({', '.join(sorted(host.zones))})", remedy)
    return Objection(f"outside zone {terms.zone}", remedy)


def of_architecture(host: HostFacts, terms: Terms) -> Objection | None:
    """Programs run on the machine that they were made for; x86_64 runs those for i686, too."""
    wanted = terms.architecture
    if not wanted or wanted == host.architecture or (wanted, host.architecture) == ("i686", "x86_64"):
        return None
    found = host.architecture or "unknown architecture"
    return Objection(f"of {found}, the image is for {wanted}", f"a host of {wanted} is there")


def with_traits(host: HostFacts, terms: Terms) -> Objection | None:
    """Flavor and image ask for traits, and a flavor may forbid some."""
    missing = terms.required - host.traits
    if missing:
        names = ", ".join(sorted(missing))
        return Objection(f"without trait {names}", f"a host has trait {names}")
    unwanted = terms.forbidden & host.traits
    if unwanted:
        names = ", ".join(sorted(unwanted))
        return Objection(f"with forbidden trait {names}", f"a host lacks trait {names}")
    return None


def in_aggregate(host: HostFacts, terms: Terms) -> Objection | None:
    """A flavor may be for the hosts of certain aggregates only."""
    fault = unmet(terms.specs, host.metadata) if terms.specs else None
    if fault is None:
        return None
    text = f"{fault[0]}={fault[1]}"
    return Objection(f"in no aggregate with {text}", f"an aggregate of a host has {text}")


def with_numa_nodes(host: HostFacts, terms: Terms) -> Objection | None:
    """Each of a guest's NUMA nodes lies on one of the host's."""
    if terms.numa_nodes <= host.numa_nodes:
        return None
    asked = f"{terms.numa_nodes} NUMA nodes"
    return Objection(f"with {host.numa_nodes} of the {asked} asked for", f"a host has {asked}")


def with_huge_pages(host: HostFacts, terms: Terms) -> Objection | None:
    """Memory of huge pages comes from what the host keeps ready of that size."""
    if not terms.huge_pages:
        return None
    ready = host.huge_pages
    enough = ready.get(terms.page_size, 0) if terms.page_size else max(ready.values(), default=0)
    if enough >= terms.huge_pages:
        return None
    kind = f"huge pages of {format_quantity(terms.page_size << 10)}" if terms.page_size else "huge pages"
    return Objection(f"without enough {kind}", f"a host keeps more {kind} ready")


def on_physical_networks(host: HostFacts, terms: Terms) -> Objection | None:
    """A provider network is where its physical network is: no tunnel leads there."""
    for name, kind, mtu in sorted(terms.segments):
        found = host.segments.get((name, kind))
        if found is not None and found >= mtu:
            continue
        why = host.unreached.get((name, kind), "NotMapped") if found is None else f"MTU {found} of {mtu}"
        remedy = f"a host reaches physical network {name} ({kind})"
        return Objection(f"without physical network {name} ({kind}: {why})", remedy)
    return None


def wanted(host: HostFacts, wish: Wish) -> Objection | None:
    """A server that is bound to a host fits nowhere else; one that leaves a host goes to another."""
    if wish.leaving == host.name:
        return Objection("the host that it leaves")
    if wish.only_host is None or wish.only_host == host.name:
        return None
    return Objection(f"not the host {wish.only_host} ({wish.only_reason})", f"host {wish.only_host} can take it")


SILENT = Objection("silent")


def speaking(host: HostFacts) -> Objection | None:
    """A host whose Lease is not renewed may be dead."""
    return None if host.fresh else SILENT


def with_group(candidate: Candidate, wish: Wish) -> Objection | None:
    """A hard policy of the server group is never broken, whatever room there is elsewhere."""
    group = wish.group
    if group is None:
        return None
    here = candidate.crowd.get(candidate.host.name, 0)
    if group.policy is GroupPolicy.ANTI_AFFINITY and here >= group.limit:
        remedy = f"a server of group {group.name} leaves a host that has room"
        count = "a server" if here == 1 else f"{here} servers"
        return Objection(f"with {count} of group {group.name} (AntiAffinity)", remedy)
    if group.policy is GroupPolicy.AFFINITY and not here and any(candidate.crowd.values()):
        return Objection(
            f"without the servers of group {group.name} (Affinity)", f"the host of group {group.name} has room"
        )
    return None


def enough_memory(candidate: Candidate, wish: Wish) -> Objection | None:
    """Memory is needed at once."""
    return None if wish.amounts.memory <= candidate.free.memory else Objection("without enough memory")


def enough_vcpus(candidate: Candidate, wish: Wish) -> Objection | None:
    """VCPUs are shared up to the overcommit ratio."""
    return None if wish.amounts.vcpus <= candidate.free.vcpus else Objection("without enough vCPUs")


def enough_dedicated(candidate: Candidate, wish: Wish) -> Objection | None:
    """A dedicated CPU goes to one guest only."""
    if wish.amounts.dedicated <= candidate.free.dedicated or not wish.amounts.dedicated:
        return None
    return Objection("without enough dedicated CPUs", "a host has dedicated CPUs that are free")


def enough_disk(candidate: Candidate, wish: Wish) -> Objection | None:
    """Disks grow to their full size one day; and what others have written is not free."""
    host = candidate.host
    need = _disk_needed(candidate, wish)
    if need > candidate.free.disk:
        return Objection(f"without enough disk{_of_classes(candidate, wish)}")
    if need - wish.lying <= host.disk_left:
        return None
    return Objection(f"with too full a disk{_of_classes(candidate, wish)}")


def _disk_needed(candidate: Candidate, wish: Wish) -> float:
    host = candidate.host
    return host.disk_of(wish.amounts) + host.disk_kept(wish.amounts) - _ROUNDING


def _of_classes(candidate: Candidate, wish: Wish) -> str:
    """Say what new volumes ask of the ratios of their classes, and what was promised by them."""
    promised = dict(candidate.free.volumes)
    told = (
        f"{format_quantity(int(size))} of class {name} asked for, {format_quantity(-int(promised.get(name, 0)))} "
        f"promised to it, {terms.told}"
        for name, size in wish.amounts.volumes
        if (terms := candidate.host.by_class.get(name)) is not None
    )
    text = "; ".join(told)
    return f" ({text})" if text else ""


def enough_custom(candidate: Candidate, wish: Wish) -> Objection | None:
    """A custom resource, or a device, is counted, not shared."""
    free, withheld = dict(candidate.free.custom), candidate.host.withheld
    for name, count in wish.amounts.custom:
        if count > free.get(name, 0):
            why = f" (devices withheld: {withheld[name]})" if name in withheld else ""
            return Objection(f"without enough {name}{why}", f"a host has {name} that is free")
    return None


HOST_FILTERS: tuple[HostFilter, ...] = (
    existing,
    healthy,
    open_to_new,
    reachable,
    in_zone,
    of_architecture,
    with_traits,
    in_aggregate,
    with_numa_nodes,
    with_huge_pages,
    on_physical_networks,
)

ROOM_FILTERS: tuple[RoomFilter, ...] = (
    with_group,
    enough_memory,
    enough_vcpus,
    enough_dedicated,
    enough_disk,
    enough_custom,
)


def unfit(host: HostFacts, terms: Terms) -> Objection | None:
    """Give the first objection to a host whatever runs on it, or None."""
    return next((found for check in HOST_FILTERS if (found := check(host, terms)) is not None), None)


def lacking(candidate: Candidate, wish: Wish) -> Objection | None:
    """Give the first objection to a host because of what runs on it, or None."""
    return next((found for check in ROOM_FILTERS if (found := check(candidate, wish)) is not None), None)


def has_room(candidate: Candidate, wish: Wish) -> bool:
    """Give whether a host passes all filters that depend on what runs on it."""
    need, free = wish.amounts, candidate.free
    if candidate.host.name == wish.leaving:
        return False
    disk = _disk_needed(candidate, wish)
    if need.memory > free.memory or need.vcpus > free.vcpus or disk > free.disk:
        return False
    if need.dedicated and need.dedicated > free.dedicated:
        return False
    if disk - wish.lying > candidate.host.disk_left:
        return False
    if need.custom and enough_custom(candidate, wish) is not None:
        return False
    return wish.group is None or with_group(candidate, wish) is None


def objections(candidate: Candidate, wish: Wish) -> list[Objection]:
    """Give all that speaks against a host, the gravest first."""
    host, terms = candidate.host, wish.terms
    found = [existing(host, terms), wanted(host, wish), speaking(host)]
    found += [check(host, terms) for check in HOST_FILTERS[1:]]
    found += [check(candidate, wish) for check in ROOM_FILTERS]
    return [item for item in found if item is not None]


def candidates(hosts: Iterable[HostFacts], used: Mapping[str, Amounts], crowd: Mapping[str, int]) -> list[Candidate]:
    """Give hosts with what is free on them."""
    return [Candidate(host, host.free_of(used.get(host.name, NOTHING)), crowd) for host in hosts]


def passing(
    hosts: Iterable[HostFacts], used: Mapping[str, Amounts], wish: Wish, crowd: Mapping[str, int] | None = None
) -> tuple[list[HostFacts], Counter[Objection]]:
    """Split hosts into those that pass, and counts of why the others do not.

    Args:
        hosts: all of them.
        used: what is given out on each.
        wish: what is asked for.
        crowd: servers of the wish's group by host.
    """
    good: list[HostFacts] = []
    refused: Counter[Objection] = Counter()
    for candidate in candidates(hosts, used, crowd or {}):
        against = objections(candidate, wish)
        if against:
            refused[against[0]] += 1
        else:
            good.append(candidate.host)
    return good, refused


def refusal_text(refused: Counter[Objection]) -> str:
    """Give a sentence such as `no valid host out of 3: 2 without enough memory, 1 not Ready`."""
    total = refused.total()
    if not total:
        return "no valid host: there is no Host yet"
    counts: Counter[str] = Counter()
    for objection, count in refused.items():
        counts[objection.why] += count
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count} {why}" for why, count in ordered[:_MOST_TOLD]]
    if rest := sum(count for _, count in ordered[_MOST_TOLD:]):
        parts.append(f"{rest} for other reasons")
    return f"no valid host out of {total}: {', '.join(parts)}"


def remedy_text(refused: Counter[Objection]) -> str:
    """Say what would change a refusal, as in `placed as soon as a host has room`."""
    remedies = sorted({objection.remedy for objection in refused} or {ROOM}, key=lambda text: (text != ROOM, text))
    return f"placed as soon as {' or '.join(remedies)}"
