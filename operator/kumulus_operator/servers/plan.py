"""What a Server gets written (pure): its assignment, and its status while it waits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from kumulus_api import Condition, Image, Port, Server, Volume
from kumulus_api.devices import named_ports
from kumulus_api.port import PortAssignment
from kumulus_api.server_assignment import AssignedPort
from kumulus_api.server_status import ObservedPowerState, ReadyReason, ScheduledReason, ServerConditionType
from kumulus_operator.hosts.running import Running
from kumulus_operator.placement.hardware import hardware_of
from kumulus_operator.placement.usage import allocation_of
from kumulus_operator.refusal import Refusal, refuse
from kumulus_operator.security_groups.plan import references
from kumulus_operator.servers.resolve import Interface, Resolved
from kumulus_runtime.conditions import set_condition

AMENDED_CONDITIONS = (ServerConditionType.FLAVOR_APPLIED, ServerConditionType.DEVICES_APPLIED)
OWN_CONDITIONS = (ServerConditionType.SCHEDULED, ServerConditionType.READY, *AMENDED_CONDITIONS)


def conditions_of(conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    """Give conditions in their wire form."""
    return [item.dump() for item in conditions]


def waiting_status(server: Server, refusal: Refusal, now: datetime) -> dict[str, Any] | None:
    """Give the status of a server that cannot be placed now, or None if it says so already.

    Ready repeats why, because it is what people look at.
    """
    found = conditions_of(server.status.conditions) if server.status else []
    found = [item for item in found if item["type"] in OWN_CONDITIONS]
    generation = server.metadata.generation
    wanted = set_condition(
        found, ServerConditionType.SCHEDULED, False, refusal.reason, refusal.message, generation, now
    )
    wanted = set_condition(
        wanted, ServerConditionType.READY, False, ReadyReason.PENDING, refusal.message, generation, now
    )
    return None if wanted == found else {"conditions": wanted}


def scheduled_status(server: Server, reason: ScheduledReason, message: str, now: datetime) -> dict[str, Any] | None:
    """Give the status that takes back an earlier refusal, or None if there was none.

    A server that is placed at once gets no status of ours: its agent reports it.
    """
    found = conditions_of(server.status.conditions) if server.status else []
    mine = [item for item in found if item["type"] == ServerConditionType.SCHEDULED]
    if not mine and reason != ScheduledReason.ADOPTED:
        return None
    wanted = set_condition(mine, ServerConditionType.SCHEDULED, True, reason, message, server.metadata.generation, now)
    return None if wanted == mine else {"conditions": wanted}


def silent_status(server: Server, host: str, now: datetime) -> dict[str, Any] | None:
    """Give the status of a server whose host is silent, or None if it says so already."""
    found = conditions_of(server.status.conditions) if server.status else []
    mine = [item for item in found if item["type"] in OWN_CONDITIONS]
    message = f"host {host} is silent: whether the server runs is unknown; transient: known when the host speaks again"
    generation = server.metadata.generation
    wanted = set_condition(mine, ServerConditionType.READY, None, ReadyReason.HOST_SILENT, message, generation, now)
    unknown = server.status is not None and server.status.power_state == ObservedPowerState.UNKNOWN
    if unknown and wanted == mine:
        return None
    return {"powerState": ObservedPowerState.UNKNOWN.value, "conditions": wanted}


def assigned_port(interface: Interface, given: PortAssignment) -> dict[str, Any]:
    """Give an interface as it stands in the assignment."""
    network = interface.network
    told: dict[str, Any] = {
        "name": interface.name,
        "port": interface.port_name,
        "portID": given.port_id,
        "network": network.metadata.name,
        "networkNamespace": network.metadata.namespace,
        "vni": network.status.vni if network.status else None,
        "mac": given.mac,
        "addresses": list(given.addresses),
    }
    mtu = network.spec.provider.mtu if network.spec.provider is not None else network.spec.mtu
    if mtu is not None:
        told["mtu"] = mtu
    if references(interface.groups):
        told["securityGroups"] = list(interface.groups)
    return told


def assigned_volume(name: str, volume: Volume) -> dict[str, Any]:
    """Give a volume as it stands in the assignment."""
    place = volume.spec.assignment
    volume_id = place.volume_id if place is not None else None
    given: dict[str, Any] = {"name": name, "volume": volume.metadata.name, "volumeID": volume_id}
    given["size"] = place.size if place is not None and place.size is not None else volume.spec.size
    marks = {
        "readOnly": volume.spec.read_only,
        "shared": place is not None and place.folder is not None,
        "encrypted": place is not None and place.encryption is not None,
        "multiAttach": place is not None and place.multi_attach,
    }
    if place is not None and place.exported_to:
        given["exporter"], marks["shared"] = place.host, True
    return given | {mark: True for mark, holds in marks.items() if holds}


def assigned_image(image: Image) -> dict[str, Any]:
    """Give an image as it stands in the assignment: the stored file, or before there is a store what the source has."""
    status, source = image.status, image.spec.source
    bytes_: dict[str, Any] = {
        "url": image.address,
        "format": image.spec.format.value,
        "digest": status.digest if status else None,
    } | ({"mirrors": list(source.mirrors)} if source.mirrors else {})
    if image.spec.assignment is not None:
        bytes_ = {"url": image.stored_address, "format": image.stored_format.value, "digest": image.stored_digest}
    told: dict[str, Any] = {
        "name": image.metadata.name,
        "namespace": image.metadata.namespace,
        **bytes_,
        "virtualSize": status.virtual_size if status else None,
    }
    if image.spec.properties:
        told["properties"] = dict(image.spec.properties)
    if image.spec.min_memory is not None:
        told["minMemory"] = image.spec.min_memory
    return told


def assignment(
    instance: tuple[str, str, int], resolved: Resolved, ports: list[dict[str, Any]], volumes: list[dict[str, Any]]
) -> dict[str, Any]:
    """Give `spec.assignment`.

    Args:
        instance: instance id, host, epoch.
        resolved: flavor and image.
        ports: from `assigned_port`.
        volumes: from `assigned_volume`.
    """
    instance_id, host, epoch = instance
    flavor = resolved.flavor.spec
    out: dict[str, Any] = {
        "instanceID": instance_id,
        "host": host,
        "epoch": epoch,
        "flavor": resolved.flavor.metadata.name,
        "resources": allocation_of(flavor).dump(),
        "image": assigned_image(resolved.image),
        "ports": ports,
        "volumes": volumes,
    }
    hardware = hardware_of(flavor.extra_specs, resolved.image.spec.properties, flavor)
    return out | ({"hardware": hardware.dump()} if hardware is not None else {})


def own_ports(server: Server) -> list[AssignedPort]:
    """Give the ports that were made for a placed server and that it keeps.

    Those that its user made and named are left out, and those that are taken away.
    """
    theirs = {item.name for item in server.spec.networks or () if item.port is not None}
    return [port for port in named_ports(server) if port.name not in theirs]


def running_already(server: Server, found: Sequence[Running]) -> Running | None:
    """Find the instance of a server that a host runs already, though the API knows nothing of it (after a restore).

    Args:
        server: the server.
        found: the instances of its name that hosts report.

    Returns:
        The host's name and the instance, or None.

    Raises:
        Refused: several hosts report an instance of this name.
    """
    if len(found) > 1:
        places = ", ".join(sorted(f"{item.instance_id} on {host}" for host, item in found))
        message = f"adoption: several instances have this name: {places}; permanent: remove all but one by hand"
        raise refuse(ScheduledReason.INSTANCE_CONFLICT, message, *(("Host", "", host) for host, _ in found))
    return found[0] if found else None


def reusable(port: Port, server: Server, *, adopting: bool) -> bool:
    """Give whether a port of the expected name was made for this server."""
    if port.deleting or port.spec.assignment is None:
        return False
    owners = [item for item in port.metadata.owner_references if item.kind == "Server"]
    return any(item.uid == server.metadata.uid or (adopting and item.name == server.metadata.name) for item in owners)
