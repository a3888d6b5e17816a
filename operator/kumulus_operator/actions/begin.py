"""What opening and closing an action write on its Server (pure)."""

from __future__ import annotations

from typing import Any

from kumulus_api import Reference, Server, ServerAction
from kumulus_api.flavor import FlavorSpec
from kumulus_api.server import PowerState
from kumulus_api.server_action import ActionPhase, ActionType, RebootType
from kumulus_api.server_assignment import ServerAssignment

RESIZED = frozenset({ActionType.CONFIRM_RESIZE, ActionType.REVERT_RESIZE})
"""What ends a resize, in whatever state."""

Object = dict[str, Any]


def own_patch(action: ServerAction, server: Server) -> Object | None:
    """Give the merge patch of fields that are otherwise the user's, or None.

    It is None, too, where the spec says so already: done once more, it changes nothing. A start and a hard reboot end
    with a running server, as in Nova: powerState has to say so.
    """
    if action.spec.type in (ActionType.LOCK, ActionType.UNLOCK):
        locked = action.spec.type is ActionType.LOCK
        return {"spec": {"locked": locked}} if server.spec.locked is not locked else None
    given = server.spec.assignment
    if action.spec.type in RESIZED:
        if given is None or given.former is None:
            return None
        kept = {"former": None}
        if action.spec.type is ActionType.CONFIRM_RESIZE:
            return {"spec": {"assignment": kept}}
        back = given.former.dump() | _hardware_back(given) | kept
        return {"spec": {"flavor": {"name": given.former.flavor}, "assignment": back}}
    reboot = action.spec.reboot
    hard = reboot is not None and reboot.type is RebootType.HARD
    if (hard or action.spec.type is ActionType.START) and server.spec.power_state is not PowerState.RUNNING:
        return {"spec": {"powerState": PowerState.RUNNING.value}}
    return None


def _hardware_back(given: ServerAssignment) -> Object:
    """Give the merge patch from the hardware that is to the former one."""
    here = given.hardware.dump() if given.hardware is not None else {}
    former = given.former.hardware if given.former is not None else None
    if former is None:
        return {"hardware": None} if here else {}
    return {"hardware": dict.fromkeys(here) | former.dump()}


def wanted_image(action: ServerAction) -> tuple[bool, Reference | None]:
    """Give whether an action needs an image, and the one that it names, if it does."""
    if action.spec.type is ActionType.REBUILD:
        return True, action.spec.rebuild.image if action.spec.rebuild is not None else None
    if action.spec.type is ActionType.RESCUE:
        return True, action.spec.rescue.image if action.spec.rescue is not None else None
    return False, None


def going_on(action: ServerAction, assigned: Object) -> Object:
    """Give the assignment with which an open action is carried out; `assigned` itself if that changes nothing."""
    image = action.status.image if action.status is not None else None
    if action.spec.type is ActionType.RESCUE and image is not None:
        return assigned | {"rescue": {"action": action.metadata.uid, "image": image.dump()}}
    if action.spec.type is ActionType.UNRESCUE:
        return _without_rescue(assigned)
    return assigned


def closing(action: ServerAction, phase: str, assigned: Object) -> Object:
    """Give the assignment with which an action is closed; `assigned` itself if that changes nothing."""
    succeeded = phase == ActionPhase.SUCCEEDED
    image = action.status.image if action.status is not None else None
    if action.spec.type is ActionType.REBUILD and succeeded and image is not None:
        return assigned | {"image": image.dump()}
    begun = (assigned.get("rescue") or {}).get("action") == action.metadata.uid
    if action.spec.type is ActionType.RESCUE and not succeeded and begun:
        return _without_rescue(assigned)
    return assigned


def sized_as(server: Server) -> FlavorSpec | None:
    """Give the size that a server was given."""
    assigned = server.spec.assignment
    return FlavorSpec.model_validate(assigned.resources.dump()) if assigned is not None else None


def _without_rescue(assigned: Object) -> Object:
    return {name: value for name, value in assigned.items() if name != "rescue"}
