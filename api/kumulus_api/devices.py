"""Which of the ports and volumes that a placed server was given its spec still names (pure)."""

from __future__ import annotations

from kumulus_api.server import NetworkInterface, Server, VolumeAttachment
from kumulus_api.server_assignment import AssignedPort, AssignedVolume


def is_given(server: Server, wanted: NetworkInterface, given: AssignedPort) -> bool:
    """Give whether a port is the one that an interface asks for."""
    if wanted.name != given.name:
        return False
    if wanted.port is not None:
        return wanted.port.name == given.port
    if wanted.network is None:
        return False
    place = wanted.network.namespace or server.metadata.namespace
    same = (wanted.network.name, place) == (given.network, given.network_namespace)
    return same and given.port == port_name(server, wanted.name) and wanted.address in (None, *given.addresses)


def port_name(server: Server, interface: str) -> str:
    """Give the name of the port that is made for an interface."""
    return f"{server.metadata.name}-{interface}"


def named_ports(server: Server) -> list[AssignedPort]:
    """Give those of a placed server's ports that its spec names; all where it leaves the choice open."""
    given, wanted = server.spec.assignment, server.spec.networks
    if given is None or wanted is None:
        return list(given.ports) if given is not None else []
    return [port for port in given.ports if any(is_given(server, item, port) for item in wanted)]


def named_volumes(server: Server) -> list[AssignedVolume]:
    """Give those of a placed server's volumes that its spec names."""
    given = server.spec.assignment
    wanted = {(item.name, item.volume.name) for item in server.spec.volumes}
    return [item for item in (given.volumes if given is not None else ()) if (item.name, item.volume) in wanted]


def missing_interfaces(server: Server) -> list[NetworkInterface]:
    """Give the interfaces of the spec that a placed server may be given now: nothing it has is called so."""
    given = server.spec.assignment
    taken = {port.name for port in given.ports} if given is not None else set()
    return [item for item in server.spec.networks or () if item.name not in taken]


def missing_volumes(server: Server) -> list[VolumeAttachment]:
    """Give the attachments of the spec that a placed server may be given now: nothing it has is called so."""
    given = server.spec.assignment
    held = given.volumes if given is not None else ()
    names, volumes = {item.name for item in held}, {item.volume for item in held}
    return [item for item in server.spec.volumes if item.name not in names and item.volume.name not in volumes]
