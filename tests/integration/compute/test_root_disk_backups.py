"""Root disks of real guests on a real libvirtd, backed up to a real S3 server beside volumes, and started anew."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import obstore
import pytest

from kumulus_agent.backups.apart import BackupBucket
from kumulus_agent.backups.controller import Here, VolumeBackupController
from kumulus_agent.backups.pulls import Pulls
from kumulus_agent.backups.restores import Restores
from kumulus_agent.backups.sources import Sources
from kumulus_agent.compute.domain_spec import Disk, DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.host.boot_sector import GREETING
from kumulus_agent.images.thaws import Thaws
from kumulus_agent.storage.bucket import open_bucket
from kumulus_agent.storage.bucket_apart import BucketAddress
from kumulus_agent.volumes.controller import VolumeController
from kumulus_agent.volumes.drivers.local import local_driver
from kumulus_agent.volumes.guests import VolumeGuests
from kumulus_agent.volumes.shelves import Shelves
from kumulus_agent.volumes.snapshots import Taker
from kumulus_api import FINALIZER, Server, Volume, VolumeBackup
from kumulus_api.hardware import Hardware
from kumulus_api.testing import make_assigned
from kumulus_api.volume_backup import POLICY_LABEL, RUN_LABEL
from kumulus_lab.testing.backup_work import API, Door, Queue
from kumulus_lab.testing.s3_server import S3Server

pytestmark = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="needs qemu-img, qemu-io and qemu-nbd")

CHUNK = 4 << 20
SIZE = 12 * CHUNK + (1 << 20)
"""Of the root disk."""
BASE = 9 * CHUNK
"""Bytes that its image has, all of them data."""
PART = 65536
RUN = {"labels": {POLICY_LABEL: "nightly", RUN_LABEL: "20260101T0000Z"}}
GONE = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
DISK = {"flavor": "small", "image": {"name": "tiny", "namespace": "demo"}, "imageProperties": {"hw_disk_bus": "virtio"}}
ID = "00000000-0000-4000-8000-0000000001{:02x}".format


@dataclass
class Host:
    """A host with a guest that has a root disk on an image, and a volume; and a bucket."""

    state: Path
    run_dir: Path
    address: BucketAddress
    hypervisor: Hypervisor
    spec: DomainSpec
    volume_id: str
    inside: Any
    door: Door
    bucket: BucketAddress
    """Not through the door."""
    prefix: str = field(default_factory=lambda: f"p{uuid.uuid4().hex}/")
    api: API = field(default_factory=API)

    def __post_init__(self) -> None:
        self.start()
        body = make_assigned(Server, "web", "h1")
        body["spec"]["assignment"]["instanceID"] = self.instance_id
        self.server = body
        self.api.put(body)
        self.api.put(volume_body("data", self.volume_id, 1 << 20))

    def start(self) -> None:
        """Have an agent that was just started."""
        self.queue, self.volumes = Queue(), Queue()
        self.guests = VolumeGuests(self.hypervisor, self.state / "instances", Thaws(self.hypervisor))
        taker = Taker(self.state, Shelves(), self.guests)
        bucket = BackupBucket(self.address, self.prefix)
        self.pulls = Pulls(self.guests, self.run_dir, self.state)
        api: Any = self.api
        here = Here("h1", api, api.store, api, Sources(taker, self.pulls), bucket, self.volumes.add)
        self.controller = VolumeBackupController(here, self.queue)  # type: ignore[arg-type]
        self.restores = Restores(self.state, bucket, self.volumes.add)
        self.volume_controller = VolumeController(
            "h1", api, api.store, api, taker, image_of=None, restores=self.restores  # type: ignore[arg-type]
        )  # fmt: skip

    @property
    def instance_id(self) -> str:
        """Of the guest."""
        return self.spec.instance_id

    @property
    def root(self) -> Path:
        """The root disk."""
        return Path(self.spec.disks[0].path)

    @property
    def keys(self) -> list[str]:
        """Names of what the bucket has."""
        store = open_bucket(self.bucket.request())
        return [item["path"] for items in obstore.list(store, self.prefix.rstrip("/")) for item in items]

    def ask(self, name: str, number: int, *, chain: int = 0, metadata: Any = None, **assigned: Any) -> None:
        """Have a backup of the root disk, or of the volume if it is named."""
        given = {"backupID": ID(number), "host": "h1", "chain": ID(chain or number)} | assigned
        source: dict[str, Any] = {"volume": {"name": "data"}}
        if "volumeID" not in assigned:
            source = {"server": {"name": "web"}}
            given["rootDisk"] = DISK | {"instanceID": self.instance_id, "server": "web"}
        if chain:
            given["parent"] = ID(chain)
        about = {"name": name, "namespace": "demo", "uid": name, "finalizers": [FINALIZER]} | (metadata or {})
        spec = {"source": source, "assignment": given}
        self.api.put({"kind": "VolumeBackup", "metadata": about, "spec": spec, "status": {}})

    def status(self, name: str) -> dict[str, Any]:
        """Give what a backup says."""
        told: dict[str, Any] = (self.api.store.get(VolumeBackup, name, "demo") or {})["status"]
        return told

    async def work(self, *names: str) -> None:
        """Look at backups until there is nothing to do, or it is to be tried again later."""
        self.queue.again.clear()
        for _ in range(40):
            self.queue.changed.clear()
            for name in names:
                await self.controller.reconcile(("demo", name))
            if not self.controller._runs or self.queue.again:
                return
            await asyncio.wait_for(self.queue.changed.wait(), 60)
        raise AssertionError("it has no end")

    async def restore(self, name: str, of: str, number: int, size: int) -> Path:
        """Give the file of a volume that is made of a backup."""
        told = self.status(of)
        given = (self.api.store.get(VolumeBackup, of, "demo") or {})["spec"]["assignment"]
        origin = {"backupID": given["backupID"], "chain": told["chain"], "digest": told["digest"]}
        self.api.put(volume_body(name, ID(number), size, origin={"backup": origin}))
        for _ in range(10):
            self.volumes.changed.clear()
            await self.volume_controller.reconcile(("demo", name))
            if not self.restores._runs:
                break
            await asyncio.wait_for(self.volumes.changed.wait(), 60)
        assert (self.api.store.get(Volume, name, "demo") or {})["status"]["sizeBytes"] == size
        found = await local_driver(self.state / "volumes").look(ID(number))
        assert found is not None
        return found.path

    def write(self, value: int, at: int = CHUNK, *disks: str) -> None:
        """Write as the guest does that runs: to its root disk and its volume, or one of them."""
        for file in disks or (str(self.root), self.volume_id):
            domain = f"k-{self.instance_id}"
            listed = self.inside("virsh", "domblklist", domain)
            name = next(line.split()[0] for line in listed.splitlines() if file in line)
            xml = self.inside("virsh", "dumpxml", domain)
            alias = xml.partition(f"dev='{name}'")[2].partition("<alias name='")[2].partition("'")[0]
            offset = at if file == str(self.root) else 0
            for command in (f"write -P {value} {offset} {PART}", "flush"):
                device = f"/machine/peripheral/{alias}/virtio-backend"
                self.inside("virsh", "qemu-monitor-command", "--hmp", domain, f'qemu-io -d {device} "{command}"')

    async def run_guest(self) -> None:
        """Start the guest, with its volume."""
        await self.hypervisor.define_and_start(domain_xml(self.spec))
        found = await local_driver(self.state / "volumes").look(self.volume_id)
        assert found is not None
        volume = Disk(str(found.path), found.format, "", self.volume_id[:20])
        await self.hypervisor.attach(self.instance_id, volume, Hardware())

    def scratches(self) -> list[Path]:
        """Give the files for what guests overwrite."""
        return list(self.state.rglob("*.scratch"))


def volume_body(name: str, volume_id: str, size: int, **assignment: Any) -> dict[str, Any]:
    """Give a Volume on h1."""
    given = {"volumeID": volume_id, "host": "h1", "size": str(size)} | assignment
    about = {"name": name, "namespace": "demo", "uid": name, "finalizers": [FINALIZER]}
    return {"kind": "Volume", "metadata": about, "spec": {"size": str(size), "assignment": given}, "status": {}}


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def same(one: Path, other: Path) -> bool:
    """Give whether two disks read alike, block by block; the longer has zeros at its end."""
    argv = ["qemu-img", "compare", "-q", "-U", "-f", "qcow2", "-F", "qcow2", str(one), str(other)]
    return subprocess.run(argv, check=False, timeout=60).returncode == 0


def first(file: Path, offset: int) -> int:
    """Give the byte that a part of a disk is full of."""
    for value in range(1, 256):
        argv = ["qemu-io", "-r", "-f", "qcow2", "-c", f"read -P {value} {offset} {PART}", str(file)]
        if subprocess.run(argv, check=False, capture_output=True, timeout=60).returncode == 0:
            return value
    raise AssertionError("the part has different bytes")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A short path: a socket's may have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="kumulus-rd-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def guest(make_domain: Callable[..., DomainSpec], tmp_path: Path) -> DomainSpec:
    """A guest that is off. The image below its root disk boots, and has data in each of its chunks."""
    spec = make_domain()
    base = Path(spec.disks[0].path)
    with base.open("r+b") as file:
        for offset in range(1 << 20, BASE, 1 << 20):
            file.seek(offset)
            file.write(offset.to_bytes(8, "big") * (1 << 14))
        file.truncate(BASE)
    folder = tmp_path / "instances" / spec.instance_id
    folder.mkdir(parents=True)
    overlay = folder / "root.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base), str(overlay), str(SIZE))
    return replace(spec, disks=(Disk(str(overlay), "qcow2", "vda", f"root-{spec.instance_id[:13]}"),))


@pytest.fixture
async def host(
    s3: S3Server, hypervisor: Hypervisor, guest: DomainSpec, run_dir: Path, private_libvirt: Any
) -> AsyncIterator[Host]:
    """It has the guest, which is off, and a volume."""
    state, volume_id = Path(guest.disks[0].path).parents[2], str(uuid.uuid4())
    await asyncio.to_thread((state / "volumes").mkdir)
    await local_driver(state / "volumes").make(volume_id, 1 << 20)
    async with Door(int(s3.endpoint.rpartition(":")[2])) as door:
        address, bucket = (BucketAddress(point, "roots", keys=s3.keys) for point in (door.endpoint, s3.endpoint))
        await obstore.put_async(open_bucket(bucket.request()), "other", b"the server makes its bucket for it")
        found = Host(state, run_dir, address, hypervisor, guest, volume_id, private_libvirt.inside, door, bucket)
        yield found
        await found.controller.close()
        await found.restores.close()


async def boots(
    host: Host, disk: Path, eventually: Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]
) -> None:
    """Start another guest from a volume, and hear from it."""
    instance_id = str(uuid.uuid4())
    log = host.state / f"{instance_id}.console"
    own = replace(host.spec.disks[0], path=str(disk), serial="volume")
    spec = replace(host.spec, instance_id=instance_id, disks=(own,), console_log=str(log))
    await host.hypervisor.define_and_start(domain_xml(spec))

    async def greeted() -> bool:
        return GREETING in await asyncio.to_thread(log.read_bytes)

    await eventually(greeted)


async def test_all_disks_of_a_server_are_of_one_moment(host: Host, eventually: Any) -> None:
    """Root disk and volume of a guest that writes on read as they were together, and a guest boots from the volume."""
    await host.run_guest()
    host.write(7)
    host.ask("root", 1, metadata=RUN)
    host.ask("data", 2, metadata=RUN, volumeID=host.volume_id)
    host.door.hold()
    working = asyncio.create_task(host.work("root", "data"))
    await asyncio.wait_for(host.door.putting.wait(), 60)
    host.write(8)
    host.door.release()
    await working
    await host.work("root", "data")
    told = host.status("root")
    assert (told["consistency"], told["size"]) == ("Crash", SIZE)
    assert told["takenAt"] == host.status("data")["takenAt"]
    assert told["rootDisk"] == DISK | {"instanceID": host.instance_id, "server": "web"}
    system = await host.restore("system", "root", 8, 2 * SIZE)
    data = await host.restore("again", "data", 9, 1 << 20)
    assert (first(system, CHUNK), first(data, 0)) == (7, 7)
    assert "backing file" not in run("qemu-img", "info", str(system)), "no image is needed"
    assert not host.scratches()
    await boots(host, system, eventually)


async def test_a_chain_of_a_guest_that_runs_and_is_off(host: Host) -> None:
    """Incremental backups put what is new, whether the guest runs or not, and each comes back block by block."""
    await host.run_guest()
    host.write(7)
    host.ask("full", 1)
    await host.work("full")
    host.write(9, 2 * CHUNK, str(host.root))
    host.ask("second", 2, chain=1)
    await host.work("second")
    await host.hypervisor.destroy(host.instance_id)
    second = host.state / "second.qcow2"
    run("qemu-img", "convert", "-O", "qcow2", str(host.root), str(second))
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 5 {11 * CHUNK} {PART}", str(host.root))
    host.ask("third", 3, chain=1)
    await host.work("third")
    stored = [host.status(name)["storedBytes"] for name in ("full", "second", "third")]
    assert len([key for key in host.keys if "/chunks/" in key]) == 9 + 1 + 1
    assert max(stored[1:]) < stored[0]
    assert [host.status(name)["consistency"] for name in ("full", "second", "third")] == ["Crash", "Crash", "Offline"]
    assert same(await host.restore("b", "second", 8, SIZE), second)
    third = await host.restore("c", "third", 9, SIZE)
    assert same(third, host.root)
    assert not same(third, second)


async def test_a_start_is_not_held_up(host: Host) -> None:
    """A guest starts while its disk is read; what was read is given up, and the next attempt is of the guest."""
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 3 {CHUNK} {PART}", str(host.root))
    host.ask("root", 1)
    host.door.hold()
    working = asyncio.create_task(host.work("root"))
    await asyncio.wait_for(host.door.putting.wait(), 60)
    assert host.status("root")["consistency"] == "Offline"
    await host.run_guest()
    host.write(4)
    host.door.release()
    await working
    told = host.status("root")
    assert told["fault"]["reason"] == "DiskChanged"
    assert "digest" not in told
    assert not any("/manifests/" in key for key in host.keys)
    assert host.queue.again
    await host.work("root")
    assert host.status("root")["consistency"] == "Crash"
    assert first(await host.restore("x", "root", 8, SIZE), CHUNK) == 4


async def test_a_start_that_writes_nothing_is_no_harm(host: Host) -> None:
    """What a guest that starts meanwhile leaves alone is as it was when no guest ran."""
    host.ask("root", 1)
    host.door.hold()
    working = asyncio.create_task(host.work("root"))
    await asyncio.wait_for(host.door.putting.wait(), 60)
    await host.run_guest()
    host.door.release()
    await working
    assert host.status("root").get("fault", {}).get("reason") in (None, "DiskChanged")
    await host.work("root")
    assert same(await host.restore("x", "root", 8, SIZE), host.root)


@pytest.mark.parametrize("runs", [True, False])
async def test_an_agent_that_ends_midway(host: Host, *, runs: bool) -> None:
    """The next one makes the backup whole of what the disk has then; nothing stays of the attempt."""
    if runs:
        await host.run_guest()
        host.write(7)
    host.ask("root", 1)
    host.door.hold()
    await host.controller.reconcile(("demo", "root"))
    await asyncio.wait_for(host.door.putting.wait(), 60)
    await host.controller.close()
    host.door.release()
    assert "digest" not in host.status("root")
    host.start()
    await host.pulls.sweep()
    await host.work("root")
    assert not host.scratches()
    assert same(await host.restore("x", "root", 8, SIZE), host.root)


@pytest.mark.parametrize("runs", [True, False])
async def test_a_backup_that_is_cancelled(host: Host, *, runs: bool) -> None:
    """Deleted midway it leaves no object and no file, once the operator says that they may go."""
    if runs:
        await host.run_guest()
    host.ask("root", 1)
    host.door.hold()
    await host.controller.reconcile(("demo", "root"))
    await asyncio.wait_for(host.door.putting.wait(), 60)
    host.ask("root", 1, metadata=GONE)
    await host.controller.reconcile(("demo", "root"))
    host.door.release()
    await host.work("root")
    assert host.api.released == []
    assert not host.scratches()
    host.ask("root", 1, metadata=GONE, remove=True)
    await host.work("root")
    assert host.api.released == ["root"]
    assert host.keys == []


async def test_a_guest_that_is_suspended(host: Host) -> None:
    """Its disk waits until it goes on or is off: what its memory has is not on it."""
    await host.run_guest()
    await host.hypervisor.save(host.instance_id)
    host.ask("root", 1)
    await host.work("root")
    assert host.status("root")["fault"]["reason"] == "ServerSuspended"
    assert host.queue.again


async def test_a_server_that_is_elsewhere_or_gone(host: Host) -> None:
    """One that has moved, or is about to, is waited for; of one that was deleted there is no backup."""
    for name, number, change in (("moves", 1, {"target": "h2"}), ("moved", 2, {"host": "h2"})):
        host.api.put(with_place(host.server, **change))
        host.ask(name, number)
        await host.work(name)
        assert "failed" not in host.status(name)
        assert "another host" in host.status(name)["fault"]["message"]
        assert host.queue.again
    host.api.put(with_place(host.server, instanceID=ID(77)))
    host.ask("another", 3)
    await host.work("another")
    assert (host.status("another")["failed"], host.status("another")["fault"]["reason"]) == (True, "VolumeDataGone")
    host.api.put(host.server)
    host.root.unlink()
    host.ask("lost", 4)
    await host.work("lost")
    assert (host.status("lost")["failed"], host.status("lost")["fault"]["reason"]) == (True, "VolumeDataGone")
    assert host.keys == []


def with_place(server: dict[str, Any], **assignment: Any) -> dict[str, Any]:
    """Give a server whose assignment is another."""
    spec = server["spec"] | {"assignment": server["spec"]["assignment"] | assignment}
    return server | {"spec": spec}


async def test_only_the_bucket_knows(host: Host) -> None:
    """By its id a backup is found with all that a new server is to be made of."""
    host.ask("root", 1)
    await host.work("root")
    about = {"name": "found", "namespace": "demo", "uid": "found", "finalizers": [FINALIZER]}
    spec = {"source": {"existing": ID(1)}, "assignment": {"backupID": ID(1), "host": "h1"}}
    host.api.put({"kind": "VolumeBackup", "metadata": about, "spec": spec, "status": {}})
    await host.work("found")
    assert host.status("found")["rootDisk"] == DISK | {"instanceID": host.instance_id, "server": "web"}
    assert host.status("found")["digest"] == host.status("root")["digest"]
