"""Which act is legal in which state (pure); the table is Nova's.

Source: the decorators `check_instance_state` of Nova's compute API and its documentation "VM States and Transitions".
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from kumulus_api import Server
from kumulus_api.server_action import MIGRATIONS, ActionReason, ActionType, RebootType, ServerAction
from kumulus_api.server_assignment import ServerAssignment
from kumulus_api.server_status import LiveMigratableReason, ObservedPowerState
from kumulus_operator.actions.begin import RESIZED
from kumulus_operator.refusal import Refusal


class ServerState(StrEnum):
    """What a server is to whom wants to act on it (Nova's vm_state)."""

    BUILDING = "Building"
    ACTIVE = "Active"
    STOPPED = "Stopped"
    PAUSED = "Paused"
    SUSPENDED = "Suspended"
    SHELVED = "Shelved"
    RESCUED = "Rescued"
    ERROR = "Error"
    UNKNOWN = "Unknown"


_STATES = {
    None: ServerState.BUILDING,
    ObservedPowerState.RUNNING: ServerState.ACTIVE,
    ObservedPowerState.STOPPED: ServerState.STOPPED,
    ObservedPowerState.PAUSED: ServerState.PAUSED,
    ObservedPowerState.SUSPENDED: ServerState.SUSPENDED,
    ObservedPowerState.SHELVED: ServerState.SHELVED,
    ObservedPowerState.RESCUED: ServerState.RESCUED,
    ObservedPowerState.CRASHED: ServerState.ERROR,
    ObservedPowerState.UNKNOWN: ServerState.UNKNOWN,
}
_ANY = frozenset(ServerState)
_A, _S, _P, _E = ServerState.ACTIVE, ServerState.STOPPED, ServerState.PAUSED, ServerState.ERROR
_SUSPENDED, _RESCUED = ServerState.SUSPENDED, ServerState.RESCUED

LEGAL: Mapping[ActionType, frozenset[ServerState]] = MappingProxyType(
    {
        # Nova has no start for what is in error; ours is the way out of a crash where recovery is None.
        ActionType.START: frozenset({_S, _E}),
        ActionType.REBOOT: frozenset({_A}),
        ActionType.REBUILD: frozenset({_A, _S, _E}),
        ActionType.RESCUE: frozenset({_A, _S, _E}),
        ActionType.UNRESCUE: frozenset({_RESCUED}),
        ActionType.CREATE_IMAGE: frozenset({_A, _S, _P, _SUSPENDED}),
        ActionType.SET_PASSWORD: frozenset({_A}),
        ActionType.LOCK: _ANY,
        ActionType.UNLOCK: _ANY,
        ActionType.RESET_STATE: _ANY,
        ActionType.MIGRATE: frozenset({_A, _S}),
        ActionType.LIVE_MIGRATE: frozenset({_A, _P}),
    }
)
AT_ONCE = RESIZED | {ActionType.LOCK, ActionType.UNLOCK}
"""What is done when it is written: no agent has a part in it."""
_HARD_REBOOT = frozenset({_A, _S, _P, _SUSPENDED, _E})
_DESPITE_LOCK = MIGRATIONS | {ActionType.LOCK, ActionType.UNLOCK, ActionType.RESET_STATE}
"""Beside the lock's own, what only administrators may do, whom a lock does not bind in Nova either."""


def state_of(server: Server) -> ServerState:
    """Give the state that decides what is legal."""
    assignment = server.spec.assignment
    if assignment is not None and assignment.rescue is not None:
        return ServerState.RESCUED
    return _STATES[server.status.power_state if server.status is not None else None]


_ROOT_DISK = frozenset({ActionType.REBUILD, ActionType.CREATE_IMAGE})
"""Acts on the root disk."""


def legal_states(action: ServerAction) -> frozenset[ServerState]:
    """Give the states in which the act is legal."""
    hard = action.spec.reboot is not None and action.spec.reboot.type is RebootType.HARD
    return _HARD_REBOOT if hard else LEGAL.get(action.spec.type, frozenset())


def illegal(action: ServerAction, server: Server | None) -> Refusal | None:
    """Say why an act cannot be begun now, or None if it can; nothing here passes by itself."""
    name = action.spec.server.name
    if server is None or server.deleting:
        return Refusal(ActionReason.SERVER_NOT_FOUND, f"reference: server {name} was not found; permanent")
    if server.spec.locked and action.spec.type not in _DESPITE_LOCK:
        message = f"lock: server {name} is locked; permanent: Unlock it, or set its spec.locked to false, first"
        return Refusal(ActionReason.LOCKED, message)
    if action.spec.type in (ActionType.LOCK, ActionType.UNLOCK):
        return None
    if server.spec.assignment is None:
        message = f"state: server {name} has no host yet; permanent: ask again when it is Scheduled"
        return Refusal(ActionReason.NOT_PLACED, message)
    if action.spec.type in _ROOT_DISK and server.spec.boot_volume is not None:
        message = (
            f"state: server {name} boots from a volume and has no root disk; permanent: make a snapshot of the volume, "
            "or another volume"
        )
        return Refusal(ActionReason.BOOTS_FROM_VOLUME, message)
    return _illegal_state(action, server, server.spec.assignment)


def _illegal_state(action: ServerAction, server: Server, given: ServerAssignment) -> Refusal | None:
    name, wanted = action.spec.server.name, action.spec.type.value
    if action.spec.type in RESIZED:
        legal, found = "a resize that waits for it", "none" if given.former is None else ""
    else:
        state, states = state_of(server), legal_states(action)
        legal, found = ", ".join(sorted(states)) or "no state", "" if state in states else state.value
    hardware = given.hardware
    if not found and action.spec.type is ActionType.LIVE_MIGRATE and hardware is not None and hardware.dedicated:
        message = f"state: the vCPUs of server {name} are tied to CPUs of its host; permanent: make a Migrate of it"
        return Refusal(LiveMigratableReason.DEDICATED_CPUS, message)
    devices = server.status.devices if server.status is not None else []
    if not found and action.spec.type is ActionType.LIVE_MIGRATE and devices:
        message = f"state: server {name} has devices of its host; permanent: make a Migrate of it"
        return Refusal(LiveMigratableReason.HOST_DEVICES, message)
    if not found:
        return None
    message = f"state: {wanted} of server {name} is legal in {legal}, it is {found}; permanent: ask again then"
    return Refusal(ActionReason.ILLEGAL_STATE, message)
