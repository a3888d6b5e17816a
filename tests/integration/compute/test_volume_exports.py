"""A volume of one host serves another: by real NBD servers with TLS, and real guests."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from exporting import Exporting, exporting_at

from kumulus_agent.backups.pulls import Pulls
from kumulus_agent.backups.sources import Sources
from kumulus_agent.compute.devices import attach, detach, devices_of
from kumulus_agent.compute.domain_spec import Disk, DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.plugged import Devices
from kumulus_agent.compute.volume_disks import VolumeHolder, go_on, holder_of, resize_disk, tune_disk
from kumulus_agent.migration.channels import Sockets
from kumulus_agent.migration.domains import Wish, carry_over
from kumulus_agent.volumes.drivers.protocol import SnapshotOrigin
from kumulus_agent.volumes.drivers.testing import BLOCK, read_volume
from kumulus_agent.volumes.exports.arguments import export_unit, import_unit
from kumulus_agent.volumes.exports.distant import HostAway
from kumulus_agent.volumes.exports.serving import ExportFailed
from kumulus_agent.volumes.shelves import Shelves
from kumulus_agent.volumes.snapshots import Taker
from kumulus_api.hardware import Hardware
from kumulus_api.volume_backup import BackupAssignment
from kumulus_api.volume_limits import AssignedLimits
from kumulus_api.volume_snapshot import Consistency

EACH_DRIVER = pytest.mark.parametrize("exporting", ["local", "shared"], indirect=True)
"""The contract of a driver: what it has found can be exported, whatever it is kept in."""
MakeDomain = Callable[..., DomainSpec]

pytestmark = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="needs qemu-nbd")


@dataclass
class Guests:
    """Knows which guest has a volume, as libvirt does."""

    uri: str = ""

    async def holder(self, volume_id: str) -> VolumeHolder | None:
        """See `VolumeGuests`."""
        if not self.uri:
            return None
        return await asyncio.to_thread(self._with, lambda conn: holder_of(conn, volume_id))

    async def grow(self, holder: VolumeHolder, size: int) -> None:
        """See `VolumeGuests`."""
        await asyncio.to_thread(
            self._with, lambda conn: resize_disk(conn.lookupByUUIDString(holder.instance_id), holder.path, size)
        )

    async def go_on(self, holder: VolumeHolder) -> bool:
        """See `VolumeGuests`."""
        return await asyncio.to_thread(
            self._with, lambda conn: go_on(conn.lookupByUUIDString(holder.instance_id), holder.path)
        )

    async def tune(self, instance_id: str, volume_id: str, limits: AssignedLimits | None) -> None:
        """See `VolumeGuests`."""
        await asyncio.to_thread(
            self._with, lambda conn: tune_disk(conn.lookupByUUIDString(instance_id), volume_id, limits)
        )

    def _with(self, verb: Callable[[Any], Any]) -> Any:
        with libvirt.open(self.uri) as conn:
            return verb(conn)


@pytest.fixture(params=["local"])
async def exporting(request: pytest.FixtureRequest) -> AsyncIterator[Exporting]:
    """A host with a volume of four blocks."""
    # A short path: sockets must fit in 108 bytes.
    root = Path(tempfile.mkdtemp(prefix="kumulus-ex-"))
    found = exporting_at(root, str(uuid.uuid4()), request.param)
    await found.driver.make(found.api.volume_id, 4 * BLOCK)
    yield found
    await found.close()
    shutil.rmtree(root)


def qemu_io(socket: Path, export: str, *commands: str) -> str:
    """Read and write as a guest's QEMU does."""
    asked = [part for command in commands for part in ("-c", command)]
    options = f"driver=nbd,server.type=unix,server.path={socket},export={export}"
    return ran("qemu-io", "--image-opts", *asked, options)


