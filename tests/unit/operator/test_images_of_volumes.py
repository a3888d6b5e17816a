"""Images of volumes: of what is there when asked for, by the host that has it, counted and told like others."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest

from kumulus_api import FINALIZER, Host, Image, Project, Volume, VolumeSnapshot
from kumulus_api.testing import VOLUME_ID, make_object
from kumulus_operator.cloud import Cloud
from kumulus_operator.images.controller import ImageController
from kumulus_operator.images.held import can_be_had_anew
from kumulus_operator.settings import OperatorSettings
from kumulus_operator.volumes.binding import work_on
from kumulus_runtime.conditions import get_condition, set_condition

NUMBERS = itertools.count(1)
SNAPSHOT_ID = "00000000-0000-4000-8000-00000000000a"
OF_VOLUME = {"volume": {"name": "data"}}
OF_SNAPSHOT = {"volumeSnapshot": {"name": "snap"}}
LOCKED = {"encryption": {"cipher": "aes-xts-plain64", "keySize": 512, "secret": {"name": "volume-key-1"}, "made": True}}
MADE = {"sizeBytes": 2**30, "usedBytes": 4096}
Object = dict[str, Any]


def metadata(name: str, namespace: str | None = "demo") -> Object:
    """Give the metadata of an object, newer than any before."""
    return {"name": name, "namespace": namespace, "uid": name, "generation": 1, "resourceVersion": str(next(NUMBERS))}


class Api:
    """Stores images; events and all else go nowhere."""

    def __init__(self) -> None:
        self.bodies: dict[str, Object] = {}
        self.released: list[str] = []

    def put(self, body: Object) -> Object:
        """Store an image anew."""
        body = copy.deepcopy(body)
        body["metadata"]["resourceVersion"] = str(next(NUMBERS))
        self.bodies[body["metadata"]["name"]] = body
        return copy.deepcopy(body)

    async def get(self, _kind: type, name: str, *_: Any) -> Object:
        """Give an image."""
        return copy.deepcopy(self.bodies[name])

    async def remove_finalizer(self, _kind: type, name: str, *_: Any, **__: Any) -> None:
        """Note it."""
        self.released.append(name)

    async def apply(self, _kind: type, body: Object, **_: Any) -> Object:
        """Write a part of the spec."""
        found = self.bodies[body["metadata"]["name"]]
        return self.put(found | {"spec": found["spec"] | body["spec"]})

    async def apply_status(self, _kind: type, body: Object, **_: Any) -> Object:
        """Write the status."""
        found = self.bodies[body["metadata"]["name"]]
        return self.put(found | {"status": (found.get("status") or {}) | body["status"]})


class World:
    """A project with one volume and its snapshot, on h1 of two hosts."""

    def __init__(self, quota: Object | None = None, **place: Any) -> None:
        self.api = Api()
        self.cloud = Cloud(self.api, OperatorSettings())  # type: ignore[arg-type]
        self.cloud.events.post = lambda *_, **__: None  # type: ignore[method-assign]
        project = make_object(Project, "demo", quota=quota or {})
        self.cloud.take(Project, project | {"metadata": metadata("demo", None)})
        self.silent: set[str] = set()
        self.lost: set[str] = set()
        self.cloud.host_silent = lambda name: name in self.silent | self.lost  # type: ignore[method-assign]
        self.cloud.host_lost = lambda name: name in self.lost  # type: ignore[method-assign]
        self.cloud.host_fresh = lambda name: name not in self.silent | self.lost  # type: ignore[method-assign]
        for name in ("h1", "h2"):
            ready = {"conditions": set_condition([], "Ready", True, "Fine", "", 1)}
            self.cloud.take(Host, {"metadata": metadata(name, None), "spec": {}, "status": ready})
        self.volume(**place)

    def volume(self, *, status: Object | None = None, **place: Any) -> None:
        """Have the API tell of the volume."""
        given = {"volumeID": VOLUME_ID, "host": "h1", "size": "1Gi"} | place
        body = {"metadata": metadata("data"), "spec": {"size": "1Gi", "assignment": given}}
        self.cloud.take(Volume, body | {"status": MADE if status is None else status})

    def snapshot(self, **status: Any) -> None:
        """Have the API tell of the snapshot."""
        given = {"snapshotID": SNAPSHOT_ID, "volumeID": VOLUME_ID, "host": "h1"}
        spec = {"volume": {"name": "data"}, "assignment": given}
        self.cloud.take(VolumeSnapshot, {"metadata": metadata("snap"), "spec": spec, "status": status})

    def ask(self, source: Object, name: str = "mine") -> None:
        """Have the API tell of an image."""
        body = {"metadata": metadata(name), "spec": {"source": source, "format": "qcow2"}}
        self.cloud.take(Image, self.api.put(body))

    def tell(self, reason: str, name: str = "mine", *, ready: bool = False) -> None:
        """Have the agent tell of an image."""
        body = copy.deepcopy(self.api.bodies[name])
        conditions = set_condition([], "Ready", ready, reason, "", body["metadata"]["generation"])
        body["status"] = (body.get("status") or {}) | {"conditions": conditions}
        if ready:
            body["status"] |= {"digest": "sha256:" + "7" * 64, "size": 5}
        self.cloud.take(Image, self.api.put(body))

    async def look(self, name: str = "mine") -> tuple[str | None, str]:
        """Reconcile an image; give the host that makes it, and the reason that it tells."""
        await ImageController(self.cloud).reconcile(("demo", name))
        status = self.api.bodies[name].get("status") or {}
        return status.get("importHost"), (get_condition(status.get("conditions") or [], "Ready") or {})["reason"]

    @property
    def work(self) -> str:
        """What the host of the volume has to do with it."""
        found = self.cloud.volumes.get("demo", "data")
        assert found is not None
        return work_on(self.cloud, found)


async def test_the_host_of_the_volume_makes_it_of_what_was_found_once() -> None:
    """The ids and the host are decided once, whatever has the volume's name later; replicas are named before."""
    world = World()
    world.ask(OF_VOLUME)
    assert await world.look() == ("h1", "Importing")
    spec = world.api.bodies["mine"]["spec"]
    original = spec["original"]["volume"]
    assert (original["volumeID"], "snapshotID" in original) == (VOLUME_ID, False)
    assert spec["assignment"]["hosts"][0] == "h1"
    before = copy.deepcopy(world.api.bodies)
    await world.look()
    assert world.api.bodies == before
    found = world.cloud.images.get("demo", "mine")
    assert found is not None
    assert not can_be_had_anew(found)


