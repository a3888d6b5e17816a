"""A large file through a proxy and into a host, each a process of its own: memory, back pressure, and what breaks."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kumulus_api.console import TOKEN_HEADER
from kumulus_api.upload_messages import Done, Refused
from kumulus_cli.image_file import ImageFile
from kumulus_cli.sending import Broken, Sending
from kumulus_lab.testing.uploading import TOKEN, UID, UPLOAD_PATH

MIB = 1 << 20
SIZE = 160 * MIB
GROWTH = 12 * MIB
"""Bytes by which a process may grow over an upload of any size: a few messages, and what Python keeps for them."""
IN_FLIGHT = 32 * MIB
"""Bytes that may be on their way while nobody takes them: in five sockets, and a message in each process."""


class Process:
    """A proxy or a host that serves."""

    def __init__(self, process: asyncio.subprocess.Process, told: dict[str, Any]) -> None:
        self.process = process
        self.port: int = told["port"]
        self.fingerprint: str = told["fingerprint"]

    def memory(self, word: str) -> int:
        """Give bytes of a line of its status, such as VmRSS, or VmHWM, which is the most that it ever had."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{word}:"))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def aclose(self) -> None:
        """End it."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


async def started(*arguments: str) -> Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "kumulus_lab.testing.uploading",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 16,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return Process(process, json.loads(await process.stdout.readline()))


class Watched:
    """Remembers how far it is, and calls when so much is there."""

    def __init__(self) -> None:
        self.done = 0
        self.said: list[str] = []
        self.reached = asyncio.Event()
        self.goal = SIZE // 4

    def at(self, done: int) -> None:
        """So many bytes are there."""
        self.done = done
        if done >= self.goal:
            self.reached.set()

    def say(self, text: str) -> None:
        """Remember it."""
        self.said.append(text)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of which no two blocks are the same."""
    path = tmp_path_factory.mktemp("upload") / "golden.raw"
    block = os.urandom(MIB - 8)
    with path.open("wb") as opened:
        for number in range(SIZE // MIB):
            opened.write(number.to_bytes(8, "big") + block)
    return path


@pytest.fixture(scope="module")
def digest(file: Path) -> str:
    """Its digest."""
    with file.open("rb") as opened:
        return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Process]:
    """A host that takes uploads."""
    async with aclosing(await started("host", str(tmp_path / "agent"))) as process:
        yield process


@pytest.fixture
async def proxy(host: Process) -> AsyncIterator[Process]:
    """The proxy before it."""
    async with aclosing(await started("proxy", f"https://127.0.0.1:{host.port}", host.fingerprint)) as process:
        yield process


async def send(proxy: Process, file: Path, show: Watched) -> Done | Refused:
    with closing(ImageFile(file)) as opened:
        async with (
            asyncio.timeout(120),
            aiohttp.ClientSession() as http,
            http.ws_connect(
                f"http://127.0.0.1:{proxy.port}{UPLOAD_PATH}",
                headers={TOKEN_HEADER: TOKEN},
                heartbeat=60.0,
                max_msg_size=MIB,
            ) as socket,
        ):
            return await Sending(opened, secrets.token_hex(16), show).talk(socket)


def part(folder: Path) -> Path:
    return folder / "agent" / "images" / "partial" / f"upload-{UID}.part"


async def test_memory_does_not_grow_with_the_file(
    host: Process, proxy: Process, file: Path, digest: str, tmp_path: Path
) -> None:
    """Neither process holds more than a few blocks of the file at any time, and the image is the file."""
    before = {process: process.memory("VmRSS") for process in (host, proxy)}
    assert await send(proxy, file, Watched()) == Done(digest=digest)
    grown = {process: process.memory("VmHWM") - before[process] for process in (host, proxy)}
    assert max(grown.values()) < GROWTH, grown
    assert (tmp_path / "agent" / "images" / f"{digest[7:]}.img").stat().st_size == SIZE


async def test_nobody_is_faster_than_the_host(host: Process, proxy: Process, file: Path, digest: str) -> None:
    """While the host takes nothing the sender stands still, with little on its way; then it goes on to the end."""
    before, show, read = proxy.memory("VmRSS"), Watched(), [0]
    sent = asyncio.create_task(send(proxy, file, show))
    async with asyncio.timeout(60):
        await show.reached.wait()
    host.signal(signal.SIGSTOP)
    try:
        await stands_still(lambda: offset_of(file), read)
        assert read[0] - show.done < IN_FLIGHT
        assert proxy.memory("VmHWM") - before < GROWTH
    finally:
        host.signal(signal.SIGCONT)
    assert await sent == Done(digest=digest)


async def test_a_killed_proxy_is_gone_on_after(
    host: Process, proxy: Process, file: Path, digest: str, tmp_path: Path
) -> None:
    """If the proxy dies in the middle, what the host has is not sent again through the next."""
    show = Watched()
    sent = asyncio.create_task(send(proxy, file, show))
    async with asyncio.timeout(60):
        await show.reached.wait()
    proxy.signal(signal.SIGKILL)
    with pytest.raises(Broken):
        await sent
    have = part(tmp_path).stat().st_size
    assert have >= SIZE // 4
    async with aclosing(await started("proxy", f"https://127.0.0.1:{host.port}", host.fingerprint)) as other:
        again = Watched()
        assert await send(other, file, again) == Done(digest=digest)
    assert any("compared" in text for text in again.said)


async def test_a_killed_host_goes_on_when_it_is_back(
    host: Process, proxy: Process, file: Path, digest: str, tmp_path: Path
) -> None:
    """If the agent dies in the middle, the next goes on with what lies on its disk."""
    show = Watched()
    sent = asyncio.create_task(send(proxy, file, show))
    async with asyncio.timeout(60):
        await show.reached.wait()
    host.signal(signal.SIGKILL)
    with pytest.raises(Broken):
        await sent
    have = part(tmp_path).stat().st_size
    assert have >= SIZE // 4
    async with aclosing(await started("host", str(tmp_path / "agent"))) as back:
        url = f"https://127.0.0.1:{back.port}"
        async with aclosing(await started("proxy", url, back.fingerprint)) as other:
            again = Watched()
            assert await send(other, file, again) == Done(digest=digest)
    assert any(f"has {have} bytes already" in text for text in again.said)


def offset_of(file: Path) -> int:
    """Give how far this process has read a file."""
    for link in Path("/proc/self/fd").iterdir():
        try:
            if link.readlink() == file:
                info = Path(f"/proc/self/fdinfo/{link.name}").read_text()
                return int(info.split("\n")[0].split()[1])
        except OSError:
            continue
    return 0


async def stands_still(value: Callable[[], int], last: list[int]) -> None:
    """Wait until a value has been the same for a second."""
    async with asyncio.timeout(60):
        same = 0
        while same < 10:
            await asyncio.sleep(0.1)
            same = same + 1 if value() == last[0] else 0
            last[0] = value()
