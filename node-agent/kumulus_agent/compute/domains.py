"""Blocking verbs on libvirt's objects; they run in the connection's executor and raise libvirtError."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import libvirt

from kumulus_agent.compute.devices import devices_of
from kumulus_agent.compute.domain_xml import METADATA_PREFIX, METADATA_URI, InstanceRecord, parse_record
from kumulus_agent.compute.elements import parse
from kumulus_agent.compute.full_disks import full_disks
from kumulus_agent.compute.guest_agent import has_agent
from kumulus_agent.compute.passed_xml import passed_of, without_passed
from kumulus_agent.compute.plugged import Devices
from kumulus_agent.compute.size_xml import Size, requesting, size_of
from kumulus_agent.compute.slots import Slots, free_slots
from kumulus_agent.compute.volume_copies import end_copies
from kumulus_agent.host.processors import parse_cpus
from kumulus_agent.passthrough import mediated
from kumulus_agent.passthrough.facts import Choice, Held


@dataclass(frozen=True, slots=True)
class Row:
    """One domain as read.

    ``state`` and ``reason`` are libvirt's numbers, ``size`` is virtual CPUs and bytes, ``saved`` tells of memory on the
    disk that the next start goes on from, ``record`` is ours or None; ``devices``, ``whole`` (what it has and can
    have), ``slots``, ``agent`` (a guest agent is there) and ``full`` (see `full_disks`) are read of one domain, not of
    all.
    """

    uuid: str
    name: str
    state: int
    reason: int
    persistent: bool
    record: InstanceRecord | None
    size: tuple[int, int] = (0, 0)
    saved: bool = False
    devices: Devices | None = None
    whole: Size | None = None
    slots: Slots | None = None
    agent: bool = False
    full: tuple[str, ...] = ()


NOT_RUNNING: Final = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED)


@dataclass(frozen=True, slots=True)
class Versions:
    """Versions as ``(major, minor, patch)``."""

    libvirt: tuple[int, int, int]
    qemu: tuple[int, int, int]


def versions(conn: Any) -> Versions:
    """Read the versions of libvirtd and of the QEMU it runs."""
    return Versions(_triple(conn.getLibVersion()), _triple(conn.getVersion()))


def _triple(number: int) -> tuple[int, int, int]:
    """Split libvirt's version number."""
    return number // 1_000_000, number // 1000 % 1000, number % 1000


def read_domains(conn: Any) -> list[Row]:
    """Read all domains, without those that vanish meanwhile."""
    rows = []
    for domain in conn.listAllDomains():
        try:
            rows.append(read_domain(domain))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:  # it went while we looked
                raise
    return rows


def read_domain(domain: Any) -> Row:
    """Read one domain."""
    state, reason = domain.state()
    uuid = domain.UUIDString()
    record = read_record(domain)
    # A copied definition carries a foreign record: the id must be the domain's own.
    own = record if record is not None and record.instance_id == uuid else None
    persistent = bool(domain.isPersistent())
    _, maximum, _, vcpus, _ = domain.info()
    saved = persistent and state in NOT_RUNNING and bool(domain.hasManagedSaveImage())
    return Row(uuid, domain.name(), state, reason, persistent, own, (vcpus, maximum * 1024), saved)


def read_whole_domain(domain: Any) -> Row:
    """Read one domain with what is plugged into it."""
    xml, row = str(domain.XMLDesc()), read_domain(domain)
    found = replace(row, devices=devices_of(xml), whole=size_of(xml), slots=free_slots(xml), agent=has_agent(xml))
    halted = (row.state, row.reason) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR)
    return replace(found, full=full_disks(domain, xml)) if halted else found


def read_record(domain: Any) -> InstanceRecord | None:
    """Read our metadata; None if it has none."""
    try:
        return parse_record(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA_URI))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return None
        raise


def write_record(domain: Any, xml: str) -> None:
    """Write our metadata to the running and to the stored definition."""

    def write(flags: int) -> None:
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, xml, METADATA_PREFIX, METADATA_URI, flags)

    stored = libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0
    if domain.isActive():
        try:
            write(libvirt.VIR_DOMAIN_AFFECT_LIVE | stored)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or not stored:
                raise
        else:
            return
    write(libvirt.VIR_DOMAIN_AFFECT_CONFIG)  # off, or it went off between the question and the write


