"""Encrypted volumes of real guests on a real libvirtd: what lies on the disk, what opens it, what can be seen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import pytest
from lxml import etree

from kumulus_agent.compute.devices import devices_of
from kumulus_agent.compute.domain_spec import Disk, DomainSpec, Encryption
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.images.thaws import Thaws
from kumulus_agent.migration.channels import Sockets
from kumulus_agent.migration.domains import Wish, carry_over
from kumulus_agent.volumes.drivers.encrypted import EncryptedFiles, layers_of
from kumulus_agent.volumes.drivers.keys import KeyWrong, VolumeKey
from kumulus_agent.volumes.drivers.local import local_driver
from kumulus_agent.volumes.drivers.protocol import Found, SnapshotOrigin, VolumeDriver
from kumulus_agent.volumes.drivers.testing import BLOCK, ENCRYPTED_KEY, read_volume
from kumulus_agent.volumes.guests import VolumeGuests
from kumulus_agent.volumes.shelves import Shelves
from kumulus_agent.volumes.snapshots import Taker
from kumulus_api.hardware import Hardware

MakeDomain = Callable[..., DomainSpec]
SIZE = 8 << 20
PLAIN = Hardware()
MARK = 0x6B
OTHER = VolumeKey(b"another key, which opens none of these volumes")

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")


@pytest.fixture
def driver(tmp_path: Path) -> VolumeDriver:
    return local_driver(tmp_path / "volumes").with_key(ENCRYPTED_KEY)


@pytest.fixture
async def guests(hypervisor: Hypervisor, tmp_path: Path) -> VolumeGuests:
    return VolumeGuests(hypervisor, tmp_path / "instances", Thaws(hypervisor))


def disk_of(volume_id: str, found: Found, target: str = "") -> Disk:
    below = tuple(str(path) for path in layers_of(found.path)[1:])
    return Disk(str(found.path), found.format, target, volume_id[:20], encryption=Encryption(volume_id, below))


async def plugged(hypervisor: Hypervisor, guests: VolumeGuests, instance_id: str, volume_id: str, found: Found) -> None:
    """Plug a volume in as an agent does."""
    async with guests.keyed(volume_id, ENCRYPTED_KEY):
        await hypervisor.attach(instance_id, disk_of(volume_id, found), PLAIN)


def device(instance_id: str, inside: Any, path: Path) -> str:
    listed = etree.fromstring(inside("virsh", "dumpxml", f"k-{instance_id}").encode())
    for disk in listed.iterfind("devices/disk"):
        if disk.find("source").get("file") == str(path):
            return f"/machine/peripheral/{disk.find('alias').get('name')}/virtio-backend"
    raise LookupError(path)


def write(instance_id: str, inside: Any, path: Path, block: int, value: int = MARK) -> None:
    """Write a block as the guest does: by QEMU, into the node that it writes to."""
    where = device(instance_id, inside, path)
    for command in (f"write -P {value} {block * BLOCK} {BLOCK}", "flush"):
        inside("virsh", "qemu-monitor-command", "--hmp", f"k-{instance_id}", f'qemu-io -d {where} "{command}"')


def clear_text(root: Path) -> list[Path]:
    """Give the files in which a block of marks can be read."""
    return [path for path in root.rglob("*") if path.is_file() and bytes([MARK]) * 512 in path.read_bytes()]


async def test_what_a_guest_writes_cannot_be_read_on_the_host(
    hypervisor: Hypervisor,
    make_domain: MakeDomain,
    driver: VolumeDriver,
    guests: VolumeGuests,
    *,
    private_libvirt: Any,
    tmp_path: Path,
) -> None:
    """Plugged in, grown, snapshotted and copied under a guest that runs: marks are in no file, and the key nowhere."""
    spec, volume_id, inside = make_domain(), str(uuid.uuid4()), private_libvirt.inside
    await hypervisor.define_and_start(domain_xml(spec))
    found = await driver.make(volume_id, SIZE)
    await plugged(hypervisor, guests, spec.instance_id, volume_id, found)
    write(spec.instance_id, inside, found.path, 0)
    holder = await guests.holder(volume_id)
    assert holder is not None
    await guests.grow(holder, 2 * SIZE)

    await Taker(tmp_path, Shelves(), guests).take(driver, volume_id, "s1")
    after = await driver.look(volume_id)
    assert after is not None
    assert (after.size, after.path != found.path) == (2 * SIZE, True)
    write(spec.instance_id, inside, after.path, 1)
    copy_id = str(uuid.uuid4())
    copy = await driver.make(copy_id, 2 * SIZE, SnapshotOrigin(volume_id, "s1"))
    await plugged(hypervisor, guests, spec.instance_id, copy_id, copy)
    write(spec.instance_id, inside, copy.path, 2)

    assert clear_text(tmp_path / "volumes") == []
    texts = [inside("virsh", "dumpxml", *more, f"k-{spec.instance_id}") for more in ((), ("--inactive",))]
    texts += said_on_host(private_libvirt.root)
    assert not any(ENCRYPTED_KEY.content.decode() in text for text in texts)
    assert inside("virsh", "secret-list").count(volume_id) == 0
    assert devices_of(texts[0]).volumes == frozenset({volume_id, copy_id})

    await hypervisor.destroy(spec.instance_id)
    assert read_volume(tmp_path / "volumes", volume_id, tmp_path)[:3] == [MARK, MARK, 0]
    assert read_volume(tmp_path / "volumes", copy_id, tmp_path)[:3] == [MARK, 0, MARK]


def said_on_host(logs: Path) -> list[str]:
    """Give all command lines of the host, and what was logged."""
    texts = [path.read_text(errors="replace") for path in logs.rglob("*.log")]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            texts.append(path.read_text(errors="replace"))
    return texts


async def test_a_guest_starts_with_all_its_layers_and_stays_when_libvirtd_ends(
    hypervisor: Hypervisor,
    make_domain: MakeDomain,
    driver: VolumeDriver,
    guests: VolumeGuests,
    *,
    events: Any,
    private_libvirt: Any,
    tmp_path: Path,
) -> None:
    """The key of three layers is told for each thing that is asked, also of a libvirtd that has begun again."""
    volume_id, inside = str(uuid.uuid4()), private_libvirt.inside
    await driver.make(volume_id, SIZE)
    for name in ("s1", "s2"):
        await driver.snapshot(volume_id, name)
    found = await driver.look(volume_id)
    assert found is not None
    disk = disk_of(volume_id, found, "vdb")
    assert disk.encryption is not None
    assert len(disk.encryption.below) == 2
    spec = make_domain()
    spec = replace(spec, disks=(*spec.disks, disk))
    with pytest.raises(HypervisorError, match=r"[Ss]ecret"):
        await hypervisor.define_and_start(domain_xml(spec))
    async with guests.keyed(volume_id, ENCRYPTED_KEY):
        await hypervisor.define_and_start(domain_xml(spec))
    private_libvirt.kill_libvirtd()
    await events.eventually(lambda: events.reconnects, 30)
    write(spec.instance_id, inside, found.path, 3)
    await Taker(tmp_path, Shelves(), guests).take(driver, volume_id, "s3")
    after = await driver.look(volume_id)
    assert after is not None
    write(spec.instance_id, inside, after.path, 4)
    await hypervisor.save(spec.instance_id)
    async with guests.keyed(volume_id, ENCRYPTED_KEY):
        await hypervisor.start(spec.instance_id)
    write(spec.instance_id, inside, after.path, 5)
    assert clear_text(tmp_path / "volumes") == []
    await hypervisor.destroy(spec.instance_id)
    assert read_volume(tmp_path / "volumes", volume_id, tmp_path)[3:6] == [MARK] * 3


def luks_of(path: Path) -> dict[str, Any]:
    """Give what qemu-img tells of how a file is encrypted."""
    info = subprocess.run(["qemu-img", "info", "--output=json", path], check=True, capture_output=True, timeout=30)
    found: dict[str, Any] = json.loads(info.stdout)["format-specific"]["data"]["encrypt"]
    return found


async def test_another_key_opens_nothing(driver: VolumeDriver, tmp_path: Path) -> None:
    """It is said to be the wrong one, also where a guest would be started or the volume be made larger."""
    found = await driver.make("a", SIZE)
    with pytest.raises(KeyWrong, match="not the one that the volume was encrypted with"):
        await EncryptedFiles(OTHER).check(found.path)
    with pytest.raises(KeyWrong):
        await driver.with_key(OTHER).grow("a", 2 * SIZE)
    await EncryptedFiles(ENCRYPTED_KEY).check(found.path)
    luks = luks_of(found.path)
    assert (luks["format"], luks["cipher-alg"], luks["cipher-mode"]) == ("luks", "aes-256", "xts")


async def test_an_encrypted_volume_travels_with_its_guest(
    hypervisor: Hypervisor,
    make_domain: MakeDomain,
    second_libvirt: Any,
    sockets: Sockets,
    *,
    guests: VolumeGuests,
    tmp_path: Path,
) -> None:
    """The target, which was told the key, has it encrypted in one layer, with what was written before it left."""
    here, there = tmp_path / "state", tmp_path / "there"
    for folder in (here / "volumes", there / "volumes"):
        folder.mkdir(parents=True)
    second_libvirt.inside("mount", "--bind", str(there), str(here))
    volume_id = str(uuid.uuid4())
    source, target = (local_driver(folder / "volumes").with_key(ENCRYPTED_KEY) for folder in (here, there))
    await source.make(volume_id, 4 * BLOCK)
    await source.snapshot(volume_id, "s")
    await source.remove_snapshot(volume_id, "s")
    assert await source.merge(volume_id) == 1
    found = await source.look(volume_id)
    assert found is not None
    await target.make(volume_id, 4 * BLOCK)

    spec = make_domain()
    root = here / "root.raw"
    shutil.copy(spec.disks[0].path, root)
    (there / "root.raw").write_bytes(bytes(1 << 20))
    spec = replace(spec, disks=(replace(spec.disks[0], path=str(root)), disk_of(volume_id, found, "vdb")))
    async with guests.keyed(volume_id, ENCRYPTED_KEY):
        await hypervisor.define_and_start(domain_xml(spec))
    where = f"k-{spec.instance_id}"
    (name,) = (line.split()[0] for line in await blocks(hypervisor, spec.instance_id) if str(found.path) in line)
    assert name == "vdb"
    await hypervisor.call("write", lambda conn: write_mark(conn.lookupByUUIDString(spec.instance_id)))
    wish = Wish(2, volumes=frozenset({volume_id}))
    with pytest.raises(libvirt.libvirtError, match=r"[Ss]ecret"):
        await asyncio.to_thread(carry_over, sockets, spec.instance_id, wish)
    there_known = Hypervisor(second_libvirt.uri)
    await there_known.open()
    try:
        async with VolumeGuests(there_known, tmp_path, Thaws(there_known)).keyed(volume_id, ENCRYPTED_KEY):
            await asyncio.to_thread(carry_over, sockets, spec.instance_id, wish)
    finally:
        await there_known.close()
    assert await hypervisor.get_instance(spec.instance_id) is None
    second_libvirt.inside("virsh", "destroy", where)
    assert read_volume(there / "volumes", volume_id, tmp_path) == [MARK, 0, 0, 0]
    assert clear_text(there / "volumes") == []


async def blocks(hypervisor: Hypervisor, instance_id: str) -> list[str]:
    """Give name and file of each disk."""

    def read(conn: Any) -> list[str]:
        xml = etree.fromstring(conn.lookupByUUIDString(instance_id).XMLDesc().encode())
        disks = xml.iterfind("devices/disk")
        return [f"{disk.find('target').get('dev')} {disk.find('source').get('file')}" for disk in disks]

    return list(await hypervisor.call("read disks", read))


def write_mark(domain: Any) -> None:
    alias = etree.fromstring(domain.XMLDesc().encode()).findall("devices/disk/alias")[1].get("name")
    for command in (f"write -P {MARK} 0 {BLOCK}", "flush"):
        where = f"/machine/peripheral/{alias}/virtio-backend"
        libvirt_qemu.qemuMonitorCommand(domain, f'qemu-io -d {where} "{command}"', 1)