async def test_it_waits_for_a_snapshot_that_is_taken() -> None:
    """A snapshot that is not there, or not taken, is told of; the image goes on when it is."""
    world = World()
    world.ask(OF_SNAPSHOT)
    assert await world.look() == (None, "VolumeNotFound")
    world.snapshot()
    assert await world.look() == (None, "VolumeNotReady")
    assert ("demo", "mine") in world.cloud.image_waiters.woken_by(("VolumeSnapshot", "demo", "snap"))
    world.snapshot(restoreSize=2**30)
    assert await world.look() == ("h1", "Importing")
    assert world.api.bodies["mine"]["spec"]["original"]["volume"]["snapshotID"] == SNAPSHOT_ID
    assert world.work == "", "the snapshot does not change"


async def test_a_volume_without_data_is_waited_for() -> None:
    """Of a volume that no server has used there is nothing to make an image of."""
    world = World(status={})
    world.ask(OF_VOLUME)
    assert await world.look() == (None, "VolumeNotReady")
    world.volume()
    assert await world.look() == ("h1", "Importing")


async def test_a_volume_on_its_way_to_another_class_is_waited_for() -> None:
    """While a volume is copied elsewhere nothing else begins that its host would have to read it for."""
    world = World(moving={"request": SNAPSHOT_ID, "volumeClass": "fast", "folder": "/srv/fast"})
    world.ask(OF_VOLUME)
    assert await world.look() == (None, "VolumeNotReady")
    world.volume()
    assert await world.look() == ("h1", "Importing")


