"""What a Server may become, judged by a real API server: Nova's transitions, locks, and the count of wishes."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest

from kumulus_api import Server, ServerAction
from kumulus_api.server import PowerState
from kumulus_api.testing import INSTANCE_ID, make_assigned, make_object
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import ApiError, Forbidden, Invalid

RESTORER = "restorer/system:masters/kumulus:restorers"
LEGAL = {
    ("Running", "Stopped"),
    ("Running", "Paused"),
    ("Running", "Suspended"),
    ("Running", "Shelved"),
    ("Stopped", "Running"),
    ("Stopped", "Shelved"),
    ("Paused", "Running"),
    ("Paused", "Shelved"),
    ("Suspended", "Running"),
    ("Suspended", "Shelved"),
    ("Shelved", "Running"),
}
STATES = [str(state) for state in PowerState]
IMAGE = {
    "name": "rescue",
    "namespace": "demo",
    "url": "https://images.example/rescue.qcow2",
    "format": "qcow2",
    "digest": "sha256:" + "0" * 64,
    "virtualSize": 1,
}


@pytest.mark.parametrize(("old", "new"), [pair for pair in product(STATES, STATES) if pair[0] != pair[1]])
async def test_power_states_change_as_in_nova(connect: Any, old: str, new: str) -> None:
    """PowerState goes where Nova lets it go and nowhere else; the refusal names the field and the table."""
    admin, restorer = await connect("admin"), await connect(RESTORER)
    name = f"ps-{old}-{new}".lower()
    await restorer.create(Server, make_object(Server, name, powerState=old))
    patch = {"spec": {"powerState": new}}
    if (old, new) in LEGAL:
        await admin.patch_merge(Server, name, patch, "demo")
    else:
        with pytest.raises(Invalid, match=rf"spec\.powerState.*{old} to"):
            await admin.patch_merge(Server, name, patch, "demo")


@pytest.mark.parametrize("state", ["Paused", "Suspended", "Shelved"])
async def test_a_new_server_runs_or_is_stopped(connect: Any, admin: KubeClient, state: str) -> None:
    """What has never run is neither paused nor suspended nor shelved; what is restored from a backup may be."""
    body = make_object(Server, f"new-{state.lower()}", powerState=state)
    with pytest.raises(ApiError, match=r"spec\.powerState"):
        await admin.create(Server, copy.deepcopy(body))
    await (await connect(RESTORER)).create(Server, body)


@pytest.mark.parametrize("state", STATES)
async def test_a_flavor_changes_where_nova_resizes(connect: Any, admin: KubeClient, state: str) -> None:
    """The flavor of a server that runs or is stopped can be changed, in other states the refusal names the field."""
    name = f"flavor-{state.lower()}"
    await (await connect(RESTORER)).create(Server, make_object(Server, name, powerState=state))
    patch = {"spec": {"flavor": {"name": "other"}}}
    if state in ("Running", "Stopped"):
        await admin.patch_merge(Server, name, patch, "demo")
    else:
        with pytest.raises(Invalid, match=r"spec\.flavor"):
            await admin.patch_merge(Server, name, patch, "demo")


async def test_a_resize_is_ended_before_the_next(connect: Any, admin: KubeClient) -> None:
    """While a resize waits for its confirmation the flavor can only go back."""
    body = make_assigned(Server, "resized", "h1")
    resources = {"vcpus": 1, "memory": "64Mi", "rootDisk": "1Gi"}
    body["spec"]["assignment"] |= {"flavor": "tiny", "former": {"flavor": "small", "resources": resources}}
    await (await connect(RESTORER)).create(Server, body)
    with pytest.raises(Invalid, match="ConfirmResize"):
        await admin.patch_merge(Server, "resized", {"spec": {"flavor": {"name": "huge"}}}, "demo")
    await admin.patch_merge(Server, "resized", {"spec": {"flavor": {"name": "small"}}}, "demo")


@pytest.mark.parametrize(
    "spec",
    [
        {"metadata": {"role": ""}, "tags": ["a", "b"]},
        {"metadata": {f"k{number}": "v" * 255 for number in range(128)}},
        {"metadata": {"k" * 255: "v"}, "tags": [f"t{number}" for number in range(50)]},
        {"tags": ["t" * 60]},
    ],
)
async def test_metadata_and_tags_are_taken(admin: KubeClient, spec: dict[str, Any]) -> None:
    """Metadata and tags of Nova's sizes are kept as they are given."""
    name = f"meta-{abs(hash(str(spec))) % 10**8}"
    stored = await admin.create(Server, make_object(Server, name, **spec))
    assert {key: stored["spec"][key] for key in spec} == spec


