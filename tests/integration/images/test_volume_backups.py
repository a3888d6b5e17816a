"""Backups of volumes in a bucket of a real S3 server: every block as it was, nothing shared is lost, damage is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import obstore
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kumulus_agent.backups.apart import BackupAbsent, BackupBucket, BackupDamaged, Made, Progress, WorkFailed
from kumulus_agent.backups.chunks import Objects
from kumulus_agent.backups.manifest import CHUNK
from kumulus_agent.storage.bucket import open_bucket
from kumulus_agent.storage.bucket_apart import BucketAddress
from kumulus_lab.testing.s3_server import S3Server

pytestmark = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="needs qemu-img, qemu-io and qemu-nbd")

CHUNKS = 6
SIZE = CHUNKS * CHUNK - (1 << 20)
NAMESPACE = "demo"


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def nobody(_: Progress) -> None:
    """Hear nothing."""


def highest_of_children() -> int:
    """Give the most memory that a Python below this process has had since its program began, in KiB; 0 without one.

    Source: VmHWM in proc_pid_status(5). What `getrusage` tells begins with the memory of the process that forked.
    """
    highest = 0
    for pid in "".join(task.read_text() for task in Path("/proc/self/task").glob("*/children")).split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state = Path("/proc", pid, "status").read_text()
            if found := re.search(r"^Name:\s+python(?s:.*)^VmHWM:\s+(\d+) kB$", state, re.MULTILINE):
                highest = max(highest, int(found[1]))
    return highest


@dataclass
class Site:
    """A volume and the bucket that it is backed up to."""

    folder: Path
    address: BucketAddress
    prefix: str = field(default_factory=lambda: f"p{uuid.uuid4().hex}/")

    def __post_init__(self) -> None:
        self.disk = self.folder / f"{uuid.uuid4().hex}.qcow2"
        self.backups = BackupBucket(self.address, self.prefix)
        self.made: dict[str, Made] = {}
        run("qemu-img", "create", "-q", "-f", "qcow2", str(self.disk), str(SIZE))

    @property
    def objects(self) -> Objects:
        """What the bucket has."""
        return Objects(open_bucket(self.address.request()), self.prefix, NAMESPACE)

    @property
    def keys(self) -> list[str]:
        """Names of all objects."""
        store = open_bucket(self.address.request())
        return [item["path"] for items in obstore.list(store, self.prefix.rstrip("/")) for item in items]

    def write(self, chunk: int, pattern: int, length: int = CHUNK) -> None:
        """Write as a guest does."""
        length = min(length, SIZE - chunk * CHUNK)
        run("qemu-io", "-f", "qcow2", "-c", f"write -P {pattern} {chunk * CHUNK} {length}", str(self.disk))

    async def backup(self, parent: str = "", chain: str = "") -> str:
        """Back the volume up; give the id."""
        backup_id = str(uuid.uuid4())
        head = {
            "backup_id": backup_id, "chain": chain or backup_id, "parent": parent, "volume_id": "v", "name": "b",
            "chunk": CHUNK, "consistency": "Offline", "taken_at": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        source = {"file": str(self.disk), "format": "qcow2"}
        self.made[backup_id] = await self.backups.backup(NAMESPACE, head, source, nobody)
        return backup_id

    def chain(self, backup_id: str) -> str:
        """Give the chain of a backup."""
        return str(self.made[backup_id].head["chain"])

    async def restore(self, backup_id: str, size: int = SIZE, *, digest: str | None = None) -> Path:
        """Restore a backup into a file, which it gives."""
        file = self.folder / f"{backup_id}.restored"
        if not file.exists():
            run("qemu-img", "create", "-q", "-f", "qcow2", str(file), str(size))
        of = (backup_id, self.chain(backup_id), self.made[backup_id].digest if digest is None else digest)
        await self.backups.restore(NAMESPACE, of, str(file), nobody)
        return file

    def frozen(self) -> Path:
        """Give a copy of the volume as it is now."""
        file = self.folder / f"{uuid.uuid4().hex}.frozen"
        shutil.copy(self.disk, file)
        return file


def same(one: Path, other: Path) -> bool:
    """Give whether two disks read alike, block by block; the second may be longer with zeros."""
    done = subprocess.run(
        ["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", str(one), str(other)], check=False
    )
    return done.returncode == 0


@pytest.fixture
def site(s3: S3Server, tmp_path: Path) -> Site:
    """A blank volume, and a bucket that is there."""
    address = BucketAddress(s3.endpoint, "backups", keys=s3.keys)
    obstore.put(open_bucket(address.request()), "other", b"the server makes its bucket for it")
    return Site(tmp_path, address)


async def test_every_block_comes_back(site: Site) -> None:
    """A full and an incremental backup give back what the volume had at their moments, on a larger volume too."""
    site.write(0, 0x11)
    site.write(2, 0x22, 4096)
    site.write(CHUNKS - 1, 0x33)
    first, full = site.frozen(), await site.backup()
    site.write(2, 0)
    site.write(3, 0x44)
    second, incremental = site.frozen(), await site.backup(full, full)
    assert same(first, await site.restore(full))
    assert same(second, await site.restore(incremental, SIZE + CHUNK))
    assert not same(first, second)


async def test_an_incremental_backup_puts_what_is_new(site: Site) -> None:
    """What the chain has is not put again, holes are no objects, and a full backup shares nothing."""
    for chunk in (0, 1):
        site.write(chunk, 0x11)
    site.write(2, 0x55)
    full = await site.backup()
    assert site.made[full].chunks == 2, "equal chunks are one"
    site.write(3, 0x66)
    incremental = await site.backup(full, full)
    assert len(site.objects.chunks(full)) == 3
    assert site.made[incremental].stored < site.made[full].stored
    other = await site.backup()
    assert len(site.objects.chunks(other)) == 3


async def test_removal_leaves_what_others_name(site: Site) -> None:
    """A removed backup's chunks go when no other names them, in whatever order, and at the end nothing is left."""
    site.write(0, 0x11)
    site.write(1, 0x22)
    full = await site.backup()
    site.write(1, 0x33)
    state, incremental = site.frozen(), await site.backup(full, full)
    for _ in range(2):
        await site.backups.remove(NAMESPACE, full, full)
    assert len(site.objects.chunks(full)) == 2
    assert same(state, await site.restore(incremental))
    with pytest.raises(BackupAbsent):
        await site.backups.verify(NAMESPACE, full, full, "", nobody)
    await site.backups.remove(NAMESPACE, incremental, full)
    assert site.keys == []


