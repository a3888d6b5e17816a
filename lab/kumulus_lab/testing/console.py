"""What a guest writes on its serial console, read as it comes from the host's file."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.cloud import Breach, Object


def path(settings: LabSettings, server: Object) -> Path:
    """Give where the machine sees the console log of an assigned server."""
    assignment = server["spec"]["assignment"]
    return host_path(settings, assignment["host"], f"/var/lib/kumulus/instances/{assignment['instanceID']}/console.log")


def host_path(settings: LabSettings, host: str, inside: str) -> Path:
    """Give where the machine sees a file below a host's /var/lib/kumulus."""
    return settings.host(host).directory / "kumulus" / Path(inside).relative_to("/var/lib/kumulus")


def said(log: Path) -> str:
    """Give all that a guest has written, on the hosts that it came from too."""
    parts = [part.read_bytes() for part in (_earlier(log), log) if part.exists()]
    return b"".join(parts).decode(errors="replace")


def _earlier(log: Path) -> Path:
    return log.with_name(f"{log.name}.earlier")


async def lines(log: Path) -> AsyncIterator[str]:
    """Give the lines of a log from its beginning, on other hosts too, and each new one as it comes."""
    if _earlier(log).exists():
        for line in (await asyncio.to_thread(_earlier(log).read_text, errors="replace")).splitlines():
            yield line
    process = await asyncio.create_subprocess_exec(
        "tail", "--lines=+1", "--follow=name", "--retry", str(log),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None  # noqa: S101 - it was asked for above
        async for raw in process.stdout:
            yield raw.decode(errors="replace").rstrip("\r\n")
    finally:
        process.kill()
        await process.wait()


async def says(log: Path, pattern: str, seconds: float = 60) -> re.Match[str]:
    """Wait until a line matches, and give the match.

    Raises:
        Breach: no line did within `seconds`; the message shows the last ones.
    """
    seen: list[str] = []
    try:
        async with asyncio.timeout(seconds):
            async for line in lines(log):
                seen.append(line)
                if match := re.search(pattern, line):
                    return match
    except TimeoutError:
        pass
    raise Breach(f"{log}: no line matches {pattern!r} within {seconds} s; the last: " + " | ".join(seen[-8:]))