@pytest.mark.parametrize(
    "spec",
    [
        {"metadata": {f"k{number}": "v" for number in range(129)}},
        {"metadata": {"k": "v" * 256}},
        {"metadata": {"k" * 256: "v"}},
        {"metadata": {"": "v"}},
        {"tags": ["t" * 61]},
        {"tags": [""]},
        {"tags": ["a,b"]},
        {"tags": ["a/b"]},
        {"tags": ["a", "a"]},
        {"tags": [f"t{number}" for number in range(51)]},
    ],
)
async def test_metadata_and_tags_are_bounded(admin: KubeClient, spec: dict[str, Any]) -> None:
    """What is longer or more than Nova takes is refused, and so is a tag twice, empty, or with a comma or slash."""
    with pytest.raises(Invalid, match=rf"spec\.{next(iter(spec))}"):
        await admin.create(Server, make_object(Server, "meta-bad", **spec))


async def test_changes_of_power_state_are_counted(admin: KubeClient) -> None:
    """Each change of powerState counts, nothing else does, and nobody writes the count."""
    await admin.create(Server, make_object(Server, "counted"))

    async def count(**spec: Any) -> int:
        return int((await admin.patch_merge(Server, "counted", {"spec": spec}, "demo"))["spec"].get("powerChanges", 0))

    assert await count(onGuestShutdown="Restart") == 0
    assert await count(powerState="Stopped") == 1
    assert await count(powerState="Stopped", recovery="None") == 1
    assert await count(powerState="Running") == 2
    assert await count(powerChanges=7) == 2
    assert await count(powerChanges=None, powerState="Stopped") == 3


@pytest.mark.parametrize(
    "spec",
    [
        {"powerState": "Stopped"},
        {"recovery": "None"},
        {"stopTimeoutSeconds": 3},
        {"onGuestShutdown": "Restart"},
        {"placement": {"host": "h1"}},
        {"powerState": "Stopped", "locked": False},
    ],
)
async def test_a_locked_server_does_not_change(admin: KubeClient, spec: dict[str, Any]) -> None:
    """Of a locked server nothing changes, not even together with the unlocking; unlocked it changes again.

    The refusal names the field.
    """
    name = "locked-" + "-".join(sorted(spec)).lower()
    await admin.create(Server, make_object(Server, name, locked=True))
    with pytest.raises(Invalid, match=f"{next(iter(spec))} cannot change while the server is locked"):
        await admin.patch_merge(Server, name, {"spec": spec}, "demo")
    await admin.patch_merge(Server, name, {"spec": {"locked": False}}, "demo")
    await admin.patch_merge(Server, name, {"spec": spec}, "demo")


async def test_a_locked_server_is_not_deleted(admin: KubeClient) -> None:
    """A locked server stays until it is unlocked, whoever asks."""
    await admin.create(Server, make_object(Server, "locked-kept", locked=True))
    with pytest.raises(Forbidden, match=r"spec\.locked"):
        await admin.delete(Server, "locked-kept", "demo")
    await admin.patch_merge(Server, "locked-kept", {"spec": {"locked": False}}, "demo")
    assert await admin.delete(Server, "locked-kept", "demo")


