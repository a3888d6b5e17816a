"""Devices of a running domain: which volumes and NICs are plugged in; plug in and unplug.

A volume is known by its file, which lies in a folder that is named by its id or is so itself; a NIC by its MAC.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Final

import libvirt

from kumulus_agent.compute.devices_xml import device_xml, file_of
from kumulus_agent.compute.domain_spec import Disk, Nic
from kumulus_agent.compute.elements import Element, parse, write
from kumulus_agent.compute.passed_xml import passed_of
from kumulus_agent.compute.plugged import Devices
from kumulus_agent.compute.root_limits import root_limits
from kumulus_agent.compute.volume_copies import end_copies
from kumulus_api.hardware import Hardware

VOLUMES: Final = "volumes"
"""Name of the folder with the files of volumes: other disks are the instance's own."""
_LETTERS: Final = "bcdefghijklmnopqrstuvwx"
_NOT_NOW: Final = frozenset(
    {
        libvirt.VIR_ERR_OPERATION_FAILED,
        libvirt.VIR_ERR_OPERATION_TIMEOUT,
        libvirt.VIR_ERR_INTERNAL_ERROR,
    }
)
"""How libvirt says that a guest was asked before and has not answered, or that it refuses."""


def devices_of(xml: str) -> Devices:
    """Read a domain's XML."""
    found = dict(_elements(xml))
    return Devices(
        frozenset(key for key, element in found.items() if element.tag == "interface"),
        frozenset(key for key, element in found.items() if element.tag == "disk"),
        passed_of(xml),
        frozenset(key for key, element in found.items() if _is_bound(element)),
        root_limits(xml),
    )


def _is_bound(element: Element) -> bool:
    return element.find("backingStore/source") is not None or (
        element.tag == "disk" and element.find("readonly") is not None
    )


def _elements(xml: str) -> Iterator[tuple[str, Element]]:
    """Give the devices that come and go, each by its MAC or volume id."""
    root = parse(xml)
    for disk in root.iterfind("devices/disk"):
        volume_id = volume_of(file_of(disk) or "/")
        if volume_id:
            yield volume_id, disk
    for nic in root.iterfind("devices/interface"):
        mac = nic.find("mac")
        if mac is not None:
            yield str(mac.get("address")), nic


def volume_of(file: str) -> str:
    """Give the id of the volume to which a file belongs; empty if it is of none."""
    path = PurePosixPath(file)
    if path.parent.name == VOLUMES:
        return path.stem
    return path.parent.name if path.parent.parent.name == VOLUMES else ""


def _letters(xml: str) -> set[str]:
    """Give the last letters of all disks' names: their places, on whatever bus."""
    return {str(target.get("dev"))[-1] for target in parse(xml).iterfind("devices/disk/target")}


def disk_name(xml: str, file: str) -> str:
    """Give the name that a domain's disk on a file has on its bus, such as `vda` or `sdb`.

    Raises:
        ValueError: it has no disk there.
    """
    for disk in parse(xml).iterfind("devices/disk"):
        source, target = disk.find("source"), disk.find("target")
        if source is not None and target is not None and source.get("file") == file:
            return str(target.get("dev"))
    raise ValueError(f"no disk of the guest lies on {file}")


def _stored(domain: Any) -> str | None:
    """Give the definition for the next start; None if there is none."""
    return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)) if domain.isPersistent() else None


def attach(domain: Any, device: Disk | Nic, hardware: Hardware) -> None:
    """Plug a device into a running domain of that hardware and into its definition, wherever it is not."""
    live, stored = str(domain.XMLDesc()), _stored(domain)
    key = device.mac if isinstance(device, Nic) else volume_of(device.path)
    if isinstance(device, Disk):
        taken = _letters(live) | (_letters(stored) if stored is not None else set())
        device = replace(device, target="vd" + next(letter for letter in _LETTERS if letter not in taken))
    xml = device_xml(device, hardware)
    if key not in dict(_elements(live)):
        domain.attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    if stored is not None and key not in dict(_elements(stored)):
        domain.attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def detach(domain: Any, wanted: Devices) -> Devices:
    """Ask a running domain's guest to let go of devices; give those that it still has.

    libvirt waits for the guest's answer for some seconds. What it has let go of leaves the definition too.
    """
    keys = wanted.macs | wanted.volumes
    for key, element in _elements(str(domain.XMLDesc())):
        if key in keys:
            _ask(domain, element)
    left = {key for key, _ in _elements(str(domain.XMLDesc()))} & keys
    for key, element in _elements(_stored(domain) or "<domain/>"):
        if key in keys - left:
            with contextlib.suppress(libvirt.libvirtError):  # the next start makes a new definition
                domain.detachDeviceFlags(_text(element), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    return Devices(wanted.macs & left, wanted.volumes & left)


def _ask(domain: Any, element: Element) -> None:
    try:
        end_copies(domain, [element])
        domain.detachDeviceFlags(_text(element), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in _NOT_NOW | {libvirt.VIR_ERR_DEVICE_MISSING}:
            raise


def _text(element: Element) -> str:
    return write(element)
