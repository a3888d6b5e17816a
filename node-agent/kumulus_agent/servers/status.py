"""The status of a Server, as pure functions of what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kumulus_agent.passthrough.facts import Passed
from kumulus_agent.servers.coming import HeldUp
from kumulus_agent.servers.desired import Desired
from kumulus_api.passthrough import GivenDevice
from kumulus_api.quantities import format_quantity
from kumulus_api.server_status import (
    DeviceReason,
    LiveMigratableReason,
    ObservedPowerState,
    ReadyReason,
    RestartReason,
    ScheduledReason,
    ServerConditionType,
)
from kumulus_runtime.conditions import set_condition

Object = dict[str, Any]
_UP = frozenset({ReadyReason.RUNNING})


@dataclass(frozen=True, slots=True)
class Part:
    """One condition: whether it holds, and why."""

    status: bool
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What the status is made of.

    Attributes:
        power: power state.
        ready: reason of the Ready condition.
        message: of the Ready condition.
        parts: the conditions beside Ready and Scheduled; those not named stay as they are.
        durations: milliseconds of each step of the last start; None keeps those of the status.
        size: virtual CPUs and bytes of memory of a guest that is in memory.
        detached: ids of ports and volumes that leave it and are unplugged.
        held_up: what comes or leaves with the next start only.
        other_machine: a guest that is in memory has another machine than it gets at its next start.
        passed: what it has of the host.
        guest_agent: what the guest's agent says, empty without one; None keeps what the status says.
    """

    power: ObservedPowerState
    ready: ReadyReason
    message: str = ""
    parts: Mapping[ServerConditionType, Part] = field(default_factory=dict)
    durations: Mapping[str, int] | None = None
    size: tuple[int, int] | None = None
    detached: frozenset[str] = frozenset()
    held_up: HeldUp = field(default_factory=HeldUp)
    other_machine: bool = False
    passed: tuple[Passed, ...] = ()
    bound: frozenset[str] = frozenset()
    guest_agent: Mapping[str, Any] | None = field(default_factory=dict)


def started_parts() -> dict[ServerConditionType, Part]:
    """Give the conditions of a server whose start succeeded."""
    return {
        ServerConditionType.IMAGE_READY: Part(status=True, reason="Cached"),
        ServerConditionType.VOLUMES_READY: Part(status=True, reason="Attached"),
        ServerConditionType.NETWORK_READY: Part(status=True, reason="Wired"),
    }


def live_migratable(
    desired: Desired, power: ObservedPowerState, passed: tuple[Passed, ...] = (), bound: frozenset[str] = frozenset()
) -> Part:
    """Say whether the guest could be carried to another host now."""
    if power not in (ObservedPowerState.RUNNING, ObservedPowerState.PAUSED):
        if power is ObservedPowerState.RESCUED:
            message = "it runs from a rescue image"
            return Part(status=False, reason=LiveMigratableReason.RESCUED, message=message)
        message = "it is off: it can migrate cold"
        return Part(status=False, reason=LiveMigratableReason.NOT_RUNNING, message=message)
    if desired.pinned:
        message = "spec.placement.host names its host: an administrator may name another in the action"
        return Part(status=False, reason=LiveMigratableReason.PINNED, message=message)
    if desired.hardware.dedicated:
        message = "its vCPUs are tied to CPUs of this host: it can migrate cold"
        return Part(status=False, reason=LiveMigratableReason.DEDICATED_CPUS, message=message)
    return _movable_devices(desired, passed, bound)


def _movable_devices(desired: Desired, passed: tuple[Passed, ...], bound: frozenset[str]) -> Part:
    if passed:
        message = f"it has devices of this host ({_named(passed)}): it can migrate cold, and gets others there"
        return Part(status=False, reason=LiveMigratableReason.HOST_DEVICES, message=message)
    stuck = sorted(item.name for item in desired.all_volumes if item.volume_id in bound and not item.shared)
    if stuck:
        message = (
            f"volumes {', '.join(stuck)} lie on this host with snapshots or copies of theirs, or are read-only: detach "
            "them, or delete the snapshots and detach them for a while"
        )
        return Part(status=False, reason=LiveMigratableReason.VOLUME_BOUND, message=message)
    return Part(status=True, reason=LiveMigratableReason.MIGRATABLE)


def _named(passed: tuple[Passed, ...]) -> str:
    return ", ".join(f"{item.resource_class} {'+'.join(item.addresses) or item.uuid}" for item in passed)


def server_status(desired: Desired, old: Mapping[str, Any], found: Found) -> Object:
    """Make the status that the agent owns.

    Args:
        desired: the instance.
        old: the status as it is.
        found: what was found.

    Returns:
        The whole status; equal to `old` if nothing changed.
    """
    conditions: list[Object] = list(old.get("conditions") or [])
    # Of a server that was shelved the operator says whether there is room for it again.
    scheduled = Part(status=True, reason=ScheduledReason.ASSIGNED)
    placed = {} if desired.shelved else {ServerConditionType.SCHEDULED: scheduled}
    parts = {
        **placed,
        **found.parts,
        **_restart_required(desired, conditions, found),
        ServerConditionType.LIVE_MIGRATABLE: live_migratable(desired, found.power, found.passed, found.bound),
    }
    for kind, part in parts.items():
        conditions = set_condition(conditions, kind, part.status, part.reason, part.message, desired.generation)
    up = found.ready in _UP
    conditions = set_condition(
        conditions, ServerConditionType.READY, up, found.ready, found.message, desired.generation
    )
    status: Object = {
        "observedGeneration": desired.generation,
        "powerState": found.power.value,
        "resources": [] if found.size is None else _resources(found.size),
        "addresses": [
            {"network": port.network.name, "address": address, "mac": port.mac}
            for port in desired.ports
            for address in port.addresses
        ],
        "startDurations": _durations(old, found),
        "devices": [_device(item) for item in found.passed if item.resource_class],
        "detached": sorted(found.detached),
        "guestAgent": _guest_agent(old.get("guestAgent") or {}, found.guest_agent) or [],
        "conditions": _same_generation(conditions, old),
    }
    return {name: value for name, value in status.items() if value != []}


