"""What guests give back leaves the host's disk: on real QEMU, through volumes' layers, before and after snapshots."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from kumulus_agent.compute.domain_spec import Disk, DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.images.thaws import Thaws
from kumulus_agent.volumes.drivers.local import local_driver
from kumulus_agent.volumes.drivers.protocol import SnapshotOrigin, VolumeDriver
from kumulus_agent.volumes.guests import VolumeGuests
from kumulus_agent.volumes.shelves import Shelves
from kumulus_agent.volumes.snapshots import Taker
from kumulus_api.hardware import DiskBus, Hardware

MakeDomain = Callable[..., DomainSpec]
SIZE = 32 << 20
DATA = 16 << 20
LITTLE = 1 << 20
"""Bytes that tables of a qcow2 file may take."""

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")


def allocated(path: Path) -> int:
    """Give the bytes that a file takes on the disk."""
    return path.stat().st_blocks * 512


class Guest:
    """Writes and gives back as a guest's device does: by QEMU, into what the device writes to."""

    def __init__(self, spec: DomainSpec, inside: Callable[..., str]) -> None:
        self.name = f"k-{spec.instance_id}"
        self.inside = inside

    def do(self, path: Path, *commands: str) -> None:
        """Carry out commands of qemu-io on the disk with a file."""
        listed = etree.fromstring(self.inside("virsh", "dumpxml", self.name).encode())
        bus, alias = listed.xpath(
            "devices/disk[source/@file = $file]/alias/@name | devices/disk[source/@file = $file]/target/@bus",
            file=str(path),
        )
        device = f"/machine/peripheral/{alias}" + ("/virtio-backend" if bus == "virtio" else "")
        for command in (*commands, "flush"):
            said = self.inside("virsh", "qemu-monitor-command", "--hmp", self.name, f'qemu-io -d {device} "{command}"')
            assert "failed" not in said
            assert "rror" not in said


@pytest.fixture
def driver(tmp_path: Path) -> VolumeDriver:
    return local_driver(tmp_path / "volumes")


@pytest.mark.parametrize("bus", [DiskBus.VIRTIO, DiskBus.SCSI])
@pytest.mark.parametrize("file_format", ["qcow2", "raw"])
async def test_what_a_guest_gives_back_is_free_on_the_host(
    hypervisor: Hypervisor,
    make_domain: MakeDomain,
    driver: VolumeDriver,
    *,
    private_libvirt: Any,
    tmp_path: Path,
    bus: DiskBus,
    file_format: str,
) -> None:
    """Of a volume's bytes those are free that the guest discards; zeros that it writes take none from the beginning."""
    hardware = Hardware(disk_bus=bus)
    spec, volume_id = make_domain(), str(uuid.uuid4())
    spec = replace(spec, hardware=hardware)
    await hypervisor.define_and_start(domain_xml(spec))
    if file_format == "raw":
        (tmp_path / "volumes").mkdir()
        with (tmp_path / "volumes" / f"{volume_id}.raw").open("wb") as file:
            file.truncate(SIZE)
    found = await driver.make(volume_id, SIZE)
    await hypervisor.attach(spec.instance_id, Disk(str(found.path), found.format, "", volume_id[:20]), hardware)
    guest = Guest(spec, private_libvirt.inside)
    guest.do(found.path, f"write -P 0 0 {DATA}")
    assert allocated(found.path) < LITTLE
    guest.do(found.path, f"write -P 5 0 {DATA}")
    assert allocated(found.path) >= DATA
    guest.do(found.path, f"discard 0 {DATA}", f"read -P 0 0 {DATA}")
    assert allocated(found.path) < LITTLE


async def test_layers_give_back_what_is_theirs(
    hypervisor: Hypervisor, make_domain: MakeDomain, driver: VolumeDriver, private_libvirt: Any, tmp_path: Path
) -> None:
    """After a snapshot of a running guest, and in a copy, a discard frees the upper layer and leaves the lower one."""
    spec, volume_id, copy_id = make_domain(), str(uuid.uuid4()), str(uuid.uuid4())
    await hypervisor.define_and_start(domain_xml(spec))
    first = await driver.make(volume_id, SIZE)
    await hypervisor.attach(spec.instance_id, Disk(str(first.path), "qcow2", "", volume_id[:20]), spec.hardware)
    guest = Guest(spec, private_libvirt.inside)
    guest.do(first.path, f"write -P 5 0 {DATA}")

    guests = VolumeGuests(hypervisor, tmp_path / "instances", Thaws(hypervisor))
    await Taker(tmp_path, Shelves(), guests).take(driver, volume_id, "s")
    upper = await driver.look(volume_id)
    assert upper is not None
    copy = await driver.make(copy_id, SIZE, SnapshotOrigin(volume_id, "s"))
    await hypervisor.attach(spec.instance_id, Disk(str(copy.path), "qcow2", "", copy_id[:20]), spec.hardware)
    for path in (upper.path, copy.path):
        guest.do(path, f"write -P 7 0 {DATA}")
        assert allocated(path) >= DATA
        guest.do(path, f"discard 0 {DATA}", f"read -P 0 0 {DATA}")
        assert allocated(path) < LITTLE
    assert allocated(first.path) >= DATA
    live = etree.fromstring(private_libvirt.inside("virsh", "dumpxml", f"k-{spec.instance_id}").encode())
    assert {driver.get("discard") for driver in live.iterfind("devices/disk/driver")} == {"unmap"}
