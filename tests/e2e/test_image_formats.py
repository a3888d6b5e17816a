"""Images of other hypervisors, and from addresses of which some are gone: servers start from them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kumulus_agent.host.boot_sector import GREETING, boot_sector
from kumulus_api import Image
from kumulus_lab import commands
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console, origin
from kumulus_lab.testing.cloud import Cloud, condition, ready
from kumulus_lab.testing.origin import Origin

DRIVERS = {"vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx", "vdi": "vdi"}
DISK_BYTES = 8 << 20


@pytest.fixture
async def images(lab: LabSettings, tmp_path: Path) -> AsyncIterator[Origin]:
    """A server of one disk in each format, on the machine's address; the disk tells that it was started."""
    raw = tmp_path / "raw"
    raw.write_bytes(boot_sector(power_off=False).ljust(DISK_BYTES, b"\0"))
    for name, driver in DRIVERS.items():
        await asyncio.to_thread(
            commands.run, ["qemu-img", "convert", "-f", "raw", "-O", driver, str(raw), str(tmp_path / name)]
        )
    async with origin.serve(lab.gateway, tmp_path) as server:
        yield server


@pytest.mark.tenant
async def test_a_server_starts_from_each_format(cloud: Cloud, project: str, lab: LabSettings, images: Origin) -> None:
    """An image of another hypervisor's format is Ready, says what it is and what became of it, and boots."""
    await cloud.make_network(project)
    for name in DRIVERS:
        await cloud.make(Image, name, {"source": {"url": images.file(name)}, "format": name}, project)
    for name in DRIVERS:
        image = await cloud.until(Image, name, ready, namespace=project, seconds=60)
        content = await asyncio.to_thread((images.directory / name).read_bytes)
        status = image["status"]
        assert (status["size"], status["digest"]) == (len(content), "sha256:" + hashlib.sha256(content).hexdigest())
        assert status["stored"]["format"] == "qcow2"
        assert status["stored"]["digest"] != status["digest"]
        assert status["virtualSize"] >= DISK_BYTES
        assert status["progress"] == 100
        await cloud.make_server(project, name, image={"name": name})
    for name in DRIVERS:
        server = await cloud.server_ready(project, name, seconds=120)
        await console.says(console.path(lab, server), GREETING.decode())


@pytest.mark.tenant
async def test_a_mirror_takes_over(cloud: Cloud, project: str, lab: LabSettings, images: Origin) -> None:
    """An image whose first address is gone, and whose second breaks off, comes from the third, on each host."""
    await cloud.make_network(project)
    content = await asyncio.to_thread((images.directory / "vdi").read_bytes)
    source = {
        "url": images.file("gone"),
        "mirrors": [f"{images.url}/cut/vdi", images.file("vdi")],
    }
    checksum = "sha256:" + hashlib.sha256(content).hexdigest()
    await cloud.make(Image, "mirrored", {"source": source, "format": "vdi", "checksum": checksum}, project)
    image = await cloud.until(Image, "mirrored", ready, namespace=project, seconds=60)
    assert condition(image, "Ready")["reason"] == "Imported"
    await cloud.make_server(project, "a", image={"name": "mirrored"})
    server = await cloud.server_ready(project, "a", seconds=120)
    await console.says(console.path(lab, server), GREETING.decode())
