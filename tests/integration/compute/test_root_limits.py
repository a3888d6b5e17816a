"""A guest's root disk is as fast as its flavor says: while it writes, when that changes, and after a restart."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lxml import etree

from kumulus_agent.compute.domain_spec import Disk, DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.root_limits import tune_items
from kumulus_agent.servers.volume_disks import limit_root
from kumulus_api.hardware import DiskBus, Hardware
from kumulus_api.volume_limits import AssignedLimits
from kumulus_lab.testing.writing_guest import CHUNK, writing_guest, wrong_chunks

MakeDomain = Callable[..., DomainSpec]
Eventually = Callable[[Callable[[], Awaitable[object]], float], Awaitable[None]]
SIZE = 16 << 20
RATE = 128 << 10
SLOW = AssignedLimits(write_bytes=RATE)


def writing_domain(make_domain: MakeDomain, tmp_path: Path, hardware: Hardware) -> DomainSpec:
    """Give a guest that writes all of its root disk, as fast as it may."""
    image, root = tmp_path / "image.raw", tmp_path / "root.qcow2"
    image.write_bytes(writing_guest(SIZE).ljust(1 << 20, b"\0"))
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image), str(root), str(SIZE)]
    subprocess.run(create, check=True)
    disk = Disk(str(root), "qcow2", "vda", "root-x", limits=hardware.root_disk_limits)
    return replace(make_domain(), disks=(disk,), hardware=hardware)


@pytest.mark.parametrize("bus", [None, DiskBus.SATA])
async def test_a_guest_writes_as_fast_as_its_flavor_says(
    hypervisor: Hypervisor,
    make_domain: MakeDomain,
    private_libvirt: Any,
    *,
    eventually: Eventually,
    tmp_path: Path,
    bus: DiskBus | None,
) -> None:
    """QEMU lets no more through; other limits hold at once, and after a restart of libvirtd and of the guest."""
    spec = writing_domain(make_domain, tmp_path, Hardware(disk_bus=bus, root_disk_limits=SLOW))
    name = "vda" if bus is None else "sda"

    def told(*more: str) -> frozenset[tuple[str, int]]:
        xml = etree.fromstring(private_libvirt.inside("virsh", "dumpxml", *more, f"k-{spec.instance_id}").encode())
        return frozenset((item.tag, int(item.text)) for item in xml.iterfind("devices/disk/iotune/*"))

    async def written() -> int:
        def look(conn: Any) -> int:
            return int(conn.lookupByUUIDString(spec.instance_id).blockStats(name)[3])

        return int(await hypervisor.call("look", look))

    async def limited(limits: AssignedLimits | None) -> None:
        desired: Any = SimpleNamespace(instance_id=spec.instance_id, hardware=Hardware(root_disk_limits=limits))
        await limit_root(hypervisor, desired)
        state = await hypervisor.get_instance(spec.instance_id)
        assert state is not None
        assert state.devices is not None
        assert state.devices.root_limits == told() == told("--inactive") == tune_items(limits)

    async def rate_held(rate: int) -> None:
        """The bound of QEMU: what its bucket lets through at once is a tenth of a second's, and a chunk or two."""

        async def begun() -> bool:
            return await written() > 0

        await eventually(begun, 60)
        before, since = await written(), time.monotonic()
        while time.monotonic() - since < 4:  # noqa: ASYNC110 - what is written is told by no event
            await asyncio.sleep(0.1)
        more = await written() - before
        most = rate * (time.monotonic() - since + 0.1) + 2 * CHUNK
        assert 0 < more <= most

    await hypervisor.define_and_start(domain_xml(spec))
    assert told() == told("--inactive") == tune_items(SLOW)
    await rate_held(RATE)
    faster = AssignedLimits(write_bytes=2 * RATE, read_iops=90)
    await limited(faster)
    await rate_held(2 * RATE)

    private_libvirt.kill_libvirtd()
    await asyncio.to_thread(private_libvirt.wait_ready)

    async def back() -> bool:
        return hypervisor.connected and await hypervisor.get_instance(spec.instance_id) is not None

    await eventually(back, 30)
    assert told() == told("--inactive") == tune_items(faster)
    await hypervisor.switch_off(spec.instance_id)
    await hypervisor.start(spec.instance_id)
    assert told() == told("--inactive") == tune_items(faster)
    await rate_held(2 * RATE)

    await limited(None)

    async def done() -> bool:
        said = await asyncio.to_thread(Path(spec.console_log or "").read_bytes)
        return said.endswith(b"W")

    await eventually(done, 60)
    await hypervisor.switch_off(spec.instance_id)
    raw = tmp_path / "read.raw"
    convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", spec.disks[0].path, str(raw)]
    await asyncio.to_thread(subprocess.run, convert, check=True)
    assert wrong_chunks(raw) == []
