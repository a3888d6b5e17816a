"""One disk in each format that an image may come in."""

from __future__ import annotations

import random
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Final

_SECTOR: Final = 512
_GRAIN: Final = 65536
DISK_BYTES: Final = 9 << 20
_RUNS: Final = ((0, 200_000), (3 << 20, 4096), (5 << 20, 300_001), (DISK_BYTES - 65536, 65536))
"""Where the disk has data, the rest of it is zeros."""
_FORMATS: Final = {
    "plain.qcow2": ("qcow2", "qcow2", ()),
    "packed.qcow2": ("qcow2", "qcow2", ("-c",)),
    "sparse.vmdk": ("vmdk", "vmdk", ()),
    "stream.vmdk": ("vmdk", "vmdk", ("-o", "subformat=streamOptimized")),
    "dynamic.vhd": ("vhd", "vpc", ("-o", "force_size=on")),
    "fixed.vhd": ("vhd", "vpc", ("-o", "subformat=fixed,force_size=on")),
    "dynamic.vhdx": ("vhdx", "vhdx", ("-o", "block_size=1M")),
    "fixed.vhdx": ("vhdx", "vhdx", ("-o", "subformat=fixed,block_size=1M")),
    "dynamic.vdi": ("vdi", "vdi", ()),
    "static.vdi": ("vdi", "vdi", ("-o", "static=on")),
}
FORMATS: Final = {name: declared for name, (declared, _, _) in _FORMATS.items()} | {"ova.vmdk": "vmdk"}
"""What is to be declared of each image."""


def disk_content() -> bytes:
    """Give the bytes of the disk, the same each time."""
    content, source = bytearray(DISK_BYTES), random.Random(7)  # noqa: S311 - no secret
    for offset, length in _RUNS:
        content[offset : offset + length] = source.randbytes(length // 2) + b"A" * (length - length // 2)
    return bytes(content)


def make_images(folder: Path) -> dict[str, Path]:
    """Make all of them, and `raw`; give them by name.

    Args:
        folder: where to.
    """
    raw = folder / "raw"
    raw.write_bytes(disk_content())
    made = {"raw": raw}
    for name, (_, driver, options) in _FORMATS.items():
        made[name] = folder / name
        argv = ["qemu-img", "convert", "-q", "-f", "raw", "-O", driver, *options, str(raw), str(made[name])]
        subprocess.run(argv, check=True, timeout=60)
    made["ova.vmdk"] = folder / "ova.vmdk"
    made["ova.vmdk"].write_bytes(_as_exported(disk_content()))
    return made


def _as_exported(disk: bytes) -> bytes:
    """Give a disk as VMware and VirtualBox put it into an OVA: in one go, with what leads to the data behind them."""
    out, tables, entries = bytearray(128 * _SECTOR), [], []
    for start in range(0, len(disk), _GRAIN):
        grain = disk[start : start + _GRAIN]
        entries.append(len(out) // _SECTOR if any(grain) else 0)
        if any(grain):
            data = zlib.compress(grain)
            out += _padded(struct.pack("<QI", start // _SECTOR, len(data)) + data)
    for first in range(0, len(entries), 512):
        out += _marker(4, 1)
        tables.append(len(out) // _SECTOR)
        out += struct.pack("<512I", *(entries[first : first + 512] + [0] * 512)[:512])
    out += _marker(1, 2)
    directory = len(out) // _SECTOR
    out += _padded(struct.pack(f"<{len(tables)}I", *tables))
    out += _marker(1, 3) + _stream_header(len(disk), directory) + _marker(0, 0)
    text = (
        '# Disk DescriptorFile\nversion=1\nCID=9cd4d6e2\nparentCID=ffffffff\ncreateType="streamOptimized"\n\n'
        f'# Extent description\nRW {len(disk) // _SECTOR} SPARSE "appliance-disk1.vmdk"\n\n# The disk Data Base\n'
        '#DDB\n\nddb.virtualHWVersion = "4"\nddb.adapterType="ide"\nddb.comment=""\n'
    )
    out[:_SECTOR] = _stream_header(len(disk), 0xFFFFFFFFFFFFFFFF)
    out[_SECTOR : _SECTOR + len(text)] = text.encode()
    return bytes(out)


def _stream_header(size: int, directory: int) -> bytes:
    numbers = (b"KDMV", 3, 3 << 16 | 1, size // _SECTOR, _GRAIN // _SECTOR, 1, 20, 512, 0, directory, 128)
    return _padded(struct.pack("<4sIIQQQQIQQQB4sH", *numbers, 0, b"\n \r\n", 1))


def _marker(sectors: int, kind: int) -> bytes:
    return _padded(struct.pack("<QII", sectors, 0, kind))


def _padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // _SECTOR) * _SECTOR, b"\0")


def differences(image: Path, image_format: str, raw: Path) -> str:
    """Compare the disk in an image with a raw one, block for block; give what differs, nothing if they are equal."""
    argv = ["qemu-img", "compare", "-f", "raw", "-F", image_format, str(raw), str(image)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    same = done.returncode == 0 and "mismatch" not in done.stdout
    return "" if same else done.stdout + done.stderr
