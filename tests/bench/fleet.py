"""A hundred servers of one image of 2 GB on three hosts: who reads the image, and how soon the root disks are there.

Method: the lab runs with three hosts (`make up HOSTS=3`), and `python tests/bench/run.py fleet` is called. The image,
of a digest that no host has seen, is served by this process, which counts what is read of it. When it is Ready, servers
are made for each host at once. What each host's agent has measured of the step is read from `status.startDurations`.
Guests run emulated, so servers go when they are Ready, and others start: the figures are of disks, not of guests.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import storage
from aiohttp import web

from kumulus_api import Flavor, Image, Server
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.cloud import SYSTEM_NAMESPACE, Cloud, ready
from kumulus_lab.testing.left import holdings

SERVERS: Final = 100
AT_ONCE: Final = 8
SECONDS: Final = 600.0
_FLAVOR: Final = "bench-image"


@dataclass
class Figures:
    """What was measured.

    Attributes:
        source_reads: how many times the source was read whole.
        hosts: that have the image.
        fetched: how many times a host has fetched it, from the source or from another.
        root_disk_ms: of each server, from the image in the cache.
        image_ms: of each server, until it had the image: from the cache, but for the first one of a host.
    """

    source_reads: float = 0
    hosts: int = 0
    fetched: int = 0
    image_ms: list[float] = field(default_factory=list)
    root_disk_ms: list[float] = field(default_factory=list)


class Source:
    """Serves a file and counts its bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size
        self.sent = 0

    @property
    def reads(self) -> float:
        """How many times the file was read."""
        return self.sent / self._size

    async def answer(self, _request: web.Request) -> web.StreamResponse:
        """Serve it, from where it is asked for."""
        return web.FileResponse(self._path)

    async def count(self, request: web.Request, response: web.StreamResponse) -> None:
        """Note what is about to be sent."""
        if request.method == "GET":
            self.sent += response.content_length or 0


async def measure(cloud: Cloud, project: str, lab: LabSettings, servers: int = SERVERS) -> Figures:
    """Measure on the running lab."""
    found = Figures()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.qcow2"
        checksum = await asyncio.to_thread(storage.make_image, path)
        earlier = await asyncio.to_thread(_fetched, lab, checksum)
        source, app = Source(path), web.Application()
        app.router.add_get("/image.qcow2", source.answer)
        app.on_response_prepare.append(source.count)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, str(lab.gateway), 0).start()
            url = f"http://{lab.gateway}:{runner.addresses[0][1]}/image.qcow2"
            wanted = {"source": {"url": url, "checksum": checksum}, "format": "qcow2"}
            await cloud.make(Image, "large", wanted, project)
            await cloud.until(Image, "large", ready, namespace=project, seconds=SECONDS)
            await _servers(cloud, project, lab, servers, found)
        finally:
            await runner.cleanup()
        found.source_reads = source.reads
    files = (await holdings(lab)).files
    found.hosts = sum(name.endswith(f"{checksum.removeprefix('sha256:')}.img") for name in files)
    found.fetched = await asyncio.to_thread(_fetched, lab, checksum) - earlier
    return found


def _fetched(lab: LabSettings, checksum: str) -> int:
    """Give how many times agents say that an image has come into their cache."""
    asked = ("logs", f"--namespace={SYSTEM_NAMESPACE}", "--selector=app.kubernetes.io/component=agent", "--tail=-1")
    lines = ControlPlane.of_lab(lab).kubectl(*asked, "--max-log-requests=50").stdout.splitlines()
    return sum("image cached" in line and checksum in line for line in lines)


async def _servers(cloud: Cloud, project: str, lab: LabSettings, servers: int, found: Figures) -> None:
    body = {"vcpus": 1, "memory": "128Mi", "rootDisk": "2Gi"}
    await cloud.client.apply(Flavor, {"metadata": {"name": _FLAVOR}, "spec": body}, manager="kumulus-bench")
    hosts = [host.name for host in lab.host_specs]

    async def one(index: int) -> None:
        name, place = f"l{index}", {"host": hosts[index % len(hosts)]}
        spec = {"flavor": {"name": _FLAVOR}, "image": {"name": "large"}, "placement": place}
        await cloud.make(Server, name, spec, project)
        server = await cloud.server_ready(project, name, SECONDS)
        steps = {item["step"]: item["milliseconds"] for item in server["status"]["startDurations"]}
        found.root_disk_ms.append(float(steps["rootDisk"]))
        found.image_ms.append(float(steps["image"]))
        await cloud.delete(Server, name, project, seconds=SECONDS)

    for first in range(0, servers, AT_ONCE):
        await asyncio.gather(*(one(index) for index in range(first, min(first + AT_ONCE, servers))))
