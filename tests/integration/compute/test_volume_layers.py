"""Volumes of real guests on a real libvirtd: they grow as the guest runs, and snapshots change under it."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from kumulus_agent.compute.devices import devices_of
from kumulus_agent.compute.domain_spec import Disk, DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.images.thaws import Thaws
from kumulus_agent.migration.domains import on_first_layers, written_disks
from kumulus_agent.volumes.drivers.local import local_driver
from kumulus_agent.volumes.drivers.protocol import Found, SnapshotOrigin, VolumeDriver
from kumulus_agent.volumes.drivers.testing import write_block
from kumulus_agent.volumes.guests import VolumeGuests
from kumulus_agent.volumes.shelves import Shelves
from kumulus_agent.volumes.snapshots import Taker
from kumulus_api.hardware import Hardware
from kumulus_api.volume_limits import AssignedLimits
from kumulus_api.volume_snapshot import Consistency

MakeDomain = Callable[..., DomainSpec]
SIZE = 8 << 20
PLAIN = Hardware()

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")


@pytest.fixture
def driver(tmp_path: Path) -> VolumeDriver:
    return local_driver(tmp_path / "volumes")


@pytest.fixture
async def guests(hypervisor: Hypervisor, tmp_path: Path) -> VolumeGuests:
    return VolumeGuests(hypervisor, tmp_path / "instances", Thaws(hypervisor))


def disk_of(volume_id: str, found: Found, **more: Any) -> Disk:
    return Disk(str(found.path), found.format, "", volume_id[:20], **more)


def write(instance_id: str, inside: Any, volume: str, value: int, offset: int = 0) -> None:
    """Write as the guest does: by QEMU, into the node that it writes to."""
    for command in (f"write -P {value} {offset} 65536", "flush"):
        inside("virsh", "qemu-monitor-command", "--hmp", f"k-{instance_id}", f'qemu-io -d {volume} "{command}"')


def device(instance_id: str, inside: Any, path: Path) -> str:
    """Give QEMU's name of the device that has a file."""
    listed = etree.fromstring(inside("virsh", "dumpxml", f"k-{instance_id}").encode())
    for disk in listed.iterfind("devices/disk"):
        if disk.find("source").get("file") == str(path):
            return f"/machine/peripheral/{disk.find('alias').get('name')}/virtio-backend"
    raise LookupError(path)


def byte_at(found: Path, disk_format: str, offset: int, scratch: Path) -> int:
    """Read a byte through all layers, of a disk that is in use too."""
    out = scratch / "read.raw"
    command = ["qemu-img", "convert", "-U", "-f", disk_format, "-O", "raw", str(found), str(out)]
    subprocess.run(command, check=True, timeout=30)
    return out.read_bytes()[offset]


async def test_a_volume_grows_in_a_running_guest(
    hypervisor: Hypervisor, make_domain: MakeDomain, driver: VolumeDriver, guests: VolumeGuests, private_libvirt: Any
) -> None:
    """The disk has its new size at once, in QEMU and in its file, and asking again changes nothing."""
    spec, volume_id = make_domain(), str(uuid.uuid4())
    await hypervisor.define_and_start(domain_xml(spec))
    found = await driver.make(volume_id, SIZE)
    assert await guests.holder(volume_id) is None
    await hypervisor.attach(spec.instance_id, disk_of(volume_id, found), PLAIN)
    holder = await guests.holder(volume_id)
    assert holder is not None
    assert (holder.instance_id, holder.path, holder.saved) == (spec.instance_id, str(found.path), False)
    for _ in range(2):
        await guests.grow(holder, 2 * SIZE)
    grown = await driver.look(volume_id)
    assert grown is not None
    assert grown.size == 2 * SIZE
    seen = private_libvirt.inside("virsh", "domblkinfo", f"k-{spec.instance_id}", str(found.path))
    assert str(2 * SIZE) in seen
    await hypervisor.destroy(spec.instance_id)
    assert await guests.holder(volume_id) is None