def define_and_start(conn: Any, xml: bytes, choice: Choice) -> str:
    """Define and run a domain; if it does not start, what was not defined before is undefined again.

    The definition is the record of what it is given of the host: mediated devices are made after it, and go before it.
    """
    before = {domain.UUIDString() for domain in conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT)}
    for device in choice.dropped:
        mediated.absent(device)
    domain = conn.defineXMLFlags(xml.decode(), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    uuid = str(domain.UUIDString())
    try:
        for made in choice.made:
            mediated.ensure(made)
        start(domain)
    except (libvirt.libvirtError, OSError):
        if uuid not in before:
            with contextlib.suppress(libvirt.libvirtError, OSError):
                _remove_mediated(domain)
                domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_TPM)
        raise
    return uuid


def undefine(domain: Any, flags: int) -> None:
    """Forget a domain that is off, and remove the mediated devices that were made for it."""
    _remove_mediated(domain)
    domain.undefineFlags(flags)


def give_back(domain: Any) -> None:
    """Take what a domain that is off has of the host out of its definition; nothing is success."""
    _remove_mediated(domain)
    xml = str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))
    if passed_of(xml):
        domain.connect().defineXML(without_passed(xml))


def _remove_mediated(domain: Any) -> None:
    for item in passed_of(str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))):
        if item.uuid and item.resource_class:
            mediated.absent(item.uuid)


def host_devices(conn: Any) -> Held:
    """Read what all domains have of the host, those included that are off."""
    found = {}
    for domain in conn.listAllDomains():
        try:
            passed = passed_of(str(domain.XMLDesc()))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:  # it went while we looked
                raise
            continue
        if passed:
            found[str(domain.UUIDString())] = passed
    return Held(found)


def grow(domain: Any, vcpus: int, memory: int) -> None:
    """Give a running domain so many virtual CPUs, and ask its guest to use so many bytes of memory."""
    xml = str(domain.XMLDesc())
    found = size_of(xml)
    if vcpus > found.vcpus:
        stored = libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0
        domain.setVcpusFlags(vcpus, libvirt.VIR_DOMAIN_AFFECT_LIVE | stored)
    device = requesting(xml, memory) if memory != found.asked else None
    if device is not None:
        domain.updateDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def pins(conn: Any) -> dict[str, frozenset[int]]:
    """Read to which of the host's CPUs the virtual CPUs of domains that are not off are tied."""
    found = {}
    for domain in conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
        with contextlib.suppress(libvirt.libvirtError):  # it went while we looked
            root = parse(domain.XMLDesc())
            pinned = [str(pin.get("cpuset")) for pin in root.findall("cputune/vcpupin")]
            if pinned:
                found[domain.UUIDString()] = frozenset(cpu for text in pinned for cpu in parse_cpus(text))
    return found


def start(domain: Any) -> None:
    """Run a domain; running already is success."""
    try:
        domain.create()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or not domain.isActive():
            raise


def open_screen(domain: Any) -> socket.socket:
    """Connect to a running domain's screen."""
    return socket.socket(fileno=domain.openGraphicsFD(0, libvirt.VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH))


def pause(domain: Any) -> None:
    """Halt a running domain; halted already is success."""
    if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
        domain.suspend()


def resume(domain: Any) -> None:
    """Let a halted domain go on; running already is success."""
    if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
        domain.resume()


def save(domain: Any) -> None:
    """Write a domain's memory to the disk and end it; it runs when it is restored, also if it is halted now."""
    if domain.isActive():
        end_copies(domain, parse(str(domain.XMLDesc())).iterfind("devices/disk"))
        domain.managedSave(libvirt.VIR_DOMAIN_SAVE_RUNNING)


def if_active(verb: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Apply ``verb`` to a running domain; being off, also from now on, is success."""

    def act(domain: Any) -> None:
        try:
            if domain.isActive():
                verb(domain)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or domain.isActive():
                raise

    return act
