"""Images of volumes, on real files: each is of one moment, names no other file, and leaves nothing behind."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kumulus_agent.compute.volume_disks import VolumeHolder
from kumulus_agent.images.controller import ImageController
from kumulus_agent.images.of_volumes import VolumeImages
from kumulus_agent.images.uploads import Uploads
from kumulus_agent.storage.errors import Retryable
from kumulus_agent.storage.qemu_img import qemu_img
from kumulus_agent.volumes.drivers.local import local_driver
from kumulus_agent.volumes.drivers.protocol import VolumeDriver
from kumulus_agent.volumes.drivers.testing import (
    BLOCK,
    DyingFiles,
    PowerCut,
    left_over,
    read_blocks,
    read_snapshots,
    read_volume,
    write_block,
)
from kumulus_agent.volumes.shelves import Shelves
from kumulus_agent.volumes.snapshots import Taker
from kumulus_api import API_VERSION, Image, Volume, VolumeSnapshot
from kumulus_api.testing import PORT_ID, VOLUME_ID
from kumulus_lab.testing.image_hosts import LIMIT, Events, Pair
from kumulus_runtime.store import Store

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")
COPY_ID = "00000000-0000-4000-8000-0000000000cc"
KEY = ("demo", "mine")
DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
Object = dict[str, Any]


@dataclass
class Guests:
    """A guest that may have the volume: libvirt as far as volumes go."""

    holding: VolumeHolder | None = None

    async def holder(self, _volume_id: str) -> VolumeHolder | None:
        """Give who has it."""
        return self.holding

    async def move_on(self, holder: VolumeHolder, layer: Path) -> bool:
        """Have it write to a new layer."""
        self.holding = replace(holder, path=str(layer))
        return True


@dataclass
class Host:
    """The host of a volume of two blocks, which makes an image of it."""

    pair: Pair
    state: Path
    guests: Guests = field(default_factory=Guests)
    changed: list[tuple[str, str]] = field(default_factory=list)
    events: Events = field(default_factory=Events)

    @property
    def root(self) -> Path:
        """The folder of the volumes."""
        return self.state / "volumes"

    @property
    def image(self) -> Object:
        """The Image."""
        return self.pair.api.objects[Image, "mine"]

    def ask(self, source: Object, **original: Any) -> None:
        """Have the API tell of an image that this host is to make."""
        metadata = {"name": "mine", "namespace": "demo", "uid": "2", "generation": 1}
        given = {"volumeID": VOLUME_ID, "copyID": COPY_ID} | original
        spec = {"source": source, "format": "qcow2", "original": {"volume": given}}
        spec["assignment"] = {"store": "Hosts", "hosts": ["h1"]}
        body: Object = {"metadata": metadata, "spec": spec, "status": {"importHost": "h1"}}
        self.pair.api.objects[Image, "mine"] = body

    def agent(self, driver: VolumeDriver | None = None) -> ImageController:
        """Give what an agent that was just started has; `driver` is that of a host which dies."""
        shelves, api, side = Shelves(), self.pair.api, self.pair.h1
        if driver is not None:
            shelves._drivers[self.state, ""] = driver
        client: Any = api
        volumes = VolumeImages("h1", client, side.cache, LIMIT, self.state / "h1" / "partial")
        volumes.taker = Taker(self.state, shelves, self.guests)  # type: ignore[arg-type]
        volumes.volume_changed, side.held.clear = self.changed.append, volumes.clear
        store = Store()
        store.apply("ADDED", self.image | {"kind": "Image", "apiVersion": API_VERSION})
        settings: Any = SimpleNamespace(node_name="h1", max_image_bytes=LIMIT)
        events: Any = self.events
        held = side.held
        uploads = Uploads(side.cache, "h1", held.queue.add, held.queue.add, held.queue.add)
        ways = uploads, held.stored, held.find, volumes
        return ImageController(settings, client, store, side.cache, events, *ways)

    async def make(self) -> Object:
        """Have an agent that was just started look at the image; give the condition that it tells at the end."""
        await self.agent().reconcile(KEY)
        told = self.pair.api.told[-1]
        self.image["status"] |= told
        found: Object = told["conditions"][0]
        return found

    async def read(self) -> list[int]:
        """Read the image that is kept here, which names no other file."""
        image = await self.pair.h1.cache.owned("demo/mine")
        assert image is not None
        said = json.loads(await qemu_img("info", "--output=json", "-f", "qcow2", str(image.path)))
        assert not {"backing-filename", "full-backing-filename"} & said.keys()
        assert self.image["status"]["virtualSize"] == said["virtual-size"]
        assert self.image["status"]["digest"] == image.digest
        return read_blocks(image.path, "qcow2", self.state)

    def write(self, block: int, value: int) -> None:
        """Write as the guest does that has the volume."""
        assert self.guests.holding is not None
        write_block(Path(self.guests.holding.path), "qcow2", block, value)

    def clean(self) -> None:
        """Nothing of how an image is made is left."""
        assert left_over(self.root) == []
        assert not [entry for entry in self.root.iterdir() if entry.name.startswith("image-")]
        assert not list((self.state / "h1" / "partial").glob("image-*"))
        assert COPY_ID not in read_snapshots(self.root, VOLUME_ID, self.state)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    """Give a host with a volume of two blocks, which no guest has."""
    pair = Pair(tmp_path)
    found = await local_driver(tmp_path / "volumes").make(VOLUME_ID, 2 * BLOCK)
    for block in (0, 1):
        write_block(found.path, "qcow2", block, block + 1)
    given = {"volumeID": VOLUME_ID, "host": "h1", "size": str(2 * BLOCK)}
    metadata = {"name": "data", "namespace": "demo", "uid": "v"}
    pair.api.objects[Volume, "data"] = {"metadata": metadata, "spec": {"size": str(2 * BLOCK), "assignment": given}}
    host = Host(pair, tmp_path)
    host.ask({"volume": {"name": "data"}})
    note = pair.api.apply_status

    async def apply_status(kind: type, body: Object, **_: Any) -> Object:
        await note(kind, body)
        return (
            {"kind": "Image", "apiVersion": API_VERSION}
            | host.image
            | {"status": host.image["status"] | body["status"]}
        )

    pair.api.apply_status = apply_status  # type: ignore[method-assign]
    yield host
    await pair.close()


def run_guest(host: Host, *, saved: bool = False) -> None:
    """Have a guest run with the volume."""
    path = next((host.root / VOLUME_ID).glob("*.qcow2"))
    host.guests.holding = VolumeHolder(PORT_ID, str(path), saved=saved)


@pytest.mark.parametrize("runs", [True, False])
async def test_an_image_is_of_one_moment(host: Host, *, runs: bool) -> None:
    """An image has what the volume had, whether a guest has it or not, and what is written later is in the volume."""
    if runs:
        run_guest(host)
    told = await host.make()
    assert (told["status"], told["reason"]) == ("True", "Copied")
    assert await host.read() == [1, 2]
    if runs:
        host.write(0, 9)
        assert read_volume(host.root, VOLUME_ID, host.state) == [9, 2]
        assert any("FileSystem" in event for event in host.events.posted)
    assert await host.read() == [1, 2]
    assert host.changed == [("demo", "data")]
    host.clean()


async def test_what_is_done_with_the_volume_meanwhile_does_not_matter(host: Host) -> None:
    """The snapshot that an image is made of may be deleted, and the volume with it, once the host has begun."""
    driver = local_driver(host.root)
    await driver.snapshot(VOLUME_ID, PORT_ID)
    found = await driver.look(VOLUME_ID)
    assert found is not None
    write_block(found.path, "qcow2", 0, 7)
    given = {"volumeID": VOLUME_ID, "snapshotID": PORT_ID, "host": "h1"}
    metadata = {"name": "snap", "namespace": "demo", "uid": "s"}
    body = {"metadata": metadata, "spec": {"volume": {"name": "data"}, "assignment": given}}
    host.pair.api.objects[VolumeSnapshot, "snap"] = body
    host.ask({"volumeSnapshot": {"name": "snap"}}, snapshotID=PORT_ID)

    api, tell, removed = host.pair.api, host.pair.api.apply_status, []

    async def apply_status(kind: type, told: Object, **more: Any) -> Object:
        # Where it takes long, the same reason is told again, with how far it is.
        if told["status"]["conditions"][0]["reason"] == "Copying" and not removed:
            removed.append(VOLUME_ID)
            await driver.remove_snapshot(VOLUME_ID, PORT_ID)
            await driver.merge(VOLUME_ID)
            await driver.remove(VOLUME_ID)
        return await tell(kind, told, **more)

    api.apply_status = apply_status  # type: ignore[method-assign]
    assert (await host.make())["status"] == "True"
    assert await host.read() == [1, 2]
    assert left_over(host.root) == []
    assert [entry.name for entry in host.root.iterdir() if entry.is_dir()] == []


@pytest.mark.parametrize("how", ["before", "amid", "after"])
@pytest.mark.parametrize("act", range(1, 12))
async def test_whenever_the_power_goes_there_is_one_image_and_nothing_else(host: Host, act: int, how: str) -> None:
    """The next agent goes on with what it finds; what was begun is of its moment, or is begun anew."""
    dying = DyingFiles(act, how)
    try:
        await host.agent(local_driver(host.root, dying)).reconcile(KEY)
    except PowerCut:
        assert dying.died
    told = await host.make()
    assert (told["status"], told["reason"]) == ("True", "Copied")
    await host.agent().reconcile(KEY)
    assert await host.read() == [1, 2]
    assert read_volume(host.root, VOLUME_ID, host.state) == [1, 2]
    host.clean()


async def test_a_deleted_image_leaves_nothing(host: Host) -> None:
    """Deletion ends the reading, and the object is let go when the copy and the file are gone."""
    agent, held = host.agent(), host.pair.h1.held
    reading = asyncio.Event()
    tell = host.pair.api.apply_status

    async def apply_status(kind: type, told: Object, **more: Any) -> Object:
        reading.set()
        return await tell(kind, told, **more)

    host.pair.api.apply_status = apply_status  # type: ignore[method-assign]
    task = asyncio.create_task(agent.reconcile(KEY))
    await reading.wait()
    host.image["metadata"] |= DELETED
    held._seen[KEY] = host.image
    await held.reconcile(KEY)
    assert host.pair.api.released == ["mine"]
    await task
    assert host.pair.api.told[-1]["conditions"][0]["reason"] == "CopyFailed"
    assert await host.pair.h1.cache.owned("demo/mine") is None
    host.clean()


async def test_after_a_restore_the_image_is_what_it_was(host: Host) -> None:
    """An image that is kept here is told again as it is, though the API has forgotten it and the volume is another."""
    await host.make()
    found = await local_driver(host.root).look(VOLUME_ID)
    assert found is not None
    write_block(found.path, "qcow2", 0, 9)
    host.image["status"] = {"importHost": "h1"}
    assert (await host.make())["status"] == "True"
    assert await host.read() == [1, 2]


@pytest.mark.parametrize(
    ("change", "reason", "word"),
    [
        ({"host": "h2"}, "VolumeNotReady", "on host h2"),
        ({"volumeID": COPY_ID}, "SourceGone", "volume data was deleted"),
    ],
)
async def test_only_what_the_api_says_now_is_read(host: Host, change: Object, reason: str, word: str) -> None:
    """A volume that has moved is left to its host, and of another one with its name no image is made."""
    host.pair.api.objects[Volume, "data"]["spec"]["assignment"] |= change
    told = await host.make()
    assert (told["reason"], word in told["message"]) == (reason, True)
    assert read_volume(host.root, VOLUME_ID, host.state) == [1, 2]
    host.clean()


async def test_a_suspended_guest_keeps_its_file(host: Host) -> None:
    """The image waits for a guest whose memory is saved, and says so."""
    run_guest(host, saved=True)
    told = await host.make()
    assert (told["reason"], "suspended" in told["message"]) == ("VolumeNotReady", True)
    host.clean()


async def test_too_large_a_volume_is_refused_before_it_is_read(host: Host) -> None:
    """What may be no image is not copied."""
    await local_driver(host.root).grow(VOLUME_ID, 2 * LIMIT)
    assert (await host.make())["reason"] == "TooLarge"
    host.clean()


async def test_a_host_without_room_says_so_and_goes_on_with_the_same_data(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image is of the moment when it was begun, however often it is tried."""

    async def full(*_: Any) -> Any:
        raise Retryable("no room")

    with monkeypatch.context() as patched:
        patched.setattr("kumulus_agent.images.of_volumes.copy_disk", full)
        assert (await host.make())["reason"] == "CopyFailed"
    found = await local_driver(host.root).look(VOLUME_ID)
    assert found is not None
    write_block(found.path, "qcow2", 0, 9)
    assert (await host.make())["status"] == "True"
    assert await host.read() == [1, 2]
    host.clean()
