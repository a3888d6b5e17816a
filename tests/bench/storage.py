"""What a server's root disk takes from an image of 2 GB that is in the host's cache, on this machine's disk.

Method: a qcow2 image with a disk of 2 GB, a tenth of which has data, comes into a real cache over HTTP, once. Then root
disks are made one after the other as the agent makes them: found in the cache, the overlay made, flushed and named. And
as many again, eight at once, as when a host gets many servers.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kumulus_agent.storage.image_cache import ImageCache
from kumulus_agent.storage.root_disk import ensure_root_disk
from kumulus_lab.testing.origin import serve

DISK_BYTES: Final = 2_000_000_000
_PIECE: Final = 1 << 20
_EVERY: Final = 10 * _PIECE
DISKS: Final = 34
"""What each of three hosts gets of a hundred servers."""
AT_ONCE: Final = 8


@dataclass
class Figures:
    """Milliseconds from an image in the cache to a root disk that is there after a loss of power."""

    root_disk_ms: list[float] = field(default_factory=list)
    root_disk_of_many_ms: list[float] = field(default_factory=list)
    image_seconds: float = 0.0


def make_image(path: Path) -> str:
    """Make the image; give its checksum."""
    with tempfile.NamedTemporaryFile(dir=path.parent) as raw:
        raw.truncate(DISK_BYTES)
        for offset in range(0, DISK_BYTES - _PIECE, _EVERY):
            raw.seek(offset)
            raw.write(hashlib.sha256(str(offset).encode()).digest() * (_PIECE // 32))
        raw.flush()
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw.name, str(path)], check=True)
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def timed(samples: list[float]) -> Iterator[None]:
    """Note the milliseconds that the block takes."""
    begun = time.perf_counter()
    yield
    samples.append((time.perf_counter() - begun) * 1000)


async def measure(folder: Path) -> Figures:
    """Measure in a folder."""
    served, found = folder / "served", Figures()
    served.mkdir()
    checksum = await asyncio.to_thread(make_image, served / "image.qcow2")
    cache = ImageCache(folder / "images", 8 << 30)
    async with serve("127.0.0.1", served) as origin:
        came: list[float] = []
        with timed(came):
            await cache.ensure(origin.file("image.qcow2"), checksum, "qcow2", DISK_BYTES)
        found.image_seconds = came[0] / 1000

    async def make(index: int, samples: list[float]) -> None:
        path = folder / f"i{index}" / "root.qcow2"
        path.parent.mkdir()
        with timed(samples):
            image = await cache.ensure("http://127.0.0.1:9/", checksum, "qcow2", DISK_BYTES)
            await ensure_root_disk(path, image, 10 << 30)

    for index in range(DISKS):
        await make(index, found.root_disk_ms)
    for first in range(DISKS, 2 * DISKS, AT_ONCE):
        together = range(first, min(first + AT_ONCE, 2 * DISKS))
        await asyncio.gather(*(make(index, found.root_disk_of_many_ms) for index in together))
    await cache.close()
    return found


def figures() -> Figures:
    """Measure beside the checkout, where the disk is a disk and no memory."""
    build = Path(__file__).resolve().parents[2] / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as folder:
        return asyncio.run(measure(Path(folder)))


if __name__ == "__main__":
    found = figures()
    for name, samples in (("one by one", found.root_disk_ms), (f"{AT_ONCE} at once", found.root_disk_of_many_ms)):
        ordered = sorted(samples)
        worst = ordered[len(ordered) * 95 // 100]
        sys.stdout.write(f"{name}: median {ordered[len(ordered) // 2]:.0f} ms, 95 % {worst:.0f} ms\n")
    sys.stdout.write(f"image into the cache: {found.image_seconds:.1f} s\n")
