"""What to do about one instance: a pure function of what is asked and what is there."""

from __future__ import annotations

from dataclasses import replace

from kumulus_agent.actions.plan import acted
from kumulus_agent.servers.desired import Desired
from kumulus_agent.servers.plan_power import brought, kept
from kumulus_agent.servers.terms import POWER_STATES, Act, Action, Claim, Observed, Plan, Power, Step
from kumulus_api.server_status import ObservedPowerState, ReadyReason


def plan(
    desired: Desired | None, observed: Observed, claim: Claim, stop_seconds: float = 20.0, act: Act | None = None
) -> Plan:
    """Decide.

    Args:
        desired: what the API asks; None if no Server object is known for the instance.
        observed: what is there.
        claim: what the API says about the instance; anything but ``OURS`` from a live read.
        stop_seconds: how long a guest may take to shut down, where its Server does not say it.
        act: the ServerAction under way, from a live read.

    Returns:
        The plan; it has no steps where everything is as asked.
    """
    if claim is Claim.INCOMING or (desired is not None and desired.target):
        return _migrating(desired, observed)
    if desired is not None and claim is Claim.DELETING:
        return _removal(desired, observed)
    if desired is None or claim is not Claim.OURS:
        return _unclaimed(observed, claim)
    if observed.power is not Power.ABSENT and observed.epoch != desired.epoch:
        return _revocation() if observed.revoked else _foreign_epoch(desired, observed)
    limit = stop_seconds if desired.stop_seconds is None else desired.stop_seconds
    if act is not None:
        return _named(acted(act, desired, observed, limit), desired)
    return _named(brought(desired, observed, limit), desired)


def _named(made: Plan, desired: Desired) -> Plan:
    """Call what runs by what it runs from."""
    if desired.rescue is None or made.ready is not ReadyReason.RUNNING:
        return made
    message = "it runs from a rescue image, its own root disk is the second disk; a ServerAction Unrescue ends that"
    return replace(made, ready=ReadyReason.RESCUED, power=ObservedPowerState.RESCUED, message=message)


def _migrating(desired: Desired | None, observed: Observed) -> Plan:
    """Neither start nor end the guest: while there is a target only the migration's protocol may."""
    if desired is None:
        return Plan()
    if observed.power is Power.RUNNING and observed.epoch == desired.epoch:
        return kept(desired, observed)
    if observed.power in (Power.OFF, Power.CRASHED):
        message = f"it migrates to host {desired.target}"
        return Plan((), ReadyReason.MIGRATING, POWER_STATES[observed.power], message)
    return Plan()


def _removal(desired: Desired, observed: Observed) -> Plan:
    if observed.power is not Power.ABSENT and observed.epoch > desired.epoch:
        # The object is older than the guest (a restored backup): its deletion says nothing about this guest.
        return _foreign_epoch(desired, observed)
    steps = [Step(Action.REMOVE, "the Server is being deleted")]
    if desired.finalizer:
        steps.append(Step(Action.RELEASE, "nothing of it is left on this host"))
    return Plan(tuple(steps))


def _revocation() -> Plan:
    return Plan((Step(Action.REMOVE, "the instance was revoked from this host"),), look_again=0.0)


def _unclaimed(observed: Observed, claim: Claim) -> Plan:
    if observed.revoked and (observed.power is not Power.ABSENT or observed.remains):
        return _revocation()
    if observed.power is Power.ABSENT:
        return Plan()
    why = "no Server claims it" if claim is Claim.ABSENT else "its Server is assigned otherwise"
    return Plan((Step(Action.REPORT, why),))


def _foreign_epoch(desired: Desired, observed: Observed) -> Plan:
    message = (
        f"the instance on this host is of epoch {observed.epoch}, the assignment of epoch {desired.epoch}: "
        "neither is touched until the operator settles it"
    )
    return Plan(
        (Step(Action.REPORT, message),),
        ready=ReadyReason.START_FAILED,
        power=POWER_STATES[observed.power],
        message=message,
    )