@pytest.mark.parametrize("source", [OF_VOLUME, OF_SNAPSHOT])
async def test_of_an_encrypted_volume_no_image_is_made(source: Object) -> None:
    """An image lies in the clear, for all who may use it: what was encrypted is not told in it."""
    world = World(**LOCKED)
    world.snapshot(restoreSize=2**30)
    world.ask(source)
    assert await world.look() == (None, "VolumeEncrypted")
    assert "original" not in world.api.bodies["mine"]["spec"]


async def test_the_quota_of_images_counts() -> None:
    """Nothing is begun of what the project may not have."""
    world = World({"images": 1})
    world.ask(OF_VOLUME)
    world.ask(OF_VOLUME, "more")
    assert (await world.look())[1] == "Importing"
    assert await world.look("more") == (None, "QuotaExceeded")
    assert "original" not in world.api.bodies["more"]["spec"]


@pytest.mark.parametrize("folder", [None, "/srv/fast"])
async def test_another_host_makes_it_only_where_that_is_the_same(folder: str | None) -> None:
    """Before it is begun the image follows its volume; after that its host has what it reads, unless hosts share it."""
    world = World(**({"folder": folder} if folder else {}))
    world.ask(OF_VOLUME)
    await world.look()
    assert world.work == "begins image mine of it"
    share = {"folder": folder} if folder else {}
    world.volume(host="h2", **share)
    assert await world.look() == ("h2", "Importing")
    world.tell("Copying")
    assert world.work == ""
    world.volume(host="h1", **share)
    assert (await world.look())[0] == "h2"
    world.volume(host="h2", **share)
    world.silent = {"h2"}
    for _ in range(2):
        assert await world.look() == ("h1" if folder else "h2", "Copying")


async def test_a_host_that_is_silent_is_waited_for_and_one_that_is_lost_is_not() -> None:
    """The image says what it waits for, and when there is nothing to wait for any more."""
    world = World()
    world.silent = {"h1"}
    world.ask(OF_VOLUME)
    assert await world.look() == (None, "WaitingForHost")
    assert ("demo", "mine") in world.cloud.image_waiters.woken_by(("Host", "", "h1"))
    world.silent = set()
    assert await world.look() == ("h1", "Importing")
    world.lost = {"h1"}
    assert (await world.look())[1] == "SourceGone"


async def test_after_a_restore_whoever_has_it_tells_of_it() -> None:
    """A host that keeps the image is asked rather than the one that has the volume, which is another by now."""
    world = World()
    world.ask(OF_VOLUME)
    await world.look()
    body = world.api.bodies["mine"] | {"status": {}}
    world.cloud.take(Image, world.api.put(body))
    kept = [{"namespace": "demo", "name": "mine", "digest": "sha256:" + "7" * 64}]
    status = {"conditions": set_condition([], "Ready", True, "Fine", "", 1), "images": kept}
    world.cloud.take(Host, {"metadata": metadata("h2", None), "spec": {}, "status": status})
    assert (await world.look())[0] == "h2"
    world.tell("Copied", ready=True)
    assert await world.look() == ("h2", "Copied")


@pytest.mark.parametrize("folder", [None, "/srv/fast"])
async def test_what_lies_on_a_share_is_removed_by_another_host(folder: str | None) -> None:
    """An image that is deleted while its host is lost goes, but where it has left what others find."""
    world = World(**({"folder": folder} if folder else {}))
    world.ask(OF_VOLUME)
    await world.look()
    world.tell("Copying")
    body = world.api.bodies["mine"]
    body["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FINALIZER]}
    world.cloud.take(Image, world.api.put(body))
    world.lost = {"h1"}
    await ImageController(world.cloud).reconcile(("demo", "mine"))
    assert (world.api.released, world.api.bodies["mine"]["status"]["importHost"]) == (
        ([], "h2") if folder else (["mine"], "h1")
    )
