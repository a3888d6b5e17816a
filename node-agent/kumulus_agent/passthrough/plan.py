"""Which of a host's devices servers may be given, and which of those a server gets (pure).

What is given is a unit: an IOMMU group, since nothing keeps its devices from each other, or a mediated device.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final
from uuid import UUID, uuid5

from kumulus_agent.passthrough.facts import Choice, Found, Held, Mediated, MediatedType, Passed, PCIDevice
from kumulus_api.passthrough import (
    FoundDevices,
    HostDevices,
    MediatedDevices,
    OfferedDevices,
    PCIDevices,
    WithheldDevice,
    WithheldReason,
)

_FOR_GUESTS: Final = frozenset({"", "vfio-pci", "pci-stub"})
"""Drivers by which the host does not use a device itself."""
_OF_BRIDGES: Final = _FOR_GUESTS | {"pcieport"}
_QEMU_API: Final = "vfio-pci"
_PCI_CLASS: Final = "CUSTOM_PCI_"
_VGPU: Final = "VGPU"
_MOST_WITHHELD: Final = 64
_MOST_CLASSES: Final = 48


class Unavailable(Exception):
    """A server asks for devices that are not free; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class Unit:
    """PCI devices that go together."""

    resource_class: str
    addresses: tuple[str, ...]
    traits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A device on which mediated ones are made.

    Attributes:
        resource_class: of these.
        parent: its address.
        type: of these.
        available: how many more can be made.
        made: uuids of those that were.
        traits: of a host that has it.
    """

    resource_class: str
    parent: str
    type: str
    available: int
    made: frozenset[str] = frozenset()
    traits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Offer:
    """What servers may be given."""

    units: tuple[Unit, ...] = ()
    sources: tuple[Source, ...] = ()
    withheld: tuple[WithheldDevice, ...] = ()


def offer(allowed: HostDevices, found: Found, held: Held) -> Offer:
    """Give what servers may be given of what there is.

    Args:
        allowed: as the administrator says.
        found: of the host.
        held: what domains have; one that is not ours keeps its devices from servers.
    """
    sources, refused = _sources(allowed.mdev, found)
    parents = {source.parent for source in sources}
    chosen = {
        device.address: entry
        for device in found.pci
        if device.address not in parents and (entry := _entry(allowed.pci, device)) is not None
    }
    strangers = held.strangers
    groups: defaultdict[tuple[int | None, str], list[PCIDevice]] = defaultdict(list)
    for device in found.pci:
        groups[device.group, device.address if device.group is None else ""].append(device)
    units: list[Unit] = []
    for members in groups.values():
        wanted = [device for device in members if device.address in chosen and not _is_bridge(device)]
        leading = {device.address: _LEADS for device in members if device.address in chosen and _is_bridge(device)}
        refused += [
            _withheld(device, chosen[device.address], leading) for device in members if device.address in leading
        ]
        if not wanted:
            continue
        faults = _faults(wanted, members, found, strangers)
        if faults:
            refused += [_withheld(device, chosen[device.address], faults) for device in wanted]
        else:
            units.append(_unit(wanted, chosen))
    refused += [_absent(entry) for entry in allowed.pci if not any(_fits(entry, device) for device in found.pci)]
    return Offer(tuple(units), tuple(sources), tuple(sorted(refused, key=lambda item: item.device)))


Fault = tuple[WithheldReason, str]
_LEADS: Final[Fault] = WithheldReason.BRIDGE, "it leads to other devices"


def _is_bridge(device: PCIDevice) -> bool:
    return device.kind.startswith("06")


def may_be_given(allowed: HostDevices, device: PCIDevice) -> bool:
    """Say whether the administrator lets servers have a PCI device, as far as the host can give it."""
    return _entry(allowed.pci, device) is not None


def _entry(entries: Iterable[PCIDevices], device: PCIDevice) -> PCIDevices | None:
    return next((entry for entry in entries if _fits(entry, device)), None)


def _fits(entry: PCIDevices, device: PCIDevice) -> bool:
    return (
        entry.vendor in (None, device.vendor)
        and entry.product in (None, device.product)
        and (entry.address is None or fnmatchcase(device.address, entry.address))
    )


def _class(entry: PCIDevices, device: PCIDevice) -> str:
    return entry.resource_class or f"{_PCI_CLASS}{device.vendor}_{device.product}".upper()


def _unit(wanted: list[PCIDevice], chosen: Mapping[str, PCIDevices]) -> Unit:
    first = wanted[0]
    traits = {trait for device in wanted for trait in chosen[device.address].traits}
    addresses = tuple(device.address for device in wanted)
    return Unit(_class(chosen[first.address], first), addresses, tuple(sorted(traits)))


def _faults(
    wanted: list[PCIDevice], members: list[PCIDevice], found: Found, strangers: frozenset[str]
) -> dict[str, Fault]:
    """Give what keeps the devices of a group from being given, by address; empty if nothing does."""
    faults = {device.address: fault for device in wanted if (fault := _own_fault(device, found, strangers))}
    names = {device.address for device in wanted}
    for device in members:
        used = device.driver not in (_OF_BRIDGES if _is_bridge(device) else _FOR_GUESTS)
        if device.address not in names and (used or device.address in strangers):
            by = f"the host's driver {device.driver}" if used else "a domain that is no server's"
            faults[device.address] = WithheldReason.GROUP_IN_USE, f"{by} has it"
    return faults


def _own_fault(device: PCIDevice, found: Found, strangers: frozenset[str]) -> Fault | None:
    bound = device.driver not in _FOR_GUESTS
    speaking = ", ".join(sorted(found.carrying & set(device.interfaces)))
    mounted = ", ".join(sorted(found.carrying & set(device.disks)))
    hidden = bound and device.kind.startswith("02") and not device.interfaces
    away = f"driver {device.driver} has it, and its interface is not in the host's own network namespace"
    functions = f"it has {device.functions} virtual functions, which would vanish: give those"
    no_group = "it has no IOMMU group: is the IOMMU there, and on (intel_iommu=on)?"
    fixed = f"driver {device.driver} does not let go of its devices"
    checks: tuple[tuple[object, WithheldReason, str], ...] = (
        (device.group is None, WithheldReason.NO_IOMMU_GROUP, no_group),
        (speaking, WithheldReason.HOST_NETWORK, f"the host speaks by interface {speaking}"),
        (hidden, WithheldReason.HOST_NETWORK, away),
        (mounted, WithheldReason.HOST_DISK, f"the host uses disk {mounted}"),
        (device.functions, WithheldReason.VIRTUAL_FUNCTIONS, functions),
        (bound and not device.unbindable, WithheldReason.DRIVER_FIXED, fixed),
        (device.address in strangers, WithheldReason.GROUP_IN_USE, "a domain that is no server's has it"),
    )
    return next(((reason, text) for holds, reason, text in checks if holds), None)


def _withheld(device: PCIDevice, entry: PCIDevices, faults: Mapping[str, Fault]) -> WithheldDevice:
    if device.address in faults:
        reason, message = faults[device.address]
    else:
        told = "; ".join(f"{address}: {text}" for address, (_, text) in sorted(faults.items()))
        reason, message = WithheldReason.GROUP_IN_USE, f"IOMMU group {device.group} is given as a whole, but {told}"
    return WithheldDevice(
        device=device.address, resource_class=_class(entry, device), reason=reason, message=message[:512]
    )


def _absent(entry: PCIDevices) -> WithheldDevice:
    named = {"vendor": entry.vendor, "product": entry.product, "address": entry.address}
    default = f"{_PCI_CLASS}{entry.vendor}_{entry.product}".upper() if entry.vendor and entry.product else None
    return WithheldDevice(
        device=" ".join(f"{name}={value}" for name, value in named.items() if value is not None),
        resource_class=entry.resource_class or default,
        reason=WithheldReason.ABSENT,
        message="the host has no such device",
    )


def _sources(entries: Iterable[MediatedDevices], found: Found) -> tuple[list[Source], list[WithheldDevice]]:
    """Give the devices on which mediated ones are made, each of one type only; and what cannot be had."""
    sources: dict[str, Source] = {}
    withheld = []
    for entry in entries:
        fitting = [kind for kind in found.types if _makes(entry, kind)]
        for kind in fitting:
            if kind.api == _QEMU_API:
                sources.setdefault(kind.parent, _source(entry, kind, found))
        if not any(kind.api == _QEMU_API for kind in fitting):
            where = f" on {entry.address}" if entry.address is not None else ""
            apis = ", ".join(sorted({kind.api for kind in fitting}))
            reason = WithheldReason.TYPE_UNSUPPORTED if fitting else WithheldReason.ABSENT
            told = f"QEMU gives devices of {_QEMU_API} to guests, this is one of {apis}"
            withheld.append(
                WithheldDevice(
                    device=f"type={entry.type}{where}",
                    resource_class=entry.resource_class,
                    reason=reason,
                    message=told if fitting else "no device of the host knows that type",
                )
            )
    return list(sources.values()), withheld


def _makes(entry: MediatedDevices, kind: MediatedType) -> bool:
    return entry.type == kind.type and (entry.address is None or fnmatchcase(kind.parent, entry.address))


def _source(entry: MediatedDevices, kind: MediatedType, found: Found) -> Source:
    made = {item.uuid for item in found.mediated if (item.parent, item.type) == (kind.parent, kind.type)}
    traits = tuple(sorted(entry.traits))
    return Source(entry.resource_class, kind.parent, kind.type, kind.available, frozenset(made), traits)


def told(offered: Offer, held: Held) -> FoundDevices:
    """Give what the Host's status says: counts with what servers have, and the first of what is withheld."""
    counts: Counter[str] = Counter()
    traits: defaultdict[str, set[str]] = defaultdict(set)
    for unit in offered.units:
        counts[unit.resource_class] += 1
        traits[unit.resource_class].update(unit.traits)
    given = {item.uuid for items in held.by_domain.values() for item in items if item.resource_class}
    for source in offered.sources:
        counts[source.resource_class] += source.available + len(source.made & given)
        traits[source.resource_class].update(source.traits)
    classes = [
        OfferedDevices(resource_class=name, total=count, traits=sorted(traits[name]))
        for name, count in sorted(counts.items())
        if count
    ]
    withheld = list(offered.withheld[:_MOST_WITHHELD])
    return FoundDevices(offered=classes[:_MOST_CLASSES], withheld=withheld, withheld_total=len(offered.withheld))


