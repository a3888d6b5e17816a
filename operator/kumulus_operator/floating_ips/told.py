"""Tell servers of the floating addresses that lead to them."""

from __future__ import annotations

from kumulus_api import FloatingIP, Server
from kumulus_api.server_status import FloatingAddress
from kumulus_operator.cloud import Cloud
from kumulus_operator.views import Key

MANAGER = "kumulus-operator-floating-ips"
"""The field manager of this part of a Server's status: the rest is the agent's, or told while no agent speaks."""


def leading_to(server: Server, floating: list[FloatingIP]) -> list[FloatingAddress]:
    """Give the addresses that lead to a server as a whole, in a fixed order (pure).

    Args:
        server: which was given ports.
        floating: floating IPs that name these.
    """
    given = server.spec.assignment
    own = {port.port: set(port.addresses) for port in given.ports} if given is not None else {}
    found = []
    for item in floating:
        port, led = item.spec.port, item.spec.assignment
        if port is None or led is None or led.fixed_address is None or item.deleting:
            continue
        if led.fixed_address in own.get(port.name, ()):
            told = {"name": item.metadata.name, "network": led.network, "address": led.address}
            found.append(FloatingAddress.model_validate(told | {"fixedAddress": led.fixed_address}))
    return sorted(found, key=lambda item: item.name)


class FloatingToldController:
    """Writes a Server's `status.floatingIPs`. Keys are those of Servers.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> None:
        """Bring one server's list up to date."""
        cloud = self._cloud
        server = cloud.servers.get(*key)
        if server is None or server.deleting:
            return
        keys = {item for port in cloud.ports_of(key) for item in cloud.edges.floating_to.get(port, ())}
        floating = [item for key in sorted(keys) if (item := cloud.floating_ips.get(*key)) is not None]
        wanted = leading_to(server, floating)
        told = server.status.floating_ips if server.status is not None else []
        if wanted == told:
            return
        # An empty list rather than none: of a server that nobody else has spoken of yet no status would be left.
        await cloud.write_status(server, {"floatingIPs": [item.dump() for item in wanted]}, manager=MANAGER)
