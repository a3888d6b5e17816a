"""The layout of bootable disks."""

import struct
from pathlib import Path

import pytest

from kumulus_lab.guests import disk


def make_grub(folder: Path) -> disk.Grub:
    """Make GRUB parts of recognisable bytes."""
    (folder / "boot.img").write_bytes(b"B" * disk.SECTOR)
    return disk.Grub(folder, folder / "grub-mkimage")


def test_table_has_one_active_partition_that_can_grow() -> None:
    """The only partition starts at 1 MiB and is the last thing on the disk."""
    table = disk.partition_table(65536)
    active, _, kind, _, start, sectors = struct.unpack("<B3sB3sII", table[:16])
    assert (active, kind, start, sectors) == (0x80, 0x83, 2048, 65536)
    assert table[16:64] == bytes(48)
    assert table[64:] == b"\x55\xaa"


def test_parts_lie_where_the_boot_code_looks(tmp_path: Path) -> None:
    """Boot code, core image and filesystem keep their bytes at sectors 0, 1 and 2048."""
    core, partition = tmp_path / "core", tmp_path / "partition"
    core.write_bytes(b"C" * 1000)
    with partition.open("wb") as image:
        image.truncate(1 << 20)
        image.seek(1 << 19)
        image.write(b"DATA")
    target = disk.assemble(make_grub(tmp_path), core, partition, tmp_path / "disk")
    content = target.read_bytes()
    assert content[:446] == b"B" * 446
    assert content[510:512] == b"\x55\xaa"
    assert content[512:1512] == b"C" * 1000
    assert content[(1 << 20) + (1 << 19) :][:4] == b"DATA"
    assert len(content) == 2 << 20


def test_an_efi_disk_holds_nothing_for_a_bios(tmp_path: Path) -> None:
    """Its one partition is an EFI system partition, and there is no boot code."""
    partition = tmp_path / "partition"
    partition.write_bytes(b"F" * disk.SECTOR)
    content = disk.assemble_efi(partition, tmp_path / "disk").read_bytes()
    assert content[:446] == bytes(446)
    assert content[446 + 4] == disk.EFI_SYSTEM
    assert content[disk.FIRST_SECTOR * disk.SECTOR :] == b"F" * disk.SECTOR


def test_core_image_must_fit_before_the_partition(tmp_path: Path) -> None:
    """A core image that would overwrite the partition is refused."""
    core = tmp_path / "core"
    core.write_bytes(bytes(disk.FIRST_SECTOR * disk.SECTOR))
    with pytest.raises(ValueError, match="gap"):
        disk.assemble(make_grub(tmp_path), core, core, tmp_path / "disk")
