"""When a ServerAction is begun, what that writes, and how its history ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest

from kumulus_api import Server, ServerAction
from kumulus_api.server_action import ActionReason, ActionType
from kumulus_api.server_status import ObservedPowerState
from kumulus_api.testing import DIGEST, INSTANCE_ID, make_assigned, make_object
from kumulus_operator.actions.begin import closing, going_on, own_patch, wanted_image
from kumulus_operator.actions.legality import illegal
from kumulus_operator.actions.plan import first_open, outdated

UID = "00000000-0000-4000-8000-00000000000a"
IMAGE = {
    "name": "tiny",
    "namespace": "demo",
    "url": "https://images.example/tiny.qcow2",
    "format": "qcow2",
    "digest": DIGEST,
    "virtualSize": 1,
}
NOW = datetime(2026, 1, 31, tzinfo=UTC)


def make_server(power: str | None = "Running", *, rescued: bool = False, **spec: Any) -> Server:
    body = make_assigned(Server, "web", "h1")
    body["spec"] |= spec
    if rescued:
        body["spec"]["assignment"]["rescue"] = {"action": UID, "image": IMAGE}
    if power is not None:
        body["status"] = {"powerState": power}
    return Server.model_validate(body)


def make_action(type_: str, name: str = "act", status: dict[str, Any] | None = None, **parameters: Any) -> ServerAction:
    body = make_object(ServerAction, name, type=type_, reboot=None, **parameters)
    body["metadata"] |= {"uid": UID, "creationTimestamp": f"2026-01-01T00:00:0{len(name)}Z"}
    return ServerAction.model_validate(body | ({"status": status} if status else {}))


NOVA = {
    ("Reboot", "Soft"): {"Running"},
    ("Reboot", "Hard"): {"Running", "Stopped", "Paused", "Suspended", "Crashed"},
    ("Rebuild", ""): {"Running", "Stopped", "Crashed"},
    ("Rescue", ""): {"Running", "Stopped", "Crashed"},
    ("CreateImage", ""): {"Running", "Stopped", "Paused", "Suspended"},
    ("SetPassword", ""): {"Running"},
    ("Migrate", ""): {"Running", "Stopped"},
    ("LiveMigrate", ""): {"Running", "Paused"},
    ("Start", ""): {"Stopped", "Crashed"},
    ("Unrescue", ""): {"Rescued"},
}


@pytest.mark.parametrize(("verb", "state"), list(product(NOVA, [*map(str, ObservedPowerState), None])))
def test_verbs_are_legal_where_nova_allows_them(verb: tuple[str, str], state: str | None) -> None:
    """Each act can be begun exactly in the states of Nova's table; the refusal names state and table."""
    type_, how = verb
    parameters = {"createImage": {"name": "new"}} if type_ == "CreateImage" else {}
    action = make_action(type_, **parameters)
    if how:
        action = make_action(type_, **parameters)
        action = action.model_copy(
            update={"spec": action.spec.model_validate(action.spec.dump() | {"reboot": {"type": how}})}
        )
    refusal = illegal(action, make_server(state))
    assert (refusal is None) is (state in NOVA[verb])
    if refusal is not None:
        assert refusal.reason == ActionReason.ILLEGAL_STATE
        assert "permanent" in refusal.message


@pytest.mark.parametrize("type_", [str(item) for item in ActionType])
def test_a_rescued_server_is_only_unrescued(type_: str) -> None:
    """Whatever its guest does, of a rescued server nothing is legal but the end of the rescue and what is always."""
    parameters = {"createImage": {"name": "new"}} if type_ == "CreateImage" else {}
    for power in ("Rescued", "Stopped", "Crashed"):
        refusal = illegal(make_action(type_, **parameters), make_server(power, rescued=True))
        assert (refusal is None) is (type_ in {"Unrescue", "Lock", "Unlock", "ResetState"})


@pytest.mark.parametrize("type_", [str(item) for item in ActionType])
def test_a_lock_holds_users_off(type_: str) -> None:
    """Of a locked server users do nothing but unlock it; administrators' acts go through, as in Nova."""
    parameters = {"createImage": {"name": "new"}} if type_ == "CreateImage" else {}
    refusal = illegal(make_action(type_, **parameters), make_server(locked=True))
    free = {"Lock", "Unlock", "ResetState", "Migrate", "LiveMigrate"}
    assert (refusal is not None and refusal.reason == ActionReason.LOCKED) is (type_ not in free)


def test_what_has_no_host_can_only_be_locked() -> None:
    """An act on a server that was not placed, or is not there, is refused with the reason."""
    server = Server.model_validate(make_object(Server, "web"))
    refusal = illegal(make_action("Reboot"), server)
    assert refusal is not None
    assert refusal.reason == ActionReason.NOT_PLACED
    assert illegal(make_action("Lock"), server) is None
    gone = illegal(make_action("Reboot"), None)
    assert gone is not None
    assert gone.reason == ActionReason.SERVER_NOT_FOUND


