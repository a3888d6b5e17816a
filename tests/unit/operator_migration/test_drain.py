"""Emptying a host: which servers leave it next, and what is said of those that stay."""

from datetime import UTC, datetime
from typing import Any

from kumulus_api import Server, ServerAction
from kumulus_operator.migration.drain import AT_ONCE, plan_drain

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


def make_server(name: str, power: str = "Running", **live: str) -> Server:
    condition = {"type": "LiveMigratable", "status": "True", "reason": "Migratable", "lastTransitionTime": "x"} | live
    body: dict[str, Any] = {
        "metadata": {"name": name, "namespace": "demo", "uid": name},
        "spec": {"flavor": {"name": "f"}, "image": {"name": "i"}},
        "status": {"powerState": power, "conditions": [condition]},
    }
    return Server.model_validate(body)


def make_action(phase: str | None, kind: str = "LiveMigrate", **status: Any) -> ServerAction:
    return ServerAction.model_validate(
        {
            "metadata": {"name": "a", "namespace": "demo", "uid": "a", "creationTimestamp": "2030-01-01T11:00:00Z"},
            "spec": {"server": {"name": "s"}, "type": kind},
            "status": {"phase": phase, **status},
        }
    )


def test_a_few_at_a_time() -> None:
    """No more than a few servers are on their way at once, and the next begins when one has arrived."""
    servers = [make_server(f"s{number}") for number in range(5)]
    first = plan_drain(servers, {}, NOW)
    assert first.begin == (("demo", "s0"), ("demo", "s1"))
    assert (first.drained, first.reason) == (False, "Draining")
    going = {key: [make_action("Running")] for key in first.begin}
    assert len(going) == AT_ONCE
    assert plan_drain(servers, going, NOW).begin == ()
    assert plan_drain(servers[1:], going, NOW).begin == (("demo", "s2"),)


def test_off_and_gone_is_drained() -> None:
    """A host is drained when no guest runs there; servers that are off stay."""
    drained = plan_drain([make_server("off", "Stopped")], {}, NOW)
    assert (drained.begin, drained.drained, drained.reason) == ((), True, "Drained")


def test_what_holds_a_server_is_told_and_not_tried() -> None:
    """A server that cannot migrate is named with its reason, and costs no attempts."""
    held = plan_drain([make_server("s", status="False", reason="PinnedToHost")], {}, NOW)
    assert (held.begin, held.reason, held.message) == ((), "Blocked", "1 servers run here; held: demo/s: PinnedToHost")


def test_a_failure_is_told_and_tried_again_later() -> None:
    """After a failed attempt the server rests for a while, with the reason told until it goes."""
    failed = make_action("Failed", reason="NoValidHost", message="full", finishedAt="2030-01-01T11:59:00Z")
    actions = {("demo", "s"): [failed]}
    soon = plan_drain([make_server("s")], actions, NOW)
    assert (soon.begin, soon.reason) == ((), "Blocked")
    assert soon.message.endswith("demo/s: NoValidHost: full")
    later = plan_drain([make_server("s")], actions, NOW.replace(hour=13))
    assert later.begin == (("demo", "s"),)


def test_other_actions_hinder_nothing() -> None:
    """Only migrations count: what else was done to a server says nothing of whether it can leave."""
    actions = {("demo", "s"): [make_action("Failed", "Reboot", reason="x", finishedAt="2030-01-01T11:59:00Z")]}
    assert plan_drain([make_server("s")], actions, NOW).begin == (("demo", "s"),)
