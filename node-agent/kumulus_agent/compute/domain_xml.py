"""The libvirt domain of one instance, as a pure function of its specification.

Nothing here reads the host. Whatever depends on it (whether a directory supports O_DIRECT, whether KVM works) is
decided by the caller and handed over in the :class:`DomainSpec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lxml import etree
from lxml.builder import ElementMaker  # type: ignore[import-not-found]

from kumulus_agent.compute.emulated_memory import emulated_memory
from kumulus_agent.compute.size_xml import (
    E,
    Maker,
    memory_devices,
    memory_elements,
    numa_elements,
    pluggable,
    vcpu_element,
)

METADATA_URI = "https://kumulus.dev/xmlns/instance/1"
METADATA_PREFIX = "kumulus"
SEED_TARGET = "vdz"
"""Far from the letters of root disk and volumes, so that plugging a volume never collides with the seed."""
CONFIG_DRIVE_TARGET = "vdy"
AGENT_CHANNEL = "org.qemu.guest_agent.0"


_META: Maker = ElementMaker(namespace=METADATA_URI, nsmap={METADATA_PREFIX: METADATA_URI})


@dataclass(frozen=True, slots=True)
class Disk:
    """A virtio-blk disk.

    Attributes:
        path: absolute path of the image file on the host.
        format: the image's format, never guessed by QEMU.
        target: device name in the guest, ``vda`` … ``vdy``.
        serial: at most 20 characters, seen in the guest as ``/dev/disk/by-id/virtio-<serial>``.
        readonly: the guest cannot write.
        cache: ``none`` bypasses the host's page cache; ``writeback`` where the file system has no O_DIRECT
            (see :func:`kumulus_agent.storage.direct_io.cache_mode`).
    """

    path: str
    format: Literal["qcow2", "raw"]
    target: str
    serial: str
    readonly: bool = False
    cache: Literal["none", "writeback"] = "none"


@dataclass(frozen=True, slots=True)
class Nic:
    """A virtio NIC on a tap that exists already in libvirtd's network namespace; ``mtu`` in bytes goes to the guest."""

    tap: str
    mac: str
    mtu: int


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """All that a domain is made of.

    Attributes:
        instance_id: the Server's immutable id, a UUID; also the domain's uuid.
        namespace: the Server's namespace.
        name: the Server's name.
        epoch: the assignment's epoch.
        vcpus: number of virtual CPUs.
        memory_bytes: guest memory; rounded up to a KiB.
        virt: ``kvm`` or ``qemu`` (emulation).
        disks: in boot order.
        nics: in the guest's order.
        seed_path: a NoCloud ISO image, or None.
        config_drive: OpenStack's config drive, an ISO image, or None.
        console_log: file that receives the serial console, written and rotated by virtlogd; or None.
        serial_socket: unix socket on which QEMU offers the serial console to one reader at a time; or None.
        graphics: the guest has a screen and a keyboard, reached by VNC through libvirt alone.
        image_digest: ``sha256:…`` of the root disk's base, or empty.
        guest_shutdown: RFC 3339 time at which the guest powered itself off, or empty.
        action: uid of the ServerAction that this start belongs to, or empty.
        power_changes: the Server's count of changes of powerState at this start.
        rescue: id of the rescue that this is the guest of, or empty.
        machine: QEMU machine type.
        max_vcpus: up to so many virtual CPUs can be plugged in while it runs; 0 for none.
        max_memory_bytes: up to so much memory can be plugged in while it runs; 0 for none. An emulated guest that can
            be given memory must not be migrated while it runs: see `emulated_memory`.
    """

    instance_id: str
    namespace: str
    name: str
    epoch: int
    vcpus: int
    memory_bytes: int
    virt: Literal["kvm", "qemu"]
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...] = ()
    seed_path: str | None = None
    config_drive: str | None = None
    console_log: str | None = None
    serial_socket: str | None = None
    graphics: bool = False
    image_digest: str = ""
    guest_shutdown: str = ""
    action: str = ""
    power_changes: int = 0
    rescue: str = ""
    machine: Literal["pc", "q35"] = "pc"
    max_vcpus: int = 0
    max_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """What a domain's metadata says about its instance; see :class:`DomainSpec` for the fields.

    `power_button` is the RFC 3339 time at which we last pressed it, `switched_off` that at which we ended the guest, or
    empty; each start begins with a new record. `power_changes` is None where an older agent wrote it.
    """

    instance_id: str
    namespace: str
    name: str
    epoch: int
    image_digest: str = ""
    guest_shutdown: str = ""
    power_button: str = ""
    switched_off: str = ""
    action: str = ""
    power_changes: int | None = None
    rescue: str = ""


