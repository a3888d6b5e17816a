"""Encrypted volumes of guests that run on a real libvirtd, read for backups: nothing of them is left in the clear."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.backups.nbd import Disk as Export
from kumulus_agent.backups.pulls import Pulls, Served
from kumulus_agent.backups.sources import Sources
from kumulus_agent.compute.domain_spec import Disk, DomainSpec, Encryption
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.images.thaws import Thaws
from kumulus_agent.volumes.drivers.keys import KeyMissing
from kumulus_agent.volumes.drivers.local import local_driver
from kumulus_agent.volumes.drivers.testing import BLOCK, ENCRYPTED_KEY
from kumulus_agent.volumes.guests import VolumeGuests
from kumulus_agent.volumes.shelves import Shelves
from kumulus_agent.volumes.snapshots import Taker
from kumulus_api.hardware import Hardware
from kumulus_api.volume_backup import BackupAssignment

SIZE = 8 << 20
MARK = 0x6B
ENCRYPTION = {"cipher": "aes-xts-plain64", "keySize": 512, "secret": {"name": "mine"}}

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A short path: a socket's may have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="kumulus-sp-"))
    yield folder
    shutil.rmtree(folder)


class Guest:
    """A guest that runs with a volume that is encrypted, and one that is not."""

    def __init__(self, spec: DomainSpec, guests: VolumeGuests, inside: Any) -> None:
        self.instance_id = spec.instance_id
        self.guests = guests
        self.inside = inside
        self.sealed, self.clear = str(uuid.uuid4()), str(uuid.uuid4())

    def write(self, value: int) -> None:
        """Write to both, as the guest does."""
        domain = f"k-{self.instance_id}"
        listed = self.inside("virsh", "domblklist", domain)
        xml = self.inside("virsh", "dumpxml", domain)
        for volume_id in (self.sealed, self.clear):
            name = next(line.split()[0] for line in listed.splitlines() if volume_id in line)
            alias = xml.partition(f"dev='{name}'")[2].partition("<alias name='")[2].partition("'")[0]
            for command in (f"write -P {value} 0 {BLOCK}", "flush"):
                device = f"/machine/peripheral/{alias}/virtio-backend"
                self.inside("virsh", "qemu-monitor-command", "--hmp", domain, f'qemu-io -d {device} "{command}"')


@pytest.fixture
async def guest(
    hypervisor: Hypervisor, make_domain: Callable[..., DomainSpec], tmp_path: Path, private_libvirt: Any
) -> Guest:
    """It runs."""
    spec = make_domain()
    await hypervisor.define_and_start(domain_xml(spec))
    (tmp_path / "instances" / spec.instance_id).mkdir(parents=True)
    guests = VolumeGuests(hypervisor, tmp_path / "instances", Thaws(hypervisor))
    found = Guest(spec, guests, private_libvirt.inside)
    driver = local_driver(tmp_path / "volumes")
    sealed = await driver.with_key(ENCRYPTED_KEY).make(found.sealed, SIZE)
    disk = Disk(str(sealed.path), "qcow2", "", found.sealed[:20], encryption=Encryption(found.sealed))
    async with guests.keyed(found.sealed, ENCRYPTED_KEY):
        await hypervisor.attach(spec.instance_id, disk, Hardware())
    clear = await driver.make(found.clear, SIZE)
    await hypervisor.attach(spec.instance_id, Disk(str(clear.path), "qcow2", "", found.clear[:20]), Hardware())
    return found


def first(served: Served) -> int:
    """Read the first block, which is of one byte."""
    with Export(Path(served.source["socket"]), served.source["export"]) as disk:
        data = disk.read(0, BLOCK)
    assert data is not None
    assert len(set(data)) == 1
    return data[0]


def scratches(folder: Path) -> dict[str, bool]:
    """Give the files for what the guest overwrites, and whether the marks can be read in them."""
    return {path.name: bytes([MARK]) * 512 in path.read_bytes() for path in folder.rglob("*.scratch")}


def backup(volume_id: str, **more: Any) -> BackupAssignment:
    """Give a backup of a volume."""
    return BackupAssignment.model_validate({"backupID": str(uuid.uuid4()), "host": "h1", "volumeID": volume_id} | more)


async def test_what_is_overwritten_is_not_left_in_the_clear(guest: Guest, run_dir: Path, tmp_path: Path) -> None:
    """Both volumes read as they were at the moment; what the guest overwrote of the encrypted one is nowhere plain."""

    async def fetch(volume: tuple[str, str]) -> bytes:
        assert volume == ("demo", "data")
        return ENCRYPTED_KEY.content

    pulls = Pulls(guest.guests, run_dir, tmp_path)
    sources = Sources(Taker(tmp_path, Shelves(fetch), guest.guests), pulls)
    sealed = backup(guest.sealed, seal={"volume": "data", "encryption": ENCRYPTION})
    clear = backup(guest.clear)
    guest.write(MARK)
    mates = {sealed.backup_id: sealed, clear.backup_id: clear}
    of_clear = await sources.open("demo", clear, "", lambda: {sealed.backup_id: sealed}, lambda: True)
    guest.write(8)
    of_sealed = await sources.open("demo", sealed, "", lambda: mates, lambda: True)
    assert (first(of_clear), first(of_sealed)) == (MARK, MARK)
    assert (of_clear.key, of_sealed.key) == (b"", ENCRYPTED_KEY.content)
    assert of_sealed.taken_at == of_clear.taken_at
    names = [f"backup-{given.backup_id}.scratch" for given in (sealed, clear)]
    assert scratches(tmp_path) == {names[0]: False, names[1]: True}
    for given in (sealed, clear):
        await sources.close(given)
    assert scratches(tmp_path) == {}
    assert guest.inside("virsh", "secret-list").strip().count(guest.sealed) == 0, "libvirtd has no key"


async def test_a_key_that_is_missing_holds_up_no_other(guest: Guest, run_dir: Path, tmp_path: Path) -> None:
    """A volume is read without its mate whose key cannot be had, which says so itself."""
    sources = Sources(Taker(tmp_path, Shelves(), guest.guests), Pulls(guest.guests, run_dir, tmp_path))
    sealed = backup(guest.sealed, seal={"volume": "data", "encryption": ENCRYPTION})
    clear = backup(guest.clear)
    guest.write(MARK)
    served = await sources.open("demo", clear, "", lambda: {sealed.backup_id: sealed}, lambda: True)
    assert first(served) == MARK
    await sources.close(clear)
    with pytest.raises(KeyMissing):
        await sources.open("demo", sealed, "", dict, lambda: True)


async def test_without_its_key_it_is_not_read(guest: Guest, run_dir: Path, tmp_path: Path) -> None:
    """It is refused, nothing stays, and with the key it is served."""
    pulls = Pulls(guest.guests, run_dir, tmp_path)
    guest.write(MARK)
    holder = await guest.guests.holder(guest.sealed)
    assert holder is not None
    with pytest.raises(HypervisorError):
        await pulls.join("one", holder, {})
    assert scratches(tmp_path) == {}
    served = await pulls.join("one", holder, {}, {guest.sealed: ENCRYPTED_KEY})
    assert first(served) == MARK
    await pulls.leave("one")
