"""Turn Hosts and HostAggregates into what placement compares (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import inf

from kumulus_api import Host, HostAggregate, VolumeClass
from kumulus_api.host import HostConditionType, Overcommit, Room, room_of
from kumulus_api.passthrough import FoundDevices
from kumulus_api.quantities import parse_quantity
from kumulus_api.storage_usage import StorageName
from kumulus_api.volume_class import DriverName
from kumulus_operator.placement.facts import Amounts, ClassTerms, HostFacts
from kumulus_operator.placement.tuning import Tuning


def host_ready(host: Host) -> bool:
    """Give whether the host says that it can run guests."""
    conditions = host.status.conditions if host.status else []
    return any(item.type == HostConditionType.READY and item.status == "True" for item in conditions)


def selects(aggregate: HostAggregate, host: Host) -> bool:
    """Give whether a host belongs to an aggregate: it has all the labels, and is named if names are given."""
    return aggregate.spec.host_selector.takes(host.metadata.name, host.metadata.labels)


def host_facts(
    host: Host,
    aggregates: Iterable[HostAggregate],
    tuning: Tuning,
    *,
    fresh: bool,
    classes: Iterable[VolumeClass] = (),
) -> HostFacts:
    """Give a host's facts, of its inventory what servers may be given.

    Args:
        host: the host.
        aggregates: all of them, also those that it does not belong to.
        tuning: the ratios of hosts that have none of their own.
        fresh: it renews its Lease.
        classes: all volume classes.
    """
    own = [item for item in aggregates if not item.deleting and selects(item, host)]
    metadata: dict[str, set[str]] = defaultdict(set)
    for item in own:
        for key, value in item.spec.metadata.items():
            metadata[key].update(part.strip() for part in value.split(","))
    status = host.status
    found = status.traits if status is not None else []
    devices = _devices(host)
    of_devices = [trait for item in devices.offered for trait in item.traits]
    return HostFacts(
        name=host.metadata.name,
        ready=host_ready(host),
        fresh=fresh,
        schedulable=host.spec.schedulable,
        maintenance=host.spec.maintenance,
        decommissioned=host.spec.decommissioned,
        tunnel=status is not None and status.tunnel_address is not None,
        total=_total(host, tuning),
        architecture=status.architecture if status is not None else "",
        traits=frozenset(
            [*found, *of_devices, *host.spec.traits, *(trait for item in own for trait in item.spec.traits)]
        ),
        zones=frozenset(item.spec.zone for item in own if item.spec.zone is not None),
        metadata={key: frozenset(values) for key, values in metadata.items()},
        numa_nodes=_numa_nodes(host),
        huge_pages=_huge_pages(host),
        segments=_segments(host),
        unreached=_unreached(host),
        withheld=_withheld(devices),
        disk_left=_disk_left(host, tuning),
        by_class=class_terms(host, classes, tuning),
    )


def disk_free(host: Host) -> int | None:
    """Give the bytes of a host's disk that are free, or are without what nothing needs; None if it is not known.

    Of several file systems that of disks and volumes counts which has the least.
    """
    found = {item.name: item for item in (host.status.storage if host.status is not None else [])}
    kept = [found[name] for name in (StorageName.ROOT_DISKS, StorageName.VOLUMES) if name in found]
    if not kept:
        return None
    least = min(kept, key=lambda item: parse_quantity(item.free))
    images = found.get(StorageName.IMAGES)
    shared = images is not None and (images.capacity, images.free) == (least.capacity, least.free)
    removable = parse_quantity(images.allocated) if images is not None and shared else 0
    return parse_quantity(least.free) + removable


def _disk_left(host: Host, tuning: Tuning) -> float:
    free = disk_free(host)
    if free is None or host.status is None:
        return inf
    capacity = max(parse_quantity(item.capacity) for item in host.status.storage)
    return max(0.0, free - capacity * tuning.disk_reserved_percent / 100) * _disk_ratio(host, tuning)


def _disk_ratio(host: Host, tuning: Tuning) -> float:
    return float((host.spec.overcommit or Overcommit()).disk or tuning.disk_overcommit)


def class_terms(host: Host, classes: Iterable[VolumeClass], tuning: Tuning) -> dict[str, ClassTerms]:
    """Give how Local volumes count on a host's disk whose classes say it.

    A byte of root disk takes one through the host's ratio of the disk, one of a volume takes one through its class's.
    """
    inventory, own = host.status.inventory if host.status is not None else None, _disk_ratio(host, tuning)
    if inventory is None:
        return {}
    found = {}
    for item in classes:
        spec, disk = item.spec, parse_quantity(inventory.disk)
        if spec.driver is not DriverName.LOCAL or (spec.overcommit is None and not spec.reserved_percent):
            continue
        ratio, kept = float(spec.overcommit or own), spec.reserved_percent or 0
        told = f"a disk of {inventory.disk} at ratio {ratio:g}" + (f" with {kept}% kept free" if kept else "")
        found[item.metadata.name] = ClassTerms(own / ratio, disk * kept / 100 * own, told)
    return found


def _segments(host: Host) -> dict[tuple[str, str], int]:
    mapped = host.status.physical_networks if host.status is not None else []
    return {(item.name, kind.value): item.mtu or 0 for item in mapped for kind in item.reaches}


def _unreached(host: Host) -> dict[tuple[str, str], str]:
    mapped = host.status.physical_networks if host.status is not None else []
    return {(item.name, why.type.value): why.reason.value for item in mapped for why in item.obstacles}


def _devices(host: Host) -> FoundDevices:
    found = host.status.devices if host.status is not None else None
    # What an agent that is older, or silent, has told of before counts only as long as it is allowed.
    return found if found is not None and host.spec.devices is not None else FoundDevices()


def _withheld(devices: FoundDevices) -> dict[str, str]:
    reasons: dict[str, set[str]] = defaultdict(set)
    for item in devices.withheld:
        if item.resource_class is not None:
            reasons[item.resource_class].add(item.reason.value)
    return {name: ", ".join(sorted(found)) for name, found in reasons.items()}


def _numa_nodes(host: Host) -> int:
    inventory = host.status.inventory if host.status is not None else None
    return (inventory.numa_nodes or 1) if inventory is not None else 1


def _huge_pages(host: Host) -> dict[int, int]:
    inventory = host.status.inventory if host.status is not None else None
    pages = (inventory.huge_pages or []) if inventory is not None else []
    return {(size := parse_quantity(item.size)) >> 10: size * item.count for item in pages}


def _total(host: Host, tuning: Tuning) -> Amounts:
    inventory = host.status.inventory if host.status is not None else None
    if inventory is None:
        return Amounts()
    found = Room(inventory.vcpus, parse_quantity(inventory.memory), parse_quantity(inventory.disk))
    ratios = Room(tuning.vcpu_overcommit, tuning.memory_overcommit, tuning.disk_overcommit)
    room = room_of(host.spec, found, ratios)
    counted = {item.resource_class: item.total for item in _devices(host).offered}
    custom = tuple(sorted(((host.spec.resources or {}) | counted).items()))
    return Amounts(room.vcpus, room.memory, room.disk, inventory.dedicated_vcpus or 0, custom)
