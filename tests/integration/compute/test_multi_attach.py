"""A volume that several guests have at once, on real libvirtds: what one writes, the others read."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import uuid
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

from kumulus_agent.compute.domain_spec import Disk, DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.images.thaws import Thaws
from kumulus_agent.migration.channels import Sockets
from kumulus_agent.migration.domains import Wish, carry_over
from kumulus_agent.volumes.drivers.protocol import Found, VolumeDriver
from kumulus_agent.volumes.drivers.shared import MARKER, shared_driver
from kumulus_agent.volumes.guests import VolumeGuests
from kumulus_agent.volumes.multi_attach import MultiAttached
from kumulus_agent.volumes.shelves import Shelves
from kumulus_api.hardware import Hardware

MakeDomain = Callable[..., DomainSpec]
SIZE = 8 << 20
BLOCK = 64 << 10
PLAIN = Hardware()

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")


@pytest.fixture
def driver(tmp_path: Path) -> VolumeDriver:
    (tmp_path / MARKER).write_text("several\n")
    return shared_driver(tmp_path, "several")


def disk_of(volume_id: str, found: Found, **more: Any) -> Disk:
    return Disk(str(found.path), found.format, "vdb", volume_id[:20], **({"shareable": True} | more))


def with_disk(spec: DomainSpec, disk: Disk) -> DomainSpec:
    return replace(spec, disks=(*spec.disks, disk))


def io(daemon: Any, instance_id: str, volume: Path, command: str) -> None:
    """Have a guest's QEMU write its disk as it does for the guest; what it says of it goes to its log."""
    listed = etree.fromstring(daemon.inside("virsh", "dumpxml", f"k-{instance_id}").encode())
    disks = (disk for disk in listed.iterfind("devices/disk") if disk.find("source").get("file") == str(volume))
    alias = next(disks).find("alias").get("name")
    name = f"/machine/peripheral/{alias}/virtio-backend"
    monitor = ("virsh", "qemu-monitor-command", "--hmp", f"k-{instance_id}")
    daemon.inside(*monitor, f'qemu-io -d {name} "{command}"')


def ask(daemon: Any, instance_id: str, verb: str, **arguments: Any) -> Any:
    """Ask a guest's QEMU by its own protocol."""
    asked = json.dumps({"execute": verb, "arguments": arguments})
    return json.loads(daemon.inside("virsh", "qemu-monitor-command", f"k-{instance_id}", asked))["return"]


def said_of(daemon: Any, instance_id: str, volume: Path, command: str) -> str:
    """Read a guest's disk through its QEMU, which serves it for a moment; give what qemu-io says."""
    nodes = ask(daemon, instance_id, "query-named-block-nodes", flat=True)
    node = next(item["node-name"] for item in nodes if item["drv"] == "raw" and item["file"] == str(volume))
    socket = daemon.root / "disk.sock"
    ask(daemon, instance_id, "nbd-server-start", addr={"type": "unix", "data": {"path": str(socket)}})
    try:
        ask(daemon, instance_id, "block-export-add", **{"type": "nbd", "id": "x", "node-name": node, "name": "x"})
        reading = ["qemu-io", "-r", "-f", "raw", "-c", command, f"nbd+unix:///x?socket={socket}"]
        done = subprocess.run(reading, check=False, capture_output=True, text=True, timeout=20)
        return done.stdout + done.stderr
    finally:
        ask(daemon, instance_id, "nbd-server-stop")


def write(daemon: Any, instance_id: str, volume: Path, block: int, value: int) -> None:
    io(daemon, instance_id, volume, f"write -P {value} {block * BLOCK} {BLOCK}")
    io(daemon, instance_id, volume, "flush")


def reads(daemon: Any, instance_id: str, volume: Path, block: int, value: int) -> bool:
    """Give whether a guest reads a block of a value; any other byte is told as a failed verification."""
    said = said_of(daemon, instance_id, volume, f"read -P {value} {block * BLOCK} {BLOCK}")
    assert f"read {BLOCK}/{BLOCK} bytes" in said, said
    return "Pattern verification failed" not in said