def ran(*command: str) -> str:
    """Run a program to its end; give what it has said."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


@EACH_DRIVER
async def test_a_named_host_writes_and_no_other_gets_in(exporting: Exporting) -> None:
    """Exactly the hosts that are named read and write; former ones are shut out, and nobody writes here."""
    volume_id = exporting.api.volume_id
    second, third = exporting.host("h2", Guests()), exporting.host("h3", Guests())
    await exporting.export_to("h2")
    socket = await second.ensure(exporting.distant)
    said = await asyncio.to_thread(qemu_io, socket, volume_id, f"write -P 7 {BLOCK} {BLOCK}", "flush")
    assert "wrote" in said

    with pytest.raises(HostAway, match="is not given to host h3"):
        await third.ensure(exporting.distant)
    # As if it lied about being named.
    exporting.api.exported_to = exporting.api.status["export"]["hosts"] = ["h2", "h3"]
    with pytest.raises(ExportFailed, match="cannot be had"):
        await third.ensure(exporting.distant)

    found = await exporting.driver.look(volume_id)
    assert found is not None
    said = await asyncio.to_thread(ran, "qemu-io", "-f", found.format, "-c", f"write 0 {BLOCK}", str(found.path))
    assert "lock" in said

    await exporting.export_to("h3")
    socket = await third.ensure(exporting.distant)
    assert "read" in await asyncio.to_thread(qemu_io, socket, volume_id, f"read -P 7 {BLOCK} {BLOCK}")
    await exporting.exports.absent(volume_id)
    assert read_volume(found.path.parents[1], volume_id, exporting.root) == [0, 7, 0, 0]
    assert not list((exporting.root / "h1" / "exports").iterdir())


async def test_without_a_certificate_nobody_gets_in(exporting: Exporting) -> None:
    """Whoever speaks no TLS, or has a certificate of another authority, learns nothing."""
    await exporting.export_to("h2")
    port = exporting.api.status["export"]["port"]
    plain = f"nbd://127.0.0.1:{port}/{exporting.api.volume_id}"
    assert "TLS" in await asyncio.to_thread(ran, "qemu-img", "info", plain)
    stranger = exporting_at(exporting.root / "other", exporting.api.volume_id)
    other = stranger.host("h2", Guests())
    stranger.api.exported_to, stranger.api.status = exporting.api.exported_to, exporting.api.status
    with pytest.raises(ExportFailed):
        await other.ensure(exporting.distant)
    await stranger.close()


async def test_processes_outlive_the_agent_and_end_when_unneeded(exporting: Exporting) -> None:
    """A new agent finds both processes as they are, and the other host's ends when no guest has the volume any more."""
    volume_id = exporting.api.volume_id
    second = exporting.host("h2", Guests())
    await exporting.export_to("h2")
    socket = await second.ensure(exporting.distant)
    assert socket.stat().st_mode & 0o77 == 0
    assert (socket.parent.stat().st_uid, socket.parent.stat().st_mode & 0o22) == (0, 0)
    before = [{unit: found.process for unit, found in services.observe().items()} for services in exporting.opened]
    again = exporting.host("h2", Guests())
    await exporting.export_to("h2")
    await again.ensure(exporting.distant)
    assert [{u: f.process for u, f in services.observe().items()} for services in exporting.opened[:2]] == before

    await again.reconcile(volume_id)
    assert again.known() == [volume_id]  # named still: a guest may be on its way
    exporting.api.exported_to = []
    await again.reconcile(volume_id)
    assert again.known() == []
    assert not exporting.opened[-1].observe()


def monitor(uri: str, instance_id: str, command: str) -> str:
    """Have a guest's disk read or written by its own QEMU."""
    with libvirt.open(uri) as conn:
        domain = conn.lookupByUUIDString(instance_id)
        return str(libvirt_qemu.qemuMonitorCommand(domain, command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP))


def write(uri: str, instance_id: str, block: int, value: int) -> None:
    """Have a block of a guest's second disk written by its QEMU; returns when it has an answer, whatever it is."""
    command = f"write -P {value} {block * BLOCK} {BLOCK}"
    said = monitor(uri, instance_id, f'qemu-io -d /machine/peripheral/virtio-disk1/virtio-backend "{command}"')
    assert not said, said


async def stored(exporting: Exporting) -> list[int]:
    """Give what is in the volume's file now, whoever has it: no byte of it is in a cache that can be lost."""
    found = await exporting.driver.look(exporting.api.volume_id)
    assert found is not None
    copy = exporting.root / "copy.raw"
    asked = ["qemu-img", "convert", "-U", "-f", found.format, "-O", "raw", str(found.path), str(copy)]
    await asyncio.to_thread(subprocess.run, asked, check=True, timeout=30)
    data = copy.read_bytes()
    return [data[start] for start in range(0, len(data), BLOCK)]


@pytest.fixture
def on_second(exporting: Exporting, make_domain: MakeDomain) -> Callable[[Path], DomainSpec]:
    """Make the specification of a guest with the volume."""

    def make(socket: Path) -> DomainSpec:
        volume_id = exporting.api.volume_id
        spec = make_domain()
        disk = Disk(str(socket), "raw", "vdb", volume_id[:20], export=volume_id)
        return replace(spec, disks=(*spec.disks, disk))

    return make


