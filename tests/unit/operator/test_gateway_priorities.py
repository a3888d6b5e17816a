"""Who gives way of two hosts that have led a router out apart from each other."""

from __future__ import annotations

import pytest

from kumulus_api.router import AssignedTakeover
from kumulus_operator.routers.ways import FIRST_PRIORITY, LAST_PRIORITY, next_priority


def takeover(priority: int, standby: str | None) -> AssignedTakeover:
    """A gateway's standby."""
    where = {"host": standby, "tunnelAddress": "192.0.2.2"} if standby is not None else None
    return AssignedTakeover.model_validate({"priority": priority, "standby": where})


@pytest.mark.parametrize(
    ("hosts", "priority"),
    [
        (("a", "b"), 100),  # as before
        (("b", "a"), 101),  # what it has as standby already
        (("b", "c"), 101),
        (("a", "c"), 102),  # above the standby that is gone
        (("c", "a"), 102),
        (("a", None), 102),
    ],
)
def test_the_gateways_host_wins_against_all_former_ones(hosts: tuple[str, str | None], priority: int) -> None:
    """Its priority is above whatever a host has that is none of the two any more, and of the standby it is below."""
    assert next_priority(takeover(100, "b"), "a", *hosts) == priority


def test_priorities_begin_anew_when_they_are_used_up() -> None:
    """They stay within VRRP's bounds, the standby's included."""
    assert next_priority(None, None, "a", "b") == FIRST_PRIORITY
    assert next_priority(takeover(LAST_PRIORITY, "b"), "a", "b", "a") == FIRST_PRIORITY
    assert next_priority(takeover(120, None), "a", "a", "b") == 121