@pytest.mark.parametrize("raw", [False, True])
async def test_snapshots_change_under_a_running_guest(
    hypervisor: Hypervisor,
    make_domain: MakeDomain,
    driver: VolumeDriver,
    guests: VolumeGuests,
    *,
    private_libvirt: Any,
    tmp_path: Path,
    raw: bool,
) -> None:
    """A snapshot holds what was there, a copy of it too; the guest goes on, in its definition too, and migrates not."""
    spec, volume_id = make_domain(), str(uuid.uuid4())
    await hypervisor.define_and_start(domain_xml(spec))
    if raw:
        (tmp_path / "volumes").mkdir(exist_ok=True)
        (tmp_path / "volumes" / f"{volume_id}.raw").write_bytes(bytes(SIZE))
    found = await driver.make(volume_id, SIZE)
    write_block(found.path, found.format, 0, 3)
    await hypervisor.attach(spec.instance_id, disk_of(volume_id, found), PLAIN)
    inside = private_libvirt.inside

    taker = Taker(tmp_path, Shelves(), guests)
    assert await taker.take(driver, volume_id, "s1") is Consistency.CRASH
    after = await driver.look(volume_id)
    holder = await guests.holder(volume_id)
    assert after is not None
    assert holder is not None
    assert holder.path == str(after.path) != str(found.path)
    write(spec.instance_id, inside, device(spec.instance_id, inside, after.path), 7)
    assert byte_at(after.path, "qcow2", 0, tmp_path) == 7
    assert byte_at(found.path, found.format, 0, tmp_path) == 3

    live, stored = (inside("virsh", "dumpxml", *more, f"k-{spec.instance_id}") for more in ((), ("--inactive",)))
    assert str(after.path) in stored
    assert devices_of(live).bound == frozenset({volume_id})
    assert devices_of(live).volumes == frozenset({volume_id})
    assert "snapshot" not in inside("virsh", "snapshot-list", "--name", f"k-{spec.instance_id}")

    copy_id = str(uuid.uuid4())
    copy = await driver.make(copy_id, SIZE, SnapshotOrigin(volume_id, "s1"))
    await hypervisor.attach(spec.instance_id, disk_of(copy_id, copy), PLAIN)
    assert byte_at(copy.path, "qcow2", 0, tmp_path) == 3
    await driver.remove_snapshot(volume_id, "s1")
    await hypervisor.destroy(spec.instance_id)
    assert byte_at(after.path, "qcow2", 0, tmp_path) == 7
    assert await driver.merge(copy_id) == 0  # what it lies on, the other does too
    await driver.remove(volume_id)
    assert await driver.merge(copy_id) == 1
    assert byte_at(copy.path, "qcow2", 0, tmp_path) == 3


async def test_a_refused_snapshot_leaves_the_volume_as_it_was(
    hypervisor: Hypervisor, make_domain: MakeDomain, driver: VolumeDriver, guests: VolumeGuests, tmp_path: Path
) -> None:
    """A layer that is not there is refused: the guest writes where it wrote, and no snapshot is begun."""
    spec, volume_id = make_domain(), str(uuid.uuid4())
    await hypervisor.define_and_start(domain_xml(spec))
    found = await driver.make(volume_id, SIZE)
    await hypervisor.attach(spec.instance_id, disk_of(volume_id, found), PLAIN)

    class Broken(VolumeGuests):
        async def move_on(self, holder: Any, layer: Path) -> bool:
            return await super().move_on(holder, layer.with_name("absent.qcow2"))

    broken = Broken(guests.hypervisor, guests.instances, guests.thaws)
    with pytest.raises(HypervisorError):
        await Taker(tmp_path, Shelves(), broken).take(driver, volume_id, "s1")
    now = await driver.look(volume_id)
    holder = await guests.holder(volume_id)
    assert now is not None
    assert holder is not None
    assert (now.path, now.pending, now.layers, holder.path) == (found.path, "", 1, str(found.path))


async def test_what_is_read_only_cannot_be_written(
    hypervisor: Hypervisor, make_domain: MakeDomain, driver: VolumeDriver, private_libvirt: Any
) -> None:
    """A read-only volume is so in the guest, and is known to stay on its host."""
    spec, volume_id = make_domain(), str(uuid.uuid4())
    await hypervisor.define_and_start(domain_xml(spec))
    found = await driver.make(volume_id, SIZE)
    await hypervisor.attach(spec.instance_id, disk_of(volume_id, found, readonly=True), PLAIN)
    live = private_libvirt.inside("virsh", "dumpxml", f"k-{spec.instance_id}")
    assert devices_of(live).bound == frozenset({volume_id})
    assert len(written_disks(live)) == len(spec.disks)


