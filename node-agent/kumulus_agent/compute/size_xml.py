"""What of a domain's XML makes its size, and what it can grow to while it runs (pure).

Memory beyond what the guest starts with is one virtio-mem device, of which the guest takes what is requested: unlike
DIMMs it is given in steps of 2 MiB and can be taken back. Linux can use it in whole blocks of 128 MiB of addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kumulus_agent.compute.elements import E, Element, parse, write

STEP: Final = 2 << 20
"""Bytes by which memory grows."""
_BLOCK: Final = 128 << 20


@dataclass(frozen=True, slots=True)
class Size:
    """What a guest has, in vCPUs and bytes.

    Attributes:
        vcpus: that are plugged in.
        memory: that it uses.
        max_vcpus: that can be plugged in while it runs.
        initial: memory that it has started with.
        max_memory: that it can have while it runs.
        asked: memory that it was last asked to use.
    """

    vcpus: int
    memory: int
    max_vcpus: int
    initial: int
    max_memory: int
    asked: int


def pluggable(memory: int, most: int) -> int:
    """Give the size of the device with the memory that a guest does not start with; 0 for none."""
    return -(-(most - memory) // _BLOCK) * _BLOCK if most > memory and not memory % STEP else 0


def vcpu_element(vcpus: int, most: int) -> Element:
    """Give the element with the number of virtual CPUs."""
    return E.vcpu(str(most), current=str(vcpus)) if most > vcpus else E.vcpu(str(vcpus))


def memory_elements(memory: int, most: int) -> list[Element]:
    """Give the elements with the amount of memory, bytes."""
    extra = pluggable(memory, most)
    if not extra:
        return [E.memory(_kib(memory), unit="KiB")]
    whole = _kib(memory + extra)
    return [E.maxMemory(whole, unit="KiB", slots="1"), E.memory(whole, unit="KiB")]


def numa_elements(vcpus: int, memory: int, most: int) -> list[Element]:
    """Give the guest's only NUMA node, which QEMU wants where memory is plugged in."""
    if not pluggable(memory, most):
        return []
    cpus = f"0-{vcpus - 1}" if vcpus > 1 else "0"
    return [E.numa(E.cell(id="0", cpus=cpus, memory=_kib(memory), unit="KiB"))]


def memory_devices(memory: int, most: int) -> list[Element]:
    """Give the device that memory is taken from while the guest runs."""
    extra = pluggable(memory, most)
    if not extra:
        return []
    target = E.target(
        E.size(_kib(extra), unit="KiB"),
        E.node("0"),
        E.block(_kib(STEP), unit="KiB"),
        E.requested("0", unit="KiB"),
    )
    return [E.memory(target, model="virtio-mem")]


def size_of(xml: str) -> Size:
    """Read the size of a domain from its XML: of a running one what it has, else what it would start with."""
    root = parse(xml)
    vcpu = root.find("vcpu")
    most = int((vcpu.text if vcpu is not None else None) or "1")
    vcpus = int(vcpu.get("current") or most) if vcpu is not None else most
    device = memory_device(root)
    if device is None:
        memory = _bytes(root.find("memory"))
        return Size(vcpus, memory, most, memory, memory, memory)
    asked, taken = _bytes(device.find("target/requested")), device.find("target/current")
    initial = _bytes_of(root.find("cpu/numa/cell"), "memory")
    # The definition of one that is off, and an older libvirt, do not tell what the guest has taken.
    memory = initial + (_bytes(taken) if taken is not None else asked)
    return Size(vcpus, memory, most, initial, initial + _bytes(device.find("target/size")), initial + asked)


def memory_device(root: Element) -> Element | None:
    """Find the device that memory is taken from."""
    return root.find("devices/memory[@model='virtio-mem']")


def requesting(xml: str, memory: int) -> str | None:
    """Give the memory device of a domain as it asks for so many bytes in all; None if it has none."""
    root = parse(xml)
    device, size = memory_device(root), size_of(xml)
    if device is None:
        return None
    requested = device.find("target/requested")
    if requested is not None:
        requested.text = _kib(memory - size.initial)
        requested.set("unit", "KiB")
    return write(device)


def _kib(size: int) -> str:
    return str(-(-size // 1024))


_UNITS: Final = {"b": 1, "bytes": 1, "KB": 1000, "k": 1024, "KiB": 1024, "MiB": 1 << 20, "GiB": 1 << 30}


def _bytes(element: Element | None) -> int:
    return 0 if element is None else int(element.text or "0") * _UNITS[element.get("unit") or "KiB"]


def _bytes_of(element: Element | None, attribute: str) -> int:
    return 0 if element is None else int(element.get(attribute) or "0") * _UNITS[element.get("unit") or "KiB"]
