"""The pure part of changing several networks at once: their rules are one transaction, all else is of each alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kumulus_agent.network.plan import ChangeFirewall, FlushZone, Step, plan
from kumulus_agent.network.rules import FirewallChange
from kumulus_agent.network.state import NetworkDesired, Observed


@dataclass(frozen=True)
class Together:
    """What several networks need.

    Attributes:
        flushes: what is done before the rules.
        rules: the rules of all; None if they are as they should be.
        plans: of each network all its steps.
    """

    flushes: tuple[Step, ...]
    rules: ChangeFirewall | None
    plans: tuple[tuple[Step, ...], ...]

    @staticmethod
    def remaining(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        """Give those of a network's steps that come after the rules."""
        return tuple(step for step in steps if not isinstance(step, FlushZone | ChangeFirewall))


def plan_together(networks: Sequence[NetworkDesired], observed: Observed) -> Together:
    """Plan each network on the rules that the one before leads to."""
    plans = []
    changes: list[ChangeFirewall] = []
    for desired in networks:
        steps = plan(desired, observed)
        for step in steps:
            if isinstance(step, ChangeFirewall):
                changes.append(step)
                observed = replace(observed, firewall=step.change.result)
        plans.append(steps)
    flushes = tuple(step for steps in plans for step in steps if isinstance(step, FlushZone))
    rules = None
    if changes:
        rules = replace(changes[-1], change=FirewallChange(changes[0].change.before, changes[-1].change.result))
    return Together(flushes, rules, tuple(plans))
