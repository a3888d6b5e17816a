"""Backups of encrypted volumes in a bucket of a real S3 server: who has no key reads nothing, and who has it all."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import obstore
import pytest

from kumulus_agent.backups.apart import BackupBucket, BackupDamaged, Made, Progress
from kumulus_agent.backups.manifest import CHUNK
from kumulus_agent.backups.pulls import Pulls
from kumulus_agent.backups.sources import Sources
from kumulus_agent.storage.bucket import open_bucket
from kumulus_agent.storage.bucket_apart import BucketAddress
from kumulus_agent.volumes.drivers.encrypted import EncryptedFiles
from kumulus_agent.volumes.drivers.files import Files
from kumulus_agent.volumes.drivers.keys import KeyNeeded, KeyWrong, NotEncrypted, VolumeKey, is_encrypted
from kumulus_agent.volumes.drivers.local import local_driver
from kumulus_agent.volumes.drivers.testing import BLOCK, ENCRYPTED_KEY, read_blocks, write_block
from kumulus_agent.volumes.shelves import Shelves
from kumulus_agent.volumes.snapshots import Taker
from kumulus_api.testing import VOLUME_ID
from kumulus_api.volume_backup import BackupAssignment
from kumulus_lab.testing.s3_server import S3Server

pytestmark = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="needs qemu-img, qemu-io and qemu-nbd")

SIZE = 3 * CHUNK + BLOCK
BLOCKS = SIZE // BLOCK
MARK = 0x6B
KEY = ENCRYPTED_KEY.content
OTHER = VolumeKey(b"another key, which opens none of these volumes")
SEAL = {
    "volume": "data",
    "encryption": {"cipher": "aes-xts-plain64", "keySize": 512, "secret": {"name": "mine"}},
}


def nobody(_: Progress) -> None:
    """Hear nothing."""


@dataclass
class Site:
    """An encrypted volume of two layers, and the bucket that it is backed up to."""

    state: Path
    address: BucketAddress
    prefix: str = field(default_factory=lambda: f"p{uuid.uuid4().hex}/")

    def __post_init__(self) -> None:
        self.backups = BackupBucket(self.address, self.prefix)
        self.driver = local_driver(self.state / "volumes").with_key(ENCRYPTED_KEY)
        self.made: dict[str, Made] = {}

    @property
    def objects(self) -> dict[str, bytes]:
        """What the bucket has."""
        store = open_bucket(self.address.request())
        keys = [item["path"] for items in obstore.list(store, self.prefix.rstrip("/")) for item in items]
        return {key: bytes(obstore.get(store, key).bytes()) for key in keys}

    async def path(self) -> Path:
        """Give the layer that is written."""
        found = await self.driver.look(VOLUME_ID)
        assert found is not None
        return found.path

    async def write(self, block: int, value: int) -> None:
        """Write as a guest does."""
        write_block(await self.path(), "qcow2", block, value)

    async def backup(self, chain: str = "", key: bytes = KEY, file: Path | None = None) -> str:
        """Back the volume up, or a file; give the id."""
        backup_id = str(uuid.uuid4())
        head = {
            "backup_id": backup_id, "chain": chain or backup_id, "parent": chain, "volume_id": "v", "name": "b",
            "consistency": "Offline", "taken_at": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        source = {"file": str(file or await self.path()), "format": "qcow2"}
        self.made[backup_id] = await self.backups.backup("demo", head, source, nobody, key)
        return backup_id

    async def restore(self, backup_id: str, key: VolumeKey | None = ENCRYPTED_KEY) -> Path:
        """Restore a backup into a new file, which it gives."""
        file = self.state / "volumes" / f"{uuid.uuid4()}.qcow2"
        files = EncryptedFiles(key) if key is not None else Files()
        await files.make_layer(file, SIZE)
        made = self.made[backup_id]
        of = (backup_id, str(made.head["chain"]), made.digest)
        await self.backups.restore("demo", of, str(file), nobody, key.content if key is not None else b"")
        return file

    def read(self, file: Path) -> dict[int, int]:
        """Give the bytes of the blocks that are not zeros."""
        return {at: value for at, value in enumerate(read_blocks(file, "qcow2", self.state)) if value}


@pytest.fixture
async def site(s3: S3Server, tmp_path: Path) -> Site:
    """The lower layer has marks in its first chunk and its last, shorter one; the upper in the second."""
    address = BucketAddress(s3.endpoint, "sealed", keys=s3.keys)
    obstore.put(open_bucket(address.request()), "other", b"the server makes its bucket for it")
    found = Site(tmp_path, address)
    await found.driver.make(VOLUME_ID, SIZE)
    await found.write(0, MARK)
    await found.write(BLOCKS - 1, MARK)
    await found.driver.snapshot(VOLUME_ID, "s1")
    await found.write(CHUNK // BLOCK, MARK)
    return found


WRITTEN = {0: MARK, CHUNK // BLOCK: MARK, BLOCKS - 1: MARK}


def clear(content: bytes) -> bool:
    """Give whether marks can be read."""
    return bytes([MARK]) * 256 in content


async def test_it_comes_back_and_nothing_is_plain(site: Site) -> None:
    """What all layers have comes back into an encrypted file; neither bucket nor file shows any of it."""
    full = await site.backup()
    assert site.made[full].chunks == 3, "holes are no objects"
    assert not any(clear(content) for content in site.objects.values())
    file = await site.restore(full)
    assert site.read(file) == WRITTEN
    assert is_encrypted(file)
    assert not clear(file.read_bytes())
    assert (await site.backups.find("demo", full)).head["seal"]


async def test_it_is_verified_without_the_key(site: Site) -> None:
    """Whoever has the bucket only can compare each chunk; one that is another, or elsewhere, is told."""
    full = await site.backup()
    made = site.made[full]
    await site.backups.verify("demo", full, full, made.digest, nobody)
    store, chunks = open_bucket(site.address.request()), sorted(key for key in site.objects if "/chunks/" in key)
    obstore.put(store, chunks[0], site.objects[chunks[1]])
    with pytest.raises(BackupDamaged):
        await site.backups.verify("demo", full, full, made.digest, nobody)
    with pytest.raises(BackupDamaged):
        await site.restore(full)


async def test_another_key_restores_nothing(site: Site) -> None:
    """Another key, none, or one for what was not sealed is refused before a byte is written."""
    full = await site.backup()
    plain_disk = site.state / "plain.qcow2"
    await Files().make_layer(plain_disk, SIZE)
    write_block(plain_disk, "qcow2", 0, 7)
    plain = await site.backup(key=b"", file=plain_disk)
    for backup_id, key in ((full, OTHER), (full, None), (plain, ENCRYPTED_KEY)):
        with pytest.raises(KeyWrong):
            await site.restore(backup_id, key)
    assert site.read(await site.restore(plain, None)) == {0: 7}


async def test_what_the_chain_has_is_not_put_again(site: Site) -> None:
    """An incremental backup puts what is new; equal chunks at two places do not show that they are."""
    full = await site.backup()
    assert len([key for key in site.objects if "/chunks/" in key]) == 3
    await site.write(2 * CHUNK // BLOCK, 9)
    second = await site.backup(full)
    assert len([key for key in site.objects if "/chunks/" in key]) == 4
    assert site.made[second].stored < site.made[full].stored
    assert site.read(await site.restore(second)) == WRITTEN | {2 * CHUNK // BLOCK: 9}
    await site.backups.remove("demo", full, full)
    assert site.read(await site.restore(second)) == WRITTEN | {2 * CHUNK // BLOCK: 9}


class Guest:
    """libvirt as far as volumes go: no guest runs."""

    def __init__(self, instances: Path) -> None:
        self.instances = instances

    async def holder(self, _volume_id: str) -> None:
        """Give who has it."""


async def test_a_volume_is_read_with_its_key_only(site: Site) -> None:
    """A host that is not told that a volume is encrypted reads nothing of it, nor a clear one as if it were."""

    async def fetch(volume: tuple[str, str]) -> bytes:
        assert volume == ("demo", "data")
        return KEY

    guest: Any = Guest(site.state / "instances")
    sources = Sources(Taker(site.state, Shelves(fetch), guest), Pulls(guest, site.state / "run", site.state))
    given = {"backupID": str(uuid.uuid4()), "host": "h1", "volumeID": VOLUME_ID}
    sealed = BackupAssignment.model_validate(given | {"seal": SEAL})
    served = await sources.open("demo", sealed, "", dict, lambda: True)
    assert served.key == KEY
    assert KEY.decode() not in repr(served), "it is in no log"
    assert site.read(Path(served.source["file"])) == WRITTEN
    assert await sources.close(sealed)
    with pytest.raises(KeyNeeded):
        await sources.open("demo", BackupAssignment.model_validate(given), "", dict, lambda: True)
    plain_id = str(uuid.uuid4())
    await local_driver(site.state / "volumes").make(plain_id, SIZE)
    clear_one = BackupAssignment.model_validate(given | {"volumeID": plain_id, "seal": SEAL})
    with pytest.raises(NotEncrypted):
        await sources.open("demo", clear_one, "", dict, lambda: True)
