"""What guests can be given on this host, as libvirt tells it, in the words of Placement (os-traits)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import libvirt

from kumulus_agent.compute.elements import Element, parse
from kumulus_api.hardware import MachineType, cpu_model_trait

_TPM_MODELS: Final = {"tpm-tis": "COMPUTE_SECURITY_TPM_TIS", "tpm-crb": "COMPUTE_SECURITY_TPM_CRB"}
_TPM_VERSIONS: Final = {"1.2": "COMPUTE_SECURITY_TPM_1_2", "2.0": "COMPUTE_SECURITY_TPM_2_0"}
_BUSES: Final = ("ide", "sata", "scsi", "usb", "virtio")
_PAGE_BYTES: Final = 4096
_ALWAYS: Final = (
    # QEMU's programs for PCs have these whatever they were built with, and libvirt does not list them.
    "COMPUTE_FIRMWARE_BIOS",
    "COMPUTE_NET_VIF_MODEL_E1000",
    "COMPUTE_NET_VIF_MODEL_E1000E",
    "COMPUTE_NET_VIF_MODEL_RTL8139",
    "CUSTOM_WATCHDOG_I6300ESB",
)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the host offers to guests.

    Attributes:
        traits: sorted.
        numa_nodes: how many the host has.
        huge_pages: how many it keeps ready, by their size in bytes.
    """

    traits: tuple[str, ...] = ()
    numa_nodes: int = 1
    huge_pages: Mapping[int, int] = field(default_factory=dict)


def read_abilities(conn: Any, virt: str) -> Abilities:
    """Ask libvirt; blocking.

    Args:
        conn: a connection.
        virt: how guests run, ``kvm`` or ``qemu``.

    Raises:
        libvirt.libvirtError: it does not answer.
    """
    domains = {}
    for machine in MachineType:
        try:
            domains[machine] = conn.getDomainCapabilities(None, "x86_64", machine.value, virt)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_NO_SUPPORT):
                raise  # else this QEMU has no such machine
    return parse_abilities(conn.getCapabilities(), domains)


def parse_abilities(host: str, domains: Mapping[MachineType, str]) -> Abilities:
    """Read what libvirt has answered (pure).

    Args:
        host: the XML of its capabilities.
        domains: the XML of the domain capabilities of each machine type that QEMU has.
    """
    traits: set[str] = set()
    for machine, xml in domains.items():
        traits.add(f"CUSTOM_MACHINE_{machine.upper()}")
        traits.update(_domain_traits(parse(xml)))
    cells = parse(host).findall("host/topology/cells/cell")
    pages: dict[int, int] = {}
    for page in (page for cell in cells for page in cell.findall("pages")):
        size = int(str(page.get("size"))) << 10
        if size > _PAGE_BYTES and int(page.text or 0):
            pages[size] = pages.get(size, 0) + int(page.text or 0)
    return Abilities(tuple(sorted(traits)), max(len(cells), 1), pages)


def _domain_traits(root: Element) -> Iterator[str]:
    yield from _ALWAYS
    firmwares = _values(root, "os", "firmware")
    if "efi" in firmwares:
        yield "COMPUTE_FIRMWARE_UEFI"
    if "efi" in firmwares and "yes" in _values(root, "os/loader", "secure"):
        yield "COMPUTE_SECURITY_UEFI_SECURE_BOOT"
    if "emulator" in _values(root, "devices/tpm", "backendModel"):
        models = _values(root, "devices/tpm", "model")
        yield from (trait for name, trait in _TPM_MODELS.items() if name in models)
        versions = _values(root, "devices/tpm", "backendVersion")
        yield from (trait for name, trait in _TPM_VERSIONS.items() if name in versions)
    buses = _values(root, "devices/disk", "bus")
    yield from (f"COMPUTE_STORAGE_BUS_{bus.upper()}" for bus in _BUSES if bus in buses)
    for model in root.findall("cpu/mode[@name='custom']/model[@usable='yes']"):
        yield cpu_model_trait(str(model.text))


def _values(root: Element, place: str, name: str) -> frozenset[str]:
    """Give the values of an enumeration, if what it belongs to is supported at all."""
    parent = root.find(place)
    if parent is None or parent.get("supported") == "no":
        return frozenset()
    return frozenset(str(value.text) for value in parent.findall(f"enum[@name='{name}']/value"))
