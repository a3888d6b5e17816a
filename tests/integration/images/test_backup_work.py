"""What an agent does with VolumeBackups and Volumes of them, on real files and a real S3 server, whenever it ends."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import obstore
import pytest

from kumulus_agent.backups.apart import BackupBucket
from kumulus_agent.backups.controller import Here, VolumeBackupController
from kumulus_agent.backups.pulls import Pulls
from kumulus_agent.backups.restores import Restores
from kumulus_agent.backups.sources import Sources
from kumulus_agent.compute.volume_disks import VolumeHolder
from kumulus_agent.storage.bucket import open_bucket
from kumulus_agent.storage.bucket_apart import BucketAddress
from kumulus_agent.volumes.controller import VolumeController
from kumulus_agent.volumes.drivers.testing import BLOCK, left_over, read_volume, write_block
from kumulus_agent.volumes.shelves import Shelves
from kumulus_agent.volumes.snapshots import Taker
from kumulus_api import Volume, VolumeBackup
from kumulus_api.testing import VOLUME_ID
from kumulus_lab.testing.backup_work import API, Queue
from kumulus_lab.testing.s3_server import S3Server

pytestmark = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="needs qemu-img, qemu-io and qemu-nbd")

ID = "00000000-0000-4000-8000-0000000001{:02x}".format
FINALIZERS = {"finalizers": ["kumulus.dev/agent"]}
GONE = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


class Guest:
    """libvirt as far as volumes go: no guest runs, or one is suspended."""

    def __init__(self, instances: Path) -> None:
        self.instances = instances
        self.holding: VolumeHolder | None = None

    async def holder(self, _volume_id: str) -> VolumeHolder | None:
        """Give who has it."""
        return self.holding


def backup_body(
    name: str = "b", number: int = 1, *, chain: int = 0, metadata: Any = None, **parts: Any
) -> dict[str, Any]:
    """Give a VolumeBackup on h1."""
    given = {"backupID": ID(number), "volumeID": VOLUME_ID, "host": "h1", "chain": ID(chain or number)}
    if chain:
        given["parent"] = ID(chain)
    source = parts.pop("source", {"volume": {"name": "data"}})
    spec = {"source": source, "assignment": given | parts.pop("assignment", {})} | parts
    about = {"name": name, "namespace": "demo", "uid": name} | FINALIZERS | (metadata or {})
    return {"kind": "VolumeBackup", "metadata": about, "spec": spec, "status": {}}


def volume_body(name: str, volume_id: str, size: int, **assignment: Any) -> dict[str, Any]:
    """Give a Volume on h1."""
    given = {"volumeID": volume_id, "host": "h1", "size": str(size)} | assignment
    about = {"name": name, "namespace": "demo", "uid": name} | FINALIZERS
    return {"kind": "Volume", "metadata": about, "spec": {"size": str(size), "assignment": given}, "status": {}}


@dataclass
class Host:
    """A host with a volume of two blocks, and a bucket."""

    state: Path
    address: BucketAddress
    prefix: str = field(default_factory=lambda: f"p{uuid.uuid4().hex}/")
    api: API = field(default_factory=API)

    def __post_init__(self) -> None:
        self.guest = Guest(self.state / "instances")
        self.queue = Queue()
        self.volumes = Queue()
        self.start()

    def start(self) -> None:
        """Have an agent that was just started."""
        bucket = BackupBucket(self.address, self.prefix)
        taker = Taker(self.state, Shelves(), self.guest)  # type: ignore[arg-type]
        api: Any = self.api
        sources = Sources(taker, Pulls(self.guest, self.state / "run", self.state))  # type: ignore[arg-type]
        here = Here("h1", api, api.store, api, sources, bucket, self.volumes.add)
        self.controller = VolumeBackupController(here, self.queue)  # type: ignore[arg-type]
        self.restores = Restores(self.state, bucket, self.volumes.add)
        self.volume_controller = VolumeController(
            "h1",
            api,
            api.store,
            api,
            taker,
            image_of=None,
            restores=self.restores,  # type: ignore[arg-type]
        )

    @property
    def root(self) -> Path:
        """The folder of the volumes."""
        return self.state / "volumes"

    @property
    def keys(self) -> list[str]:
        """Names of what the bucket has."""
        store = open_bucket(self.address.request())
        return [item["path"] for items in obstore.list(store, self.prefix.rstrip("/")) for item in items]

    def status(self, name: str = "b") -> dict[str, Any]:
        """Give what a backup says."""
        return (self.api.store.get(VolumeBackup, name, "demo") or {})["status"]

    async def work(self, name: str = "b") -> None:
        """Look at a backup until there is nothing to do, or it is to be tried again later."""
        self.queue.again.clear()
        for _ in range(20):
            self.queue.changed.clear()
            await self.controller.reconcile(("demo", name))
            if not self.controller._runs:
                return
            await asyncio.wait_for(self.queue.changed.wait(), 30)
            if self.queue.again:
                return
        raise AssertionError("it has no end")

    async def restore(self, name: str) -> dict[str, Any]:
        """Look at a volume until it is made or cannot be; give its status."""
        for _ in range(10):
            self.volumes.changed.clear()
            await self.volume_controller.reconcile(("demo", name))
            if not self.restores._runs:
                break
            await asyncio.wait_for(self.volumes.changed.wait(), 30)
        return (self.api.store.get(Volume, name, "demo") or {})["status"]

    async def write(self, block: int, value: int) -> None:
        """Write as a guest does."""
        found = await Shelves().driver(self.state, None, "").look(VOLUME_ID)
        assert found is not None
        write_block(found.path, found.format, block, value)

    def new(self, name: str, number: int, of: str, size: int = 2 * BLOCK) -> None:
        """Ask for a volume of a backup."""
        told, given = self.status(of), (self.api.store.get(VolumeBackup, of, "demo") or {})["spec"]["assignment"]
        origin = {"backupID": given["backupID"], "chain": told["chain"], "digest": told["digest"]}
        self.api.put(volume_body(name, ID(number), size, origin={"backup": origin}))


@pytest.fixture
async def host(s3: S3Server, tmp_path: Path) -> Host:
    """The volume has 1 and 2 in its blocks, and no guest has it."""
    address = BucketAddress(s3.endpoint, "work", keys=s3.keys)
    obstore.put(open_bucket(address.request()), "other", b"the server makes its bucket for it")
    await Shelves().driver(tmp_path, None, "").make(VOLUME_ID, 2 * BLOCK)
    found = Host(tmp_path, address)
    found.api.put(volume_body("data", VOLUME_ID, 2 * BLOCK))
    for block in (0, 1):
        await found.write(block, block + 1)
    return found


async def test_a_backup_and_volumes_of_it(host: Host) -> None:
    """Full and incremental backups are told with all that they are, leave no layer, and volumes of them are equal."""
    host.api.put(backup_body())
    await host.work()
    told = host.status()
    assert (told["size"], told["consistency"], told["chain"]) == (2 * BLOCK, "Offline", ID(1))
    assert told["digest"].startswith("sha256:")
    assert "progress" not in told
    assert host.volumes.changed.is_set(), "the volume may be merged"
    await host.write(1, 9)
    host.api.put(backup_body("c", 2, chain=1, incremental=True))
    await host.work("c")
    assert host.status("c")["parent"] == ID(1)
    for name, number, of, size, read in (("x", 8, "b", 2 * BLOCK, [1, 2]), ("y", 9, "c", 3 * BLOCK, [1, 9, 0])):
        host.new(name, number, of, size)
        told = await host.restore(name)
        assert told["sizeBytes"] == size
        assert "fault" not in told
        assert read_volume(host.root, ID(number), host.state) == read
    assert read_volume(host.root, VOLUME_ID, host.state) == [1, 9]
    assert left_over(host.root) == []


async def test_an_agent_that_ends_midway(host: Host) -> None:
    """The next one goes on with the same moment, whatever was written since; nothing stays of the attempt."""
    host.api.put(backup_body())
    await host.controller.reconcile(("demo", "b"))
    while "takenAt" not in host.status():  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)
    await host.controller.close()
    moment = host.status()["takenAt"]
    assert "digest" not in host.status()
    await host.write(0, 7)
    host.start()
    await host.work()
    assert host.status()["takenAt"] == moment
    host.new("x", 8, "b")
    await host.restore("x")
    assert read_volume(host.root, ID(8), host.state) == [1, 2]
    assert left_over(host.root) == []


async def test_a_backup_that_is_cancelled(host: Host) -> None:
    """Deleted midway it leaves neither a layer nor an object, but only when the operator says that they may go."""
    host.api.put(backup_body())
    await host.controller.reconcile(("demo", "b"))
    while "takenAt" not in host.status():  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)
    host.api.put(backup_body(metadata=GONE))
    await host.work()
    assert host.api.released == []
    assert left_over(host.root) == []
    host.start()
    host.api.put(backup_body(metadata=GONE, assignment={"remove": True}))
    await host.work()
    assert host.api.released == ["b"]
    assert host.keys == []


async def test_reading_back(host: Host) -> None:
    """It is done once for each word; damage is told, and read back again it can be sound again."""
    host.api.put(backup_body())
    await host.work()
    body = host.api.store.get(VolumeBackup, "b", "demo") or {}
    for word, sound in (("first", True), ("second", False), ("third", True)):
        store, chunk = open_bucket(host.address.request()), next(key for key in host.keys if "/chunks/" in key)
        content = bytes(obstore.get(store, chunk).bytes())
        if not sound:
            obstore.delete(store, chunk)
        host.api.put(body | {"spec": body["spec"] | {"verify": word}, "status": host.status()})
        await host.work()
        told = host.status()["verified"]
        assert (told["request"], told["sound"]) == (word, sound)
        if not sound:
            assert "is missing" in told["message"]
            obstore.put(store, chunk, content)
    assert host.api.events.count("BackupDamaged") == 1


async def test_a_damaged_backup_is_not_restored(host: Host) -> None:
    """The volume says why, is not there, and comes when the chunk is back."""
    host.api.put(backup_body())
    await host.work()
    store, chunk = open_bucket(host.address.request()), next(key for key in host.keys if "/chunks/" in key)
    content = bytes(obstore.get(store, chunk).bytes())
    obstore.put(store, chunk, content[:-1])
    host.new("x", 8, "b")
    told = await host.restore("x")
    assert told["fault"]["reason"] == "BackupDamaged"
    assert "sizeBytes" not in told
    assert not (host.root / ID(8)).exists()
    obstore.put(store, chunk, content)
    assert (await host.restore("x"))["sizeBytes"] == 2 * BLOCK
    assert read_volume(host.root, ID(8), host.state) == [1, 2]


async def test_a_volume_deleted_while_it_is_restored(host: Host) -> None:
    """Nothing of it stays."""
    host.api.put(backup_body())
    await host.work()
    host.new("x", 8, "b")
    await host.volume_controller.reconcile(("demo", "x"))
    body = host.api.store.get(Volume, "x", "demo") or {}
    host.api.put(body | {"metadata": body["metadata"] | GONE})
    await host.volume_controller.reconcile(("demo", "x"))
    assert host.api.released == ["x"]
    assert [path.name for path in host.root.iterdir() if ID(8) in path.name] == []


async def test_a_backup_that_only_the_bucket_knows(host: Host) -> None:
    """By its id it is found with all that it was, and one that is not there says so for good."""
    host.api.put(backup_body())
    await host.work()
    known = host.status()
    for name, number in (("again", 1), ("never", 5)):
        body = backup_body(name, number, source={"existing": ID(number)})
        body["spec"]["assignment"] = {"backupID": ID(number), "host": "h1"}
        host.api.put(body)
        await host.work(name)
    again, never = host.status("again"), host.status("never")
    assert {part: again[part] for part in ("digest", "size", "takenAt", "chain", "consistency")} == {
        part: known[part] for part in ("digest", "size", "takenAt", "chain", "consistency")
    }
    assert (never["failed"], never["fault"]["reason"]) == (True, "BackupNotFound")


async def test_what_cannot_be_done_now_is_tried_again(host: Host) -> None:
    """A server that is suspended, or a bucket that does not answer, holds a backup up; lost data ends it."""
    host.api.put(backup_body())
    host.guest.holding = VolumeHolder(ID(20), "path", saved=True)
    await host.work()
    assert host.status()["fault"]["reason"] == "ServerSuspended"
    assert host.queue.again
    host.guest.holding = None
    host.address = BucketAddress("http://127.0.0.1:9", "work", keys=host.address.keys)
    host.start()
    await host.work()
    assert "failed" not in host.status()
    assert host.queue.again
    body = backup_body("c", 2, assignment={"volumeID": ID(30)})
    host.api.put(body)
    await host.work("c")
    assert (host.status("c")["failed"], host.status("c")["fault"]["reason"]) == (True, "VolumeDataGone")


async def test_what_stays_here_does_not_harm_the_backup(host: Host) -> None:
    """A layer that cannot be removed now is tried again, and the backup is Ready all the same."""
    host.api.put(backup_body())
    await host.work()
    told = host.status()
    host.start()
    record = host.root / VOLUME_ID / "volume.json"
    content = record.read_bytes()
    record.write_bytes(b"{")
    await host.work()
    assert host.queue.again
    assert host.status() == told
    record.write_bytes(content)
    await host.work()
    assert not host.queue.again
