"""What a placed server is to be given: a changed flavor, room that was given back, room that it takes again (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kumulus_api import Flavor, Server
from kumulus_api.flavor import Allocation
from kumulus_api.hardware import Hardware
from kumulus_api.quantities import parse_quantity
from kumulus_api.server import PowerState, ResizePolicy
from kumulus_api.server_assignment import ServerAssignment
from kumulus_api.server_status import ObservedPowerState, ScheduledReason
from kumulus_operator.placement.facts import Amounts
from kumulus_operator.placement.hardware import hardware_of
from kumulus_operator.placement.usage import allocation_of, amounts_of, server_amounts
from kumulus_operator.refusal import refuse

Object = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """An assignment as it should be.

    Attributes:
        assignment: the whole of it, in the wire form.
        amounts: what the server takes from then on, if the ledger has to admit it; None if it takes no more.
    """

    assignment: Object
    amounts: Amounts | None = None


def change_of(server: Server, flavor: Flavor | None) -> Change | None:
    """Decide what becomes of the assignment of a placed server.

    Args:
        server: as it is.
        flavor: the one that its spec names; None if there is none.

    Returns:
        None if it is as it should be.

    Raises:
        Refused: the flavor is not there, its root disk is smaller, or it does not go with the image.
    """
    given = server.spec.assignment
    if given is None:
        return None
    assigned = given.dump()
    if server.spec.power_state is PowerState.SHELVED:
        return None if given.shelved or not _is_shelved(server) else Change(assigned | {"shelved": True})
    if given.shelved:
        return Change(assigned | {"shelved": False}, amounts_of(given.resources, given.hardware))
    wanted = assigned | _size(server, given, flavor)
    if given.former is not None and server.spec.flavor.name == given.former.flavor:
        wanted.pop("former")
    if wanted.get("hardware") is None:
        wanted.pop("hardware", None)
    if wanted == assigned:
        return None
    amounts = amounts_of(Allocation.model_validate(wanted["resources"]), hardware_given(wanted))
    return Change(wanted, server_amounts(server).most(amounts))


def hardware_given(assignment: Object) -> Hardware | None:
    """Give the hardware of an assignment in its wire form."""
    found = assignment.get("hardware")
    return Hardware.model_validate(found) if found is not None else None


def _is_shelved(server: Server) -> bool:
    """Whether the agent has told, as of the newest spec, that nothing of it takes memory any more."""
    status = server.status
    newest = status is not None and status.observed_generation == server.metadata.generation
    return newest and status is not None and status.power_state is ObservedPowerState.SHELVED


def _size(server: Server, given: ServerAssignment, flavor: Flavor | None) -> Object:
    """Give the fields of the assignment that make the size, and the machine; no hardware is None."""
    name = server.spec.flavor.name
    if given.former is not None and name == given.former.flavor:
        former_hardware = given.former.hardware.dump() if given.former.hardware is not None else None
        return {"flavor": name, "resources": given.former.resources.dump(), "hardware": former_hardware}
    if flavor is None:
        if given.flavor in (None, name):
            return {}
        message = f"reference: flavor {name} was not found; transient: goes on when it is made"
        raise refuse(ScheduledReason.FLAVOR_NOT_FOUND, message, ("Flavor", "", name))
    wanted = allocation_of(flavor.spec)
    same = _same(wanted, given.resources)
    if given.flavor in (None, name) and same:
        return {}  # Its machine is as it was when it got this flavor.
    properties = (given.image.properties or {}) if given.image is not None else {}
    hardware = hardware_of(flavor.spec.extra_specs, properties, wanted)
    if (same and hardware == given.hardware) or (given.former is not None and given.flavor == name):
        return {"flavor": name} if given.flavor not in (None, name) else {}
    _disk_fits(given.resources, flavor)
    _memory_fits(given, flavor)
    machine = {"hardware": hardware.dump() if hardware is not None else None}
    if server.spec.resize_policy is ResizePolicy.AUTOMATIC or given.flavor in (None, name):
        return {"flavor": name, "resources": wanted.dump()} | machine
    former = {"flavor": given.flavor, "resources": given.resources.dump()}
    if given.hardware is not None:
        former["hardware"] = given.hardware.dump()
    # A disk that has grown cannot shrink again: it waits for the confirmation.
    kept = wanted.dump() | {"rootDisk": given.resources.root_disk}
    return {"flavor": name, "resources": kept, "former": former} | machine


def _same(one: Allocation, other: Allocation) -> bool:
    """Whether two sizes are the same, whatever the notation."""
    limits = [(item.max_vcpus, item.max_memory and parse_quantity(item.max_memory)) for item in (one, other)]
    return amounts_of(one, None) == amounts_of(other, None) and limits[0] == limits[1]


def _disk_fits(given: Allocation, flavor: Flavor) -> None:
    if parse_quantity(flavor.spec.root_disk) < parse_quantity(given.root_disk):
        message = (
            f"resize: flavor {flavor.metadata.name} has a rootDisk of {flavor.spec.root_disk}, the server's has "
            f"{given.root_disk} and cannot shrink; permanent: use a flavor with as much"
        )
        raise refuse(ScheduledReason.DISK_TOO_SMALL, message)


def _memory_fits(given: ServerAssignment, flavor: Flavor) -> None:
    image = given.image
    if image is None or image.min_memory is None:
        return
    if parse_quantity(flavor.spec.memory) < parse_quantity(image.min_memory):
        message = (
            f"resize: flavor {flavor.metadata.name} has {flavor.spec.memory} of memory, the server's image "
            f"{image.name} needs {image.min_memory}; permanent: use a flavor with as much"
        )
        raise refuse(ScheduledReason.MEMORY_TOO_SMALL, message)
