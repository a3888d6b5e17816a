"""What the host has to offer, read from the host itself."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_api.host import FAILOVER_PACKAGE

HOST_ROOT: Final = Path("/proc/1/root")
"""The host's own file system, seen from a pod in the host's PID namespace."""

_EXECUTABLE_FOLDERS: Final = ("usr/sbin", "usr/bin", "sbin", "bin", "usr/local/sbin", "usr/local/bin")
_PLUGINS: Final = "usr/lib/ipsec/plugins"
_NEEDED: Final = {
    "charon-systemd": "charon-systemd",
    "dnsmasq": "dnsmasq-base",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "keepalived": FAILOVER_PACKAGE,
    "libvirtd": "libvirt-daemon",
    "nft": "nftables",
    "nsenter": "util-linux",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "start-stop-daemon": "dpkg",
    "virtlogd": "libvirt-daemon",
}
"""Executables that the agent starts on the host, and the Debian packages that bring them."""
_NEEDED_PLUGINS: Final = {
    "libstrongswan-kernel-libipsec.so": "libcharon-extra-plugins",
    "libstrongswan-openssl.so": "libstrongswan-standard-plugins",
}
"""What strongSwan loads, likewise."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """A host's inventory.

    Attributes:
        architecture: as uname says it, ``x86_64``.
        kernel: kernel release.
        boot_id: changes with every boot of the host.
        vcpus: CPUs that the host has online.
        memory_bytes: physical memory.
        disk_bytes: size of the file system that holds instances and images.
        disk_free_bytes: what an unprivileged writer could still store there.
        libvirt_version: ``9.0.0``.
        qemu_version: ``7.2.22``.
        missing_packages: Debian packages whose executables the host lacks, sorted.
    """

    architecture: str
    kernel: str
    boot_id: str
    vcpus: int
    memory_bytes: int
    disk_bytes: int
    disk_free_bytes: int
    libvirt_version: str
    qemu_version: str
    missing_packages: tuple[str, ...]


async def read_inventory(hypervisor: Hypervisor, state_dir: Path, host_root: Path = HOST_ROOT) -> Inventory:
    """Observe the host.

    Args:
        hypervisor: an open connection, asked for versions.
        state_dir: directory of images and instances.
        host_root: root of the host's file system.

    Raises:
        HypervisorUnavailable: libvirtd does not answer.
    """
    versions = await hypervisor.versions()
    disk = await asyncio.to_thread(shutil.disk_usage, state_dir)
    missing = await asyncio.to_thread(missing_packages, host_root)
    uname = platform.uname()
    return Inventory(
        architecture=uname.machine,
        kernel=uname.release,
        boot_id=read_boot_id(),
        vcpus=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        disk_bytes=disk.total,
        disk_free_bytes=disk.free,
        libvirt_version=dotted(versions.libvirt),
        qemu_version=dotted(versions.qemu),
        missing_packages=missing,
    )


def missing_packages(host_root: Path) -> tuple[str, ...]:
    """Return the packages whose executables are not below ``host_root``."""
    lacking = {package for name, package in _NEEDED.items() if not _has(host_root, name)}
    plugins = host_root / _PLUGINS
    lacking |= {package for name, package in _NEEDED_PLUGINS.items() if not os.path.lexists(plugins / name)}
    return tuple(sorted(lacking))


def read_boot_id() -> str:
    """Return the kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def dotted(version: tuple[int, int, int]) -> str:
    """Write a version as ``major.minor.patch``."""
    return ".".join(str(part) for part in version)


def _has(host_root: Path, name: str) -> bool:
    # lexists: an absolute link of the host leads elsewhere when seen from a pod (Debian's alternatives).
    return any(os.path.lexists(host_root / folder / name) for folder in _EXECUTABLE_FOLDERS)
