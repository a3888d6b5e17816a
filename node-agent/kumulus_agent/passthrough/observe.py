"""Reading the host's devices from sysfs (blocking)."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from kumulus_agent.host.inventory import HOST_ROOT
from kumulus_agent.passthrough.facts import SYSFS, Found, Mediated, MediatedType, PCIDevice
from kumulus_agent.passthrough.plan import may_be_given
from kumulus_api.passthrough import HostDevices

PROC_NET: Final = Path("/proc/net")
_LINK_SCOPE: Final = "20"


def read_devices(
    allowed: HostDevices,
    sysfs: Path = SYSFS,
    proc_net: Path = PROC_NET,
    in_use: Callable[[str], bool] | None = None,
) -> Found:
    """Look at the host.

    Args:
        allowed: what may be given: nothing else's disks are asked about.
        sysfs: where sysfs is mounted, that of the host's own network namespace.
        proc_net: where the kernel tells of that namespace's addresses and routes.
        in_use: says whether the host uses a disk, by its name; by default the kernel is asked.
    """
    interfaces = dict(_places(sysfs / "class/net"))
    disks = dict(_places(sysfs / "block"))
    known = sorted(_entries(sysfs / "bus/pci/devices"))
    carried = {name for name in interfaces if _is_joined(sysfs / "class/net" / name)} | set(_speaking(proc_net))
    devices = tuple(_device(path, interfaces, disks) for path in known)
    busy = in_use or disk_in_use
    held = {name for device in devices if may_be_given(allowed, device) for name in device.disks if busy(name)}
    return Found(
        pci=devices,
        types=tuple(_types(sysfs)),
        mediated=tuple(_mediated(sysfs)),
        carrying=frozenset(carried | held),
    )


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _places(folder: Path) -> Iterator[tuple[str, frozenset[str]]]:
    """Give the folders that each device of a class lies in: addresses of PCI devices are among them."""
    for path in _entries(folder):
        yield path.name, frozenset(path.resolve().parts)


def _device(path: Path, interfaces: dict[str, frozenset[str]], disks: dict[str, frozenset[str]]) -> PCIDevice:
    driver = path / "driver"
    group = path / "iommu_group"
    return PCIDevice(
        address=path.name,
        vendor=_text(path / "vendor").removeprefix("0x"),
        product=_text(path / "device").removeprefix("0x"),
        kind=_text(path / "class").removeprefix("0x"),
        driver=driver.readlink().name if driver.is_symlink() else "",
        unbindable=not driver.is_symlink() or (driver / "unbind").exists(),
        group=int(group.readlink().name) if group.is_symlink() else None,
        interfaces=tuple(sorted(name for name, place in interfaces.items() if path.name in place)),
        disks=tuple(sorted(name for name, place in disks.items() if path.name in place)),
        functions=int(_text(path / "sriov_numvfs") or "0"),
    )


def _types(sysfs: Path) -> Iterator[MediatedType]:
    for parent in sorted(_entries(sysfs / "class/mdev_bus")):
        for kind in sorted(_entries(parent / "mdev_supported_types")):
            available = int(_text(kind / "available_instances") or "0")
            yield MediatedType(parent.resolve().name, kind.name, _text(kind / "device_api"), available)


def _mediated(sysfs: Path) -> Iterator[Mediated]:
    for path in sorted(_entries(sysfs / "bus/mdev/devices")):
        kind = path / "mdev_type"
        if kind.is_symlink():
            yield Mediated(path.name, path.resolve().parent.name, kind.readlink().name)


def _is_joined(interface: Path) -> bool:
    """Say whether a bridge, a bond, a VLAN or the like lies on an interface."""
    return any(path.name == "master" or path.name.startswith("upper_") for path in _entries(interface))


def _speaking(proc_net: Path) -> Iterator[str]:
    """Give the interfaces that have routes of IPv4, or addresses of IPv6 beyond the link's own."""
    for line in _lines(proc_net / "route")[1:]:
        yield line.split()[0]
    for line in _lines(proc_net / "if_inet6"):
        _, _, _, scope, _, name = line.split()
        if scope != _LINK_SCOPE:
            yield name


def _lines(path: Path) -> list[str]:
    return [line for line in _text(path).splitlines() if line.strip()]


def _text(path: Path) -> str:
    # A device that goes while it is looked at has nothing to say.
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""


def disk_in_use(name: str, root: Path = HOST_ROOT) -> bool:
    """Ask the kernel whether something holds a disk: a file system, swap, a RAID, LVM; one that cannot be asked is."""
    try:
        descriptor = os.open(root / "dev" / name.replace("!", "/"), os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        return error.errno != errno.ENOMEDIUM
    os.close(descriptor)
    return False