async def test_each_reads_what_the_others_write(
    hypervisor: Hypervisor, make_domain: MakeDomain, driver: VolumeDriver, private_libvirt: Any
) -> None:
    """Two guests, one that it was plugged into and one that began with it, write and read; a third may only read."""
    first, second, third = make_domain(), make_domain(), make_domain()
    volume_id = str(uuid.uuid4())
    found = await driver.make(volume_id, SIZE, raw=True)
    await hypervisor.define_and_start(domain_xml(with_disk(first, disk_of(volume_id, found))))
    await hypervisor.define_and_start(domain_xml(second))
    await hypervisor.attach(second.instance_id, disk_of(volume_id, found), PLAIN)
    await hypervisor.define_and_start(domain_xml(with_disk(third, disk_of(volume_id, found, readonly=True))))

    ids = [spec.instance_id for spec in (first, second, third)]
    for turn in range(3):
        for block, writer in enumerate(ids[:2]):
            write(private_libvirt, writer, found.path, block, 10 * turn + block + 1)
            assert all(reads(private_libvirt, reader, found.path, block, 10 * turn + block + 1) for reader in ids)
    io(private_libvirt, ids[2], found.path, f"write -P 99 0 {BLOCK}")
    assert reads(private_libvirt, ids[0], found.path, 0, 21)

    await hypervisor.destroy(ids[0])
    write(private_libvirt, ids[1], found.path, 5, 77)
    assert reads(private_libvirt, ids[2], found.path, 5, 77)
    for instance_id in ids[1:]:
        await hypervisor.destroy(instance_id)


async def test_nobody_else_writes_to_a_file_that_is_not_for_several(
    hypervisor: Hypervisor, make_domain: MakeDomain, driver: VolumeDriver
) -> None:
    """QEMU lets no second guest have a volume of one server, to read it either; nor one of several without being so."""
    volume_id, alone_id = str(uuid.uuid4()), str(uuid.uuid4())
    several, alone = await driver.make(volume_id, SIZE, raw=True), await driver.make(alone_id, SIZE)
    holder, reader, other = make_domain(), make_domain(), make_domain()
    disks = (disk_of(volume_id, several), replace(disk_of(alone_id, alone, shareable=False), target="vdc"))
    await hypervisor.define_and_start(domain_xml(replace(holder, disks=(*holder.disks, *disks))))
    for disk in (
        disk_of(volume_id, several, shareable=False),
        disk_of(alone_id, alone, shareable=False),
        disk_of(alone_id, alone, shareable=False, readonly=True),
        disk_of(alone_id, alone),
    ):
        with pytest.raises(HypervisorError):
            await hypervisor.define_and_start(domain_xml(with_disk(make_domain(), disk)))
    await hypervisor.destroy(holder.instance_id)
    # Its locks would let several read; then none could write.
    for spec in (reader, other):
        disk = disk_of(alone_id, alone, shareable=False, readonly=True)
        await hypervisor.define_and_start(domain_xml(with_disk(spec, disk)))
    with pytest.raises(HypervisorError):
        await hypervisor.define_and_start(
            domain_xml(with_disk(make_domain(), disk_of(alone_id, alone, shareable=False)))
        )
    for spec in (reader, other):
        await hypervisor.destroy(spec.instance_id)


