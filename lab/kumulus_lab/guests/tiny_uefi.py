"""The tiny guest on a disk that starts by UEFI, also with secure boot: the same kernel and initramfs.

Its one partition is an EFI system partition with Debian's signed shim and GRUB, at the places where firmware looks on
a disk that it does not know (UEFI specification, 3.5.1.1). Debian signs its kernels too.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from kumulus_lab.cache import locked
from kumulus_lab.guests import disk, tiny
from kumulus_lab.guests.packages import resolve, run, unpack

_TOOLS = ("dosfstools", "mtools")
_SIGNED = ("grub-efi-amd64-signed", "shim-signed")
_PARTITION_BYTES = 40 << 20
# Where Debian's signed GRUB looks for what to do; it may not be told otherwise.
_CONFIG = "EFI/debian/grub.cfg"
_COMMANDS = (
    "search --no-floppy --file --set=root /vmlinuz\n"
    f"linux /vmlinuz {tiny.COMMAND_LINE}\n"
    "initrd /initramfs\n"
    "boot\n"
)  # fmt: skip


def build(cache: Path) -> Path:
    """Build the disk once for each state of its inputs.

    Args:
        cache: Directory that outlives the lab.

    Returns:
        The qcow2 disk.

    Raises:
        CommandFailed: A Debian package or a tool is missing.
    """
    parts = tiny.build_parts(cache)
    packages = resolve([*_TOOLS, *_SIGNED])
    digest = hashlib.sha256(f"{parts.disk.parent.name}{packages.fingerprint}".encode())
    digest.update(Path(__file__).read_bytes())
    with locked(cache / "guests") as guests:
        home = guests / f"tiny-uefi-{digest.hexdigest()[:16]}"
        if not home.exists():
            scratch = home.with_suffix(".partial")
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            _build(unpack(packages, cache), parts, scratch)
            scratch.rename(home)
    return home / "tiny-uefi.qcow2"


def _build(tree: Path, parts: tiny.TinyGuest, target: Path) -> None:
    files = {
        "vmlinuz": parts.kernel,
        "initramfs": parts.initramfs,
        "EFI/BOOT/BOOTX64.EFI": tree / "usr/lib/shim/shimx64.efi.signed",
        "EFI/BOOT/grubx64.efi": tree / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
    }
    root = target / "root"
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, root / name)
    (root / _CONFIG).parent.mkdir(parents=True)
    (root / _CONFIG).write_text(_COMMANDS)
    partition = target / "partition"
    with partition.open("wb") as image:
        image.truncate(_PARTITION_BYTES)
    run([tree / "sbin/mkfs.fat", "-F", "32", "-s", "1", "-n", "TINY", partition])
    run([tree / "usr/bin/mcopy", "-s", "-i", partition, *sorted(root.iterdir()), "::"])
    raw = disk.assemble_efi(partition, target / "disk.raw")
    disk.to_qcow2(raw, target / "tiny-uefi.qcow2")
    shutil.rmtree(root)
    for spare in (partition, raw):
        spare.unlink()