def domain_name(instance_id: str) -> str:
    """Return libvirt's name for the domain of an instance."""
    return f"k-{instance_id}"


def domain_xml(spec: DomainSpec) -> bytes:
    """Build the domain XML of ``spec``.

    Returns:
        UTF-8 XML without a declaration, valid against libvirt's ``domain.rng``.
    """
    record = InstanceRecord(
        spec.instance_id,
        spec.namespace,
        spec.name,
        spec.epoch,
        spec.image_digest,
        spec.guest_shutdown,
        action=spec.action,
        power_changes=spec.power_changes,
        rescue=spec.rescue,
    )
    root = E.domain(
        E.name(domain_name(spec.instance_id)),
        E.uuid(spec.instance_id),
        E.metadata(_META.instance(**_record_attributes(record))),
        *memory_elements(spec.memory_bytes, spec.max_memory_bytes),
        vcpu_element(spec.vcpus, spec.max_vcpus),
        # No bootmenu and no serial output of the firmware: the console starts with the guest's first byte.
        E.os(E.type("hvm", arch="x86_64", machine=spec.machine), E.boot(dev="hd")),
        E.features(E.acpi(), E.apic()),
        _cpu(spec),
        E.clock(
            E.timer(name="rtc", tickpolicy="catchup"),
            E.timer(name="pit", tickpolicy="delay"),
            E.timer(name="hpet", present="no"),
            offset="utc",
        ),
        E.on_poweroff("destroy"),
        E.on_reboot("restart"),
        E.on_crash("destroy"),
        _devices(spec),
        type=spec.virt,
    )
    if spec.virt == "qemu" and not pluggable(spec.memory_bytes, spec.max_memory_bytes):
        root.append(emulated_memory(-(-spec.memory_bytes // 1024)))
    etree.cleanup_namespaces(root, keep_ns_prefixes=[METADATA_PREFIX, "qemu"])
    return etree.tostring(root, pretty_print=True)


def device_xml(device: Disk | Nic) -> str:
    """Return one device as libvirt's attachDevice takes it."""
    return etree.tostring(_disk(device) if isinstance(device, Disk) else _interface(device), encoding="unicode")


def record_xml(record: InstanceRecord) -> str:
    """Return the metadata element alone as libvirt's setMetadata takes it: without the namespace, which it adds."""
    return etree.tostring(E.instance(**_record_attributes(record)), encoding="unicode")


def parse_record(xml: str) -> InstanceRecord | None:
    """Read a metadata element as libvirt's metadata() gives it back.

    Returns:
        The record, or None if the element lacks what identifies an instance (somebody else wrote it).
    """
    try:
        attributes: Mapping[str, str] = dict(etree.fromstring(xml).attrib)  # type: ignore[arg-type]
        return InstanceRecord(
            instance_id=attributes["instanceID"],
            namespace=attributes["namespace"],
            name=attributes["name"],
            epoch=int(attributes["epoch"]),
            image_digest=attributes.get("imageDigest", ""),
            guest_shutdown=attributes.get("guestShutdown", ""),
            power_button=attributes.get("powerButton", ""),
            switched_off=attributes.get("switchedOff", ""),
            action=attributes.get("action", ""),
            power_changes=int(attributes["powerChanges"]) if "powerChanges" in attributes else None,
            rescue=attributes.get("rescue", ""),
        )
    except (KeyError, ValueError, etree.XMLSyntaxError):
        return None


def _record_attributes(record: InstanceRecord) -> dict[str, str]:
    attributes = {
        "instanceID": record.instance_id,
        "namespace": record.namespace,
        "name": record.name,
        "epoch": str(record.epoch),
    }
    optional = {
        "imageDigest": record.image_digest,
        "guestShutdown": record.guest_shutdown,
        "powerButton": record.power_button,
        "switchedOff": record.switched_off,
        "action": record.action,
        "powerChanges": "" if record.power_changes is None else str(record.power_changes),
        "rescue": record.rescue,
    }
    return attributes | {name: value for name, value in optional.items() if value}


def _cpu(spec: DomainSpec) -> etree._Element:
    # host-model keeps guests movable between hosts; under emulation 'maximum' is what QEMU can offer (x86-64-v2
    # distributions do not start on QEMU's default model).
    kvm = spec.virt == "kvm"
    cpu = E.cpu(mode="host-model" if kvm else "maximum", check="partial" if kvm else "none")
    cpu.extend(numa_elements(max(spec.vcpus, spec.max_vcpus), spec.memory_bytes, spec.max_memory_bytes))
    return cpu


def _devices(spec: DomainSpec) -> etree._Element:
    devices = E.devices(*(_disk(disk) for disk in spec.disks))
    if spec.seed_path is not None:
        devices.append(_seed(spec.seed_path, SEED_TARGET, "cidata"))
    if spec.config_drive is not None:
        devices.append(_seed(spec.config_drive, CONFIG_DRIVE_TARGET, "config-2"))
    # A guest without USB starts faster and offers less to attack.
    devices.append(E.controller(type="usb", model="none"))
    devices.extend(_interface(nic) for nic in spec.nics)
    devices.append(_serial(spec))
    # Where libvirt's own console command looks: the same line.
    devices.append(E.console(*_line(spec.serial_socket), E.target(type="serial", port="0"), type=_line_type(spec)))
    # Where a guest agent is reached, if the guest has one: libvirt listens, and QEMU starts no slower for it.
    devices.append(E.channel(E.target(type="virtio", name=AGENT_CHANNEL), type="unix"))
    if spec.graphics:
        devices.extend(_screen())
    devices.append(E.memballoon(E.stats(period="30"), model="virtio"))
    devices.append(E.rng(E.backend("/dev/urandom", model="random"), model="virtio"))
    devices.extend(memory_devices(spec.memory_bytes, spec.max_memory_bytes))
    return devices


def _disk(disk: Disk) -> etree._Element:
    element = E.disk(
        E.driver(name="qemu", type=disk.format, cache=disk.cache, discard="unmap"),
        E.source(file=disk.path),
        E.target(dev=disk.target, bus="virtio"),
        type="file",
        device="disk",
    )
    if disk.readonly:
        element.append(E.readonly())
    element.append(E.serial(disk.serial))
    return element


def _seed(path: str, target: str, serial: str) -> etree._Element:
    # A virtio disk, as the tiny guests know no IDE or SATA; cloud-init finds it by its label.
    return E.disk(
        E.driver(name="qemu", type="raw"),
        E.source(file=path),
        E.target(dev=target, bus="virtio"),
        E.readonly(),
        E.serial(serial),
        type="file",
        device="disk",
    )


def _interface(nic: Nic) -> etree._Element:
    return E.interface(
        E.mac(address=nic.mac),
        E.target(dev=nic.tap, managed="no"),
        E.model(type="virtio"),
        E.mtu(size=str(nic.mtu)),
        # No option ROM: servers boot from disk, and loading it costs the firmware time for each NIC.
        E.rom(enabled="no"),
        type="ethernet",
    )


def _serial(spec: DomainSpec) -> etree._Element:
    serial = E.serial(*_line(spec.serial_socket), type=_line_type(spec))
    if spec.console_log is not None:
        serial.append(E.log(file=spec.console_log, append="on"))
    serial.append(E.target(type="isa-serial", port="0"))
    return serial


def _line_type(spec: DomainSpec) -> str:
    return "pty" if spec.serial_socket is None else "unix"


def _line(socket: str | None) -> list[etree._Element]:
    return [] if socket is None else [E.source(mode="bind", path=socket)]


def _screen() -> list[etree._Element]:
    # It listens nowhere: the agent asks libvirt for a connection. Standard VGA, which every firmware, boot loader and
    # guest knows.
    return [
        E.graphics(E.listen(type="none"), type="vnc"),
        E.video(E.model(type="vga", vram="16384", heads="1", primary="yes")),
    ]
