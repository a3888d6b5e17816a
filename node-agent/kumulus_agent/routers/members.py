"""The gateways that this host and another share: by VRRP one of them leads out, whatever agents and API do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable

import structlog

from kumulus_agent.failover.keepalived import Keepalived
from kumulus_agent.failover.notices import Role
from kumulus_agent.network.names import router_namespace
from kumulus_agent.network.state import NetworkDesired
from kumulus_agent.networks.plan import Here
from kumulus_agent.routers.pair import Pair, hosts_network
from kumulus_agent.routers.paths import RouterPaths
from kumulus_agent.routers.plan import CreateJoin, EnsureNamespace, Step
from kumulus_agent.routers.state import RouterDesired

_log = structlog.stdlib.get_logger(__name__)


class GatewayMembers:
    """This host's part in the gateways that two hosts share.

    Args:
        keepalived: the host services.
        paths: routers in the kernel.
        here: this host.
    """

    def __init__(self, keepalived: Keepalived, paths: RouterPaths, here: Here) -> None:
        self._keepalived = keepalived
        self._paths = paths
        self._here = here
        self._routers: dict[str, str] = {}
        """By the instance's name."""
        self._ended: set[str] = set()
        """Routers whose connections were ended here since another host leads them out."""
        self._network: NetworkDesired | None = None
        self._changing = asyncio.Lock()
        self.changed: Callable[[str], None] = lambda _router_id: None
        """Called with a router that this host leads out now, or no longer."""
        keepalived.changed = self._role_changed

    def leading(self, pairs: Iterable[Pair]) -> tuple[str, ...]:
        """Give the routers that lead out here though they are assigned to the other host."""
        found = (pair for pair in pairs if not pair.active and self._role(pair.router_id) is Role.MASTER)
        return tuple(sorted(pair.router_id for pair in found))

    def leads(self, router_id: str) -> bool | None:
        """Whether this host, of the two, leads a router out; None while that is not known."""
        role = self._role(router_id)
        return None if role is None else role is Role.MASTER

    async def connect(self, pairs: Iterable[Pair]) -> None:
        """Have the network by which the hosts hear each other, as these need it.

        Raises:
            NetworkError: the kernel refused.
        """
        async with self._changing:
            desired = hosts_network(pairs, self._here)
            if desired == self._network or (self._network is None and not desired.routers):
                return
            self._network = None
            await self._paths.ensure_hosts_network(desired)
            self._network = desired if desired.routers else None

    def compare(self) -> None:
        """Have the network looked at again."""
        self._network = None

    async def join(self, desired: RouterDesired, steps: Collection[Step]) -> None:
        """Be one of the two hosts of a router, which is there already.

        Args:
            desired: the router.
            steps: by which it was made so.
        """
        if desired.failover is None:
            return
        name = _name(desired.router_id)
        self._routers[name] = desired.router_id
        anew = any(isinstance(step, CreateJoin | EnsureNamespace) for step in steps)
        netns = self._paths.netns(desired.router_id)
        done = await self._keepalived.ensure(name, desired.failover, netns, restart=anew)
        if done:
            _log.info("gateway shared with another host", router=desired.router_id, done=list(done))
        await self._end_former(desired)

    async def leave(self, router_id: str) -> None:
        """Be none of them: what this host had as the leading one it gives up first."""
        name = _name(router_id)
        self._routers.pop(name, None)
        self._ended.discard(router_id)
        if name in self._keepalived.names() and await self._keepalived.absent(name):
            _log.info("gateway no longer shared", router=router_id)

    async def sweep(self, kept: Iterable[str]) -> None:
        """Leave all routers but these, whoever began with them."""
        names = {_name(router_id) for router_id in kept}
        for name in self._keepalived.names() - names:
            await self._keepalived.absent(name)

    def close(self) -> None:
        """Hear no more of it; the hosts go on."""
        self._keepalived.close()

    def _role(self, router_id: str) -> Role | None:
        return self._keepalived.role(_name(router_id))

    def _role_changed(self, name: str) -> None:
        router_id = self._routers.get(name)
        if router_id is not None:
            _log.info("gateway", router=router_id, role=self._role(router_id))
            self.changed(router_id)

    async def _end_former(self, desired: RouterDesired) -> None:
        """End what went out here: its packets would leave by the other host under an address translated here."""
        if self._role(desired.router_id) is Role.MASTER:
            self._ended.discard(desired.router_id)
        elif desired.router_id not in self._ended:
            await self._paths.end_shared(desired)
            self._ended.add(desired.router_id)


def _name(router_id: str) -> str:
    return router_namespace(router_id, "")