class OneVolume:
    """An API server that knows one Volume."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body

    async def get(self, _kind: object, _name: str, _namespace: str) -> dict[str, Any]:
        """Give it."""
        return self.body


async def test_every_guest_is_told_that_it_grew(
    hypervisor: Hypervisor, make_domain: MakeDomain, driver: VolumeDriver, *, private_libvirt: Any, tmp_path: Path
) -> None:
    """The file grows as guests write; each of them has the new size when it is told, and uses what is new."""
    first, second, volume_id = make_domain(), make_domain(), str(uuid.uuid4())
    found = await driver.make(volume_id, SIZE, raw=True)
    for spec in (first, second):
        await hypervisor.define_and_start(domain_xml(with_disk(spec, disk_of(volume_id, found))))
    await driver.grow(volume_id, 2 * SIZE)
    last = 2 * SIZE // BLOCK - 1
    for spec in (first, second):
        said = said_of(private_libvirt, spec.instance_id, found.path, f"read {last * BLOCK} {BLOCK}")
        assert f"read {BLOCK}/{BLOCK} bytes" not in said

    place = {"volumeID": volume_id, "host": "h1", "size": "16Mi", "multiAttach": True, "folder": str(tmp_path)}
    metadata = {"name": "data", "namespace": "team", "uid": "u", "generation": 1}
    body = {"metadata": metadata, "spec": {"size": "16Mi", "assignment": place}, "status": {"sizeBytes": 2 * SIZE}}
    guests = VolumeGuests(hypervisor, tmp_path / "instances", Thaws(hypervisor))
    told = MultiAttached("h1", OneVolume(body), guests, Shelves().held)  # type: ignore[arg-type]
    for spec in (first, second):
        given = {"name": "data", "volume": "data", "volumeID": volume_id, "size": "16Mi", "multiAttach": True}
        assignment = {"host": "h1", "instanceID": spec.instance_id, "volumes": [given]}
        told.server_seen({"metadata": metadata, "spec": {"assignment": assignment}})
    for _ in range(2):
        assert await told.reconcile(volume_id) is not None

    write(private_libvirt, first.instance_id, found.path, last, 5)
    assert reads(private_libvirt, second.instance_id, found.path, last, 5)
    assert found.path.stat().st_size == 2 * SIZE
    for spec in (first, second):
        await hypervisor.destroy(spec.instance_id)
    assert await told.reconcile(volume_id) is None


@asynccontextmanager
async def arrived(daemon: Any, instance_id: str) -> Any:
    """Have a guest on another libvirtd, and have it gone in the end."""
    with libvirt.open(daemon.uri) as conn:
        domain = conn.lookupByUUIDString(instance_id)
        yield domain
        domain.destroy()
        domain.undefine()


async def test_one_migrates_and_the_other_writes_on(
    hypervisor: Hypervisor,
    make_domain: MakeDomain,
    driver: VolumeDriver,
    *,
    private_libvirt: Any,
    second_libvirt: Any,
    sockets: Sockets,
    tmp_path: Path,
) -> None:
    """The target opens the volume while source and other guest have it; afterwards each reads what the other writes."""
    goes, stays, volume_id = make_domain(), make_domain(), str(uuid.uuid4())
    found = await driver.make(volume_id, SIZE, raw=True)
    here, there = tmp_path / "state", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    second_libvirt.inside("mount", "--bind", str(there), str(here))
    root = here / "root.raw"
    shutil.copy(goes.disks[0].path, root)
    (there / "root.raw").write_bytes(bytes(1 << 20))
    goes = replace(goes, disks=(replace(goes.disks[0], path=str(root)), disk_of(volume_id, found)))
    for spec in (goes, with_disk(stays, disk_of(volume_id, found))):
        await hypervisor.define_and_start(domain_xml(spec))
    write(private_libvirt, goes.instance_id, found.path, 0, 1)

    wish = Wish(2, volumes=frozenset({volume_id}), shared=frozenset({volume_id}))
    await asyncio.to_thread(carry_over, sockets, goes.instance_id, wish)

    assert await hypervisor.get_instance(goes.instance_id) is None
    async with arrived(second_libvirt, goes.instance_id) as domain:
        for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
            xml = etree.fromstring(domain.XMLDesc(flags).encode())
            assert [item.getparent().find("target").get("dev") for item in xml.iter("shareable")] == ["vdb"]
        write(second_libvirt, goes.instance_id, found.path, 1, 2)
        write(private_libvirt, stays.instance_id, found.path, 2, 3)
        for block in range(3):
            assert reads(second_libvirt, goes.instance_id, found.path, block, block + 1)
            assert reads(private_libvirt, stays.instance_id, found.path, block, block + 1)
    await hypervisor.destroy(stays.instance_id)
