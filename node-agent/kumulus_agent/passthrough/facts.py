"""Devices as the host has them, and as domains have them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SYSFS: Final = Path("/sys")


@dataclass(frozen=True, slots=True)
class PCIDevice:
    """A PCI device.

    Attributes:
        address: `0000:3b:00.0`.
        vendor: four hexadecimal digits; so is `product`.
        kind: its class code, six hexadecimal digits; a bridge's begins with 06, a network card's with 02.
        driver: the host's that it is bound to, or empty.
        unbindable: that driver can let go of it.
        group: number of its IOMMU group; None without one.
        interfaces: names of the network interfaces on it, as far as they are in the host's own namespace.
        disks: names of the block devices on it.
        functions: how many virtual functions it has.
    """

    address: str
    vendor: str
    product: str
    kind: str
    driver: str = ""
    unbindable: bool = True
    group: int | None = None
    interfaces: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    functions: int = 0


@dataclass(frozen=True, slots=True)
class MediatedType:
    """A type of mediated devices that can be made on a device.

    Attributes:
        parent: address of that device.
        type: as its driver calls it.
        api: how it is given to a guest, such as `vfio-pci`.
        available: how many more can be made.
    """

    parent: str
    type: str
    api: str
    available: int


@dataclass(frozen=True, slots=True)
class Mediated:
    """A mediated device that is there: its uuid, the address of the device below it, and its type."""

    uuid: str
    parent: str
    type: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at the host has shown.

    Attributes:
        pci: all PCI devices.
        types: of mediated devices.
        mediated: those that were made.
        carrying: names of the interfaces by which the host speaks, and of the disks that it has in use.
    """

    pci: tuple[PCIDevice, ...] = ()
    types: tuple[MediatedType, ...] = ()
    mediated: tuple[Mediated, ...] = ()
    carrying: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Passed:
    """What a domain has of the host: one unit of a class.

    Attributes:
        resource_class: empty where a domain that is not ours has it.
        addresses: of PCI devices that go together.
        uuid: of a mediated device, or empty.
    """

    resource_class: str
    addresses: tuple[str, ...] = ()
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a server is to get.

    Attributes:
        passed: its devices.
        made: the mediated ones among them, all of which have to be there before it starts.
        dropped: uuids of those that it had and does not get again.
    """

    passed: tuple[Passed, ...] = ()
    made: tuple[Mediated, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """What domains have, by their uuid."""

    by_domain: dict[str, tuple[Passed, ...]] = field(default_factory=dict)

    def of(self, instance_id: str) -> tuple[Passed, ...]:
        """Give what an instance has."""
        return self.by_domain.get(instance_id, ())

    def of_others(self, instance_id: str) -> tuple[Passed, ...]:
        """Give what all others have."""
        return tuple(item for uuid, items in self.by_domain.items() if uuid != instance_id for item in items)

    @property
    def strangers(self) -> frozenset[str]:
        """Addresses of what domains have that are not ours."""
        foreign = [item for items in self.by_domain.values() for item in items if not item.resource_class]
        return frozenset(address for item in foreign for address in item.addresses)
