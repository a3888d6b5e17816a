"""What brings an instance to the powerState that is asked for (pure)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from kumulus_agent.compute.root_limits import tune_items
from kumulus_agent.compute.size_xml import STEP
from kumulus_agent.servers.coming import coming
from kumulus_agent.servers.desired import Desired
from kumulus_agent.servers.terms import ALIVE, CRASH_PAUSE, POWER_STATES, Action, Observed, Plan, Power, Step
from kumulus_api.server import PowerState
from kumulus_api.server_status import ObservedPowerState, ReadyReason

_RESCUED = "the rescue is over"


def brought(desired: Desired, observed: Observed, stop_seconds: float) -> Plan:
    """Decide what the powerState asks for, and the rescue.

    Args:
        desired: an instance of ours.
        observed: of the epoch of its assignment, or absent.
        stop_seconds: how long its guest may take to shut down.
    """
    if observed.power in ALIVE and observed.stopping_for is not None and observed.stopping_for < stop_seconds:
        return going_down(observed, stop_seconds - observed.stopping_for)
    if desired.running or desired.rescue is not None:
        return _running(desired, observed, stop_seconds)
    if observed.power in ALIVE and observed.rescue != desired.rescue_id:
        steps = (Step(Action.SWITCH_OFF, _RESCUED), Step(Action.UNPLUG, "it is off"))
        return Plan(steps, ReadyReason.STOPPING, ObservedPowerState.STOPPED, _RESCUED, look_again=0.0)
    if desired.rest is PowerState.PAUSED:
        return _paused(desired, observed)
    if desired.rest is PowerState.SUSPENDED:
        return _suspended(desired, observed)
    return _stopped(desired, observed, stop_seconds)


def going_down(observed: Observed, seconds: float) -> Plan:
    """Wait for a guest whose power button was pressed."""
    return Plan((), ReadyReason.STOPPING, POWER_STATES[observed.power], "the guest is going down", seconds)


def kept(desired: Desired, observed: Observed) -> Plan:
    """Leave a guest as it is, connected."""
    steps = []
    missing = [network for network in desired.networks if network.vni not in observed.carried]
    if missing:
        names = ", ".join(f"{network.namespace}/{network.name}" for network in missing)
        steps.append(Step(Action.CARRY, f"its guest uses {names}"))
    regrouped = [port.name for port in desired.ports if port.tap in observed.regrouped]
    if regrouped and not missing:
        steps.append(Step(Action.CARRY, "in other security groups: " + ", ".join(regrouped)))
    missing_devices, extra = changed_devices(desired, observed)
    if missing_devices:
        steps.append(Step(Action.ATTACH, "the guest lacks " + ", ".join(missing_devices)))
    there = observed.devices
    connected = [port for port in desired.ports if there is None or port.mac in there.macs]
    unplugged = [port for port in connected if port.tap not in observed.plugged]
    if unplugged:
        steps.append(Step(Action.PLUG, "not connected: " + ", ".join(port.name for port in unplugged)))
    if extra:
        steps.append(Step(Action.DETACH, "taken away: " + ", ".join(extra)))
    grown = growth(desired, observed)
    if grown is not None:
        steps.append(Step(Action.GROW, f"it was given {grown[0]} vCPUs and {grown[1] >> 20} MiB"))
    if has_other_limits(desired, observed):
        steps.append(Step(Action.LIMIT, "its flavor says another limit"))
    if observed.power_changes != desired.power_changes:
        steps.append(Step(Action.NOTE_WISH, "powerState has changed and the guest follows it already"))
    paused = observed.power is Power.PAUSED
    if paused and observed.full and (desired.running or desired.rescue is not None):
        return _full(observed, steps)
    message = "" if not paused or observed.halted else "QEMU has paused the guest"
    return Plan(
        tuple(steps), ReadyReason.PAUSED if paused else ReadyReason.RUNNING, POWER_STATES[observed.power], message
    )


_ROOM_SECONDS: Final = 5.0
"""Seconds between two looks at a full disk, which tells nobody when it has room again."""


def _full(observed: Observed, steps: list[Step]) -> Plan:
    """Let a guest that found its host's disk full wait, and go on when there is room."""
    if observed.room:
        resume = Step(Action.RESUME, "its host's disk has room again")
        return Plan((*steps, resume), ReadyReason.RUNNING, ObservedPowerState.RUNNING)
    message = (
        f"the disk of its host had no room for what the guest wrote to {', '.join(observed.full)}; nothing is lost; "
        "transient: goes on by itself when there is room"
    )
    return Plan(tuple(steps), ReadyReason.HOST_DISK_FULL, POWER_STATES[observed.power], message, _ROOM_SECONDS)


