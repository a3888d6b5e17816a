"""Images that are no disks but attempts: to have a host open its own files, or to take its memory or its disk.

None of them is of use to a guest; each says how it has to be refused.
"""

from __future__ import annotations

import struct
import subprocess
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kumulus_agent.storage.iso9660 import iso_image

Good = Mapping[str, bytes]
"""The images of `disk_images` by name."""
_SECTOR: Final = 512
_GRAIN: Final = 65536
_CLUSTER: Final = 65536


@dataclass(frozen=True, slots=True)
class Hostile:
    """An image to be refused.

    Attributes:
        declared: the format that a user would say it has.
        reason: of the refusal.
        says: a regular expression that the refusal's sentence has.
        make: gives its bytes from good images and the path of a file of the host.
    """

    declared: str
    reason: str
    says: str
    make: Callable[[Good, Path], bytes]


def patched(data: bytes, *changes: tuple[int, bytes]) -> bytes:
    """Give bytes with others at some places; a place below 0 counts from the end."""
    out = bytearray(data)
    for offset, new in changes:
        start = offset if offset >= 0 else len(out) + offset
        out[start : start + len(new)] = new
    return bytes(out)


def _of(name: str, *changes: tuple[int, bytes]) -> Callable[[Good, Path], bytes]:
    return lambda good, _: patched(good[name], *changes)


def _created(*options: str) -> Callable[[Good, Path], bytes]:
    """Give an image as qemu-img makes it; `{}` stands for the host's file."""

    def make(_: Good, canary: Path) -> bytes:
        path = canary.with_name("created")
        words = [option.replace("{}", str(canary)) for option in options]
        subprocess.run(["qemu-img", "create", "-q", *words, str(path), "1M"], check=True, timeout=20)
        data = path.read_bytes()
        path.unlink()
        return data

    return make


def description(kind: str, extents: str, more: str = "") -> Callable[[Good, Path], bytes]:
    """Give a VMDK's description as a file of its own; `{}` stands for the host's file."""
    text = f'# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="{kind}"\n{more}{extents}\n'
    return lambda _, canary: text.replace("{}", str(canary)).encode()


def _embedded(text: str, capacity: int = 2048) -> Callable[[Good, Path], bytes]:
    """Give a VMDK's header with a description in it."""

    def make(_: Good, canary: Path) -> bytes:
        body = text.replace("{}", str(canary)).encode()
        return (_vmdk_header(capacity, 21, 0) + body).ljust(64 * _SECTOR, b"\0")

    return make


