"""Volumes of real guests that end with their host, amid what is done to them as they run."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from kumulus_agent.compute.domain_spec import Disk, DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.images.thaws import Thaws
from kumulus_agent.volumes.drivers.local import local_driver
from kumulus_agent.volumes.drivers.testing import BLOCK, left_over, read_snapshots, read_volume
from kumulus_agent.volumes.guests import VolumeGuests
from kumulus_agent.volumes.shelves import Shelves
from kumulus_agent.volumes.snapshots import Taker

MakeDomain = Callable[..., DomainSpec]
SIZE = 2 * BLOCK

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")


def write(spec: DomainSpec, inside: Callable[..., str], path: Path, value: int) -> None:
    """Write the first block as a guest does, and flush it."""
    name = f"k-{spec.instance_id}"
    listed = etree.fromstring(inside("virsh", "dumpxml", name).encode())
    (alias,) = listed.xpath("devices/disk[source/@file = $file]/alias/@name", file=str(path))
    device = f"/machine/peripheral/{alias}/virtio-backend"
    for command in (f"write -P {value} 0 {BLOCK}", "flush"):
        inside("virsh", "qemu-monitor-command", "--hmp", name, f'qemu-io -d {device} "{command}"')


@pytest.mark.parametrize("moved", [False, True])
async def test_power_lost_amid_a_snapshot_of_a_running_guest(
    hypervisor: Hypervisor, make_domain: MakeDomain, *, private_libvirt: Any, tmp_path: Path, moved: bool
) -> None:
    """Whether the guest had moved on or not: what it had flushed is there, in snapshot and volume, and nothing else."""
    spec, volume_id, root = make_domain(), str(uuid.uuid4()), tmp_path / "volumes"
    await hypervisor.define_and_start(domain_xml(spec))
    driver = local_driver(root)
    found = await driver.make(volume_id, SIZE)
    await hypervisor.attach(spec.instance_id, Disk(str(found.path), found.format, "", volume_id[:20]), spec.hardware)
    write(spec, private_libvirt.inside, found.path, 3)
    guests = VolumeGuests(hypervisor, tmp_path / "instances", Thaws(hypervisor))
    layer = await driver.begin_snapshot(volume_id, "s")
    holder = await guests.holder(volume_id)
    assert layer is not None
    assert holder is not None
    if moved:
        await guests.move_on(holder, layer)
        write(spec, private_libvirt.inside, layer, 7)
    await hypervisor.destroy(spec.instance_id)  # kills QEMU, as a loss of power does

    after = local_driver(root)
    await Taker(tmp_path, Shelves(), guests).settle(after, volume_id)
    now = await after.look(volume_id)
    assert now is not None
    assert now.pending == ""
    assert read_volume(root, volume_id, tmp_path) == [7 if moved else 3, 0]
    assert read_snapshots(root, volume_id, tmp_path) == {"s": [3, 0]}
    assert left_over(root) == []


async def test_power_lost_after_a_volume_grew_in_a_running_guest(
    hypervisor: Hypervisor, make_domain: MakeDomain, private_libvirt: Any, tmp_path: Path
) -> None:
    """What the guest saw as its size it has afterwards, with its data; asked again, nothing changes."""
    spec, volume_id, root = make_domain(), str(uuid.uuid4()), tmp_path / "volumes"
    await hypervisor.define_and_start(domain_xml(spec))
    found = await local_driver(root).make(volume_id, SIZE)
    await hypervisor.attach(spec.instance_id, Disk(str(found.path), found.format, "", volume_id[:20]), spec.hardware)
    write(spec, private_libvirt.inside, found.path, 3)
    guests = VolumeGuests(hypervisor, tmp_path / "instances", Thaws(hypervisor))
    holder = await guests.holder(volume_id)
    assert holder is not None
    await guests.grow(holder, 2 * SIZE)
    await hypervisor.destroy(spec.instance_id)
    for _ in range(2):
        assert read_volume(root, volume_id, tmp_path) == [3, 0, 0, 0]
        await local_driver(root).grow(volume_id, 2 * SIZE)
