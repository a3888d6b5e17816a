"""Snapshots of volumes that guests have, on real files: whatever libvirt answers, or does not, no block is lost."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.compute.errors import Retryable as HypervisorRetryable
from kumulus_agent.compute.volume_disks import VolumeHolder
from kumulus_agent.volumes.controller import VolumeController
from kumulus_agent.volumes.drivers.testing import BLOCK, left_over, read_snapshots, read_volume, write_block
from kumulus_agent.volumes.shelves import Shelves
from kumulus_agent.volumes.snapshots import ServerSuspended, Taker, VolumeSnapshotController
from kumulus_api import Volume, VolumeSnapshot
from kumulus_api.testing import PORT_ID, VOLUME_ID
from kumulus_api.volume_snapshot import Consistency
from kumulus_runtime.store import Store

COPY_ID = "00000000-0000-4000-8000-0000000000cc"

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")


@dataclass
class Guest:
    """A guest that may have a volume: libvirt as far as volumes go."""

    holding: VolumeHolder | None = None
    answer: str = "yes"
    frozen: bool = False

    async def holder(self, _volume_id: str) -> VolumeHolder | None:
        """Give who has it."""
        return self.holding

    async def grow(self, holder: VolumeHolder, size: int) -> None:
        """Have QEMU make its file larger."""
        assert self.holding == holder
        self.grown = size

    async def move_on(self, holder: VolumeHolder, layer: Path) -> bool:
        """Move, or refuse, or move and say nothing."""
        if self.answer == "refused":
            raise HypervisorRetryable("block job active")
        self.holding = replace(holder, path=str(layer))
        if self.answer == "lost":
            raise HypervisorRetryable("libvirtd is gone")
        return self.frozen


class API:
    """What the agent reads and writes."""

    def __init__(self, *bodies: tuple[type, dict[str, Any]]) -> None:
        self.store = Store()
        self.bodies = {(kind, body["metadata"]["name"]): body for kind, body in bodies}
        for kind, body in bodies:
            self.store.apply("ADDED", {"kind": kind.__name__, **body})
        self.told: dict[str, dict[str, Any]] = {}
        self.released: list[str] = []

    async def get(self, kind: type, name: str, _namespace: str) -> dict[str, Any] | None:
        """Give an object as it is now."""
        return self.bodies.get((kind, name))

    async def list(self, kind: type, _namespace: str) -> tuple[list[dict[str, Any]], str]:
        """Give all objects of a kind."""
        return [body for (known, _), body in self.bodies.items() if known is kind], "1"

    async def apply_status(self, kind: type, body: dict[str, Any], *, manager: str) -> dict[str, Any]:
        """Take what is told."""
        name = body["metadata"]["name"]
        self.told[name] = body["status"]
        whole = self.bodies[kind, name] | {"status": body["status"]}
        self.bodies[kind, name] = whole
        return {"kind": kind.__name__, **whole}

    async def remove_finalizer(self, _kind: type, name: str, *_: Any, **__: Any) -> None:
        """Let an object go."""
        self.released.append(name)

    def post(self, *_: Any, **__: Any) -> None:
        """Take an Event."""


def volume(name: str = "data", volume_id: str = VOLUME_ID, **assignment: Any) -> dict[str, Any]:
    """Give a Volume on h1 of two blocks."""
    given = {"volumeID": volume_id, "host": "h1", "size": str(2 * BLOCK)} | assignment
    metadata = {"name": name, "namespace": "demo", "uid": name, "finalizers": ["kumulus.dev/agent"]}
    return {"metadata": metadata, "spec": {"size": str(2 * BLOCK), "assignment": given}, "status": {"usedBytes": 1}}


def snapshot(**metadata: Any) -> dict[str, Any]:
    """Give a VolumeSnapshot on h1."""
    given = {"volumeID": VOLUME_ID, "snapshotID": PORT_ID, "host": "h1"}
    about = {"name": "snap", "namespace": "demo", "uid": "snap", "finalizers": ["kumulus.dev/agent"]} | metadata
    return {"metadata": about, "spec": {"volume": {"name": "data"}, "assignment": given}, "status": {}}


@dataclass
class Host:
    """A host with one volume of two blocks, and its agent."""

    state: Path
    guest: Guest
    api: API

    @property
    def root(self) -> Path:
        """The folder of the volumes."""
        return self.state / "volumes"

    @property
    def taker(self) -> Taker:
        """What an agent that was just started has."""
        return Taker(self.state, Shelves(), self.guest)  # type: ignore[arg-type]

    async def look(self, kind: type, name: str) -> float | None:
        """Have an agent that was just started look at an object."""
        here: Any = ("h1", self.api, self.api.store, self.api, self.taker)
        if kind is Volume:
            return await VolumeController(*here, image_of=None).reconcile(("demo", name))  # type: ignore[arg-type]
        wakes: Any = {"volume_changed": lambda _: None, "server_changed": lambda _: None}
        return await VolumeSnapshotController(*here, **wakes).reconcile(("demo", name))

    def read(self, volume_id: str = VOLUME_ID) -> list[int]:
        """Read a volume."""
        return read_volume(self.root, volume_id, self.state)

    def write(self, block: int, value: int) -> None:
        """Write as the guest does that has the volume."""
        assert self.guest.holding is not None
        write_block(Path(self.guest.holding.path), "qcow2", block, value)


async def make_host(tmp_path: Path, *bodies: tuple[type, dict[str, Any]], runs: bool = True, **guest: Any) -> Host:
    """Have a volume with two blocks that a guest may have."""
    found = await Shelves().driver(tmp_path, None, "").make(VOLUME_ID, 2 * BLOCK)
    for block in (0, 1):
        write_block(found.path, "qcow2", block, block + 1)
    holder = VolumeHolder(PORT_ID, str(found.path), saved=guest.pop("saved", False))
    return Host(tmp_path, Guest(holder if runs else None, **guest), API((Volume, volume()), *bodies))


@pytest.mark.parametrize(
    ("guest", "consistency"),
    [
        ({"runs": False}, Consistency.OFFLINE),
        ({}, Consistency.CRASH),
        ({"frozen": True}, Consistency.FILE_SYSTEM),
    ],
)
async def test_a_snapshot_is_taken_and_told(tmp_path: Path, guest: dict[str, Any], consistency: Consistency) -> None:
    """Its size and what its data is like are told once; what the guest writes afterwards is not in it."""
    host = await make_host(tmp_path, (VolumeSnapshot, snapshot()), **guest)
    assert await host.look(VolumeSnapshot, "snap") is None
    assert host.api.told["snap"] == {"restoreSize": 2 * BLOCK, "consistency": consistency.value}
    if host.guest.holding is not None:
        host.write(0, 9)
        assert host.read() == [9, 2]
    host.api.told.clear()
    assert await host.look(VolumeSnapshot, "snap") is None
    assert host.api.told == {}
    assert read_snapshots(host.root, VOLUME_ID, tmp_path) == {PORT_ID: [1, 2]}


@pytest.mark.parametrize("answer", ["refused", "lost"])
async def test_a_guest_keeps_what_it_writes_whatever_libvirt_says(tmp_path: Path, answer: str) -> None:
    """Whether the guest has moved on is found out: it writes to the file that is the volume, before and after."""
    host = await make_host(tmp_path, (VolumeSnapshot, snapshot()), answer=answer)
    assert await host.look(VolumeSnapshot, "snap") is not None
    assert (host.api.told["snap"].get("fault") or {}).get("reason") == "StorageFailed"
    host.write(0, 7)
    assert host.read() == [7, 2]
    host.guest.answer = "yes"
    assert await host.look(VolumeSnapshot, "snap") is None
    assert "fault" not in host.api.told["snap"]
    host.write(1, 8)
    assert host.read() == [7, 8]
    assert read_snapshots(host.root, VOLUME_ID, tmp_path) == {PORT_ID: [7 if answer == "refused" else 1, 2]}
    assert left_over(host.root) == []


async def test_an_agent_that_ended_amid_a_snapshot_is_made_good(tmp_path: Path) -> None:
    """The next agent finds by the guest's file whether the snapshot was taken, also as it looks at the volume."""
    for moved in (True, False):
        host = await make_host(tmp_path / str(moved), (VolumeSnapshot, snapshot()))
        layer = await host.taker.shelves.driver(host.state, None, "").begin_snapshot(VOLUME_ID, PORT_ID)
        if moved:
            assert host.guest.holding is not None
            host.guest.holding = replace(host.guest.holding, path=str(layer))
        await host.look(Volume, "data")
        host.write(0, 5)
        assert host.read() == [5, 2]
        assert read_snapshots(host.root, VOLUME_ID, host.state) == ({PORT_ID: [1, 2]} if moved else {})
        assert left_over(host.root) == []


