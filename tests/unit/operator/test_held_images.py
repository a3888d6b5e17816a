"""Images that a host holds: what they are made with, and when they are given up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kumulus_api import FINALIZER, Image, Server, ServerAction
from kumulus_api.testing import INSTANCE_ID, make_assigned, make_object
from kumulus_operator.images.held import found_status, held_status, image_body, lost_status, made_by, never_comes
from kumulus_operator.servers.plan import assigned_image

NOW = datetime(2026, 1, 1, tzinfo=UTC)
UID = "00000000-0000-4000-8000-00000000000a"


def make_action(uid: str = UID) -> ServerAction:
    body = make_object(ServerAction, "copy", type="CreateImage", reboot=None, createImage={"name": "golden"})
    body["metadata"]["uid"] = uid
    return ServerAction.model_validate(body)


def make_image(reason: str | None = None, *, ready: bool = False, **status: Any) -> Image:
    server = Server.model_validate(make_assigned(Server, "web", "h1"))
    body = image_body(make_action(), server, None)
    if reason is not None:
        condition = {"type": "Ready", "status": str(ready), "reason": reason}
        condition["lastTransitionTime"] = "2026-01-01T00:00:00Z"
        body["status"] = {"importHost": "h1", "conditions": [condition]} | status
    return Image.model_validate(body)


def test_the_copy_asks_of_hosts_what_the_server_asked() -> None:
    """An image of a server names server, host and action, keeps the object until its bytes are gone, and inherits."""
    server = Server.model_validate(make_assigned(Server, "web", "h1"))
    traits = {"architecture": "x86_64", "requiredTraits": ["HW_CPU_X86_AVX2"], "minMemory": "64Mi"}
    traits |= {"properties": {"hw_firmware_type": "uefi"}}
    base = Image.model_validate(make_object(Image, "base", minDisk="1Gi", **traits))
    body = image_body(make_action(), server, base)
    assert body["metadata"] == {"name": "golden", "namespace": "demo", "finalizers": [FINALIZER]}
    source = {"name": "web", "instanceID": INSTANCE_ID, "action": UID, "host": "h1"}
    assert body["spec"] == traits | {"source": {"server": source}, "format": "qcow2"}
    image = Image.model_validate(body)
    assert made_by(image, make_action())
    assert not made_by(image, make_action(UID.replace("a", "b")))
    assert not made_by(base, make_action())


def test_its_host_is_told_once() -> None:
    """The host that made a copy is named, after a restore again, and what was written is not written again."""
    image = make_image()
    status = held_status(image, NOW)
    assert status is not None
    assert status["importHost"] == "h1"
    assert held_status(make_image("Copying"), NOW) is None
    assert held_status(make_image("Copied", ready=True), NOW, {"h2"}) is None
    assert held_status(make_image("HostLost"), NOW, {"h2"}) is None
    other = held_status(make_image("Copying"), NOW, {"h2", "h3"})
    assert other is not None
    assert other["importHost"] == "h2"
    assert held_status(make_image("Copying", importHost="h3"), NOW, {"h2", "h3"}) is None
    assert held_status(Image.model_validate(make_object(Image)), NOW) is None


@pytest.mark.parametrize(
    ("reason", "ready", "lost", "goes"),
    [
        ("Copying", False, False, False),
        ("Copying", False, True, True),
        ("NotHeld", False, False, True),
        ("Copied", True, False, False),
        ("Copied", True, True, False),
        ("HostLost", False, True, False),
    ],
)
def test_only_what_never_was_goes(reason: str, ready: bool, lost: bool, goes: bool) -> None:
    """An image goes by itself if its host says that nothing comes, or is no more before it came; never once whole."""
    assert never_comes(make_image(reason, ready=ready), lost=lost) is goes


def test_a_lost_image_says_so_and_stays() -> None:
    """The only copy went with its host: the user is told, and decides."""
    status = lost_status(make_image("Copied", ready=True), NOW)
    assert status is not None
    (condition,) = status["conditions"]
    assert (condition["status"], condition["reason"]) == ("False", "HostLost")
    assert "host h1" in condition["message"]
    assert lost_status(make_image("HostLost"), NOW) is None


def test_hosts_ask_for_it_by_its_name() -> None:
    """A server's assignment leads to whichever host holds the image by then."""
    digest = "sha256:" + "1" * 64
    given = assigned_image(make_image("Copied", ready=True, digest=digest, size=1, virtualSize=2))
    assert given["url"] == "kumulus-image:///demo/golden"
    assert given["digest"] == digest


def test_a_stored_image_is_asked_for_by_its_name() -> None:
    """Hosts read the source of an image that a store has no more, and use the file that it has made of it."""
    told = {"digest": "sha256:" + "1" * 64, "virtualSize": 2}
    body = make_object(Image, "web", source={"url": "http://images.test/web"}) | {"status": told}
    assert assigned_image(Image.model_validate(body))["url"] == "http://images.test/web"
    body["spec"]["assignment"] = {"store": "Hosts", "hosts": ["h1"]}
    body["status"]["stored"] = {"digest": "sha256:" + "2" * 64, "size": 1, "format": "qcow2"}
    given = assigned_image(Image.model_validate(body | {"spec": body["spec"] | {"format": "vmdk"}}))
    assert (given["url"], given["digest"]) == ("kumulus-image:///demo/web", "sha256:" + "2" * 64)
    assert given["format"] == "qcow2"


def test_a_lost_image_that_is_found_is_ready_again() -> None:
    """A host that comes back with the bytes of an image that was given up makes it Ready; others are left alone."""
    status = found_status(make_image("HostLost"), NOW)
    assert status is not None
    assert (status["conditions"][0]["status"], status["conditions"][0]["reason"]) == ("True", "Copied")
    assert found_status(make_image("Copied", ready=True), NOW) is None
