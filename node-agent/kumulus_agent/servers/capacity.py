"""Whether an instance fits into the host: the last word after the operator's placement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kumulus_agent.servers.desired import Desired


@dataclass(frozen=True, slots=True)
class Capacity:
    """What may be given out, in bytes, overcommit included."""

    memory: int
    disk: int


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
    return desired.root_disk + sum(volume.size for volume in desired.volumes)
