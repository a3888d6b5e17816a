"""Devices of a host that its servers may be given: what is allowed, what is there, and what a server has.

The words are Nova's (`[pci] device_spec`, `[devices] enabled_mdev_types`) and Placement's: what is counted is a
resource class, for which flavors ask.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kumulus_api.base import Model, Rule, Trait, UUIDText, list_map, validated

DeviceClass = Annotated[str, Field(max_length=64, pattern=r"^(VGPU|CUSTOM_[A-Z0-9_]{1,57})$")]
"""A resource class of devices: one's own, or Placement's VGPU."""

PCIAddress = Annotated[str, Field(max_length=16, pattern=r"^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")]
"""Where a PCI device is, as Linux writes it: `0000:3b:00.0`."""

AddressGlob = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[0-9a-f:.*?\[\]!-]+$")]
"""PCI addresses as a shell would match them: `0000:3b:00.*`."""

PCINumber = Annotated[str, Field(max_length=4, pattern=r"^[0-9a-f]{4}$")]
"""A vendor or a product: four hexadecimal digits in lower case, as `lspci -n` shows them."""

_Traits = Annotated[list[Trait], Field(max_length=16)]


class PCIDevices(Model):
    """PCI devices that may be given to servers: those to which all that is said here applies."""

    vendor: PCINumber | None = None
    product: PCINumber | None = None
    address: AddressGlob | None = None
    resource_class: DeviceClass | None = None
    """What they are counted as; without it `CUSTOM_PCI_<VENDOR>_<PRODUCT>`."""
    traits: _Traits = Field(default_factory=list)
    """What a host can do that has one of them."""

    model_config = validated(
        Rule(
            "has(self.vendor) || has(self.address)",
            "devices are named by vendor, or by address, or by both: all of a host's are none of a server's",
        ),
        Rule("!has(self.product) || has(self.vendor)", "a product is one of a vendor: give both", ".product"),
    )


class MediatedDevices(Model):
    """Mediated devices (vGPUs and their like) that may be made for servers."""

    type: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]
    """As the driver calls it: a folder in `mdev_supported_types`, such as `nvidia-35`."""
    address: AddressGlob | None = None
    """Of the devices that they are made on; without it all that know the type."""
    resource_class: DeviceClass = "VGPU"
    traits: _Traits = Field(default_factory=list)
    """What a host can do that has one of them."""


class HostDevices(Model):
    """Which of a host's devices may be given to its servers.

    The first entry that a device fits decides; one on which mediated devices are made is not given itself.
    """

    pci: Annotated[list[PCIDevices], Field(max_length=32)] = Field(default_factory=list)
    mdev: Annotated[list[MediatedDevices], Field(max_length=16)] = Field(default_factory=list)


class WithheldReason(StrEnum):
    """Why a device that may be given to servers cannot be."""

    ABSENT = "Absent"
    """No device of the host fits the entry."""
    NO_IOMMU_GROUP = "NoIOMMUGroup"
    """Nothing keeps it from the memory of others: the IOMMU is off, or there is none."""
    GROUP_IN_USE = "GroupInUse"
    """Its IOMMU group, which is given as a whole, has a device that the host itself uses."""
    DRIVER_FIXED = "DriverNotUnbindable"
    """The host's driver does not let go of it."""
    BRIDGE = "Bridge"
    """It leads to other devices."""
    HOST_NETWORK = "HostNetwork"
    """It carries a network of the host's own."""
    HOST_DISK = "HostDisk"
    """It carries a disk that the host has in use."""
    VIRTUAL_FUNCTIONS = "HasVirtualFunctions"
    """Its virtual functions would vanish."""
    TYPE_UNSUPPORTED = "TypeUnsupported"
    """The mediated device is none that QEMU could give to a guest."""


class OfferedDevices(Model):
    """Devices of one class that servers may be given, those included that servers have."""

    resource_class: DeviceClass
    total: Annotated[int, Field(ge=1)]
    traits: Annotated[list[Trait], Field(max_length=64)] = Field(default_factory=list)


class WithheldDevice(Model):
    """A device that may be given to servers and cannot be."""

    device: Annotated[str, Field(max_length=160)]
    """Its address; of what is not there, how it was named."""
    resource_class: DeviceClass | None = None
    reason: WithheldReason
    message: Annotated[str, Field(max_length=512)] = ""


class FoundDevices(Model):
    """What of the allowed devices the host has."""

    offered: Annotated[list[OfferedDevices], Field(max_length=48, json_schema_extra=list_map("resourceClass"))] = Field(
        default_factory=list
    )
    withheld: Annotated[list[WithheldDevice], Field(max_length=64)] = Field(default_factory=list)
    """The first of them."""
    withheld_total: Annotated[int, Field(ge=0)] = 0


class GivenDevice(Model):
    """What a server has of its host: one unit of a class."""

    resource_class: DeviceClass
    addresses: Annotated[list[PCIAddress], Field(max_length=32)] | None = None
    """On the host: of all devices of an IOMMU group, which go together."""
    uuid: UUIDText | None = None
    """Of a mediated device."""