async def test_a_suspended_guest_still_has_its_volume(
    hypervisor: Hypervisor, make_domain: MakeDomain, driver: VolumeDriver, guests: VolumeGuests
) -> None:
    """Its memory is saved with the file that it writes to."""
    spec, volume_id = make_domain(), str(uuid.uuid4())
    await hypervisor.define_and_start(domain_xml(spec))
    found = await driver.make(volume_id, SIZE)
    await hypervisor.attach(spec.instance_id, disk_of(volume_id, found), PLAIN)
    await hypervisor.save(spec.instance_id)
    holder = await guests.holder(volume_id)
    assert holder is not None
    assert (holder.path, holder.saved) == (str(found.path), True)


def test_volumes_are_copied_into_one_layer() -> None:
    """At the target each volume that is copied lies in its first layer; a shared one stays, and the rest too."""
    own, old, shared = "a" * 8, "b" * 8, "c" * 8
    files = {
        "vda": ("raw", "/state/instances/i/root.qcow2"),
        "vdb": ("qcow2", f"/state/volumes/{own}/0123.qcow2"),
        "vdc": ("raw", f"/state/volumes/{old}.raw"),
        "vdd": ("qcow2", f"/srv/fast/volumes/{shared}/4567.qcow2"),
    }
    disks = "".join(
        f"<disk type='file' device='disk'><driver type='{kind}'/><source file='{file}'/><target dev='{name}'/></disk>"
        for name, (kind, file) in files.items()
    )
    xml = f"<domain><devices>{disks}</devices></domain>"
    there = etree.fromstring(on_first_layers(xml, frozenset({shared})).encode())
    found = {
        disk.find("target").get("dev"): (disk.find("driver").get("type"), disk.find("source").get("file"))
        for disk in there.iterfind("devices/disk")
    }
    assert found == files | {
        "vdb": ("qcow2", f"/state/volumes/{own}/first.qcow2"),
        "vdc": ("qcow2", f"/state/volumes/{old}/first.qcow2"),
    }
    assert written_disks(xml, frozenset({shared})) == ["vda", "vdb", "vdc"]


async def test_limits_reach_a_guest_that_runs(
    hypervisor: Hypervisor, make_domain: MakeDomain, driver: VolumeDriver, guests: VolumeGuests, private_libvirt: Any
) -> None:
    """QEMU is told of limits as a volume is plugged in, of others while it runs, and of none; the definition too."""
    spec, volume_id = make_domain(), str(uuid.uuid4())
    await hypervisor.define_and_start(domain_xml(spec))
    found = await driver.make(volume_id, SIZE)
    first = AssignedLimits(total_iops=50, total_iops_burst=90, burst_seconds=3, read_bytes=1 << 20, write_bytes=2 << 20)
    await hypervisor.attach(spec.instance_id, disk_of(volume_id, found, limits=first), PLAIN)

    def told(*more: str) -> dict[str, int]:
        xml = etree.fromstring(private_libvirt.inside("virsh", "dumpxml", *more, f"k-{spec.instance_id}").encode())
        (disk,) = (item for item in xml.iterfind("devices/disk") if item.find("source").get("file") == str(found.path))
        tune = disk.find("iotune")
        return {item.tag: int(item.text) for item in tune} if tune is not None else {}

    def throttled() -> str:
        command = ["virsh", "qemu-monitor-command", "--hmp", f"k-{spec.instance_id}", "info block"]
        (line,) = (line for line in private_libvirt.inside(*command).splitlines() if "I/O throttling" in line)
        return str(line)

    expected = {"total_iops_sec": 50, "total_iops_sec_max": 90, "total_iops_sec_max_length": 3}
    expected |= {"read_bytes_sec": 1 << 20, "write_bytes_sec": 2 << 20}
    assert told() == told("--inactive") == expected
    assert "iops=50 " in throttled()
    await guests.tune(spec.instance_id, volume_id, AssignedLimits(read_iops=20, total_bytes=5 << 20))
    assert told() == told("--inactive") == {"read_iops_sec": 20, "total_bytes_sec": 5 << 20}
    assert "iops_rd=20 " in throttled()
    await guests.tune(spec.instance_id, volume_id, first)
    assert told() == expected
    for _ in range(2):
        await guests.tune(spec.instance_id, volume_id, None)
    assert told() == told("--inactive") == {}
    await guests.tune(str(uuid.uuid4()), volume_id, first)  # a guest that is not here is none
