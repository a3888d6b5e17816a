"""The operator's half of a migration: what it does about what the agents have told."""

from typing import Any

import pytest

from kumulus_api import Host, ServerAction
from kumulus_api.server_action import ActionPhase
from kumulus_api.server_assignment import ServerAssignment
from kumulus_operator.migration.plan import Decision, Hosts, Move, cancelled, decide, flipped, heading, impossible

INSTANCE = "11111111-2222-4333-8444-555555555555"
COPYING = {"outcome": "Running", "reason": "Copying"}
HANDED_OVER = {"outcome": "Succeeded", "reason": "HandedOver", "message": "downtime 190 ms"}
FAILED = {"outcome": "Failed", "reason": "MigrationFailed", "message": "no"}
BOTH_THERE = Hosts()
PREPARED = {"outcome": "Running", "reason": "Prepared"}
RECEIVED = {"outcome": "Running", "reason": "Received"}


def make_action(**status: Any) -> ServerAction:
    return ServerAction.model_validate(
        {
            "metadata": {"name": "move", "namespace": "demo", "uid": "a"},
            "spec": {"server": {"name": "vm"}, "type": "LiveMigrate"},
            "status": {
                "phase": "Running", "host": "h1", "target": "h2", "instanceID": INSTANCE, "epoch": 3, **status,
            },
        }
    )  # fmt: skip


def make_assignment(**overrides: Any) -> ServerAssignment:
    fields = {
        "instanceID": INSTANCE,
        "host": "h1",
        "target": "h2",
        "epoch": 3,
        "resources": {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"},
    }
    return ServerAssignment.model_validate(fields | overrides)


def move(action: ServerAction, hosts: Hosts = BOTH_THERE, **overrides: Any) -> Decision:
    return decide(action, make_assignment(**overrides), hosts)


@pytest.mark.parametrize(
    ("status", "hosts", "wanted"),
    [
        ({}, Hosts(), Move.WAIT),
        ({"targetReport": PREPARED}, Hosts(), Move.WAIT),
        ({"report": COPYING, "targetReport": PREPARED}, Hosts(), Move.WAIT),
        ({"report": HANDED_OVER}, Hosts(), Move.FLIP),
        ({"report": FAILED}, Hosts(), Move.CANCEL),
        ({"targetReport": FAILED}, Hosts(), Move.CANCEL),
        ({"report": COPYING, "targetReport": FAILED}, Hosts(), Move.WAIT),
        ({}, Hosts(target_silent=True), Move.CANCEL),
        ({"report": COPYING}, Hosts(target_silent=True), Move.WAIT),
        ({"report": COPYING}, Hosts(target_lost=True), Move.WAIT),
        ({"report": COPYING, "targetReport": PREPARED}, Hosts(source_lost=True), Move.CANCEL),
        ({"report": COPYING, "targetReport": RECEIVED}, Hosts(source_lost=True), Move.FLIP),
    ],
)
def test_moves(status: dict[str, Any], hosts: Hosts, wanted: Move) -> None:
    """The host flips only when the guest has gone over; once begun, nobody but its host ends a migration."""
    assert move(make_action(**status), hosts).move is wanted


def test_a_flip_that_was_made_before_is_not_made_again() -> None:
    """An operator that starts between flip and close only closes."""
    decision = move(make_action(report=HANDED_OVER), host="h2", target=None, epoch=4)
    assert (decision.move, decision.phase, decision.message) == (Move.CLOSE, "Succeeded", "downtime 190 ms")


def test_a_cancelled_one_is_only_closed() -> None:
    """An operator that starts between cancel and close says why it failed."""
    decision = move(make_action(report=FAILED), target=None)
    assert (decision.move, decision.phase, decision.reason) == (Move.CLOSE, "Failed", "MigrationFailed")


def test_another_instance_closes_it() -> None:
    """A server that was made anew is another."""
    decision = move(make_action(report=HANDED_OVER), instanceID="11111111-2222-4333-8444-555555555556")
    assert (decision.move, decision.phase) == (Move.CLOSE, "Failed")
    assert decide(make_action(), None, Hosts()).move is Move.CLOSE


def test_assignments() -> None:
    """A target is named, taken away or made the host, and nothing else of the assignment changes."""
    given = make_assignment(target=None)
    headed = ServerAssignment.model_validate(heading(given, "h2"))
    assert headed == make_assignment()
    assert ServerAssignment.model_validate(cancelled(headed)) == given
    assert ServerAssignment.model_validate(flipped(headed, "h2")) == make_assignment(host="h2", target=None, epoch=4)


@pytest.mark.parametrize(
    ("virtualization", "post_copy", "reason"),
    [("qemu", True, "PostCopyUnsupported"), ("qemu", False, None), ("kvm", True, None), (None, True, None)],
)
def test_a_post_copy_needs_kvm(virtualization: str | None, post_copy: bool, reason: str | None) -> None:
    """Of a host that is known to emulate its guests a post-copy is refused by name, before anything begins."""
    body = make_action().model_dump(by_alias=True, mode="json", exclude_none=True)
    body["spec"]["liveMigrate"] = {"postCopy": post_copy}
    status = {} if virtualization is None else {"virtualization": virtualization}
    host = Host.model_validate({"metadata": {"name": "h1"}, "spec": {}, "status": status})
    found = impossible(ServerAction.model_validate(body), host)
    assert (found.reason if found is not None else None) == reason


def test_a_guest_that_lost_its_memory_has_moved_all_the_same() -> None:
    """The target is the host, and the action says that the guest began anew."""
    lost = {"outcome": "Succeeded", "reason": "MemoryLost", "message": "anew"}
    assert move(make_action(report=lost)) == Decision(Move.FLIP, ActionPhase.SUCCEEDED, "MemoryLost", "anew")
    again = move(make_action(report=lost), host="h2", target=None, epoch=4)
    assert again == Decision(Move.CLOSE, ActionPhase.SUCCEEDED, "MemoryLost", "anew")