@pytest.mark.parametrize("harm", ["missing", "other", "half", "manifest"])
async def test_damage_is_told(site: Site, harm: str) -> None:
    """A chunk or manifest that is missing or another fails verification and restore, and says which."""
    for chunk in (0, 1):
        site.write(chunk, 0x11 + chunk)
    full = await site.backup()
    await site.backups.verify(NAMESPACE, full, full, site.made[full].digest, nobody)
    store = open_bucket(site.address.request())
    chunks = sorted(key for key in site.keys if "/chunks/" in key)
    manifest = next(key for key in site.keys if "/manifests/" in key)
    match harm:
        case "missing":
            obstore.delete(store, chunks[0])
        case "other":
            obstore.put(store, chunks[0], bytes(obstore.get(store, chunks[1]).bytes()))
        case "half":
            obstore.put(store, chunks[0], bytes(obstore.get(store, chunks[0]).bytes())[:-7])
        case "manifest":
            content = bytearray(obstore.get(store, manifest).bytes())
            content[-3] ^= 1
            obstore.put(store, manifest, bytes(content))
    told = "manifest" if harm == "manifest" else chunks[0].rpartition("/")[2]
    with pytest.raises(BackupDamaged, match=told):
        await site.backups.verify(NAMESPACE, full, full, site.made[full].digest, nobody)
    with pytest.raises(BackupDamaged, match=told):
        await site.restore(full)


async def test_another_backup_is_not_restored(site: Site) -> None:
    """A manifest that is whole, and not the one that was made, is refused."""
    site.write(0, 0x11)
    full = await site.backup()
    with pytest.raises(BackupDamaged, match="another one"):
        await site.restore(full, digest="sha256:" + "0" * 64)


async def test_half_a_restore_is_filled_up(site: Site) -> None:
    """A file that an attempt before has left, with whatever in it, ends as the backup is."""
    site.write(0, 0x11)
    site.write(3, 0x22)
    state, full = site.frozen(), await site.backup()
    file = site.folder / f"{full}.restored"
    run("qemu-img", "create", "-q", "-f", "qcow2", str(file), str(SIZE))
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 0x77 {CHUNK} {CHUNK}", "-c", f"write -P 0x11 0 {CHUNK}", str(file))
    assert same(state, await site.restore(full))


