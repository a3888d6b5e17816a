"""How much room there is, worked out from the Host objects and not from what placement says."""

from __future__ import annotations

from dataclasses import dataclass

from kumulus_api.quantities import parse_quantity
from kumulus_lab.testing.cloud import Object
from kumulus_operator.settings import OperatorSettings


@dataclass(frozen=True)
class Room:
    """vCPUs (count), memory and disk (bytes)."""

    vcpus: float
    memory: float
    disk: float

    def minus(self, other: Room) -> Room:
        """Give what is left."""
        return Room(self.vcpus - other.vcpus, self.memory - other.memory, self.disk - other.disk)

    def times(self, size: Room) -> int:
        """Give how many of one size fit in."""
        return int(min(self.vcpus // size.vcpus, self.memory // size.memory, self.disk // size.disk))


def total(host: Object, overcommit: OperatorSettings) -> Room:
    """Give what a host may give out."""
    inventory = host["status"]["inventory"]
    return Room(
        inventory["vcpus"] * overcommit.vcpu_overcommit,
        parse_quantity(inventory["memory"]) * overcommit.memory_overcommit,
        parse_quantity(inventory["disk"]) * overcommit.disk_overcommit,
    )


def size(resources: Object) -> Room:
    """Give what a flavor's spec or an assignment's resources take."""
    return Room(resources["vcpus"], parse_quantity(resources["memory"]), parse_quantity(resources["rootDisk"]))


def free(totals: dict[str, Room], servers: list[Object]) -> dict[str, Room]:
    """Give what is left of each host beside the servers that are assigned to it; negative if they are too many."""
    left = dict(totals)
    for server in servers:
        if assignment := server["spec"].get("assignment"):
            left[assignment["host"]] = left[assignment["host"]].minus(size(assignment["resources"]))
    return left
