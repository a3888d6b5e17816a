"""A guest's devices, as libvirt describes them (pure)."""

from __future__ import annotations

from typing import Final

from kumulus_agent.compute.disk_xml import source_elements, tune_element
from kumulus_agent.compute.domain_spec import Disk, DomainSpec, Nic
from kumulus_agent.compute.elements import E, Element, write
from kumulus_agent.compute.passed_xml import passed_elements
from kumulus_agent.compute.size_xml import memory_devices
from kumulus_agent.compute.slots import OLD_CARDS
from kumulus_api.hardware import DiskBus, Hardware, InterfaceModel, MachineType

SEED_TARGET: Final = "vdz"
"""Far from the letters of root disk and volumes, so that plugging a volume never collides with the seed."""
CONFIG_DRIVE_TARGET: Final = "vdy"
DRIVE_TARGET: Final = "sdx"
AGENT_CHANNEL: Final = "org.qemu.guest_agent.0"
_BUILT_IN: Final = 8
"""Seed, config drive, balloon, random numbers, more memory, agent's channel, SCSI, a bridge for old cards: each takes a
port."""
_SPARE_PORTS: Final = 6
"""Beside the ports of built-in devices that a guest does without. Each costs 0.15 MiB, and an emulated guest 0.08 s of
CPU at its start, a hundredth of the whole."""
_SPARING: Final = {"discard": "unmap", "detect_zeroes": "unmap"}
"""What a guest gives back leaves the host's disk, and so do zeros that one writes which cannot give back."""
_ERRORS: Final = {"error_policy": "enospace", "rerror_policy": "report"}
"""A guest stands still when the host's disk is full, before it is told of an error that it could not mend; of others it
is told. QEMU's default, said so that it does not depend on it."""
_SECOND: Final = 1000
"""Milliseconds: libvirt's period where none is given."""


def devices_xml(spec: DomainSpec) -> Element:
    """Give the element of all devices."""
    hardware = spec.hardware
    bus = hardware.disk_bus or DiskBus.VIRTIO
    devices = E.devices(*(_disk(disk, _fitting(disk.target, bus, spec)) for disk in spec.disks))
    if spec.cd is not None:
        # Said of the devices themselves: a seed may be in a drive too. A disk that cannot be started from yet, because
        # nothing was installed on it, gives way to the CD.
        devices[0].append(E.boot(order="1"))
        devices.append(_drive(spec.cd, bus))
    if spec.seed_path is not None:
        devices.append(_seed(spec.seed_path, SEED_TARGET, "cidata", bus))
    if spec.config_drive is not None:
        devices.append(_seed(spec.config_drive, CONFIG_DRIVE_TARGET, "config-2", bus))
    # A guest without USB starts faster and offers less to attack.
    devices.append(E.controller(type="usb", model="none"))
    devices.extend(_controllers(spec, bus))
    devices.extend(_interface(nic, hardware) for nic in spec.nics)
    devices.append(_serial(spec))
    # Where libvirt's own console command looks: the same line.
    devices.append(E.console(*_line(spec.serial_socket), E.target(type="serial", port="0"), type=_line_type(spec)))
    # Where a guest agent is reached, if the guest has one: libvirt listens, and QEMU starts no slower for it.
    devices.append(E.channel(E.target(type="virtio", name=AGENT_CHANNEL), type="unix"))
    if spec.graphics:
        devices.extend(_screen())
    devices.append(E.memballoon(E.stats(period="30"), model="virtio"))
    if hardware.rng is not False:
        devices.append(_rng(hardware))
    if hardware.watchdog is not None:
        devices.append(E.watchdog(model="i6300esb", action=hardware.watchdog.value))
    if hardware.tpm is not None:
        backend = E.backend(type="emulator", version=hardware.tpm.version.value)
        devices.append(E.tpm(backend, model=hardware.tpm.model.value))
    devices.extend(passed_elements(spec.passed))
    devices.extend(memory_devices(spec.memory_bytes, spec.most_memory))
    return devices


def device_xml(device: Disk | Nic, hardware: Hardware) -> str:
    """Return one device as libvirt's attachDevice takes it, for a guest with that hardware."""
    bus = hardware.disk_bus or DiskBus.VIRTIO
    element = _disk(device, bus) if isinstance(device, Disk) else _interface(device, hardware)
    return write(element)


def _controllers(spec: DomainSpec, bus: DiskBus) -> list[Element]:
    found = [E.controller(type="scsi", model="virtio-scsi")] if bus is DiskBus.SCSI else []
    if spec.hardware.machine is MachineType.Q35:
        # What is plugged into a running guest needs a port that is there from its start.
        ports = len(spec.disks) + len(spec.nics) + len(passed_elements(spec.passed)) + _BUILT_IN + _SPARE_PORTS
        found.append(E.controller(type="pci", index="0", model="pcie-root"))
        found += [E.controller(type="pci", model="pcie-root-port") for _ in range(ports)]
        if spec.hardware.interface_model in OLD_CARDS:
            found.append(E.controller(type="pci", model="pcie-to-pci-bridge"))
    return found


def _rng(hardware: Hardware) -> Element:
    rng = E.rng(E.backend("/dev/urandom", model="random"), model="virtio")
    if hardware.rng_bytes is not None:
        rng.insert(0, E.rate(bytes=str(hardware.rng_bytes), period=str(hardware.rng_period or _SECOND)))
    return rng