def asked_devices(
    custom: Mapping[str, int], allowed: HostDevices | None, counted: Iterable[str], own: Iterable[Passed] = ()
) -> dict[str, int]:
    """Give how many devices of each class a server asks for: not every custom resource is one.

    Args:
        custom: what it was given of each class.
        allowed: the devices that the host may give.
        counted: classes that an administrator only counts.
        own: what its domain has.
    """
    named = {_VGPU} | {item.resource_class for item in own}
    if allowed is not None:
        named |= {entry.resource_class for entry in allowed.pci if entry.resource_class is not None}
        named |= {entry.resource_class for entry in allowed.mdev}
    known = set(counted)
    return {
        name: count
        for name, count in sorted(custom.items())
        if name not in known and (name in named or name.startswith(_PCI_CLASS))
    }


def choose(instance_id: str, asked: Mapping[str, int], offered: Offer, held: Held) -> Choice:
    """Choose devices for a server: those that its domain has, as far as they are offered still, before others.

    Args:
        instance_id: the server's.
        asked: how many of each class.
        offered: what there is.
        held: what domains have.

    Raises:
        Unavailable: too few are free.
    """
    own, others = held.of(instance_id), held.of_others(instance_id)
    passed: list[Passed] = []
    made: list[Mediated] = []
    for name, count in sorted(asked.items()):
        units = _free_units(name, offered, own, others)[:count]
        passed += units
        mediated = _mediated(instance_id, name, count - len(units), offered, others)
        passed += [Passed(name, uuid=item.uuid) for item in mediated]
        made += mediated
        if len(units) + len(mediated) < count:
            raise Unavailable(_lacking(name, count, len(units) + len(mediated), offered))
    kept = {item.uuid for item in made}
    dropped = tuple(sorted(item.uuid for item in own if item.uuid and item.uuid not in kept))
    return Choice(tuple(passed), tuple(made), dropped)