async def test_a_backup_without_manifest_does_not_exist(site: Site) -> None:
    """One that ends midway is none; it is made with what it has left, and cancelled it leaves nothing."""
    for chunk in range(CHUNKS):
        run("qemu-io", "-f", "qcow2", "-c", f"write -P {chunk + 1} {chunk * CHUNK} 1M", str(site.disk))
    backup_id = str(uuid.uuid4())
    head = {
        "backup_id": backup_id, "chain": backup_id, "parent": "", "volume_id": "v", "name": "b", "chunk": CHUNK,
        "consistency": "Offline", "taken_at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    source = {"file": str(site.disk), "format": "qcow2"}
    run_ = asyncio.create_task(site.backups.backup(NAMESPACE, head, source, nobody))
    while not any("/chunks/" in key for key in site.keys):  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0)
    run_.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run_
    assert not any("/manifests/" in key for key in site.keys)
    with pytest.raises(BackupAbsent):
        await site.backups.find(NAMESPACE, backup_id)
    left = len(site.objects.chunks(backup_id))
    made = await site.backups.backup(NAMESPACE, head, source, nobody)
    assert made.chunks == CHUNKS > 0 < left
    assert (await site.backups.find(NAMESPACE, backup_id)).digest == made.digest
    await site.backups.remove(NAMESPACE, backup_id, backup_id)
    assert site.keys == []


def test_the_process_ends_with_its_agent(site: Site, tmp_path: Path) -> None:
    """What an agent that was killed had started puts nothing any more, and leaves no server of a disk behind."""
    fifo = tmp_path / "never"
    os.mkfifo(fifo)  # a disk that is never served
    program = (
        "import asyncio, json, sys\n"
        "from pathlib import Path\n"
        "from kumulus_agent.backups.apart import BackupBucket\n"
        "from kumulus_agent.storage.bucket_apart import BucketAddress\n"
        "given = json.loads(sys.argv[1])\n"
        "bucket = BackupBucket(BucketAddress(given['endpoint'], 'backups', keys=Path(given['keys'])), 'x/')\n"
        "asyncio.run(bucket.backup('demo', given['head'], given['source'], print))\n"
    )
    head = dict.fromkeys(("backup_id", "chain", "parent", "volume_id", "name", "consistency", "taken_at"), "x")
    asked = {"endpoint": site.address.endpoint, "keys": str(site.address.keys), "head": head | {"chunk": CHUNK},
             "source": {"file": str(fifo), "format": "raw"}}  # fmt: skip
    agent = subprocess.Popen([sys.executable, "-c", program, json.dumps(asked)])
    until = time.monotonic() + 30
    while not (found := _children(agent.pid, "kumulus_agent.backups.worker")) or not _children(found[0], "qemu-nbd"):
        assert time.monotonic() < until
        time.sleep(0.02)
    worker, server = found[0], _children(found[0], "qemu-nbd")[0]
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    while _runs(worker) or _runs(server):
        assert time.monotonic() < until
        time.sleep(0.02)


def _children(parent: int, word: str) -> list[int]:
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in found if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _runs(pid: int) -> bool:
    try:
        return "Z (zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


async def test_memory_is_bounded(site: Site) -> None:
    """The process of a backup takes no more memory for a volume that is larger than that."""
    run("qemu-img", "resize", "-q", str(site.disk), "1G")
    for at in range(0, 1024, 4):
        whole, mark = f"write -P {at % 251 + 1} {at}M 4M", f"write -P {at // 4 % 250 + 1} {at}M 512"
        run("qemu-io", "-f", "qcow2", "-c", whole, "-c", mark, str(site.disk))
    highest, work = 0, asyncio.create_task(site.backup())
    while not work.done():
        highest = max(highest, highest_of_children())
        await asyncio.wait({work}, timeout=0.02)
    await work
    assert 0 < highest < 160 << 10, f"{highest} KiB"


async def test_an_absent_volume_is_told(site: Site) -> None:
    """A disk that cannot be read makes no backup, and says so."""
    site.disk.unlink()
    with pytest.raises(WorkFailed, match="qemu-nbd"):
        await site.backup()
    assert site.keys == []


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from("wbfr"), st.integers(0, 5), st.integers(0, 3)), max_size=14))
async def test_whatever_is_made_and_removed(site: Site, steps: list[tuple[str, int, int]]) -> None:
    """In whatever order backups are made and removed, the others verify, and the bucket has what they name only."""
    site = Site(site.folder, site.address)
    alive: dict[str, Path] = {}
    for verb, one, two in steps:
        if verb == "w":
            site.write(one, two, 65536)
        elif verb == "r" and alive:
            backup_id = sorted(alive)[one % len(alive)]
            await site.backups.remove(NAMESPACE, backup_id, site.chain(backup_id))
            del alive[backup_id]
        elif verb in "bf":
            parent = list(alive)[-1] if alive and verb == "b" else ""
            state = site.frozen()
            alive[await site.backup(parent, site.chain(parent) if parent else "")] = state
    named: dict[str, Any] = {}
    for backup_id, state in alive.items():
        manifest = site.objects.manifest(backup_id, site.chain(backup_id))
        assert manifest is not None
        named.setdefault(site.chain(backup_id), set()).update(manifest.named())
        assert same(state, await site.restore(backup_id))
    for chain in {site.chain(backup_id) for backup_id in site.made}:
        assert site.objects.chunks(chain) == named.get(chain, set())