def has_other_limits(desired: Desired, observed: Observed) -> bool:
    """Give whether a guest that runs may use its root disk otherwise than its flavor says."""
    there = observed.devices.root_limits if observed.devices is not None else None
    if there is None or desired.target or observed.power not in (Power.RUNNING, Power.PAUSED):
        return False
    return there != tune_items(desired.hardware.root_disk_limits)


def growth(desired: Desired, observed: Observed) -> tuple[int, int] | None:
    """Give the virtual CPUs and bytes that a guest can be given as it runs; None if it needs nothing, or a restart."""
    limits = observed.limits
    if limits is None or desired.target or observed.power is not Power.RUNNING:
        return None
    if observed.machine(desired.hardware).fixed_size:
        return None
    vcpus = desired.vcpus if limits.vcpus < desired.vcpus <= limits.max_vcpus else limits.vcpus
    fits = limits.initial <= desired.memory <= limits.max_memory and not (desired.memory - limits.initial) % STEP
    memory = desired.memory if fits else limits.asked
    return None if (vcpus, memory) == (limits.vcpus, limits.asked) else (vcpus, memory)


def changed_devices(desired: Desired, observed: Observed) -> tuple[list[str], list[str]]:
    """Give the names of what a guest lacks, and of what it has, or its host holds for it, and shall not have."""
    there = observed.devices
    if there is None or desired.target:
        return [], []
    names = {port.mac: port.name for port in desired.leaving_ports}
    names |= {volume.volume_id: volume.name for volume in desired.leaving_volumes}
    extra = there.macs - {port.mac for port in desired.ports}
    if observed.machine(desired.hardware).plugs_disks:
        extra |= there.volumes - {volume.volume_id for volume in desired.volumes}
    taps = {port.tap: port.name for port in desired.leaving_ports if port.mac not in there.macs}
    held = observed.held - {port.tap for port in desired.ports} - set(_taps(desired, extra))
    return coming(desired, observed).names, sorted(
        {names.get(item, item) for item in extra} | {taps.get(tap, tap) for tap in held}
    )


def _taps(desired: Desired, macs: frozenset[str]) -> list[str]:
    return [port.tap for port in desired.leaving_ports if port.mac in macs]


def _running(desired: Desired, observed: Observed, stop_seconds: float) -> Plan:
    if observed.power in ALIVE and observed.rescue != desired.rescue_id:
        return _changed_over(desired, observed, stop_seconds)
    if observed.power is Power.PAUSED and observed.halted:
        made = kept(desired, observed)
        # A guest that stands still lets go of nothing: it is only asked for devices when it runs.
        steps = [step for step in made.steps if step.action is not Action.DETACH]
        later = [step for step in made.steps if step.action is Action.DETACH]
        steps += [Step(Action.RESUME, "it shall run and is paused"), *later]
        return Plan(tuple(steps), ReadyReason.RUNNING, ObservedPowerState.RUNNING)
    if observed.power in (Power.RUNNING, Power.PAUSED):
        return kept(desired, observed)
    if observed.power is Power.STOPPING:
        return going_down(observed, 1.0)
    if desired.shelved:
        message = "it was shelved: it is started when the operator has admitted it again"
        return Plan((), ReadyReason.PENDING, POWER_STATES[observed.power], message)
    return _started(desired, observed)


