"""The libvirt domain of one instance, as a pure function of its specification.

Nothing here reads the host. Whatever depends on it (whether a directory supports O_DIRECT, whether KVM works) is
decided by the caller and handed over in the :class:`DomainSpec`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from kumulus_agent.compute.devices_xml import devices_xml
from kumulus_agent.compute.domain_spec import DomainSpec
from kumulus_agent.compute.elements import E, Maker, ParseError, document, parse, write
from kumulus_agent.compute.emulated_memory import emulated_memory
from kumulus_agent.compute.machine_xml import machine_xml
from kumulus_agent.compute.size_xml import pluggable
from kumulus_api.hardware import Hardware

METADATA_URI = "https://kumulus.dev/xmlns/instance/1"
METADATA_PREFIX = "kumulus"

_META = Maker(METADATA_URI, METADATA_PREFIX)


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
    machine: str = ""


def machine_text(hardware: Hardware) -> str:
    """Give the text by which a domain's metadata tells what machine it was made with; empty for a host's own choice."""
    asked = hardware.dump()
    return json.dumps(asked, sort_keys=True) if asked else ""


def machine_of(text: str) -> Hardware:
    """Give what `machine_text` has told; of what is not understood, nothing.

    A newer agent may have started the guest.
    """
    try:
        return Hardware.model_validate_json(text) if text else Hardware()
    except ValueError:
        return Hardware()


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
        machine=machine_text(spec.hardware),
    )
    root = E.domain(
        E.name(domain_name(spec.instance_id)),
        E.uuid(spec.instance_id),
        E.metadata(_META.instance(**_record_attributes(record))),
        *machine_xml(spec),
        E.clock(
            E.timer(name="rtc", tickpolicy="catchup"),
            E.timer(name="pit", tickpolicy="delay"),
            E.timer(name="hpet", present="no"),
            offset="utc",
        ),
        E.on_poweroff("destroy"),
        E.on_reboot("restart"),
        E.on_crash("destroy"),
        devices_xml(spec),
        type=spec.virt,
    )
    # A guest of several cells has a block of memory for each, and says itself where they are.
    one_block = spec.hardware.numa_nodes is None and not spec.hardware.huge
    if spec.virt == "qemu" and one_block and not pluggable(spec.memory_bytes, spec.most_memory):
        root.append(emulated_memory(-(-spec.memory_bytes // 1024)))
    return document(root)


def record_xml(record: InstanceRecord) -> str:
    """Return the metadata element alone as libvirt's setMetadata takes it: without the namespace, which it adds."""
    return write(E.instance(**_record_attributes(record)))


def parse_record(xml: str) -> InstanceRecord | None:
    """Read a metadata element as libvirt's metadata() gives it back.

    Returns:
        The record, or None if the element lacks what identifies an instance (somebody else wrote it).
    """
    try:
        attributes: Mapping[str, str] = dict(parse(xml).attrib)
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
            machine=attributes.get("machine", ""),
        )
    except (KeyError, ValueError, ParseError):
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
        "machine": record.machine,
    }
    return attributes | {name: value for name, value in optional.items() if value}
