"""Copies of disks of real guests on a real libvirtd: of one moment, whole, and without leave of the guest."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.compute.disk_backup import Copied, begin_backup, end_backup, is_backing_up, look_at_backup
from kumulus_agent.compute.domain_spec import Disk, DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.errors import Retryable
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.host.boot_sector import GREETING
from kumulus_agent.storage.disk_copy import copy_disk, empty_copy, missing_room
from kumulus_agent.storage.inspection import inspect_image

MakeDomain = Callable[..., DomainSpec]
SIZE = 256 << 20


@pytest.fixture
def overlay(make_domain: MakeDomain) -> DomainSpec:
    """A guest on an overlay of a disk that holds data beyond its boot sector."""
    spec = make_domain()
    base = Path(spec.disks[0].path)
    with base.open("r+b") as file:
        for offset in range(1 << 20, SIZE, 16 << 20):
            file.seek(offset)
            file.write(offset.to_bytes(8, "big") * (1 << 17))
        file.truncate(SIZE)
    path = base.with_suffix(".qcow2")
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base), str(path), str(SIZE)]
    subprocess.run(command, check=True, timeout=20)
    return replace(spec, disks=(Disk(str(path), "qcow2", "vda", "root"),))


async def on(hypervisor: Hypervisor, spec: DomainSpec, verb: Callable[[Any], Any]) -> Any:
    return await hypervisor.call("test", lambda conn: verb(conn.lookupByUUIDString(spec.instance_id)))


async def copied(hypervisor: Hypervisor, spec: DomainSpec, part: Path) -> Copied:
    await empty_copy(Path(spec.disks[0].path), part)
    owed = part.with_suffix(".owed")
    assert not await on(hypervisor, spec, lambda domain: begin_backup(domain, spec.disks[0].path, str(part), owed))
    assert not owed.exists()
    async with asyncio.timeout(60):
        while (found := await on(hypervisor, spec, look_at_backup)).going_on:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)
    return found


def same(one: str | Path, other: str | Path) -> bool:
    command = ["qemu-img", "compare", "-q", "-U", str(one), str(other)]
    return subprocess.run(command, check=False, timeout=60).returncode == 0


def described(part: Path) -> str:
    command = ["qemu-img", "info", "-U", str(part)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout


async def boots(hypervisor: Hypervisor, like: DomainSpec, make_domain: MakeDomain, disk: Path, eventually: Any) -> None:
    """Start another guest from a copy and hear from it."""
    spec = replace(make_domain(), disks=(replace(like.disks[0], path=str(disk)),))
    await hypervisor.define_and_start(domain_xml(spec))
    log = Path(str(spec.console_log))

    async def greeted() -> bool:
        return GREETING in await asyncio.to_thread(log.read_bytes)

    await eventually(greeted)


@pytest.mark.parametrize("paused", [False, True])
async def test_a_running_guests_disk_is_copied(
    hypervisor: Hypervisor, overlay: DomainSpec, make_domain: MakeDomain, eventually: Any, *, paused: bool
) -> None:
    """The copy stands alone, is equal to the disk and boots; the guest runs, or is paused, as before."""
    await hypervisor.define_and_start(domain_xml(overlay))
    if paused:
        await hypervisor.pause(overlay.instance_id)
    before = await hypervisor.get_instance(overlay.instance_id)
    part = Path(overlay.disks[0].path).with_name("copy.part")
    assert await missing_room(Path(overlay.disks[0].path)) == 0
    assert await copied(hypervisor, overlay, part) == Copied()
    assert await hypervisor.get_instance(overlay.instance_id) == before
    assert same(overlay.disks[0].path, part)
    assert "backing file" not in described(part)
    assert inspect_image(part, "qcow2", SIZE).virtual_size == SIZE
    await boots(hypervisor, overlay, make_domain, part, eventually)


async def test_a_copy_that_is_given_up_leaves_the_guest(
    hypervisor: Hypervisor, overlay: DomainSpec, tmp_path: Path, private_libvirt: Any
) -> None:
    """An ended copy is told as failed and can be begun anew at once, also after libvirtd was killed."""
    await hypervisor.define_and_start(domain_xml(overlay))
    part = tmp_path / "copy.part"
    await empty_copy(Path(overlay.disks[0].path), part)
    source, owed = overlay.disks[0].path, tmp_path / "owed"
    await on(hypervisor, overlay, lambda domain: begin_backup(domain, source, str(part), owed))
    await on(hypervisor, overlay, end_backup)
    async with asyncio.timeout(30):
        while await on(hypervisor, overlay, is_backing_up):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)
    part.unlink()
    assert await copied(hypervisor, overlay, part) == Copied()
    assert same(overlay.disks[0].path, part)
    await on(hypervisor, overlay, end_backup)  # none is success


async def test_a_guest_that_ends_ends_its_copy(hypervisor: Hypervisor, overlay: DomainSpec, tmp_path: Path) -> None:
    """A copy of a guest that went off meanwhile is never taken for a whole one."""
    await hypervisor.define_and_start(domain_xml(overlay))
    part = tmp_path / "copy.part"
    await empty_copy(Path(overlay.disks[0].path), part)
    source, owed = overlay.disks[0].path, tmp_path / "owed"
    await on(hypervisor, overlay, lambda domain: begin_backup(domain, source, str(part), owed))
    await hypervisor.destroy(overlay.instance_id)
    try:
        found = await on(hypervisor, overlay, look_at_backup)
    except Retryable:
        pass
    else:
        assert found.failure
    await on(hypervisor, overlay, end_backup)


async def test_the_disk_of_a_guest_that_is_off_is_converted(overlay: DomainSpec, tmp_path: Path) -> None:
    """What lies below the disk comes along."""
    part = tmp_path / "copy.part"
    await copy_disk(Path(overlay.disks[0].path), part)
    assert same(overlay.disks[0].path, part)
