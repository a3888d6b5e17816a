"""The tiny guest: Debian's cloud kernel and a static busybox on a BIOS-bootable disk of a few dozen megabytes.

It is a real cloud guest: DHCP with MTU and routes, NoCloud seed, user-data scripts, ACPI power button, hot-plugged
NICs, disks, processors and memory; and it reports what it sees on its serial console in lines that tests can read:

    kumulus-guest: boot-id=…
    kumulus-guest: hostname=web-0
    kumulus-guest: instance-id=…
    kumulus-guest: address=10.0.0.5/24 dev=eth0 mac=52:54:… mtu=1450
    kumulus-guest: disk=vdb bytes=1073741824 serial=…
    kumulus-guest: user-data-done rc=0
    kumulus-guest: ready uptime=2.31

It says the same on its screen, with a shell there and one on the serial console; it answers ping, echoes on TCP port 7
and serves its host name by HTTP on port 80.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from kumulus_lab.errors import Unsuitable
from kumulus_lab.guests import disk, initramfs
from kumulus_lab.guests.packages import PackageSet, kernel_package, resolve, run, unpack

KERNEL_META_PACKAGE = "linux-image-cloud-amd64"
COMMAND_LINE = (
    "console=tty0 console=ttyS0 quiet loglevel=3 panic=5 tsc=reliable no_timer_check random.trust_cpu=on nokaslr"
)
_MEBIBYTE = 1 << 20
_PARTITION_BYTES = 32 * _MEBIBYTE
_ROOTFS = Path(__file__).parent / "tiny_rootfs"

# Loaded first, in this order: the virtio bus must stand before its drivers.
_BOOT_MODULES = (
    "failover",
    "net_failover",
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
)
# Loaded by the init script, or by user-data (agent), when needed: each group in a list file of its own.
_MODULE_GROUPS = {
    "boot": _BOOT_MODULES,
    "seed": ("isofs",),
    "cdrom": ("virtio_scsi", "ata_piix", "sr_mod"),
    "vfat": ("nls_ascii", "nls_cp437", "vfat"),
    "agent": ("virtio_console",),
    "late": ("evdev", "button", "virtio_balloon", "virtio_rng", "virtio_mem"),
}
# The 16-bit entry hands over a second sooner under emulation than the 32-bit one.
_GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "linux16", "boot")
_GRUB_CONFIG = f"linux16 /vmlinuz {COMMAND_LINE}\ninitrd16 /initramfs\nboot\n"


@dataclass(frozen=True)
class TinyGuest:
    """The files of one build.

    Attributes:
        disk: Partitioned qcow2 that boots by BIOS from its MBR.
        kernel: The same kernel, for `qemu -kernel`.
        initramfs: The same initramfs, for `qemu -initrd`.
    """

    disk: Path
    kernel: Path
    initramfs: Path


def build(cache: Path) -> Path:
    """Build the tiny guest's disk once for each state of its inputs.

    Args:
        cache: Directory that outlives the lab.

    Returns:
        The qcow2 disk.

    Raises:
        CommandFailed: A Debian package or a tool is missing.
    """
    return build_parts(cache).disk


def build_parts(cache: Path) -> TinyGuest:
    """Build the tiny guest's disk, kernel and initramfs once for each state of its inputs.

    Raises:
        CommandFailed: A Debian package or a tool is missing.
    """
    packages = resolve([kernel_package(KERNEL_META_PACKAGE), "busybox-static", "grub-common", "grub-pc-bin"])
    home = cache / "guests" / f"tiny-{_key(packages)}"
    parts = TinyGuest(home / "tiny.qcow2", home / "vmlinuz", home / "initramfs")
    if not home.exists():
        scratch = home.with_suffix(".partial")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        _build(unpack(packages, cache), scratch)
        scratch.rename(home)
    return parts


def _key(packages: PackageSet) -> str:
    digest = hashlib.sha256(packages.fingerprint.encode())
    code = (Path(__file__).with_name(name) for name in ("disk.py", "initramfs.py", "tiny.py"))
    sources = [*code, *_ROOTFS.rglob("*")]
    for source in sorted(path for path in sources if path.is_file()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _build(tree: Path, target: Path) -> None:
    kernels = sorted((tree / "boot").glob("vmlinuz-*"))
    if not kernels:
        raise Unsuitable(f"the kernel package unpacked at {tree} holds no boot/vmlinuz-*")
    boot = target / "boot"
    boot.mkdir()
    shutil.copyfile(kernels[0], target / "vmlinuz")
    (target / "initramfs").write_bytes(initramfs.archive(guest_nodes(tree)))
    for name in ("vmlinuz", "initramfs"):
        shutil.copyfile(target / name, boot / name)
    grub = disk.Grub.unpacked(tree)
    core = disk.core_image(grub, _GRUB_MODULES, _GRUB_CONFIG, target / "core.img")
    partition = disk.filesystem(boot, target / "partition", _PARTITION_BYTES, kind="ext2", label="tiny")
    disk.to_qcow2(disk.assemble(grub, core, partition, target / "tiny.raw"), target / "tiny.qcow2")
    shutil.rmtree(boot)
    for spare in ("partition", "tiny.raw", "core.img", "core.cfg"):
        (target / spare).unlink()


def guest_nodes(tree: Path) -> list[initramfs.Node]:
    """List what the tiny guest's initramfs holds.

    Args:
        tree: The unpacked packages.

    Returns:
        busybox with a link for each of its applets, the scripts, the modules and their load orders.
    """
    busybox = tree / "bin/busybox"
    applets = run([busybox, "--list"]).split()
    nodes = [initramfs.file("bin/busybox", busybox.read_bytes(), 0o755)]
    nodes += [initramfs.link(f"bin/{name}", "busybox") for name in applets if name != "busybox"]
    nodes += [initramfs.Node(name, stat.S_IFDIR | 0o755) for name in ("proc", "sys", "run", "tmp", "seed", "disk")]
    nodes.append(initramfs.Node("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    for path in sorted(_ROOTFS.rglob("*")):
        if path.is_file():
            nodes.append(initramfs.file(str(path.relative_to(_ROOTFS)), path.read_bytes(), 0o755))
    return nodes + _module_nodes(tree)


def _module_nodes(tree: Path) -> list[initramfs.Node]:
    available = initramfs.module_files(tree / "lib/modules")
    depends = {name: initramfs.module_dependencies(path.read_bytes()) for name, path in available.items()}
    nodes: dict[str, initramfs.Node] = {}
    for group, wanted in _MODULE_GROUPS.items():
        order = initramfs.load_order(wanted, depends)
        listing = "".join(f"{name}\n" for name in order).encode()
        nodes[group] = initramfs.file(f"etc/modules/{group}", listing)
        for name in order:
            nodes[f"{name}.ko"] = initramfs.file(f"lib/modules/{name}.ko", available[name].read_bytes())
    return list(nodes.values())
