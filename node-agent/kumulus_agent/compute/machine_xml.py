"""A guest's machine, as libvirt describes it: memory, CPUs, firmware (pure)."""

from __future__ import annotations

from collections.abc import Iterable

from kumulus_agent.compute.domain_spec import DomainSpec
from kumulus_agent.compute.elements import E, Element
from kumulus_agent.compute.size_xml import memory_elements, numa_elements, vcpu_element
from kumulus_api.hardware import Firmware, MachineType


def machine_xml(spec: DomainSpec) -> list[Element]:
    """Give the elements of everything that is no device."""
    hardware = spec.hardware
    found = [
        *memory_elements(spec.memory_bytes, spec.most_memory),
        _vcpu(spec),
        _os(spec),
        E.features(E.acpi(), E.apic(), *([E.smm(state="on")] if hardware.secure_boot else [])),
        _cpu(spec),
    ]
    if spec.cpus:
        found.append(_pinned(spec))
    if hardware.huge:
        sizes = [E.page(size=str(hardware.page_size), unit="KiB")] if hardware.page_size is not None else []
        found.append(E.memoryBacking(E.hugepages(*sizes)))
    if hardware.numa_nodes is not None:
        nodes = range(hardware.numa_nodes)
        cells = [E.memnode(cellid=str(node), mode="strict", nodeset=str(node)) for node in nodes]
        found.append(E.numatune(*cells))
    return found


def cpu_set(cpus: Iterable[int]) -> str:
    """Write CPUs as libvirt reads them: `0,2,5`."""
    return ",".join(map(str, sorted(cpus)))


def _kib(spec: DomainSpec) -> int:
    return -(-spec.memory_bytes // 1024)


def _vcpu(spec: DomainSpec) -> Element:
    vcpu = vcpu_element(spec.vcpus, spec.most_vcpus)
    if spec.shared_cpus and not spec.cpus:
        vcpu.set("cpuset", cpu_set(spec.shared_cpus))
    return vcpu


def _pinned(spec: DomainSpec) -> Element:
    pins = [E.vcpupin(vcpu=str(number), cpuset=str(cpu)) for number, cpu in enumerate(spec.cpus)]
    # QEMU's own work does not take the guest's time, if there are CPUs for it.
    return E.cputune(*pins, E.emulatorpin(cpuset=cpu_set(spec.shared_cpus or spec.cpus)))


def _os(spec: DomainSpec) -> Element:
    hardware = spec.hardware
    machine = (hardware.machine or MachineType.PC).value
    # No serial output of the BIOS: the console starts with the guest's first byte.
    system = E.os(E.type("hvm", arch="x86_64", machine=machine))
    if spec.cd is None:  # else the devices say it
        system.append(E.boot(dev="hd"))
    if hardware.firmware is Firmware.UEFI:
        # Which file it is, libvirt finds by the descriptions that the firmware's package brings.
        system.set("firmware", "efi")
        wanted = "yes" if hardware.secure_boot else "no"
        features = ["secure-boot", "enrolled-keys"]
        system.append(E.firmware(*(E.feature(enabled=wanted, name=name) for name in features)))
        if spec.nvram is not None:
            system.append(E.nvram(spec.nvram))
    if hardware.boot_menu:
        system.append(E.bootmenu(enable="yes", timeout="3000"))
    return system


def _cpu(spec: DomainSpec) -> Element:
    hardware = spec.hardware
    if hardware.cpu_model is not None:
        cpu = E.cpu(E.model(hardware.cpu_model, fallback="forbid"), mode="custom", match="exact", check="partial")
    elif spec.virt == "kvm":
        # This keeps guests movable between hosts.
        cpu = E.cpu(mode="host-model", check="partial")
    else:
        # 'maximum' is what QEMU can offer (x86-64-v2 distributions do not start on QEMU's default model).
        cpu = E.cpu(mode="maximum", check="none")
    if hardware.topology is not None:
        layout = hardware.topology
        cpu.append(E.topology(sockets=str(layout.sockets), cores=str(layout.cores), threads=str(layout.threads)))
    if hardware.numa_nodes is not None:
        cpu.append(E.numa(*_cells(spec, hardware.numa_nodes)))
    cpu.extend(numa_elements(spec.most_vcpus, spec.memory_bytes, spec.most_memory))
    return cpu


def _cells(spec: DomainSpec, nodes: int) -> list[Element]:
    """Share vCPUs and memory out evenly; the last node takes what is left over."""
    vcpus, memory = spec.vcpus // nodes, _kib(spec) // nodes
    cells = []
    for node in range(nodes):
        last = node == nodes - 1
        cpus = range(node * vcpus, spec.vcpus if last else (node + 1) * vcpus)
        size = _kib(spec) - node * memory if last else memory
        cells.append(E.cell(id=str(node), cpus=cpu_set(cpus), memory=str(size), unit="KiB"))
    return cells
