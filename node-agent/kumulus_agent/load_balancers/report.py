"""What is told of a load balancer (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from kumulus_agent.load_balancers.desired import HereBalancer
from kumulus_api.load_balancer import LoadBalancerAssignment
from kumulus_api.load_balancer_status import LoadBalancerConditionType, LoadBalancerReason, MemberState
from kumulus_runtime.conditions import set_condition

MemberStates = Mapping[tuple[str, str], MemberState]


def member_states(assignment: LoadBalancerAssignment, found: MemberStates) -> list[dict[str, str]]:
    """Give the state of each member in the assignment's order; one that HAProxy does not know yet is down."""
    return [
        {"listener": listener.name, "name": member.name, "state": state.value}
        for listener in assignment.listeners
        for member in listener.members
        for state in [
            MemberState.NO_ADDRESS
            if member.address is None
            else found.get((listener.name, member.name), MemberState.DOWN)
        ]
    ]


def balancer_status(
    balancer: HereBalancer,
    old: Mapping[str, Any],
    fault: tuple[LoadBalancerReason, str] | None,
    found: MemberStates | None,
    now: datetime,
) -> dict[str, Any] | None:
    """Give the agent's part of the status, or None if it says so already.

    Args:
        balancer: what this host serves.
        old: the status as it is.
        fault: why it does not serve, as reason and message.
        found: the members' states; None if they are not known: what was told stays.
        now: the present.
    """
    assignment = balancer.assignment
    own = [item for item in old.get("conditions", []) if item["type"] == LoadBalancerConditionType.SERVING]
    message = f"on host {balancer.here}"
    reason, text = fault if fault is not None else (LoadBalancerReason.BALANCING, message)
    conditions = set_condition(
        own, LoadBalancerConditionType.SERVING, fault is None, reason, text, balancer.generation, now
    )
    members = member_states(assignment, found) if found is not None else old.get("members", [])
    wanted = {"host": balancer.here, "conditions": conditions, "members": members}
    former = {"host": old.get("host"), "conditions": own, "members": old.get("members", [])}
    return None if wanted == former else wanted
