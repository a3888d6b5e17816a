"""Real guests on a real file system that is full: they stand still, say so, and go on where they stood."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.compute.domain_spec import Disk, DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.state import InstanceState, PowerState
from kumulus_agent.storage.room import can_go_on, room_at
from kumulus_lab.testing.small_disk import SmallDisk, small_disk
from kumulus_lab.testing.writing_guest import writing_guest, wrong_chunks

MakeDomain = Callable[..., DomainSpec]
Eventually = Callable[[Callable[[], Awaitable[object]], float], Awaitable[None]]
SECONDS = 60.0
SIZE = 32 << 20


@pytest.fixture
def disk(tmp_path: Path, private_libvirt: Any) -> Iterator[SmallDisk]:
    """A file system of 64 MiB, which the host's libvirtd sees too."""
    with small_disk(tmp_path / "small", 64 << 20) as made:
        private_libvirt.inside("mount", made.device, str(made.path))
        yield made
        private_libvirt.inside("umount", "--lazy", str(made.path))


def writing_domain(make_domain: MakeDomain, disk: SmallDisk) -> DomainSpec:
    """Give a guest whose disk is a thin qcow2 file on the small disk."""
    image, root = disk.path / "image.raw", disk.path / "root.qcow2"
    image.write_bytes(writing_guest(SIZE).ljust(1 << 20, b"\0"))
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image), str(root), str(SIZE)]
    subprocess.run(create, check=True)
    return replace(make_domain(), disks=(Disk(str(root), "qcow2", "vda", "root"),))


async def look(hypervisor: Hypervisor, spec: DomainSpec) -> InstanceState:
    """Give the instance as libvirt tells it."""
    state = await hypervisor.get_instance(spec.instance_id)
    assert state is not None
    return state


async def test_a_full_disk_pauses_a_guest_that_goes_on_where_it_stood(
    hypervisor: Hypervisor,
    make_domain: MakeDomain,
    disk: SmallDisk,
    *,
    private_libvirt: Any,
    eventually: Eventually,
    tmp_path: Path,
) -> None:
    """No write is lost or told to the guest as an error; libvirtd's restart forgets nothing of why it stands still."""
    spec = writing_domain(make_domain, disk)
    disk.fill(leave=16 << 20)
    await hypervisor.define_and_start(domain_xml(spec))

    async def stands() -> bool:
        return (await look(hypervisor, spec)).state is PowerState.PAUSED

    await eventually(stands, SECONDS)
    root = spec.disks[0].path
    state = await look(hypervisor, spec)
    assert (state.reason, state.full) == ("DiskError", (root,))
    assert not can_go_on(state.full)

    private_libvirt.kill_libvirtd()
    await asyncio.to_thread(private_libvirt.wait_ready)

    async def known() -> bool:
        return hypervisor.connected and (await look(hypervisor, spec)).full == (root,)

    await eventually(known, SECONDS)
    disk.empty()
    assert can_go_on((root,))
    await hypervisor.resume(spec.instance_id)

    async def done() -> bool:
        said = await asyncio.to_thread(Path(spec.console_log or "").read_bytes)
        return said.endswith(b"W")

    await eventually(done, SECONDS)
    assert (await look(hypervisor, spec)).full == ()
    await hypervisor.switch_off(spec.instance_id)
    raw = tmp_path / "read.raw"
    convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", root, str(raw)]
    await asyncio.to_thread(subprocess.run, convert, check=True)
    assert wrong_chunks(raw) == []


async def test_a_guest_that_somebody_paused_waits_for_nobody(
    hypervisor: Hypervisor, make_domain: MakeDomain, disk: SmallDisk
) -> None:
    """A guest that was paused by a user is no guest of a full disk, however full the disk is."""
    spec = make_domain()
    await hypervisor.define_and_start(domain_xml(spec))
    await hypervisor.pause(spec.instance_id)
    disk.fill(leave=1 << 20)
    assert room_at(disk.path).left < 0
    state = await look(hypervisor, spec)
    assert (state.state, state.reason, state.full) == (PowerState.PAUSED, "User", ())
