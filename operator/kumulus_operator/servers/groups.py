"""Put the ports of a placed server into the security groups that it, or its user's Port, names now."""

from __future__ import annotations

from typing import Any

import structlog

from kumulus_api import Port, Server
from kumulus_api.devices import named_ports
from kumulus_api.server_status import ScheduledReason
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.refusal import refuse
from kumulus_operator.security_groups.plan import given_groups, names_of, references, require, wanted_groups
from kumulus_operator.servers.plan import own_ports

_LOG = structlog.stdlib.get_logger(__name__)


async def put_in_groups(cloud: Cloud, server: Server) -> Server:
    """Write changed groups to the server's own ports, and to its assignment, which its agent reads; give the server.

    Raises:
        Refused: a group is absent or not admitted, or a port has no port security; the ports stay in those that they
            are in.
        Conflict: the server has changed meanwhile; look again.
    """
    given, namespace = server.spec.assignment, server.key[0]
    if given is None:
        return server
    own, named = own_ports(server), named_ports(server)
    wanted = {
        port.name: wanted_groups(server, port, cloud.ports.get(namespace, port.port))
        for port in given.ports
        if port in named
    }
    changed = {port.name for port in named if given_groups(port) != wanted[port.name]}
    for port in named:
        if port.name in changed:
            require(namespace, wanted[port.name], cloud.security_groups)
            _check(cloud.ports.get(namespace, port.port), wanted[port.name])
    for port in own:
        await _tell(cloud, (namespace, port.port), wanted[port.name])
    if not changed:
        return server
    body = given.dump()
    for item in body["ports"]:
        if item["name"] in changed:
            item.pop("securityGroups", None)
            if references(wanted[item["name"]]):
                item["securityGroups"] = list(wanted[item["name"]])
    return await _assign(cloud, server, body, sorted(changed))


def _check(port: Port | None, groups: tuple[str, ...]) -> None:
    """Have a port without port security be in no group that somebody named.

    Raises:
        Refused: it would be.
    """
    if port is not None and not port.spec.port_security_enabled and references(groups):
        message = f"securityGroups: port {port.key[1]} has no port security; transient: change the one or the other"
        raise refuse(ScheduledReason.SECURITY_GROUP_NOT_READY, message, ("Port", *port.key))


async def _tell(cloud: Cloud, key: tuple[str, str], groups: tuple[str, ...]) -> None:
    """Have the Port of a server's own interface say its groups."""
    port = cloud.ports.get(*key)
    if port is None or port.deleting or names_of(port.spec.security_groups) == groups:
        return
    patch = {
        "metadata": {"resourceVersion": port.metadata.resource_version},
        "spec": {"securityGroups": references(groups)},
    }
    cloud.take(Port, await cloud.client.patch_merge(Port, key[1], patch, key[0]))


async def _assign(cloud: Cloud, server: Server, wanted: dict[str, Any], interfaces: list[str]) -> Server:
    body = identity(server) | {"spec": {"assignment": wanted}}
    body["metadata"]["resourceVersion"] = server.metadata.resource_version
    written = await cloud.client.apply(Server, body, manager=MANAGER)
    cloud.take(Server, written)
    _LOG.info("security groups changed", namespace=server.key[0], name=server.key[1], interfaces=interfaces)
    return Server.model_validate(written)
