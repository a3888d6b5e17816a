"""Volumes of real guests on a real libvirtd, served as they were at one moment while the guest writes on."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.backups.nbd import Disk as Served
from kumulus_agent.backups.nbd import ServerFailed
from kumulus_agent.backups.pulls import GuestBusy, Pulls
from kumulus_agent.compute.domain_spec import Disk, DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.volume_disks import VolumeHolder
from kumulus_agent.images.thaws import Thaws
from kumulus_agent.volumes.drivers.local import local_driver
from kumulus_agent.volumes.drivers.protocol import VolumeDriver
from kumulus_agent.volumes.guests import VolumeGuests
from kumulus_agent.volumes.shelves import Shelves
from kumulus_agent.volumes.snapshots import Taker
from kumulus_api.hardware import Hardware
from kumulus_api.volume_snapshot import Consistency

SIZE = 8 << 20
PART = 65536

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A short path: a socket's may have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="kumulus-pull-"))
    yield folder
    shutil.rmtree(folder)


@dataclass
class Guest:
    """A guest that runs with two volumes."""

    spec: DomainSpec
    guests: VolumeGuests
    driver: VolumeDriver
    volumes: tuple[str, str]
    inside: Any

    async def holder(self, volume: int) -> VolumeHolder:
        """Give the guest as the holder of a volume."""
        found = await self.guests.holder(self.volumes[volume])
        assert found is not None
        return found

    def write(self, value: int) -> None:
        """Write the same to both volumes, as the guest does."""
        listed = self.inside("virsh", "domblklist", f"k-{self.spec.instance_id}")
        for volume_id in self.volumes:
            name = next(line.split()[0] for line in listed.splitlines() if volume_id in line)
            xml = self.inside("virsh", "dumpxml", f"k-{self.spec.instance_id}")
            alias = xml.partition(f"dev='{name}'")[2].partition("<alias name='")[2].partition("'")[0]
            for command in (f"write -P {value} 0 {PART}", "flush"):
                domain, device = f"k-{self.spec.instance_id}", f"/machine/peripheral/{alias}/virtio-backend"
                self.inside("virsh", "qemu-monitor-command", "--hmp", domain, f'qemu-io -d {device} "{command}"')


@pytest.fixture
async def guest(
    hypervisor: Hypervisor, make_domain: Callable[..., DomainSpec], tmp_path: Path, private_libvirt: Any
) -> Guest:
    """It runs; its second volume is a raw file of before."""
    spec, volumes = make_domain(), (str(uuid.uuid4()), str(uuid.uuid4()))
    await hypervisor.define_and_start(domain_xml(spec))
    (tmp_path / "instances" / spec.instance_id).mkdir(parents=True)
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes" / f"{volumes[1]}.raw").write_bytes(bytes(SIZE))
    driver = local_driver(tmp_path / "volumes")
    for volume_id in volumes:
        found = await driver.make(volume_id, SIZE)
        await hypervisor.attach(spec.instance_id, Disk(str(found.path), found.format, "", volume_id[:20]), Hardware())
    guests = VolumeGuests(hypervisor, tmp_path / "instances", Thaws(hypervisor))
    return Guest(spec, guests, driver, volumes, private_libvirt.inside)


def first(source: dict[str, Any]) -> int:
    """Read the first byte; the rest of the part is alike, and what was never written is a hole."""
    with Served(Path(source["socket"]), source["export"]) as disk:
        assert disk.size == SIZE
        assert disk.read(SIZE - PART, PART) in (None, bytes(PART))
        data = disk.read(0, PART)
    assert data is not None
    assert len(set(data)) == 1
    return data[0]


def scratches(folder: Path) -> list[Path]:
    """Give the files for what guests overwrite."""
    return list(folder.rglob("*.scratch"))


async def test_volumes_of_one_moment(guest: Guest, run_dir: Path, tmp_path: Path) -> None:
    """All volumes that are asked for together read as they were then, for as long as one is being read."""
    pulls = Pulls(guest.guests, run_dir, tmp_path)
    guest.write(7)
    one, two = await guest.holder(0), await guest.holder(1)
    served = await pulls.join("one", one, {"two": two.path})
    guest.write(8)
    assert (first(served.source), served.consistency) == (7, Consistency.CRASH)
    other = await pulls.join("two", two, {})
    assert (first(other.source), other.taken_at) == (7, served.taken_at)
    with pytest.raises(GuestBusy):
        await pulls.join("three", one, {})
    await pulls.leave("one")
    assert first(other.source) == 7
    await pulls.leave("two")
    with pytest.raises(OSError, match="No such file"):
        first(other.source)
    assert not scratches(tmp_path)
    assert first((await pulls.join("three", one, {})).source) == 8
    await pulls.leave("three")


async def test_what_an_agent_leaves_is_ended(guest: Guest, run_dir: Path, tmp_path: Path) -> None:
    """The next one ends it: nothing is served, no file stays, and snapshots can be taken."""
    guest.write(7)
    served = await Pulls(guest.guests, run_dir, tmp_path).join("one", await guest.holder(0), {})
    assert scratches(tmp_path)
    pulls = Pulls(guest.guests, run_dir, tmp_path)
    with pytest.raises(GuestBusy):
        await pulls.join("two", await guest.holder(1), {})
    await pulls.sweep()
    assert not scratches(tmp_path)
    with pytest.raises(OSError, match="No such file"):
        first(served.source)
    taker = Taker(tmp_path, Shelves(), guest.guests)
    assert await taker.take(guest.driver, guest.volumes[0], str(uuid.uuid4())) is Consistency.CRASH
    assert first((await pulls.join("two", await guest.holder(0), {})).source) == 7
    await pulls.leave("two")


async def test_a_guest_that_ends(guest: Guest, hypervisor: Hypervisor, run_dir: Path, tmp_path: Path) -> None:
    """What is read of it fails, and nothing of it stays."""
    pulls = Pulls(guest.guests, run_dir, tmp_path)
    guest.write(7)
    served = await pulls.join("one", await guest.holder(0), {})
    with Served(Path(served.source["socket"]), served.source["export"]) as disk:
        await hypervisor.destroy(guest.spec.instance_id)
        with pytest.raises((ServerFailed, ConnectionError)):
            disk.read(0, PART)
    await pulls.leave("one")
    assert not scratches(tmp_path)