def _vmdk_header(capacity: int, directory: int, flags: int, sectors: int = 20) -> bytes:
    numbers = (b"KDMV", 1, 3 | flags, capacity, _GRAIN // _SECTOR, 1, sectors, 512, 0, directory, 128)
    packed = 1 if flags else 0
    return struct.pack("<4sIIQQQQIQQQB4sH", *numbers, 0, b"\n \r\n", packed).ljust(_SECTOR, b"\0")


_SPARSE: Final = (
    '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicSparse"\nRW 2048 SPARSE "a"\n'
)


def vmdk_bomb(grains: int, *, shared: bool = False) -> bytes:
    """Give a VMDK in which half a KiB stands for 64 KiB each time, or, shared, for all of them at once."""
    capacity, tables = grains * _GRAIN // _SECTOR, -(-grains // 512)
    text = _SPARSE.replace("monolithicSparse", "streamOptimized").encode().ljust(20 * _SECTOR, b"\0")
    directory = 21
    first_table = directory + -(-tables * 4 // _SECTOR)
    first = first_table + 4 * tables
    starts = [first if shared else first + number for number in range(grains)]
    out = [_vmdk_header(capacity, directory, 3 << 16), text]
    pointers = struct.pack(f"<{tables}I", *(first_table + 4 * number for number in range(tables)))
    out.append(pointers.ljust((first_table - directory) * _SECTOR, b"\0"))
    out.append(struct.pack(f"<{grains}I", *starts).ljust(4 * tables * _SECTOR, b"\0"))
    data = zlib.compress(b"A" * _GRAIN, 9)
    for number in range(1 if shared else grains):
        out.append((struct.pack("<QI", number * _GRAIN // _SECTOR, len(data)) + data).ljust(_SECTOR, b"\0"))
    return b"".join(out)


def qcow2_bomb() -> bytes:
    """Give a qcow2 whose every cluster is one and the same compressed one."""
    entries = _CLUSTER // 8
    header = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, 16, entries * _CLUSTER, 0, 1, _CLUSTER, 2 * _CLUSTER, 1, 0, 0
    )
    header = (header + struct.pack(">QQQII", 0, 0, 0, 4, 104)).ljust(_CLUSTER, b"\0")
    first = struct.pack(">Q", 4 * _CLUSTER | 1 << 63).ljust(_CLUSTER, b"\0")
    counts = struct.pack(">Q", 3 * _CLUSTER).ljust(_CLUSTER, b"\0")
    count = struct.pack(">6H", *[1] * 6).ljust(_CLUSTER, b"\0")
    second = struct.pack(">Q", 5 * _CLUSTER | 1 << 62) * entries
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    data = (packer.compress(b"A" * _CLUSTER) + packer.flush()).ljust(_CLUSTER, b"\0")
    return b"".join((header, first, counts, count, second, data))


def _vhd_with(offset: int, value: bytes) -> Callable[[Good, Path], bytes]:
    """Give a dynamic VHD with a field of its footer changed, the copy and the checksums being right."""

    def make(good: Good, _: Path) -> bytes:
        data = good["dynamic.vhd"]
        footer = patched(data[:_SECTOR], (offset, value), (64, bytes(4)))
        footer = patched(footer, (64, struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)))
        return patched(data, (0, footer), (-_SECTOR, footer))

    return make


def _vhd_parent(good: Good, canary: Path) -> bytes:
    """A dynamic VHD by its footer, whose header names a parent and where it is."""
    name = str(canary).encode("utf-16-be")[:512]
    header = patched(good["dynamic.vhd"][_SECTOR : 3 * _SECTOR], (36, bytes(4)), (40, b"\x11" * 16), (64, name))
    header = patched(header, (36, struct.pack(">I", ~sum(header) & 0xFFFFFFFF)))
    return patched(good["dynamic.vhd"], (_SECTOR, header))


def _vhdx_item(good: Good, item: str, change: tuple[int, bytes], *, inside: bool = False) -> bytes:
    """Change an entry of the metadata's table, or the item that it leads to; `item` is the GUID's bytes in the file."""
    data = good["dynamic.vhdx"]
    start = data.index(b"metadata\0\0")
    entry = data.index(bytes.fromhex(item), start)
    place = start + struct.unpack_from("<I", data, entry + 16)[0] if inside else entry
    return patched(data, (place + change[0], change[1]))


_PARAMETERS: Final = "3767a1ca36fa434db3b633f0aa44e76b"
_PAGE83: Final = "ab12cabee6b2234593efc309e000c746"
_SECTOR_SIZE: Final = "1dbf41816fa90947ba47f233a8faab5f"
_PARENT_LOCATOR: Final = bytes.fromhex("2d5fd3a80bb34d45abf7d3d84834ab0c")


def _with_parent(good: Good, _: Path) -> bytes:
    return _vhdx_item(good, _PARAMETERS, (4, struct.pack("<I", 2)), inside=True)


def _with_locator(good: Good, _: Path) -> bytes:
    return _vhdx_item(good, _PAGE83, (0, _PARENT_LOCATOR))


def _large_sectors(good: Good, _: Path) -> bytes:
    return _vhdx_item(good, _SECTOR_SIZE, (0, struct.pack("<I", 4096)), inside=True)


def _cd(head: bytes) -> bytes:
    return patched(iso_image("cd", {"a": b"b"}), (0, head))


def _cd_of(name: str) -> Callable[[Good, Path], bytes]:
    return lambda good, _: _cd(good[name][:_SECTOR])


def _in_fixed_vhd(good: Good, _: Path) -> bytes:
    return patched(good["fixed.vhd"], (0, good["plain.qcow2"][: 4 * _CLUSTER]))


CORPUS: Final[Mapping[str, Hostile]] = {
    "qcow2-backing-file": Hostile("qcow2", "UnsafeImage", "backing", _created("-f", "qcow2", "-b", "{}", "-F", "raw")),
    "qcow2-data-file": Hostile("qcow2", "UnsafeImage", "data_file", _created("-f", "qcow2", "-o", "data_file={}.data")),
    "qcow2-2^40-clusters": Hostile(
        "qcow2", "TooLarge", "are allowed", _of("plain.qcow2", (24, struct.pack(">Q", 1 << 56)))
    ),
    "qcow2-huge-l1": Hostile("qcow2", "CorruptImage", "first table", _of("plain.qcow2", (36, b"\x7f\xff\xff\xff"))),
    "qcow2-small-l1": Hostile("qcow2", "CorruptImage", "leads to", _of("plain.qcow2", (36, bytes(4)))),
    "qcow2-huge-refcounts": Hostile(
        "qcow2", "CorruptImage", "reference counts", _of("plain.qcow2", (56, b"\x7f\xff\xff\xff"))
    ),
    "qcow2-unknown-feature": Hostile("qcow2", "UnsafeImage", "features", _of("plain.qcow2", (72, b"\x80"))),
    "qcow2-encrypted": Hostile("qcow2", "UnsafeImage", "encrypted", _of("plain.qcow2", (32, struct.pack(">I", 2)))),
    "qcow2-cluster-bits": Hostile("qcow2", "CorruptImage", r"2\^63", _of("plain.qcow2", (20, struct.pack(">I", 63)))),
    "qcow2-snapshots": Hostile("qcow2", "CorruptImage", "snapshots", _of("plain.qcow2", (60, b"\x7f\xff\xff\xff"))),
    "qcow2-bomb": Hostile("qcow2", "CorruptImage", "faults", lambda *_: qcow2_bomb()),
    "qed": Hostile("qcow2", "FormatMismatch", "qed", lambda *_: b"QED\0".ljust(_SECTOR * 4, b"\0")),
    "vmdk-flat": Hostile("vmdk", "UnsafeImage", "names other", description("monolithicFlat", 'RW 8 FLAT "{}" 0')),
    "vmdk-flat-as-raw": Hostile("raw", "UnsafeImage", "names other", description("vmfs", 'RW 8 VMFS "{}" 0')),
    "vmdk-two-gb-sparse": Hostile(
        "vmdk", "UnsafeImage", "names other", description("twoGbMaxExtentSparse", 'RW 8 SPARSE "canary"')
    ),
    "vmdk-device": Hostile("vmdk", "UnsafeImage", "names other", description("fullDevice", 'RW 8 FLAT "/dev/vda" 0')),
    "vmdk-embedded-flat": Hostile(
        "vmdk",
        "UnsafeImage",
        "createType monolithicflat",
        _embedded('# Disk DescriptorFile\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 8 FLAT "{}" 0\n'),
    ),
    "vmdk-embedded-twice": Hostile(
        "vmdk",
        "UnsafeImage",
        "createType",
        _embedded(_SPARSE.replace("createType", "CREATETYPE") + 'createType="monolithicFlat"\nRW 8 FLAT "{}" 0\n'),
    ),
    "vmdk-embedded-no-disk": Hostile(
        "vmdk",
        "UnsafeImage",
        "a disk of 0",
        _embedded(
            '# Disk DescriptorFile\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 8 FLAT "{}" 0\n', capacity=0
        ),
    ),
    "vmdk-embedded-path": Hostile("vmdk", "UnsafeImage", "other parts", _embedded(_SPARSE.replace('"a"', '"{}"'))),
    "vmdk-embedded-more": Hostile("vmdk", "UnsafeImage", "other parts", _embedded(_SPARSE + 'RW 8 FLAT "b" 0\n')),
    "vmdk-parent": Hostile(
        "vmdk", "UnsafeImage", "parent", _embedded(_SPARSE.replace("=ffffffff", "=1") + 'parentFileNameHint="{}"\n')
    ),
    "vmdk-parent-in-comment": Hostile(
        "vmdk", "UnsafeImage", "parent", _embedded(_SPARSE + '# parentFileNameHint="{}"\n')
    ),
    "vmdk-description-elsewhere": Hostile(
        "vmdk", "UnsafeImage", "at sector 9", _of("sparse.vmdk", (28, struct.pack("<Q", 9)))
    ),
    "vmdk-bomb": Hostile("vmdk", "UnsafeImage", "become more than", lambda *_: vmdk_bomb(4096)),
    "vmdk-bomb-shared": Hostile("vmdk", "CorruptImage", "says that it is of", lambda *_: vmdk_bomb(4096, shared=True)),
    "vmdk-footer-without-disk": Hostile(
        "vmdk", "UnsafeImage", "a disk of 0", _of("ova.vmdk", (-2 * _SECTOR + 12, bytes(8)))
    ),
    "vmdk-footer-elsewhere": Hostile(
        "vmdk", "CorruptImage", "contradict", _of("ova.vmdk", (-2 * _SECTOR + 56, b"\xff" * 8))
    ),
    "vmdk-footer-with-description": Hostile(
        "vmdk", "UnsafeImage", "at sector 7", _of("ova.vmdk", (-2 * _SECTOR + 28, struct.pack("<Q", 7)))
    ),
    "vmdk-huge": Hostile("vmdk", "TooLarge", "are allowed", _of("sparse.vmdk", (12, struct.pack("<Q", 1 << 50)))),
    "vmdk-esx": Hostile("vmdk", "FormatMismatch", "older kind", lambda *_: b"COWD".ljust(_SECTOR * 8, b"\0")),
    "vhd-difference": Hostile("vhd", "UnsafeImage", "difference", _vhd_with(60, struct.pack(">I", 4))),
    "vhd-parent": Hostile("vhd", "UnsafeImage", "parent", _vhd_parent),
    "vhd-huge": Hostile("vhd", "TooLarge", "are allowed", _vhd_with(48, struct.pack(">Q", 1 << 50))),
    "vhd-larger-than-blocks": Hostile("vhd", "CorruptImage", "do not make", _vhd_with(48, struct.pack(">Q", 1 << 29))),
    "vhd-checksum": Hostile("vhd", "CorruptImage", "checksum", _of("fixed.vhd", (-_SECTOR + 48, b"\x7f"))),
    "vhd-two-minds": Hostile("vhd", "CorruptImage", "differ", _of("dynamic.vhd", (48, struct.pack(">Q", 1 << 20)))),
    "vhd-table-outside": Hostile(
        "vhd", "CorruptImage", "header is none", _of("dynamic.vhd", (_SECTOR + 16, struct.pack(">Q", 1 << 62)))
    ),
    "vhd-as-raw": Hostile("raw", "FormatMismatch", "fixed VHD", _of("fixed.vhd")),
    "vhd-around-qcow2": Hostile("vhd", "FormatMismatch", "content is qcow2", _in_fixed_vhd),
    "vhdx-parent": Hostile("vhdx", "UnsafeImage", "difference", _with_parent),
    "vhdx-parent-locator": Hostile("vhdx", "UnsafeImage", "difference", _with_locator),
    "vhdx-large-sectors": Hostile("vhdx", "FormatMismatch", "sectors of 4096", _large_sectors),
    "vhdx-open-log": Hostile(
        "vhdx",
        "CorruptImage",
        "not closed",
        _of("dynamic.vhdx", ((64 << 10) + 48, b"x" * 16), ((128 << 10) + 48, b"x" * 16)),
    ),
    "vdi-difference": Hostile("vdi", "UnsafeImage", "difference", _of("dynamic.vdi", (0x4C, struct.pack("<I", 4)))),
    "vdi-parent": Hostile("vdi", "UnsafeImage", "difference", _of("dynamic.vdi", (0x1B8, b"\x11" * 16))),
    "vdi-block-twice": Hostile("vdi", "CorruptImage", "lie on others", _of("dynamic.vdi", (512, bytes(4 * 9)))),
    "vdi-huge": Hostile(
        "vdi", "TooLarge", "are allowed", _of("dynamic.vdi", (0x170, struct.pack("<Q", 1 << 50)), (0x180, b"\xff" * 4))
    ),
    "qcow2-as-raw": Hostile("raw", "FormatMismatch", "content is qcow2", _of("plain.qcow2")),
    "qcow2-as-iso": Hostile("iso", "FormatMismatch", "content is qcow2", _of("plain.qcow2")),
    "raw-as-qcow2": Hostile("qcow2", "FormatMismatch", "content is raw", _of("raw")),
    "luks-as-raw": Hostile("raw", "FormatMismatch", "luks", lambda *_: b"LUKS\xba\xbe\0\1".ljust(1 << 20, b"\0")),
    "cd-with-qcow2": Hostile("iso", "FormatMismatch", "iso, qcow2", _cd_of("plain.qcow2")),
    "cd-with-vmdk": Hostile("iso", "FormatMismatch", "iso, vmdk", _cd_of("sparse.vmdk")),
    "cd-with-vmdk-as-vmdk": Hostile("vmdk", "UnsafeImage", "at once", _cd_of("sparse.vmdk")),
    "cd-with-vdi": Hostile("iso", "FormatMismatch", "iso, vdi", _cd_of("dynamic.vdi")),
    "cd-with-vhd": Hostile("iso", "FormatMismatch", "iso, vhd", _cd_of("dynamic.vhd")),
    "gzip": Hostile("raw", "FormatMismatch", "gzip", lambda *_: b"\x1f\x8b\x08" + bytes(1 << 16)),
    "xz-as-qcow2": Hostile("qcow2", "FormatMismatch", "xz", lambda *_: b"\xfd7zXZ\0" + bytes(1 << 16)),
    "ova": Hostile("vmdk", "FormatMismatch", "tar archive", lambda *_: patched(bytes(1 << 16), (257, b"ustar\0"))),
    "empty": Hostile("vmdk", "FormatMismatch", "content is raw", lambda *_: b""),
    **{
        f"garbage-as-{declared}": Hostile(
            declared, "FormatMismatch", "content is raw", lambda good, _: good["raw"][::-1]
        )
        for declared in ("qcow2", "vmdk", "vhd", "vhdx", "vdi")
    },
}