def _free_units(name: str, offered: Offer, own: Iterable[Passed], others: Iterable[Passed]) -> list[Passed]:
    taken = {address for item in others for address in item.addresses}
    mine = {item.addresses for item in own}
    free = [unit for unit in offered.units if unit.resource_class == name and not taken.intersection(unit.addresses)]
    free.sort(key=lambda unit: (unit.addresses not in mine, unit.addresses))
    return [Passed(name, unit.addresses) for unit in free]


def _mediated(instance_id: str, name: str, count: int, offered: Offer, others: Iterable[Passed]) -> list[Mediated]:
    """Give mediated devices: those of the server's uuids that are there, and places for new ones."""
    sources = [source for source in offered.sources if source.resource_class == name]
    there = {uuid: source for source in sources for uuid in source.made}
    room = {source.parent: source.available for source in sources}
    # What others have and is not there yet, since the host has booted or they are being started, has its place.
    for _ in [item for item in others if item.resource_class == name and item.uuid and item.uuid not in there]:
        fullest = max(room, key=lambda parent: room[parent], default=None)
        if fullest is not None:
            room[fullest] -= 1
    chosen: list[Mediated] = []
    for number in range(count):
        uuid = str(uuid5(UUID(instance_id), f"{name}/{number}"))
        source = there.get(uuid) or max(sources, key=lambda item: room[item.parent], default=None)
        if source is None or (uuid not in there and room[source.parent] < 1):
            break
        room[source.parent] -= uuid not in there
        chosen.append(Mediated(uuid, source.parent, source.type))
    return chosen


def _lacking(name: str, count: int, free: int, offered: Offer) -> str:
    why = [f"{item.device} {item.reason}" for item in offered.withheld if item.resource_class == name]
    told = f" (withheld: {', '.join(why[:4])}{' …' if len(why) > 4 else ''})" if why else ""
    return f"{count} {name} asked for, {free} free on this host{told}"
