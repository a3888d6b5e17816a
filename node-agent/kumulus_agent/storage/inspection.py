"""Look into an untrusted disk image without letting a tool open it.

As a program it says in JSON what it found: path, declared format and limit are its arguments. What it imports is
imported there only.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from kumulus_agent.storage.errors import SMALLER, FormatMismatch, Terminal, TooLarge, UnsafeImage

ImageFormat = Literal["qcow2", "raw"]

_CHUNK_BYTES: Final = 64 * 1024
_MEMORY_BYTES: Final = 1 << 30
"""Address space that an inspection in a process of its own may have."""
_DECLARE: Final = "make a new image with the right spec.format"
_RAW_CONTENTS: Final = frozenset({"raw", "gpt", "iso"})
"""What a raw disk may hold without being a container that QEMU follows: nothing known, partitions, a CD image."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """A safe image: its format, and its size in bytes as the guest sees it."""

    format: ImageFormat
    virtual_size: int


def inspect_image(path: Path, declared: ImageFormat, virtual_size_limit: int) -> Inspected:
    """Check a file before QEMU or qemu-img sees it. Blocks; reads at most the whole file once.

    Args:
        path: the file.
        declared: the format that was promised.
        virtual_size_limit: bytes that the guest's disk may have.

    Raises:
        FormatMismatch: the content is of another format.
        UnsafeImage: it names a backing or data file, has unknown features, or is several formats at once.
        TooLarge: its virtual size exceeds the limit.
    """
    found = _detect(path)
    names = sorted(str(inspector) for inspector in found)
    if declared == "raw":
        if not set(names) <= _RAW_CONTENTS:
            raise FormatMismatch(f"the image was declared raw, its content is {', '.join(names)}; {_DECLARE}")
        virtual_size = path.stat().st_size
    else:
        if declared not in names:
            raise FormatMismatch(f"the image was declared {declared}, its content is {', '.join(names)}; {_DECLARE}")
        if len(names) > 1:
            raise UnsafeImage(f"the image is {' and '.join(names)} at once; convert it with qemu-img to one format")
        virtual_size = _safe_size(found[0])
    if virtual_size > virtual_size_limit:
        raise TooLarge(f"the image's disk has {virtual_size} bytes, {virtual_size_limit} are allowed; {SMALLER}")
    return Inspected(declared, virtual_size)


def _detect(path: Path) -> list[Any]:
    from oslo_utils.imageutils import format_inspector  # noqa: PLC0415 - 8 MiB that the agent itself never needs

    with path.open("rb") as file:
        wrapper = format_inspector.InspectWrapper(file)
        try:
            while wrapper.formats is None and wrapper.read(_CHUNK_BYTES):
                pass
        except format_inspector.ImageFormatError as error:
            raise UnsafeImage(f"the image cannot be understood: {error}") from error
        finally:
            wrapper.close()
        return list(wrapper.formats or [])


def _safe_size(inspector: Any) -> int:
    from oslo_utils.imageutils import format_inspector  # noqa: PLC0415

    try:
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as error:
        reasons = "; ".join(f"{name}: {failure}" for name, failure in sorted(error.failures.items()))
        raise UnsafeImage(f"the image is refused ({reasons}); flatten it with qemu-img convert") from error
    return int(inspector.virtual_size)


def main() -> None:
    """Inspect the file of the arguments and print what was found."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    path, declared, limit = sys.argv[1:]
    try:
        found = inspect_image(Path(path), "qcow2" if declared == "qcow2" else "raw", int(limit))
    except Terminal as refusal:
        json.dump({"refused": refusal.reason, "message": str(refusal)}, sys.stdout)
    else:
        json.dump({"virtualSize": found.virtual_size}, sys.stdout)


if __name__ == "__main__":
    main()