async def test_a_guest_goes_on_when_its_volumes_host_is_back(
    hypervisor: Hypervisor, private_libvirt: Any, exporting: Exporting, on_second: Callable[[Path], DomainSpec]
) -> None:
    """Writes wait while the other host, or the process here, is away, then go on; growth is seen; all is as written."""
    volume_id, uri = exporting.api.volume_id, private_libvirt.uri
    second = exporting.host("h2", Guests(uri))
    await exporting.export_to("h2")
    spec = on_second(await second.ensure(exporting.distant))
    await hypervisor.define_and_start(domain_xml(spec))
    await asyncio.to_thread(write, uri, spec.instance_id, 0, 5)

    # As a loss of power: what was acknowledged is there, though nobody has flushed.
    kill(exporting.opened[0], export_unit(volume_id))
    assert await stored(exporting) == [5, 0, 0, 0]
    waiting = asyncio.create_task(asyncio.to_thread(write, uri, spec.instance_id, 1, 6))
    assert not (await asyncio.wait([waiting], timeout=1.0))[0]
    await exporting.export_to("h2")
    await waiting
    assert await stored(exporting) == [5, 6, 0, 0]

    kill(exporting.opened[1], import_unit(volume_id))
    await second.reconcile(volume_id)
    await write_again(exporting, uri, spec.instance_id, 2, 7)

    # The process here begins anew also when nobody can be asked.
    exporting.api.away = True
    kill(exporting.opened[1], import_unit(volume_id))
    await second.reconcile(volume_id)
    exporting.api.away = False
    await write_again(exporting, uri, spec.instance_id, 2, 4)

    await exporting.grow(6 * BLOCK)
    with suppress(libvirt.libvirtError):  # the guest has not come again yet
        await second.reconcile(volume_id)
    await write_again(exporting, uri, spec.instance_id, 3, 9)
    await second.reconcile(volume_id)
    with libvirt.open(uri) as conn:
        assert conn.lookupByUUIDString(spec.instance_id).blockInfo("vdb")[0] == 6 * BLOCK
    await write_again(exporting, uri, spec.instance_id, 5, 8)
    assert await stored(exporting) == [5, 6, 4, 9, 0, 8]


async def write_again(exporting: Exporting, uri: str, instance_id: str, block: int, value: int) -> None:
    """Write as a guest does that repeats what failed: the first request after its process began anew may."""
    async with asyncio.timeout(20):
        while True:
            await asyncio.to_thread(write, uri, instance_id, block, value)
            if (await stored(exporting))[block] == value:
                return


@EACH_DRIVER
async def test_a_snapshot_of_an_exported_volume_is_of_one_moment(exporting: Exporting) -> None:
    """What was acknowledged before is in it, and what the other host writes later is not; that host only waits."""
    volume_id = exporting.api.volume_id
    second = exporting.host("h2", Guests())
    await exporting.export_to("h2")
    socket = await second.ensure(exporting.distant)
    await asyncio.to_thread(qemu_io, socket, volume_id, f"write -P 1 0 {BLOCK}")
    again: list[str] = []
    exporting.exports.ended = again.append
    taker = Taker(exporting.root, Shelves(), Guests(), exporting.exports)  # type: ignore[arg-type]
    assert await taker.take(exporting.driver, volume_id, "s1") is Consistency.CRASH
    assert again == [volume_id]
    waiting = asyncio.create_task(asyncio.to_thread(qemu_io, socket, volume_id, f"write -P 2 0 {BLOCK}"))
    assert not (await asyncio.wait([waiting], timeout=1.0))[0]
    await exporting.export_to("h2")
    assert "wrote" in await waiting
    await exporting.driver.make("copy", 4 * BLOCK, SnapshotOrigin(volume_id, "s1"))
    await exporting.exports.absent(volume_id)
    assert read_volume(exporting.root / "h1" / "volumes", volume_id, exporting.root) == [2, 0, 0, 0]
    assert read_volume(exporting.root / "h1" / "volumes", "copy", exporting.root) == [1, 0, 0, 0]


async def test_a_backup_of_an_exported_volume_is_of_one_moment(exporting: Exporting) -> None:
    """What is read for it is what was acknowledged before; what the other host writes later is in the volume only."""
    volume_id, backup_id = exporting.api.volume_id, str(uuid.uuid4())
    second = exporting.host("h2", Guests())
    await exporting.export_to("h2")
    socket = await second.ensure(exporting.distant)
    await asyncio.to_thread(qemu_io, socket, volume_id, f"write -P 1 0 {BLOCK}")
    taker = Taker(exporting.root / "h1", Shelves(), Guests(), exporting.exports)  # type: ignore[arg-type]
    sources = Sources(taker, Pulls(taker.guests, exporting.root, exporting.root / "nobody"))
    given = BackupAssignment(backup_id=backup_id, host="h1", volume_id=volume_id, chain=backup_id)
    served = await sources.open("demo", given, "", no_mates, lambda: True)
    assert served.consistency is Consistency.CRASH
    await exporting.export_to("h2")
    assert "wrote" in await asyncio.to_thread(qemu_io, socket, volume_id, f"write -P 2 0 {BLOCK}")
    assert (await sources.open("demo", given, served.taken_at, no_mates, lambda: True)).source == served.source
    await exporting.driver.make("copy", 4 * BLOCK, SnapshotOrigin(volume_id, backup_id))
    assert await sources.close(given)
    await exporting.exports.absent(volume_id)
    assert read_volume(exporting.root / "h1" / "volumes", volume_id, exporting.root) == [2, 0, 0, 0]
    assert read_volume(exporting.root / "h1" / "volumes", "copy", exporting.root) == [1, 0, 0, 0]