async def test_the_operator_decides_about_a_locked_server(connect: Any, admin: KubeClient) -> None:
    """A lock binds users: what the operator decides, such as a host, is written all the same."""
    operator = await connect("operator")
    await admin.create(Server, make_object(Server, "locked-placed", locked=True))
    assigned = make_assigned(Server, "locked-placed", "h1")["spec"]["assignment"]
    body = {"metadata": {"name": "locked-placed", "namespace": "demo"}, "spec": {"assignment": assigned}}
    written = await operator.apply(Server, body, manager="kumulus-operator")
    assert written["spec"]["assignment"]["instanceID"] == INSTANCE_ID


@pytest.mark.parametrize(
    "spec", [{"powerState": "Stopped"}, {"flavor": {"name": "other"}}, {"volumes": []}, {"networks": []}]
)
async def test_a_rescued_server_stays_as_it_is(connect: Any, admin: KubeClient, spec: dict[str, Any]) -> None:
    """What a rescue keeps for its end cannot change meanwhile: the refusal names it and says what ends the rescue."""
    (field,) = spec
    name = f"rescued-{field.lower()}"
    body = make_assigned(Server, name, "h1")
    body["spec"]["assignment"]["rescue"] = {"action": INSTANCE_ID, "image": IMAGE}
    await (await connect(RESTORER)).create(Server, body)
    with pytest.raises(Invalid, match=rf"{field} cannot change while the server is (suspended or )?rescued.*Unrescue"):
        await admin.patch_merge(Server, name, {"spec": spec}, "demo")


async def test_the_history_tells_who(connect: Any) -> None:
    """RequestedBy is the user who made the action, whatever he wrote there."""
    alice = await connect("alice/system:masters")
    body = make_object(ServerAction, "who", server={"name": "web"}, type="Lock", reboot=None, requestedBy="bob")
    assert (await alice.create(ServerAction, body))["spec"]["requestedBy"] == "alice"


SECRET = {"secret": {"name": "mine"}}


@pytest.mark.parametrize(
    ("wish", "user", "key"),
    [
        (SECRET, "root", "password"),
        ({"secret": {"name": "mine", "key": "word"}, "user": "Administrator"}, "Administrator", "word"),
        (SECRET | {"user": "first.last-1"}, "first.last-1", "password"),
    ],
)
async def test_a_password_is_named_and_never_said(admin: KubeClient, wish: dict[str, Any], user: str, key: str) -> None:
    """A SetPassword has a user and a key of a Secret, with defaults; it does not change."""
    name = f"set-{user.lower()}"
    body = make_object(ServerAction, name, type="SetPassword", reboot=None, setPassword=wish)
    stored = await admin.create(ServerAction, body)
    assert stored["spec"]["setPassword"] == {"user": user, "secret": {"name": "mine", "key": key}}
    with pytest.raises(Invalid, match="cannot change"):
        await admin.patch_merge(ServerAction, name, {"spec": {"setPassword": {"user": "other"}}}, "demo")


@pytest.mark.parametrize(
    ("type_", "wish"),
    [
        ("SetPassword", None),
        ("SetPassword", {"user": "root"}),
        ("SetPassword", SECRET | {"user": "root:x"}),
        ("SetPassword", SECRET | {"user": "root\nother"}),
        ("SetPassword", SECRET | {"user": ""}),
        ("SetPassword", SECRET | {"user": "u" * 33}),
        ("SetPassword", {"secret": {"name": "../mine"}}),
        ("Start", SECRET),
    ],
)
async def test_a_password_of_no_shape_is_refused(admin: KubeClient, type_: str, wish: dict[str, Any] | None) -> None:
    """Neither user nor Secret can be anything that a tool could take for more than a name."""
    given = {"setPassword": wish} if wish is not None else {}
    with pytest.raises(Invalid, match="setPassword"):
        await admin.create(ServerAction, make_object(ServerAction, "set-bad", type=type_, reboot=None, **given))
