"""Bootable disks without loop devices: an ext filesystem made from a directory, put behind GRUB's BIOS boot code.

The layout is the classic one every BIOS and every growpart knows:

    sector 0         GRUB's boot.img and the MBR partition table (one Linux partition, active)
    sector 1 …       GRUB's core.img, in the gap before the first partition
    sector 2048 …    the ext2/ext4 partition, last on the disk so that it can grow

GRUB's defaults are made for exactly this: boot.img loads the sector after itself and core.img goes on behind it, so
copying the two is a complete installation.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from kumulus_lab.guests.packages import run

SECTOR = 512
FIRST_SECTOR = 2048
_TABLE_OFFSET = 446
_LINUX = 0x83
EFI_SYSTEM = 0xEF
_ACTIVE = 0x80
# "Use the block address": what partitioning tools write where cylinder, head and sector cannot express the position.
_NO_CHS = b"\xfe\xff\xff"


@dataclass(frozen=True)
class Grub:
    """GRUB's BIOS parts.

    Attributes:
        modules: The directory `i386-pc` with boot.img and the modules.
        mkimage: The program grub-mkimage.
    """

    modules: Path
    mkimage: Path

    @classmethod
    def unpacked(cls, tree: Path) -> Grub:
        """Find GRUB in a tree that holds the unpacked packages grub-common and grub-pc-bin."""
        return cls(tree / "usr/lib/grub/i386-pc", tree / "usr/bin/grub-mkimage")


def partition_table(sectors: int, kind: int = _LINUX) -> bytes:
    """Build the MBR's table of one active partition.

    Args:
        sectors: The partition's length in sectors of 512 bytes.
        kind: The partition's type.

    Returns:
        66 bytes: four entries and the boot signature, to be placed at byte 446.
    """
    entry = struct.pack("<B3sB3sII", _ACTIVE, _NO_CHS, kind, _NO_CHS, FIRST_SECTOR, sectors)
    return entry + bytes(48) + b"\x55\xaa"


def core_image(grub: Grub, modules: tuple[str, ...], config: str, target: Path) -> Path:
    """Make GRUB's core.img, with the partition it was booted from as root and an embedded configuration.

    Args:
        grub: GRUB's parts.
        modules: Modules to build in.
        config: Commands run at start, one a line; the filesystem's root is `$root`.
        target: The file to write; its sibling `.cfg` holds the configuration.

    Returns:
        The target.

    Raises:
        CommandFailed: grub-mkimage refused.
    """
    script = target.with_suffix(".cfg")
    script.write_text(config)
    # The empty device before the comma stands for the disk that the BIOS booted from.
    prefix = "(,msdos1)/boot/grub"
    base: list[str | Path] = [grub.mkimage, "--format=i386-pc", f"--directory={grub.modules}", f"--prefix={prefix}"]
    run([*base, f"--config={script}", f"--output={target}", *modules])
    return target


def filesystem(root: Path, target: Path, size: int, *, kind: str = "ext4", label: str = "root") -> Path:
    """Make a filesystem image holding a directory's content, owners and modes included.

    Args:
        root: The directory that becomes the filesystem's root.
        target: The image file to write.
        size: Size in bytes.
        kind: ext2 or ext4.
        label: The filesystem's label.

    Returns:
        The target.

    Raises:
        CommandFailed: mke2fs refused; most often the content does not fit.
    """
    target.unlink(missing_ok=True)
    with target.open("wb") as image:
        image.truncate(size)
    # GRUB 2.06 can read neither of these two newer features.
    features = "^metadata_csum_seed,^orphan_file" if _knows_orphan_file() else "^metadata_csum_seed"
    run(["mke2fs", "-q", "-F", "-t", kind, "-O", features, "-m", "0", "-b", "4096", "-L", label, "-d", root, target])
    return target


def assemble(grub: Grub, core: Path, partition: Path, target: Path) -> Path:
    """Put boot code, partition table and filesystem together into a sparse raw disk.

    Returns:
        The target.

    Raises:
        ValueError: core.img does not fit into the gap before the partition.
    """
    gap = (FIRST_SECTOR - 1) * SECTOR
    if core.stat().st_size > gap:
        raise ValueError(f"{core} has {core.stat().st_size} bytes, the gap before the partition only {gap}")
    size = partition.stat().st_size
    boot = (grub.modules / "boot.img").read_bytes()[:_TABLE_OFFSET]
    with target.open("wb") as disk:
        disk.write(boot + partition_table(size // SECTOR))
        disk.write(core.read_bytes())
        _copy_sparse(partition, disk.fileno(), FIRST_SECTOR * SECTOR)
        disk.truncate(FIRST_SECTOR * SECTOR + size)
    return target


def assemble_efi(partition: Path, target: Path) -> Path:
    """Put an EFI system partition on a sparse raw disk, on which no BIOS finds anything to start.

    Returns:
        The target.
    """
    size = partition.stat().st_size
    with target.open("wb") as disk:
        disk.write(bytes(_TABLE_OFFSET) + partition_table(size // SECTOR, EFI_SYSTEM))
        _copy_sparse(partition, disk.fileno(), FIRST_SECTOR * SECTOR)
        disk.truncate(FIRST_SECTOR * SECTOR + size)
    return target


def to_qcow2(raw: Path, target: Path, *, compress: bool = False) -> Path:
    """Convert a raw disk to qcow2 (version 3), leaving holes out.

    Args:
        raw: The raw disk.
        target: The qcow2 file to write.
        compress: Trade build time and first-read speed for a smaller file.

    Returns:
        The target.

    Raises:
        CommandFailed: qemu-img refused.
    """
    options = ["-c"] if compress else []
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, target])
    return target


def _copy_sparse(source: Path, target: int, offset: int) -> None:
    """Copy a file's data, and not its holes, to an offset of an open file."""
    with source.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        position = 0
        while position < end:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                return
            position = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            _copy_range(file.fileno(), start, position - start, (target, offset + start))


def _copy_range(source: int, start: int, length: int, to: tuple[int, int]) -> None:
    target, offset = to
    done = 0
    while done < length:
        chunk = os.pread(source, min(1 << 20, length - done), start + done)
        done += os.pwrite(target, chunk, offset + done)


def _knows_orphan_file() -> bool:
    """Tell whether this mke2fs has the feature at all: older ones refuse to switch off what they don't know."""
    return "orphan_file" in Path("/etc/mke2fs.conf").read_text() if Path("/etc/mke2fs.conf").exists() else False