def _restart_required(desired: Desired, conditions: list[Object], found: Found) -> dict[ServerConditionType, Part]:
    """Give the condition RestartRequired, if there is or was something to tell, and those of what waits for it."""
    size, wanted = found.size, (desired.vcpus, desired.memory)
    waiting = _waiting(found.held_up)
    if waiting:
        first = next(iter(waiting.values()))
        reason = RestartReason.NO_FREE_SLOT
        if first.reason == DeviceReason.RESTART_REQUIRED:
            reason = RestartReason.VOLUMES_CHANGED
        return {
            **waiting,
            ServerConditionType.RESTART_REQUIRED: Part(status=True, reason=reason, message=first.message),
        }
    if size is not None and (size[0], _mebibytes(size[1])) != (wanted[0], _mebibytes(wanted[1])):
        message = (
            f"the guest has {size[0]} vCPUs and {format_quantity(size[1])}, it was given {wanted[0]} and "
            f"{format_quantity(wanted[1])}: it gets them when it is stopped and started, or rebooted hard"
        )
        reason = RestartReason.FLAVOR_CHANGED
        if desired.hardware.fixed_size and (desired.max_vcpus or desired.max_memory):
            reason = RestartReason.FIXED_SIZE
            message = f"with dedicated CPUs, NUMA nodes or huge pages no guest grows as it runs: {message}"
        changed = Part(status=True, reason=reason, message=message)
        return {ServerConditionType.RESTART_REQUIRED: changed}
    if found.other_machine:
        message = (
            "its flavor asks for another machine or other devices: it gets them when it is stopped and started, or "
            "rebooted hard"
        )
        changed = Part(status=True, reason=RestartReason.FLAVOR_CHANGED, message=message)
        return {ServerConditionType.RESTART_REQUIRED: changed}
    if any(item["type"] == ServerConditionType.RESTART_REQUIRED for item in conditions):
        return {ServerConditionType.RESTART_REQUIRED: Part(status=False, reason=RestartReason.APPLIED)}
    return {}


def _waiting(held_up: HeldUp) -> dict[ServerConditionType, Part]:
    """Give the conditions of the devices that come or leave with the next start only."""
    found = {}
    if held_up.bound:
        message = (
            f"volumes {', '.join(held_up.bound)}: on the guest's bus none comes or leaves "
            "while it runs: they do when it is stopped and started, or rebooted hard"
        )
        bound = Part(status=False, reason=DeviceReason.RESTART_REQUIRED, message=message)
        found[ServerConditionType.VOLUMES_READY] = bound
    for kind, what, names in (
        (ServerConditionType.VOLUMES_READY, "volumes", held_up.volumes),
        (ServerConditionType.NETWORK_READY, "interfaces", held_up.ports),
    ):
        if names:
            message = (
                f"{what} {', '.join(names)}: the guest that runs has no free slot: they come when it is stopped and "
                "started, or rebooted hard, or when another device is taken away"
            )
            found[kind] = Part(status=False, reason=DeviceReason.NO_FREE_SLOT, message=message)
    return found


def _device(item: Passed) -> Object:
    addresses = list(item.addresses) or None
    return GivenDevice(resource_class=item.resource_class, addresses=addresses, uuid=item.uuid or None).dump()


def _mebibytes(size: int) -> int:
    """Round up as hypervisors do."""
    return -(-size // 2**20)


def _resources(size: tuple[int, int]) -> Object:
    return {"vcpus": size[0], "memory": format_quantity(size[1])}


def same(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Say whether writing `new` over `old` would change nothing."""
    return all(old.get(name) == value for name, value in new.items()) and not set(old) - set(new) - _KEPT


_KEPT = frozenset({"migration", "console", "guestPassword", "floatingIPs"})
"""Fields of a status that are not written with the rest, and not removed."""


def _guest_agent(old: Mapping[str, Any], said: Mapping[str, Any] | None) -> Object:
    if said is None or not (said and old):
        return dict(old if said is None else said)
    # Another agent of this host, or another host, may have seen the guest's before.
    return {**said, "connectedSince": old["connectedSince"]}


def _durations(old: Mapping[str, Any], found: Found) -> list[Object]:
    if found.durations is None:
        return list(old.get("startDurations") or [])
    return [{"step": step, "milliseconds": found.durations[step]} for step in found.durations]


def _same_generation(conditions: list[Object], old: Mapping[str, Any]) -> list[Object]:
    """Drop what has only got another order of keys: equal content keeps the old object."""
    known = {condition["type"]: condition for condition in old.get("conditions") or []}
    return [known[new["type"]] if known.get(new["type"]) == new else new for new in conditions]
