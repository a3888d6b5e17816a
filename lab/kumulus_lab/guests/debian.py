"""The Debian guest: Debian's own packages with systemd, cloud-init, OpenSSH and GRUB on a partitioned disk.

It is what a user of a cloud expects of a distribution's image: NoCloud seed, network by systemd-networkd, the user
`debian` with the KeyPair's key and sudo, a root filesystem that grows with its disk, kernel upgrades by apt. What it
leaves out is what costs an emulated guest seconds and a test nothing: periodic timers, consoles that nobody sees, RSA
host keys. Its choices are files in `debian_rootfs/`, each saying why.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from kumulus_lab import commands
from kumulus_lab import packages as machine_packages
from kumulus_lab.cache import locked
from kumulus_lab.errors import Unsuitable
from kumulus_lab.guests import disk
from kumulus_lab.guests.packages import PackageSet, kernel_package, resolve, unpack

SUITE = "bookworm"
KERNEL_META_PACKAGE = "linux-image-cloud-amd64"
PACKAGES = (
    "busybox",  # the initramfs' shell
    "ca-certificates",
    "cloud-guest-utils",  # growpart
    "cloud-init",
    "dbus",  # logind hears of the power button, and is asked over it
    "e2fsprogs",
    "grub-pc",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libnss-myhostname",  # sudo finds the own name without DNS
    KERNEL_META_PACKAGE,
    "lz4",  # of the initramfs
    "netbase",
    "openssh-server",
    "qemu-guest-agent",  # tells who the guest is, freezes its file systems, sets passwords; udev starts it
    "sudo",
    "systemd-resolved",  # name servers of the DHCP lease
    "systemd-sysv",
    "udev",
)
_ROOTFS = Path(__file__).parent / "debian_rootfs"
# Not among the files that are there from the start: where a menu exists, the kernel's package wants it made anew, for
# which there is no disk yet.
_MENU = _ROOTFS.with_name("debian_grub.cfg")
_BUILD_TOOL = "mmdebstrap"
_BUILD_LIMIT = 1500
_PARTITION_BYTES = 2040 << 20
_LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/lintian/*")
_GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "normal", "linux", "linux16", "configfile", "boot", "echo")
# As grub-install makes it: go on to the menu on the disk that the BIOS booted from.
_GRUB_CONFIG = "normal\n"
_ENABLED = ("systemd-networkd.service", "systemd-resolved.service", "ssh.service")
# What a guest of a cloud has no use for. Each unit is a process, and under emulation a good part of a second.
_MASKED = (
    # Housekeeping by the clock, which would come in the middle of a test.
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("systemd-tmpfiles-clean.timer", "e2scrub_reap.service", "systemd-pstore.service"),
    # No network is described on the kernel's command line.
    "systemd-network-generator.service",
    # There is one console, on the serial line.
    "getty@tty1.service",
    # File systems that nothing here reads, and the modules behind them.
    *("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount"),
    *("dev-hugepages.mount", "dev-mqueue.mount", "proc-sys-fs-binfmt_misc.automount", "systemd-binfmt.service"),
    *(f"modprobe@{module}.service" for module in ("configfs", "dm_mod", "drm", "efi_pstore", "fuse", "loop")),
    "kmod-static-nodes.service",
    # What the packages did at their installation is not done again at the first boot.
    *("ldconfig.service", "systemd-hwdb-update.service", "systemd-journal-catalog-update.service"),
    *("systemd-sysusers.service", "systemd-update-done.service", "systemd-firstboot.service"),
    # The journal is in memory; who was logged in and what was random is not kept.
    *("systemd-journal-flush.service", "systemd-random-seed.service"),
    *("systemd-update-utmp.service", "systemd-update-utmp-runlevel.service"),
    # Its modules are in the list of cloud-final.service: see 95_kumulus.cfg.
    *("cloud-config.service", "cloud-init-hotplugd.socket"),
)
# They look at every boot for what is known here: there is one disk without encryption, no unit of old style, and
# cloud-init is wanted.
_MASKED_GENERATORS = (
    "cloud-init-generator",
    *(f"systemd-{name}-generator" for name in ("cryptsetup", "debug", "gpt-auto", "hibernate-resume")),
    *(f"systemd-{name}-generator" for name in ("integritysetup", "rc-local", "run", "system-update", "sysv")),
    "systemd-veritysetup-generator",
)


def build(cache: Path) -> Path:
    """Build the Debian guest's disk once for each state of its inputs.

    Args:
        cache: Directory that outlives the lab.

    Returns:
        The qcow2 disk.

    Raises:
        CommandFailed: A Debian package or a tool is missing.
    """
    versions = resolve([*PACKAGES, kernel_package(KERNEL_META_PACKAGE)])
    with locked(cache / "guests") as guests:
        home = guests / f"debian-{_key(versions)}"
        if not home.exists():
            for old in guests.glob("debian-*"):
                shutil.rmtree(old)
            scratch = home.with_suffix(".partial")
            scratch.mkdir(parents=True)
            _build(unpack(resolve(["grub-common", "grub-pc-bin"]), cache), scratch)
            scratch.rename(home)
    return home / "debian.qcow2"


def _key(versions: PackageSet) -> str:
    digest = hashlib.sha256(versions.fingerprint.encode())
    code = (Path(__file__).with_name(name) for name in ("disk.py", "debian.py", _MENU.name))
    for source in sorted([*code, *(path for path in _ROOTFS.rglob("*") if path.is_file())]):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _build(grub_tree: Path, target: Path) -> None:
    machine_packages.ensure((_BUILD_TOOL,))
    root = target / "root"
    commands.run(_bootstrap(root), timeout=_BUILD_LIMIT)
    _finish(root)
    grub = disk.Grub.unpacked(grub_tree)
    core = disk.core_image(grub, _GRUB_MODULES, _GRUB_CONFIG, target / "core.img")
    partition = disk.filesystem(root, target / "partition", _PARTITION_BYTES, label="root")
    shutil.rmtree(root)
    raw = disk.assemble(grub, core, partition, target / "debian.raw")
    partition.unlink()
    disk.to_qcow2(raw, target / "debian.qcow2")
    for spare in ("debian.raw", "core.img", "core.cfg"):
        (target / spare).unlink()


def _bootstrap(root: Path) -> list[str | Path]:
    """Give the command that unpacks and configures the packages in `root`.

    Our files are there before the packages are configured, so that the kernel's initramfs is made as they say. The
    mount namespace takes /proc and /sys of the new root away with the tool, however it ends.
    """
    out = [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    return [
        *("unshare", "--mount", "mmdebstrap", "--mode=root", "--variant=minbase", "--quiet"),
        # The tree is made to be thrown away: waiting for the disk at each file would take most of the time.
        "--dpkgopt=force-unsafe-io",
        *out,
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        f"--include={','.join(PACKAGES)}",
        f"--essential-hook=sync-in {_ROOTFS} /",
        f'--customize-hook=chroot "$1" systemctl --quiet enable {" ".join(_ENABLED)}',
        f'--customize-hook=chroot "$1" systemctl --quiet mask {" ".join(_MASKED)}',
        '--customize-hook=chroot "$1" systemctl --quiet add-wants multi-user.target cloud-init.target',
        *(SUITE, root),
    ]


def _finish(root: Path) -> None:
    """Make the tree an image: nothing in it may be the same in two guests, or belong to this machine."""
    for name in ("vmlinuz", "initrd.img"):
        if not (root / name).exists():
            raise Unsuitable(f"the kernel's package made no /{name} in {root}")
    for key in (root / "etc/ssh").glob("ssh_host_*_key*"):
        key.unlink()
    # Empty, not absent: an absent one makes systemd take every boot for the first and set all units anew.
    (root / "etc/machine-id").write_text("")
    (root / "etc/hostname").unlink(missing_ok=True)
    generators = root / "etc/systemd/system-generators"
    generators.mkdir(exist_ok=True)
    for name in _MASKED_GENERATORS:
        (generators / name).symlink_to("/dev/null")
    resolv = root / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.symlink_to("/run/systemd/resolve/stub-resolv.conf")
    shutil.copytree(root / "usr/lib/grub/i386-pc", root / "boot/grub/i386-pc", dirs_exist_ok=True)
    shutil.copyfile(_MENU, root / "boot/grub/grub.cfg")
