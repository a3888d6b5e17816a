"""What a domain has of its host, as libvirt describes it (pure).

Which unit and which class a device belongs to is in its alias: the domain is the only record of what is given to whom.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from kumulus_agent.compute.elements import E, Element, parse, write
from kumulus_agent.passthrough.facts import Passed

_ALIAS: Final = re.compile(r"ua-u(\d+)f\d+-([A-Z0-9_]+)")
"""libvirt keeps names that begin so; then unit, function within it, and class."""


def passed_elements(passed: Iterable[Passed]) -> list[Element]:
    """Give the elements of what a domain has of the host."""
    found = []
    for unit, item in enumerate(passed):
        if item.uuid:
            alias = E.alias(name=f"ua-u{unit}f0-{item.resource_class}")
            source = E.source(E.address(uuid=item.uuid))
            found.append(E.hostdev(source, alias, mode="subsystem", type="mdev", model="vfio-pci"))
        for function, address in enumerate(item.addresses):
            alias = E.alias(name=f"ua-u{unit}f{function}-{item.resource_class}")
            # libvirt takes the device from the host's driver and gives it back; it lets QEMU lock the guest's memory.
            parts = E.driver(name="vfio"), E.source(_address(address)), alias
            found.append(E.hostdev(*parts, mode="subsystem", type="pci", managed="yes"))
    return found


def _address(text: str) -> Element:
    domain, bus, rest = text.split(":")
    slot, function = rest.split(".")
    return E.address(domain=f"0x{domain}", bus=f"0x{bus}", slot=f"0x{slot}", function=f"0x{function}")


def passed_of(xml: str) -> tuple[Passed, ...]:
    """Read what a domain has of the host; what was not given by us has no class."""
    addresses: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    uuids: dict[tuple[int, str], str] = {}
    foreign = []
    for element in parse(xml).iterfind("devices/hostdev"):
        source = element.find("source/address")
        if source is None or element.get("type") not in ("pci", "mdev"):
            continue
        uuid = source.get("uuid") or ""
        address = "" if uuid else _text(source)
        own = _own(element)
        if own is None:
            foreign.append(Passed("", (address,) if address else (), uuid))
        elif uuid:
            uuids[own] = uuid
        else:
            addresses[own].append(address)
    units = sorted(addresses.keys() | uuids.keys())
    ours = [Passed(key[1], tuple(sorted(addresses.get(key, ()))), uuids.get(key, "")) for key in units]
    return (*ours, *foreign)


def without_passed(xml: str) -> str:
    """Give a domain's XML without what it has of the host."""
    root = parse(xml)
    for devices in root.iterfind("devices"):
        for element in devices.findall("hostdev"):
            if _own(element) is not None:
                devices.remove(element)
    return write(root)


def _own(element: Element) -> tuple[int, str] | None:
    alias = element.find("alias")
    found = _ALIAS.fullmatch(str(alias.get("name"))) if alias is not None else None
    return (int(found[1]), found[2]) if found is not None else None


def _text(source: Element) -> str:
    domain, bus, slot, function = (int(str(source.get(n, "0")), 16) for n in ("domain", "bus", "slot", "function"))
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