async def no_mates(_instance_id: str) -> dict[str, str]:
    """Have no other volume of the same moment."""
    return {}


async def test_an_exported_volume_is_plugged_and_unplugged(
    hypervisor: Hypervisor, private_libvirt: Any, exporting: Exporting, make_domain: MakeDomain
) -> None:
    """A running guest gets the volume of another host, known by the same id and serial, and lets go of it."""
    volume_id = exporting.api.volume_id
    second = exporting.host("h2", Guests(private_libvirt.uri))
    await exporting.export_to("h2")
    socket = await second.ensure(exporting.distant)
    spec = make_domain()
    await hypervisor.define_and_start(domain_xml(spec))
    with libvirt.open(private_libvirt.uri) as conn:
        domain = conn.lookupByUUIDString(spec.instance_id)
        attach(domain, Disk(str(socket), "raw", "", volume_id[:20], export=volume_id), Hardware())
        assert devices_of(domain.XMLDesc()).volumes == {volume_id}
        assert not devices_of(domain.XMLDesc()).bound
        assert f"<serial>{volume_id[:20]}</serial>" in domain.XMLDesc()
        found = holder_of(conn, volume_id)
        assert found is not None
        assert found.path == str(socket)
        # The guest of the test answers no request to let go: it is asked, and that is all.
        assert detach(domain, Devices(frozenset(), frozenset({volume_id}))).volumes <= {volume_id}


async def test_a_guest_migrates_and_its_volume_stays(
    hypervisor: Hypervisor,
    private_libvirt: Any,
    second_libvirt: Any,
    exporting: Exporting,
    on_second: Callable[[Path], DomainSpec],
) -> None:
    """A guest goes from one host to another, both named while it does; its volume stays; the former is shut out."""
    volume_id = exporting.api.volume_id
    second, third = exporting.host("h2", Guests(private_libvirt.uri)), exporting.host("h3", Guests(second_libvirt.uri))
    await exporting.export_to("h2")
    socket = await second.ensure(exporting.distant)
    spec = on_second(socket)
    await hypervisor.define_and_start(domain_xml(spec))
    await asyncio.to_thread(write, private_libvirt.uri, spec.instance_id, 0, 3)
    assert await stored(exporting) == [3, 0, 0, 0]
    await exporting.export_to("h2", "h3")
    there = await third.ensure(exporting.distant)
    # The paths are the same on all hosts.
    files = exporting.root / "h3" / "files"
    files.mkdir()
    (files / Path(spec.disks[0].path).name).write_bytes(bytes(1 << 20))
    second_libvirt.inside("mount", "--bind", str(files), str(Path(spec.disks[0].path).parent))
    second_libvirt.inside("mount", "--bind", str(there.parent), str(socket.parent))
    directory = Path(tempfile.mkdtemp(prefix="kumulus-mg-"))
    sockets = Sockets(directory)
    for path, daemon in ((sockets.local, private_libvirt), (sockets.control, second_libvirt)):
        path.symlink_to(daemon.root / "run/libvirt/libvirt-sock")
    wish = Wish(2, volumes=frozenset({volume_id}), shared=frozenset({volume_id}))
    await asyncio.to_thread(carry_over, sockets, spec.instance_id, wish)
    shutil.rmtree(directory)

    await exporting.export_to("h3")
    uri = second_libvirt.uri
    await asyncio.to_thread(write, uri, spec.instance_id, 1, 4)
    assert await stored(exporting) == [3, 4, 0, 0]
    await second.reconcile(volume_id)
    assert second.known() == []
    with libvirt.open(uri) as conn:
        conn.lookupByUUIDString(spec.instance_id).destroy()


def kill(services: Any, unit: str) -> None:
    """End a process as a loss of power does."""
    services.exits.forget(unit)
    process = services.observe()[unit].process
    os.kill(process.pid, signal.SIGKILL)
    os.waitpid(process.pid, 0)