async def test_a_suspended_guest_keeps_its_file(tmp_path: Path) -> None:
    """Memory that is saved goes on on the file that it had: no snapshot is begun, and the reason is told."""
    host = await make_host(tmp_path, (VolumeSnapshot, snapshot()), saved=True)
    assert await host.look(VolumeSnapshot, "snap") is not None
    assert host.api.told["snap"]["fault"]["reason"] == ServerSuspended.reason
    found = await host.taker.shelves.driver(host.state, None, "").look(VOLUME_ID)
    assert found is not None
    assert (str(found.path), found.pending) == (host.guest.holding.path, "")  # type: ignore[union-attr]


async def test_nothing_is_done_for_a_volume_that_has_left(tmp_path: Path) -> None:
    """What the API says now counts, and not what the watch has shown: another host may be writing."""
    host = await make_host(tmp_path, (VolumeSnapshot, snapshot()), runs=False)
    host.api.bodies[Volume, "data"] = volume(host="h2")
    assert await host.look(VolumeSnapshot, "snap") is not None
    assert "restoreSize" not in host.api.told["snap"]
    assert read_snapshots(host.root, VOLUME_ID, tmp_path) == {}


@pytest.mark.parametrize("runs", [True, False])
async def test_a_volume_is_copied_whether_a_guest_has_it_or_not(tmp_path: Path, *, runs: bool) -> None:
    """The copy is of one moment and lives by itself; nothing of how it came about is left."""
    origin = {"volumeID": VOLUME_ID, "snapshotID": COPY_ID, "taken": True}
    body = volume("copy", COPY_ID, origin=origin, size=str(3 * BLOCK)) | {"status": {}}
    host = await make_host(tmp_path, (Volume, body), runs=runs)
    await host.look(Volume, "copy")
    assert host.api.told["copy"]["sizeBytes"] == 3 * BLOCK
    assert host.read(COPY_ID) == [1, 2, 0]
    if runs:
        host.write(0, 6)
        assert host.read() == [6, 2]
        assert host.read(COPY_ID) == [1, 2, 0]
    assert read_snapshots(host.root, VOLUME_ID, tmp_path) == {}
    assert left_over(host.root) == []


