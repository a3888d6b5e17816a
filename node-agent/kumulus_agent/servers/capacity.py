"""Whether an instance fits into the host: the last word after the operator's placement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kumulus_agent.servers.desired import Desired
from kumulus_api.host import HostSpec, Room, room_of


@dataclass(frozen=True, slots=True)
class Capacity:
    """What may be given out, in bytes, overcommit included."""

    memory: int
    disk: int


def capacity_of(host: dict[str, Any] | None, memory: int, disk: int, ratios: tuple[float, float]) -> Capacity:
    """Give what this host may give out.

    Args:
        host: the Host object, if it is known.
        memory: bytes that the machine has.
        disk: bytes that its disk has.
        ratios: of memory and disk, for a host that has none of its own.
    """
    spec = HostSpec.model_validate((host or {}).get("spec") or {})
    room = room_of(spec, Room(0, memory, disk), Room(1, *ratios))
    return Capacity(int(room.memory), int(room.disk))


def refusal(desired: Desired, others: Iterable[Desired], capacity: Capacity) -> str:
    """Say why an instance does not fit beside the others that are placed here; empty if it does.

    Args:
        desired: the instance that shall start.
        others: those that have a domain here.
        capacity: of the host.
    """
    placed = [other for other in others if other.instance_id != desired.instance_id]
    memory = capacity.memory - sum(other.memory for other in placed if other.in_memory)
    if desired.memory > memory:
        return f"{desired.memory >> 20} MiB of memory are asked for, {max(memory, 0) >> 20} MiB are free on this host"
    disk = capacity.disk - sum(_disk(other) for other in placed)
    if _disk(desired) > disk:
        return f"{_disk(desired) >> 20} MiB of disk are asked for, {max(disk, 0) >> 20} MiB are free on this host"
    return ""


def _disk(desired: Desired) -> int:
    return desired.root_disk + sum(volume.size for volume in desired.volumes if not (volume.shared or volume.by_class))