def _changed_over(desired: Desired, observed: Observed, stop_seconds: float) -> Plan:
    """Have a guest go down that runs from another disk than it shall: into a rescue politely, out of it at once."""
    if desired.rescue is not None and observed.power is Power.RUNNING and observed.stopping_for is None:
        return _pressed(observed, stop_seconds, "it shall run from the rescue image")
    why = "it shall run from the rescue image" if desired.rescue is not None else _RESCUED
    steps = (Step(Action.SWITCH_OFF, why), Step(Action.START, why))
    return Plan(steps, ReadyReason.RUNNING, ObservedPowerState.RUNNING)


def _started(desired: Desired, observed: Observed) -> Plan:
    # A powerState that was set to Stopped and back while nobody looked has left only a higher count.
    asked_since = observed.power_changes is not None and desired.power_changes > observed.power_changes
    asked_since = asked_since or observed.rescue != desired.rescue_id
    if observed.off_by_guest and not desired.restart_after_guest_shutdown and not asked_since:
        message = (
            "the guest turned itself off: a ServerAction Start, or powerState set to Stopped and back to Running, "
            "starts it"
        )
        steps = _tidied(desired, observed)
        return Plan(steps, ReadyReason.STOPPED_BY_GUEST, ObservedPowerState.STOPPED, message)
    if observed.power is Power.CRASHED and not asked_since:
        waiting = _crashed(desired, observed)
        if waiting is not None:
            return waiting
    why = _START_REASONS[observed.power, observed.off_by_guest and not asked_since]
    return Plan((Step(Action.START, why),), ReadyReason.RUNNING, ObservedPowerState.RUNNING)


def _crashed(desired: Desired, observed: Observed) -> Plan | None:
    """Give what a crash leads to, other than a start at once."""
    if not desired.recovers:
        message = (
            "QEMU ended although nobody asked it to, and recovery is None: a ServerAction Start, or powerState set to "
            "Stopped and back to Running, starts it"
        )
        return Plan(_tidied(desired, observed), ReadyReason.CRASHED, ObservedPowerState.CRASHED, message)
    if observed.uptime is not None and observed.uptime < CRASH_PAUSE:
        message = f"QEMU ended after {observed.uptime:.0f} s; it is started again after {CRASH_PAUSE:.0f} s"
        wait = CRASH_PAUSE - observed.uptime
        return Plan((), ReadyReason.CRASHED, ObservedPowerState.CRASHED, message, look_again=wait)
    return None


_START_REASONS = {
    (Power.ABSENT, False): "it is not here yet",
    (Power.OFF, False): "it shall run and is off",
    (Power.OFF, True): "the guest turned itself off and shall be restarted",
    (Power.CRASHED, False): "QEMU crashed",
    (Power.CRASHED, True): "QEMU crashed",
    (Power.SUSPENDED, False): "it shall go on from its saved memory",
    (Power.SUSPENDED, True): "it shall go on from its saved memory",
}


def _paused(desired: Desired, observed: Observed) -> Plan:
    if observed.power is Power.STOPPING:
        return going_down(observed, 1.0)
    if observed.power is Power.RUNNING:
        made = kept(desired, observed)
        steps = (*made.steps, Step(Action.PAUSE, "it shall be paused"))
        return Plan(steps, ReadyReason.PAUSED, ObservedPowerState.PAUSED)
    if observed.power is Power.PAUSED:
        return kept(desired, observed)
    return _resumed_first(observed) if observed.power is Power.SUSPENDED else _illegal(desired, observed)


