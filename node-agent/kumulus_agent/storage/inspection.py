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
from typing import Any, Final, Literal, cast

from kumulus_agent.storage.errors import SMALLER, FormatMismatch, Terminal, TooLarge, UnsafeImage

ImageFormat = Literal["qcow2", "raw"]
"""What servers' disks lie on."""
SourceFormat = Literal["qcow2", "raw", "vmdk", "vhd", "vhdx", "vdi"]
"""What an image may come as."""

_CHUNK_BYTES: Final = 64 * 1024
_MEMORY_BYTES: Final = 1 << 30
"""Address space that an inspection in a process of its own may have."""
_DECLARE: Final = "make a new image with the right spec.format"
_CPU_SECONDS: Final = 300
"""Time of a processor that it may take: the tables of a TiB are read in one minute."""
_RAW_CONTENTS: Final = frozenset({"raw", "gpt", "iso"})
"""What a raw disk may hold without being a container that QEMU follows: nothing known, partitions, a CD image."""
_CONTAINERS: Final = frozenset({"qcow2", "vmdk", "vhd", "vhdx", "vdi"})


@dataclass(frozen=True, slots=True)
class Inspected:
    """A safe image: its format, and its size in bytes as the guest sees it."""

    format: SourceFormat
    virtual_size: int


def source_format(declared: str) -> SourceFormat:
    """Give the format of the bytes of an Image (pure): a CD is a raw disk."""
    return cast("SourceFormat", declared) if declared in _CONTAINERS else "raw"


def inspect_image(path: Path, declared: SourceFormat, virtual_size_limit: int) -> Inspected:
    """Check a file before QEMU or qemu-img sees it. Blocks; reads at most the whole file once.

    Args:
        path: the file.
        declared: the format that was promised.
        virtual_size_limit: bytes that the guest's disk may have.

    Raises:
        FormatMismatch: the content is of another format.
        UnsafeImage: it names other files, has unknown features, is encrypted, or is several formats at once.
        CorruptImage: its parts contradict each other, or the file's length.
        TooLarge: its virtual size exceeds the limit.
    """
    from kumulus_agent.storage.formats import readers  # noqa: PLC0415 - the agent itself never needs them

    found = _detect(path)
    names = sorted(str(inspector) for inspector in found)
    with path.open("rb") as file:
        readers.refuse_description(file)
        plain = set(names) <= _RAW_CONTENTS
        if plain:
            names = readers.name_plain(file, declared, names)
        if declared not in names and not (declared == "raw" and plain):
            raise FormatMismatch(f"the image was declared {declared}, its content is {', '.join(names)}; {_DECLARE}")
        if len(names) > 1 and declared != "raw":
            raise UnsafeImage(f"the image is {' and '.join(names)} at once; convert it with qemu-img to one format")
        if declared == "qcow2":
            _second_opinion(found)
        virtual_size = readers.virtual_size(file, declared, virtual_size_limit)
        if not plain and declared != "qcow2":
            _second_opinion(found)
    if virtual_size > virtual_size_limit:
        raise TooLarge(f"the image's disk has {virtual_size} bytes, {virtual_size_limit} are allowed; {SMALLER}")
    return Inspected(declared, virtual_size)


def _detect(path: Path) -> list[Any]:
    from oslo_utils.imageutils import format_inspector  # noqa: PLC0415 - 8 MiB that the agent itself never needs

    # What begins as text and is no description has no type of it, for which the library looks all the same.
    format_inspector.VMDKInspector.vmdktype = "formatnotfound"
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


def _second_opinion(found: list[Any]) -> None:
    """Let the library that has named the format judge it, too."""
    from oslo_utils.imageutils import format_inspector  # noqa: PLC0415

    try:
        for inspector in found:
            inspector.safety_check()
    except format_inspector.SafetyCheckFailed as error:
        reasons = "; ".join(f"{name}: {failure}" for name, failure in sorted(error.failures.items()))
        raise UnsafeImage(f"the image is refused ({reasons}); flatten it with qemu-img convert") from error
    except format_inspector.ImageFormatError as error:
        raise UnsafeImage(f"the image cannot be understood: {error}; convert it with qemu-img to qcow2") from error


def main() -> None:
    """Inspect the file of the arguments and print what was found."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    path, declared, limit = sys.argv[1:]
    try:
        found = inspect_image(Path(path), source_format(declared), int(limit))
    except Terminal as refusal:
        json.dump({"refused": refusal.reason, "message": str(refusal)}, sys.stdout)
    else:
        json.dump({"virtualSize": found.virtual_size}, sys.stdout)


if __name__ == "__main__":
    main()