def _fitting(target: str, bus: DiskBus, spec: DomainSpec) -> DiskBus:
    """Give the bus for a disk: IDE has four places, of which seed and config drive have the last."""
    taken = {SEED_TARGET: spec.seed_path, CONFIG_DRIVE_TARGET: spec.config_drive}
    free = 4 - sum(path is not None for path in taken.values())
    return DiskBus.SATA if bus is DiskBus.IDE and ord(target[-1]) - ord("a") >= free else bus


def _place(virtio: str, bus: DiskBus) -> list[Element]:
    """Give a disk's name on its bus, from which libvirt reads the place; and the place where it would read another."""
    if bus is DiskBus.VIRTIO:
        return [E.target(dev=virtio, bus=bus.value)]
    if bus is DiskBus.IDE:
        letters = {SEED_TARGET: "hdd", CONFIG_DRIVE_TARGET: "hdc"}
        return [E.target(dev=letters.get(virtio, "hd" + virtio.removeprefix("vd")), bus=bus.value)]
    letter = virtio.removeprefix("vd")
    place = [E.target(dev=f"sd{letter}", bus=bus.value)]
    if bus is DiskBus.SCSI:
        # All on one controller: libvirt would give each seven, the next ones of a kind that not every guest knows.
        place.append(E.address(type="drive", controller="0", bus="0", target="0", unit=str(ord(letter) - ord("a"))))
    return place


def _disk(disk: Disk, bus: DiskBus) -> Element:
    element = E.disk(
        E.driver(name="qemu", type=disk.format, cache=disk.cache, **_SPARING, **_ERRORS),
        *_source(disk),
        *_place(disk.target, bus),
        type="network" if disk.export else "file",
        device="disk",
    )
    if disk.export:
        # When what is behind the socket is away, the guest stands still and its request is repeated when it goes on.
        element[0].set("error_policy", "stop")
        element[0].set("rerror_policy", "stop")
    if disk.limits is not None:
        element.append(tune_element(disk.limits))
    if disk.readonly:
        element.append(E.readonly())
    if disk.shareable:
        element.append(E.shareable())
    element.append(E.serial(disk.serial))
    return element


def _source(disk: Disk) -> list[Element]:
    if not disk.export:
        return source_elements(disk.path, disk.encryption)
    return [E.source(E.host(transport="unix", socket=disk.path), protocol="nbd", name=disk.export)]


def file_of(disk: Element) -> str:
    """Give what the source of a domain's disk lies on: a file, or the socket behind which it is; empty if nothing."""
    source = disk.find("source")
    if source is None:
        return ""
    host = source.find("host[@transport='unix']")
    return str(source.get("file") or (host.get("socket") if host is not None else None) or "")


def _seed(path: str, target: str, serial: str, bus: DiskBus) -> Element:
    # A disk as the others are: a guest that starts from them finds it too; cloud-init knows it by its label. IDE and
    # SATA have no disks that nobody can write, but drives.
    drive = bus in (DiskBus.IDE, DiskBus.SATA)
    return E.disk(
        E.driver(name="qemu", type="raw"),
        E.source(file=path),
        *_place(target, bus),
        E.readonly(),
        E.serial(serial),
        type="file",
        device="cdrom" if drive else "disk",
    )


def _drive(path: str, bus: DiskBus) -> Element:
    # SATA: both machines have it, and installers, BIOS and UEFI know it. On the first controller where that is free:
    # libvirt would add three others to come to this letter.
    place = [] if bus is DiskBus.SATA else [E.address(type="drive", controller="0", bus="0", target="0", unit="0")]
    return E.disk(
        E.driver(name="qemu", type="raw"),
        E.source(file=path),
        E.target(dev=DRIVE_TARGET, bus="sata"),
        E.readonly(),
        E.boot(order="2"),
        *place,
        type="file",
        device="cdrom",
    )


def _interface(nic: Nic, hardware: Hardware) -> Element:
    return E.interface(
        E.mac(address=nic.mac),
        E.target(dev=nic.tap, managed="no"),
        E.model(type=(hardware.interface_model or InterfaceModel.VIRTIO).value),
        E.mtu(size=str(nic.mtu)),
        # No option ROM: servers boot from disk, and loading it costs the firmware time for each NIC.
        E.rom(enabled="no"),
        type="ethernet",
    )


def _serial(spec: DomainSpec) -> Element:
    serial = E.serial(*_line(spec.serial_socket), type=_line_type(spec))
    if spec.console_log is not None:
        serial.append(E.log(file=spec.console_log, append="on"))
    serial.append(E.target(type="isa-serial", port="0"))
    return serial


def _line_type(spec: DomainSpec) -> str:
    return "pty" if spec.serial_socket is None else "unix"


def _line(socket: str | None) -> list[Element]:
    return [] if socket is None else [E.source(mode="bind", path=socket)]


def _screen() -> list[Element]:
    # It listens nowhere: the agent asks libvirt for a connection. Standard VGA, which every firmware, boot loader and
    # guest knows.
    return [
        E.graphics(E.listen(type="none"), type="vnc"),
        E.video(E.model(type="vga", vram="16384", heads="1", primary="yes")),
    ]
