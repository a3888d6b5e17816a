"""The readers of all formats; the agent itself, which has others read, does not load them."""

from __future__ import annotations

from typing import BinaryIO, Final

from kumulus_agent.storage.errors import FormatMismatch, UnsafeImage
from kumulus_agent.storage.formats import qcow2, vdi, vhd, vhdx, vmdk
from kumulus_agent.storage.formats.fields import size_of
from kumulus_agent.storage.formats.magic import is_description, other_content

_READERS: Final = {"qcow2": qcow2, "vmdk": vmdk, "vhd": vhd, "vhdx": vhdx, "vdi": vdi}


def virtual_size(file: BinaryIO, declared: str, limit: int) -> int:
    """Give the bytes of the disk in a file of a format; arguments and errors as of the format's own."""
    return int(_READERS[declared].virtual_size(file, limit)) if declared in _READERS else size_of(file)


def refuse_description(file: BinaryIO) -> None:
    """See that a file is no text that says of which files a disk consists.

    Raises:
        UnsafeImage: it is.
    """
    if is_description(file):
        raise UnsafeImage(f"the image is the description of a VMDK, which names other files; {vmdk.ONE_FILE}")


def name_plain(file: BinaryIO, declared: str, names: list[str]) -> list[str]:
    """Say what a file is that begins as no container.

    Args:
        file: the image.
        declared: the format that was promised.
        names: what its beginning was found to be.

    Returns:
        ``vhd`` for a raw disk with a footer, if that was declared, or `names`.

    Raises:
        FormatMismatch: it is no disk, or one of another kind.
    """
    if declared == "vhd" and vhd.is_fixed(file):
        return ["vhd"]
    what, remedy = other_content(file) if declared == "raw" or names == ["raw"] else ("", "")
    if what:
        raise FormatMismatch(f"the image was declared {declared}, it is {what}; {remedy}")
    return names
