"""What servers and volumes take of hosts, from the objects themselves (pure)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import reduce

from kumulus_api import Server, Volume
from kumulus_api.flavor import Allocation, FlavorSpec
from kumulus_api.hardware import Hardware
from kumulus_api.passthrough import GivenDevice
from kumulus_api.quantities import parse_quantity
from kumulus_api.server_assignment import ServerAssignment
from kumulus_api.server_status import ObservedPowerState
from kumulus_operator.placement.extra_specs import resources_of
from kumulus_operator.placement.facts import Amounts

_IN_MEMORY = frozenset(
    {
        ObservedPowerState.RUNNING,
        ObservedPowerState.PAUSED,
        ObservedPowerState.RESCUED,
        ObservedPowerState.UNKNOWN,
    }
)


def server_amounts(server: Server) -> Amounts:
    """Give what a placed server takes of its host and its quota; nothing if it has none.

    It is the most of what it was given, what its guest has until it restarts, and what a resize may go back to. Devices
    are its own until its host has taken them back.
    """
    given = server.spec.assignment
    if given is None:
        return Amounts()
    amounts = amounts_of(given.resources, given.hardware)
    if given.former is not None:
        amounts = amounts.most(amounts_of(given.former.resources, given.former.hardware))
    status = server.status
    held = _devices(status.devices if status is not None else [])
    if given.shelved:
        return Amounts(disk=amounts.disk, custom=held)
    if held:
        amounts = amounts.most(Amounts(custom=held))
    if status is not None and status.resources is not None and status.power_state in _IN_MEMORY:
        found = (status.resources.vcpus, 0) if not amounts.dedicated else (0, status.resources.vcpus)
        amounts = amounts.most(Amounts(found[0], parse_quantity(status.resources.memory), dedicated=found[1]))
    return amounts


def _devices(given: Iterable[GivenDevice]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(Counter(device.resource_class for device in given).items()))


def allocation_of(flavor: FlavorSpec) -> Allocation:
    """Give what a flavor gives."""
    size = {name: value for name, value in flavor.dump().items() if name in _SIZE}
    custom = resources_of(flavor.extra_specs)
    return Allocation.model_validate(size | ({"custom": custom} if custom else {}))


_SIZE = frozenset({"vcpus", "memory", "rootDisk", "maxVcpus", "maxMemory"})


def amounts_of(resources: Allocation, hardware: Hardware | None) -> Amounts:
    """Give a size in numbers; vCPUs are of the one kind or of the other."""
    dedicated = hardware is not None and hardware.dedicated is True
    vcpus = (0, resources.vcpus) if dedicated else (resources.vcpus, 0)
    memory, disk = parse_quantity(resources.memory), parse_quantity(resources.root_disk)
    return Amounts(vcpus[0], memory, disk, vcpus[1], tuple(sorted((resources.custom or {}).items())))


def volume_amounts(volume: Volume) -> Amounts:
    """Give what a volume takes of the host that it is bound to; nothing if it is not bound, or shared.

    One that is copied to another class takes room in both places.
    """
    place = volume.spec.assignment
    if place is None:
        return Amounts()
    size = parse_quantity(place.size or volume.spec.size)
    there = (item for item in (place, place.moving, place.left) if item is not None and item.folder is None)
    return reduce(Amounts.plus, (bytes_of(item.volume_class, size) for item in there), Amounts())


def bytes_of(volume_class: str | None, size: float) -> Amounts:
    """Give what volumes of a class take, or of none."""
    return Amounts(volumes=((volume_class, size),)) if volume_class is not None and size else Amounts(disk=size)


def attached_amounts(given: ServerAssignment) -> Amounts:
    """Give what the Local volumes of a placed server take where it goes."""
    own = (item for item in given.volumes if not item.shared)
    return reduce(Amounts.plus, (bytes_of(item.volume_class, parse_quantity(item.size)) for item in own), Amounts())


def group_name(server: Server) -> str | None:
    """Give the name of a server's group, or None."""
    group = server.spec.placement.group
    return group.name if group is not None else None


def given_out(servers: Iterable[Server], volumes: Iterable[Volume]) -> dict[str, Amounts]:
    """Give what servers and volumes take of each host."""
    used: defaultdict[str, Amounts] = defaultdict(Amounts)
    for server in servers:
        if server.spec.assignment is not None:
            used[server.spec.assignment.host] = used[server.spec.assignment.host].plus(server_amounts(server))
    for volume in volumes:
        if volume.spec.assignment is not None:
            used[volume.spec.assignment.host] = used[volume.spec.assignment.host].plus(volume_amounts(volume))
    return dict(used)


def crowd_of(servers: Iterable[Server], namespace: str, group: str) -> dict[str, int]:
    """Give how many servers of a group are on each host."""
    places = [server.spec.assignment for server in servers if (server.key[0], group_name(server)) == (namespace, group)]
    return dict(Counter(place.host for place in places if place is not None))