def _suspended(desired: Desired, observed: Observed) -> Plan:
    if observed.power is Power.STOPPING:
        return going_down(observed, 1.0)
    if observed.power is Power.PAUSED and not observed.halted:
        return kept(desired, observed)
    if observed.power in ALIVE and observed.passed:
        message = (
            "powerState: Suspended is not possible with devices of the host, whose state is nowhere on the disk; "
            "permanent: set powerState to Running, Paused or Stopped"
        )
        return replace(kept(desired, observed), ready=ReadyReason.ILLEGAL_STATE, message=message)
    if observed.power in ALIVE:
        steps = (Step(Action.SAVE, "it shall be suspended"), Step(Action.UNPLUG, "it is off"))
        return Plan(steps, ReadyReason.SUSPENDED, ObservedPowerState.SUSPENDED)
    if observed.power is Power.SUSPENDED:
        return Plan(_tidied(desired, observed), ReadyReason.SUSPENDED, ObservedPowerState.SUSPENDED)
    return _illegal(desired, observed)


def _resumed_first(observed: Observed) -> Plan:
    """Let a guest go on from its saved memory, because what is asked of it can only be done then."""
    why = _START_REASONS[observed.power, False]
    return Plan((Step(Action.START, why),), ReadyReason.STARTING, ObservedPowerState.RUNNING, look_again=0.0)


def _illegal(desired: Desired, observed: Observed) -> Plan:
    """Refuse to pause or suspend what is off: it would have to be started for it, which nobody has asked for."""
    message = (
        f"powerState: {desired.rest} is legal for a guest that runs, this one is off; permanent: set powerState to "
        "Running first"
    )
    return Plan(_tidied(desired, observed), ReadyReason.ILLEGAL_STATE, POWER_STATES[observed.power], message)


def _tidied(desired: Desired, observed: Observed) -> tuple[Step, ...]:
    """Give the steps for a guest that is off: it is written down by whom, and its interfaces go."""
    steps = []
    if observed.off_by_guest and not observed.shutdown_recorded:
        steps.append(Step(Action.RECORD_SHUTDOWN, "the guest turned itself off"))
    if observed.plugged & {port.tap for port in desired.all_ports}:
        steps.append(Step(Action.UNPLUG, "it is off"))
    return (*steps, *_given_back(desired, observed))


def _given_back(desired: Desired, observed: Observed) -> tuple[Step, ...]:
    """Give the step for a guest that is off, or will be, and has devices that it keeps for nobody."""
    if not observed.passed:
        return ()
    if desired.rest is PowerState.SHELVED:
        return (Step(Action.GIVE_BACK, "a shelved server keeps no devices"),)
    if observed.has_other_devices:
        return (Step(Action.GIVE_BACK, "it was given other devices"),)
    return ()


def _pressed(observed: Observed, stop_seconds: float, why: str) -> Plan:
    made = going_down(observed, stop_seconds)
    return replace(made, steps=(Step(Action.PRESS_POWER_BUTTON, why),))


def _stopped(desired: Desired, observed: Observed, stop_seconds: float) -> Plan:
    shelve = desired.rest is PowerState.SHELVED
    if observed.power is Power.SUSPENDED and not shelve:
        return _resumed_first(observed)
    heeds = observed.power in (Power.RUNNING, Power.STOPPING)
    if heeds and observed.stopping_for is None and stop_seconds > 0:
        return _pressed(observed, stop_seconds, "it shall be stopped")
    steps = []
    if observed.power in ALIVE:
        why = f"it did not shut down within {stop_seconds:.0f} s" if heeds else "a paused guest cannot shut down"
        steps.append(Step(Action.SWITCH_OFF, why))
    elif observed.power is Power.SUSPENDED:
        steps.append(Step(Action.DISCARD_MEMORY, "a shelved server starts anew"))
    elif observed.off_by_guest:
        steps.append(Step(Action.FORGET_SHUTDOWN, "the user's wish is newer"))
    if observed.power in ALIVE or observed.plugged:
        steps.append(Step(Action.UNPLUG, "it is off"))
    steps += _given_back(desired, observed)
    if shelve:
        return Plan(tuple(steps), ReadyReason.SHELVED, ObservedPowerState.SHELVED)
    return Plan(tuple(steps), ReadyReason.STOPPED, ObservedPowerState.STOPPED)
