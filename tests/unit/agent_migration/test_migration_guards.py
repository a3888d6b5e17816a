"""Who may send a guest here, and what may be cleared away: read from what the API says."""

from typing import Any
from xml.etree.ElementTree import canonicalize

import pytest

from kumulus_agent.migration.agreement import is_elsewhere, may_come
from kumulus_agent.migration.channels import Channel, Hello
from kumulus_agent.migration.domains import Progress, with_epoch, written_disks
from kumulus_agent.migration.listener import peer_name

INSTANCE = "11111111-2222-4333-8444-555555555555"
HELLO = Hello("demo", "move", "uid", INSTANCE, Channel.CONTROL)


def make_action(**status: Any) -> dict[str, Any]:
    known = {"phase": "Running", "host": "h1", "target": "h2", "instanceID": INSTANCE, "epoch": 3}
    return {"metadata": {"name": "move", "uid": "uid"}, "spec": {"server": {"name": "vm"}}, "status": known | status}


def make_server(**assignment: Any) -> dict[str, Any]:
    given = {"host": "h1", "target": "h2", "instanceID": INSTANCE, "epoch": 3}
    return {"spec": {"assignment": given | assignment}}


def test_the_source_of_a_running_migration_may_come() -> None:
    """A connection is taken when action and Server both name the two hosts, the instance and the epoch."""
    assert may_come(make_action(), make_server(), HELLO, ("h1", "h2"))


@pytest.mark.parametrize(
    ("action", "server", "hosts"),
    [
        (None, make_server(), ("h1", "h2")),
        (make_action(), None, ("h1", "h2")),
        (make_action(), make_server(), ("h3", "h2")),
        (make_action(), make_server(), ("h2", "h1")),
        (make_action(phase="Failed"), make_server(), ("h1", "h2")),
        (make_action(phase="Pending"), make_server(), ("h1", "h2")),
        (make_action(), make_server(target=None), ("h1", "h2")),
        (make_action(), make_server(host="h2", target=None, epoch=4), ("h1", "h2")),
        (make_action(), make_server(epoch=4), ("h1", "h2")),
        (make_action(instanceID="other"), make_server(instanceID="other"), ("h1", "h2")),
        (make_action() | {"metadata": {"name": "move", "uid": "another"}}, make_server(), ("h1", "h2")),
    ],
)
def test_nobody_else_may(action: Any, server: Any, hosts: tuple[str, str]) -> None:
    """Whatever does not agree closes the door: another host, an ended action, an assignment that says otherwise."""
    assert not may_come(action, server, HELLO, hosts)


@pytest.mark.parametrize(
    ("phase", "node", "assignment", "gone"),
    [
        ("Succeeded", "h1", {"host": "h2", "target": None, "epoch": 4}, True),
        ("Succeeded", "h1", {"host": "h1", "target": None, "epoch": 5}, False),
        ("Succeeded", "h1", {"host": "h2", "target": "h1", "epoch": 4}, False),
        ("Succeeded", "h1", {"host": "h2", "target": None, "epoch": 3}, False),
        ("Succeeded", "h1", {"host": "h2", "target": None, "epoch": 4, "instanceID": "new"}, False),
        ("Failed", "h2", {"host": "h1", "target": None, "epoch": 3}, True),
        ("Failed", "h2", {"host": "h1", "target": "h2", "epoch": 3}, False),
        ("Failed", "h2", {"host": "h2", "target": None, "epoch": 4}, False),
        ("Failed", "h2", {"host": "h1", "target": None, "epoch": 2}, False),
    ],
)
def test_what_is_cleared_away(phase: str, node: str, assignment: dict[str, Any], gone: bool) -> None:
    """What a migration has left goes only from a host that the same instance, as new or newer, has no business on."""
    assert is_elsewhere(make_action(phase=phase), make_server(**assignment), node) is gone


def test_the_name_of_a_certificate() -> None:
    """A certificate speaks for exactly one host."""
    assert peer_name({"subjectAltName": (("DNS", "h1"),)}) == "h1"
    assert peer_name({"subjectAltName": (("DNS", "h1"), ("DNS", "h2"))}) == ""
    assert peer_name({"subjectAltName": (("IP Address", "10.0.0.1"),)}) == ""
    assert peer_name(None) == ""


XML = """<domain><metadata><kumulus:instance xmlns:kumulus="https://kumulus.dev/xmlns/instance/1" epoch="3"/></metadata>
<devices><disk device="disk"><target dev="vda"/></disk><disk device="disk"><target dev="vdz"/><readonly/></disk>
<disk device="cdrom"><target dev="sda"/></disk><disk device="disk"><target dev="vdb"/></disk></devices></domain>"""


def test_the_guest_carries_its_new_epoch() -> None:
    """The definition for the target differs in the epoch alone."""
    assert canonicalize(with_epoch(XML, 4)) == canonicalize(XML.replace('epoch="3"', 'epoch="4"'))
    with pytest.raises(ValueError, match="metadata"):
        with_epoch("<domain><devices/></domain>", 4)


def test_only_what_the_guest_writes_is_copied() -> None:
    """Read-only disks are made at the target or sent as files."""
    assert written_disks(XML) == ["vda", "vdb"]


def test_progress_is_never_the_end() -> None:
    """Progress tells a part, never that it is over."""
    assert [Progress(*given).percent for given in ((0, 0), (50, 200), (200, 200), (300, 200))] == [0, 25, 99, 99]
