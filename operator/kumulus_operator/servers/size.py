"""What a placed server is to be given: a changed flavor, room that was given back, room that it takes again (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kumulus_api import Flavor, Server
from kumulus_api.flavor import Resources
from kumulus_api.quantities import parse_quantity
from kumulus_api.server import PowerState, ResizePolicy
from kumulus_api.server_assignment import ServerAssignment
from kumulus_api.server_status import ObservedPowerState, ScheduledReason
from kumulus_operator.placement.facts import Amounts
from kumulus_operator.placement.usage import amounts_of, server_amounts
from kumulus_operator.refusal import refuse
from kumulus_operator.servers.plan import size_of

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
        Refused: the flavor is not there, or its root disk is smaller.
    """
    given = server.spec.assignment
    if given is None:
        return None
    assigned = given.dump()
    if server.spec.power_state is PowerState.SHELVED:
        return None if given.shelved or not _is_shelved(server) else Change(assigned | {"shelved": True})
    if given.shelved:
        return Change(assigned | {"shelved": False}, amounts_of(given.resources))
    wanted = assigned | _size(server, given, flavor)
    if given.former is not None and server.spec.flavor.name == given.former.flavor:
        wanted.pop("former")
    if wanted == assigned:
        return None
    return Change(wanted, server_amounts(server).most(amounts_of(Resources.model_validate(wanted["resources"]))))


def _is_shelved(server: Server) -> bool:
    """Whether the agent has told, as of the newest spec, that nothing of it takes memory any more."""
    status = server.status
    newest = status is not None and status.observed_generation == server.metadata.generation
    return newest and status is not None and status.power_state is ObservedPowerState.SHELVED


def _size(server: Server, given: ServerAssignment, flavor: Flavor | None) -> Object:
    """Give the fields of the assignment that make the size."""
    name = server.spec.flavor.name
    if given.former is not None and name == given.former.flavor:
        return {"flavor": name, "resources": given.former.resources.dump()}
    if flavor is None:
        if given.flavor in (None, name):
            return {}
        message = f"reference: flavor {name} was not found; transient: goes on when it is made"
        raise refuse(ScheduledReason.FLAVOR_NOT_FOUND, message, ("Flavor", "", name))
    wanted = size_of(flavor.spec)
    if _same(wanted, given.resources) or (given.former is not None and given.flavor == name):
        return {"flavor": name} if given.flavor not in (None, name) else {}
    _disk_fits(given.resources, flavor)
    if server.spec.resize_policy is ResizePolicy.AUTOMATIC or given.flavor in (None, name):
        return {"flavor": name, "resources": wanted.dump()}
    former = {"flavor": given.flavor, "resources": given.resources.dump()}
    # A disk that has grown cannot shrink again: it waits for the confirmation.
    kept = wanted.dump() | {"rootDisk": given.resources.root_disk}
    return {"flavor": name, "resources": kept, "former": former}


def _same(one: Resources, other: Resources) -> bool:
    """Whether two sizes are the same, whatever the notation."""
    limits = [(item.max_vcpus, item.max_memory and parse_quantity(item.max_memory)) for item in (one, other)]
    return amounts_of(one) == amounts_of(other) and limits[0] == limits[1]


def _disk_fits(given: Resources, flavor: Flavor) -> None:
    if parse_quantity(flavor.spec.root_disk) < parse_quantity(given.root_disk):
        message = (
            f"resize: flavor {flavor.metadata.name} has a rootDisk of {flavor.spec.root_disk}, the server's has "
            f"{given.root_disk} and cannot shrink; permanent: use a flavor with as much"
        )
        raise refuse(ScheduledReason.DISK_TOO_SMALL, message)
