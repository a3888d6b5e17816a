"""A guest that runs goes from one libvirtd to another with its volumes, of whatever form they were."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

from kumulus_agent.compute.domain_spec import Disk, DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.root_limits import root_limits, tune_items
from kumulus_agent.migration.channels import Sockets
from kumulus_agent.migration.domains import Wish, carry_over
from kumulus_agent.volumes.drivers.local import local_driver
from kumulus_agent.volumes.drivers.testing import BLOCK, read_volume, write_block
from kumulus_api.volume_limits import AssignedLimits

MakeDomain = Callable[..., DomainSpec]

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")


async def test_volumes_arrive_in_one_layer_each(
    hypervisor: Hypervisor, make_domain: MakeDomain, second_libvirt: Any, sockets: Sockets, tmp_path: Path
) -> None:
    """A merged volume and a raw one of before are copied into one qcow2 layer each; a shared one stays where it is.

    The limits of the root disk come along.
    """
    here, there, share = tmp_path / "state", tmp_path / "there", tmp_path / "share"
    for folder in (here / "volumes", there / "volumes", share):
        folder.mkdir(parents=True)
    second_libvirt.inside("mount", "--bind", str(there), str(here))
    merged, raw, shared = (str(uuid.uuid4()) for _ in range(3))
    source, target, common = (local_driver(folder / "volumes") for folder in (here, there, share))

    await source.make(merged, 4 * BLOCK)
    await source.snapshot(merged, "s")
    await source.remove_snapshot(merged, "s")
    assert await source.merge(merged) == 1
    (here / "volumes" / f"{raw}.raw").write_bytes(bytes(4 * BLOCK))
    await common.make(shared, 4 * BLOCK)
    disks = []
    for number, (driver, volume_id) in enumerate(((source, merged), (source, raw), (common, shared))):
        found = await driver.look(volume_id)
        assert found is not None
        write_block(found.path, found.format, number, 5 + number)
        disks.append(Disk(str(found.path), found.format, f"vd{'bcd'[number]}", volume_id[:20]))
        if driver is source:
            await target.make(volume_id, 4 * BLOCK)

    spec = make_domain()
    root = here / "root.raw"
    shutil.copy(spec.disks[0].path, root)
    (there / "root.raw").write_bytes(bytes(1 << 20))
    slow = AssignedLimits(read_iops=70, total_bytes=1 << 30)
    spec = replace(spec, disks=(replace(spec.disks[0], path=str(root), serial="root-x", limits=slow), *disks))
    await hypervisor.define_and_start(domain_xml(spec))
    wish = Wish(2, volumes=frozenset({merged, raw, shared}), shared=frozenset({shared}))
    await asyncio.to_thread(carry_over, sockets, spec.instance_id, wish)

    assert await hypervisor.get_instance(spec.instance_id) is None
    with libvirt.open(second_libvirt.uri) as conn:
        domain = conn.lookupByUUIDString(spec.instance_id)
        for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
            xml = etree.fromstring(domain.XMLDesc(flags).encode())
            sources = [item.get("file") for item in xml.iterfind("devices/disk/source")]
            kinds = [item.get("type") for item in xml.iterfind("devices/disk/driver")][1:4]
            expected = [str(here / "volumes" / volume_id / "first.qcow2") for volume_id in (merged, raw)]
            assert sources[1:3] == expected
            assert sources[3] == disks[2].path
            assert kinds == ["qcow2"] * 3
            assert root_limits(domain.XMLDesc(flags)) == tune_items(slow)
        domain.destroy()
        domain.undefine()
    scratch = tmp_path
    assert read_volume(there / "volumes", merged, scratch) == [5, 0, 0, 0]
    assert read_volume(there / "volumes", raw, scratch) == [0, 6, 0, 0]
    assert read_volume(share / "volumes", shared, scratch) == [0, 0, 7, 0]
    assert (there / "root.raw").read_bytes() == root.read_bytes()