@pytest.mark.parametrize(("type_", "reason"), [("LiveMigrate", "HostDevices"), ("Migrate", None)])
def test_a_server_with_devices_of_its_host_migrates_cold_only(type_: str, reason: str | None) -> None:
    """A LiveMigrate is refused by the same reason that the condition gives; a Migrate is not."""
    body = make_server().dump()
    body["status"]["devices"] = [{"resourceClass": "VGPU", "uuid": "44444444-4444-4444-8444-444444444444"}]
    refused = illegal(make_action(type_), Server.model_validate(body))
    assert (refused.reason if refused is not None else None) == reason


@pytest.mark.parametrize("state", ["Stopped", "Paused", "Suspended"])
def test_a_start_sets_power_state(state: str) -> None:
    """What ends in a running guest asks for one; a soft reboot asks for nothing."""
    server = make_server(state, powerState=state)
    assert own_patch(make_action("Start"), server) == {"spec": {"powerState": "Running"}}
    assert own_patch(make_action("Reboot"), server) is None
    assert own_patch(make_action("Start"), make_server("Stopped")) is None


def test_a_lock_is_a_field() -> None:
    """Lock and Unlock write spec.locked, and nothing where it says so already."""
    assert own_patch(make_action("Lock"), make_server()) == {"spec": {"locked": True}}
    assert own_patch(make_action("Lock"), make_server(locked=True)) is None
    assert own_patch(make_action("Unlock"), make_server(locked=True)) == {"spec": {"locked": False}}


def test_a_rescue_is_written_and_taken_back() -> None:
    """A rescue is in the assignment from its beginning to its end; one that failed is taken back, another's is not."""
    given = make_server().spec.assignment
    assert given is not None
    opened = make_action("Rescue", status={"phase": "Running", "image": IMAGE})
    rescued = going_on(opened, given.dump())
    assert going_on(opened, rescued) == rescued
    assert rescued["rescue"] == {"action": UID, "image": IMAGE}
    assert going_on(make_action("Unrescue"), rescued) == given.dump()
    assert closing(make_action("Rescue"), "Failed", rescued) == given.dump()
    assert closing(make_action("Rescue"), "Succeeded", rescued) == rescued
    foreign = rescued | {"rescue": {"action": INSTANCE_ID, "image": IMAGE}}
    assert closing(make_action("Rescue"), "Failed", foreign) == foreign


def test_a_rebuild_changes_the_image_when_it_is_done() -> None:
    """The assignment names the new image as soon as there is a disk of it, and never if there is none."""
    given = make_server().spec.assignment
    assert given is not None
    action = make_action("Rebuild", status={"phase": "Running", "image": IMAGE})
    assert closing(action, "Succeeded", given.dump())["image"] == IMAGE
    assert closing(action, "Failed", given.dump()) == given.dump()


def test_who_needs_an_image() -> None:
    """Rebuild and Rescue take the image that they name, or the server's own."""
    assert wanted_image(make_action("Rebuild")) == (True, None)
    needed, reference = wanted_image(make_action("Rescue", rescue={"image": {"name": "other"}}))
    assert needed
    assert reference is not None
    assert reference.name == "other"
    assert wanted_image(make_action("Reboot")) == (False, None)


def test_actions_of_a_server_come_one_after_the_other() -> None:
    """What runs is due before what is older and waits; of those that wait the oldest."""
    old, young = make_action("Reboot", "a"), make_action("Reboot", "aa")
    assert first_open([young, old]) is old
    running = make_action("Reboot", "aaa", status={"phase": "Running"})
    assert first_open([young, old, running]) is running
    ended = make_action("Reboot", "aaaa", status={"phase": "Failed"})
    assert first_open([ended]) is None


def test_history_is_bounded_by_count_and_age() -> None:
    """The newest ended actions are kept, as many and as long as asked; what goes on is never forgotten."""

    def done(days: int) -> ServerAction:
        finished = (NOW - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return make_action("Reboot", f"d{days}", status={"phase": "Succeeded", "finishedAt": finished})

    history = [done(days) for days in (40, 1, 3, 2)]
    going = make_action("Reboot", "goes", status={"phase": "Running"})
    assert [item.metadata.name for item in outdated([*history, going], 3, 30, NOW)] == ["d40"]
    assert {item.metadata.name for item in outdated(history, 2, 90, NOW)} == {"d3", "d40"}
    assert outdated([going], 1, 0.1, NOW) == []


def test_a_resize_is_ended_in_one_write() -> None:
    """Confirmed the former size is dropped; reverted it is back with its flavor; done again nothing is written."""
    server = make_server()
    given = server.spec.assignment
    assert given is not None
    former = {"flavor": "small", "resources": {"vcpus": 1, "memory": "64Mi", "rootDisk": "1Gi"}}
    body = server.dump()
    body["spec"]["assignment"]["former"] = former
    waits = Server.model_validate(body)
    assert own_patch(make_action("ConfirmResize"), waits) == {"spec": {"assignment": {"former": None}}}
    reverted = own_patch(make_action("RevertResize"), waits)
    assert reverted == {"spec": {"flavor": {"name": "small"}, "assignment": former | {"former": None}}}
    for type_ in ("ConfirmResize", "RevertResize"):
        assert illegal(make_action(type_), waits) is None
        assert own_patch(make_action(type_), server) is None
        refusal = illegal(make_action(type_), server)
        assert refusal is not None
        assert refusal.reason == ActionReason.ILLEGAL_STATE
