"""From bytes that have come to a file that servers' disks may lie on: inspected, converted where needed, checked."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from kumulus_agent.storage.cached_image import CachedImage, Came
from kumulus_agent.storage.convert import convert, needs_conversion
from kumulus_agent.storage.download import Downloaded, Progress, hash_file
from kumulus_agent.storage.inspect_apart import inspect_apart
from kumulus_agent.storage.inspection import ImageFormat, Inspected, SourceFormat
from kumulus_agent.storage.qemu_img import check_whole


@dataclass(frozen=True, slots=True)
class Arrived:
    """A file fit for use.

    Attributes:
        path: the file.
        format: of it.
        inspected: what came.
        size: bytes of the file; None if it is what came.
        digest: ``sha256:<hex>`` of the file; empty if it is what came.
    """

    path: Path
    format: ImageFormat
    inspected: Inspected
    size: int | None = None
    digest: str = ""

    def image(self, root: Path, done: Downloaded) -> CachedImage:
        """Give what the cache is to know of it (pure).

        Args:
            root: where the file will lie, named by its digest.
            done: what came.
        """
        came, disk = Came(self.inspected.format, done.size, f"sha256:{done.sha256}"), self.inspected.virtual_size
        digest, made = self.digest or came.digest, self.size is not None
        path = root / f"{digest.removeprefix('sha256:')}.img"
        size = self.size if self.size is not None else done.size
        return CachedImage(path, digest, self.format, size, disk, came if made else None)


async def make_ready(part: Path, declared: SourceFormat, virtual_size_limit: int, progress: Progress) -> Arrived:
    """Judge a file, and make a qcow2 file beside it if it is of a format that is not used as it is.

    Args:
        part: what came; it stays.
        declared: the format that was promised.
        virtual_size_limit: bytes that the guest's disk may have.
        progress: told of a conversion.

    Raises:
        Terminal: UnsafeImage, FormatMismatch, CorruptImage or TooLarge.
        Retryable: CacheFull, or a tool could not be run.
    """
    inspected = await asyncio.to_thread(inspect_apart, part, declared, virtual_size_limit)
    if not needs_conversion(inspected):
        if inspected.format == "qcow2":
            await check_whole(part)
            return Arrived(part, "qcow2", inspected)
        return Arrived(part, "raw", inspected)
    progress.converting = True
    target = part.with_name(f"{part.stem}.converted.part")
    try:
        await convert(part, target, inspected)
        hashed = await asyncio.to_thread(hash_file, target)
    except BaseException:
        await asyncio.to_thread(target.unlink, missing_ok=True)
        raise
    return Arrived(target, "qcow2", inspected, hashed.size, f"sha256:{hashed.sha256.hexdigest()}")
