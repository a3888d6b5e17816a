"""Keep the ports that were made for a placed server: after a restore they may be missing while the guest uses them."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from kumulus_api import Port, Server
from kumulus_api.port import PortAssignment
from kumulus_api.server_assignment import AssignedPort
from kumulus_operator.cloud import Cloud
from kumulus_operator.refusal import Refused
from kumulus_operator.security_groups.plan import wanted_groups
from kumulus_operator.servers.interfaces import bind_port, claim_addresses, make_port
from kumulus_operator.servers.plan import own_ports
from kumulus_operator.servers.resolve import Interface
from kumulus_operator.waiting import Need

_LOG = structlog.stdlib.get_logger(__name__)


async def keep_ports(cloud: Cloud, server: Server) -> None:
    """Make those of a placed server's own ports and claims that are gone anew, just as its assignment has them.

    Those that are there are bound to its host: a restored one may name another.
    """
    assigned = server.spec.assignment
    if assigned is None:
        return
    for given in assigned.ports:
        port = cloud.ports.get(server.key[0], given.port)
        if port is not None and port.spec.assignment and port.spec.assignment.port_id == given.port_id:
            await bind_port(cloud, port, assigned.host)
    for given in own_ports(server):
        if _is_kept(cloud, server, given):
            continue
        network = cloud.networks.get(given.network_namespace, given.network)
        if network is None or network.status is None or network.status.vni != given.vni:
            _wait(cloud, server, {("Network", given.network_namespace, given.network)})
            continue
        key = (server.key[0], given.port)
        try:
            await claim_addresses(cloud, network, (key, given.port_id), given.addresses)
            assignment = PortAssignment(
                portID=given.port_id, mac=given.mac, addresses=given.addresses, host=assigned.host
            )
            if cloud.ports.get(*key) is None:
                groups = wanted_groups(server, given, None)
                await make_port(cloud, server, Interface(given.name, network, given.port, groups=groups), assignment)
                _LOG.info("port made anew", namespace=key[0], name=key[1], server=server.key[1])
        except Refused as refused:
            # The guest runs with what somebody else has been given since: it is told, and tried again when that ends.
            _LOG.warning("port cannot be made anew", namespace=key[0], name=key[1], why=refused.refusal.message)
            _wait(cloud, server, refused.refusal.needs)


def _wait(cloud: Cloud, server: Server, needs: Iterable[Need]) -> None:
    cloud.server_waiters.wait(server.key, cloud.server_waiters.needs_of(server.key) | set(needs))


def _is_kept(cloud: Cloud, server: Server, given: AssignedPort) -> bool:
    key = (server.key[0], given.port)
    claimed = {c.spec.address for c in cloud.addresses.held_by(key) if c.spec.claim_ref.instance == given.port_id}
    port: Port | None = cloud.ports.get(*key)
    return port is not None and claimed >= set(given.addresses)