async def test_a_snapshot_that_goes_gives_its_copies_first(tmp_path: Path) -> None:
    """A copy that was asked for while the snapshot was there has its data; then the snapshot is let go."""
    deleted = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    copy = volume("copy", COPY_ID, origin={"volumeID": VOLUME_ID, "snapshotID": PORT_ID}) | {"status": {}}
    host = await make_host(tmp_path, (VolumeSnapshot, snapshot(**deleted)), (Volume, copy), runs=False)
    await host.taker.shelves.driver(host.state, None, "").snapshot(VOLUME_ID, PORT_ID)
    assert await host.look(VolumeSnapshot, "snap") is None
    assert host.api.released == ["snap"]
    assert host.read(COPY_ID) == [1, 2]
    assert read_snapshots(host.root, VOLUME_ID, tmp_path) == {}


async def test_a_volume_goes_when_its_snapshots_have(tmp_path: Path) -> None:
    """A deleted volume with a snapshot stays whole; without, its files go and then its finalizer."""
    host = await make_host(tmp_path, runs=False)
    driver = host.taker.shelves.driver(host.state, None, "")
    await driver.snapshot(VOLUME_ID, PORT_ID)
    body = volume()
    body["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    host.api = API((Volume, body), (VolumeSnapshot, snapshot()))
    await host.look(Volume, "data")
    assert host.api.released == []
    assert host.read() == [1, 2]
    del host.api.bodies[VolumeSnapshot, "snap"]  # also one that the API has forgotten
    await host.look(Volume, "data")
    assert host.api.released == ["data"]
    assert left_over(host.root) == []


async def test_a_copy_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    """A copy that is deleted before it was made takes the snapshot along that was taken for it."""
    host = await make_host(tmp_path, runs=False)
    driver = host.taker.shelves.driver(host.state, None, "")
    await driver.snapshot(VOLUME_ID, COPY_ID)
    origin = {"volumeID": VOLUME_ID, "snapshotID": COPY_ID, "taken": True}
    copy = volume("copy", COPY_ID, origin=origin) | {"status": {}}
    copy["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    host.api = API((Volume, copy))
    await host.look(Volume, "copy")
    assert host.api.released == ["copy"]
    assert read_snapshots(host.root, VOLUME_ID, tmp_path) == {}


@pytest.mark.parametrize("runs", [True, False])
async def test_growth_reaches_the_file(tmp_path: Path, *, runs: bool) -> None:
    """A volume grows to what was admitted: by QEMU where a guest has it, else in its file."""
    host = await make_host(tmp_path, runs=runs)
    host.api = API((Volume, volume(size=str(4 * BLOCK))))
    await host.look(Volume, "data")
    if runs:
        assert host.guest.grown == 4 * BLOCK
    else:
        assert host.read() == [1, 2, 0, 0]
        assert host.api.told["data"]["sizeBytes"] == 4 * BLOCK


async def test_a_detached_volume_goes_back_once(tmp_path: Path) -> None:
    """The request is noted beside the data: it is told, and not done again, also by another agent."""
    host = await make_host(tmp_path, runs=False)
    driver = host.taker.shelves.driver(host.state, None, "")
    await driver.snapshot(VOLUME_ID, PORT_ID)
    for value in (4, 5):
        found = await driver.look(VOLUME_ID)
        assert found is not None
        write_block(found.path, "qcow2", 0, value)
        host.api = API((Volume, volume(revert={"snapshotID": PORT_ID, "request": "1"})))
        await host.look(Volume, "data")
        assert host.api.told["data"]["reverted"] == "1"
    assert host.read() == [5, 2]
