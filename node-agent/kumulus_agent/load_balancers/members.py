"""The load balancers that this host and another share: by VRRP one of them has the addresses."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

import structlog

from kumulus_agent.failover.config import Tracked
from kumulus_agent.failover.keepalived import Keepalived
from kumulus_agent.failover.notices import Role
from kumulus_agent.load_balancers.desired import HereBalancer
from kumulus_agent.load_balancers.haproxy import digits
from kumulus_agent.load_balancers.haproxy_config import needs_haproxy
from kumulus_agent.load_balancers.pair import member
from kumulus_agent.services.host_service import HostServices

_log = structlog.stdlib.get_logger(__name__)


class HostsNetwork(Protocol):
    """The network of the hosts alone, by which they hear each other."""

    async def connect_hosts(self) -> None: ...  # noqa: D102


class BalancerMembers:
    """This host's part in them.

    Args:
        keepalived: the host services, of load balancers alone.
        hosts: where the hosts hear each other.
        host: this host's name.
    """

    def __init__(self, keepalived: Keepalived, hosts: HostsNetwork, host: str) -> None:
        self.host = host
        self._keepalived = keepalived
        self._hosts = hosts
        self._ids: dict[str, str] = {}
        """By the instance's name."""
        self.changed: Callable[[str], None] = lambda _balancer_id: None
        """Called with a load balancer that this host serves now, or no longer."""
        keepalived.changed = self._role_changed

    def role(self, balancer_id: str) -> Role | None:
        """Give this host's state; None while that is not known."""
        return self._keepalived.role(digits(balancer_id))

    async def connect(self) -> None:
        """Have the network by which the hosts hear each other.

        Raises:
            NetworkError: the kernel refused.
        """
        await self._hosts.connect_hosts()

    async def join(self, balancer: HereBalancer, netns: Path, haproxy: Tracked, *, anew: bool) -> None:
        """Be one of the two hosts of a load balancer, whose links and HAProxy are there.

        Args:
            balancer: which.
            netns: the file of its namespace.
            haproxy: by what that is known to run there.
            anew: the links were made just now.

        Raises:
            NetworkError: keepalived could not be started.
        """
        if balancer.pair is None:
            return
        name = digits(balancer.balancer_id)
        self._ids[name] = balancer.balancer_id
        tracked = haproxy if needs_haproxy(balancer.assignment.listeners) else None
        instance = member(balancer.assignment, balancer.pair, tracked)
        done = await self._keepalived.ensure(name, instance, netns, restart=anew)
        if done:
            _log.info("load balancer shared with another host", balancer=balancer.balancer_id, done=list(done))

    async def leave(self, balancer_id: str) -> None:
        """Be none of them: addresses that this host had it gives up, and says so."""
        name = digits(balancer_id)
        self._ids.pop(name, None)
        if name in self._keepalived.names() and await self._keepalived.absent(name):
            _log.info("load balancer no longer shared", balancer=balancer_id)

    async def sweep(self, kept: Collection[str]) -> None:
        """Leave all but these, whoever began with them."""
        for name in self._keepalived.names() - {digits(balancer_id) for balancer_id in kept}:
            await self._keepalived.absent(name)

    def close(self) -> None:
        """Hear no more of it; the hosts go on."""
        self._keepalived.close()

    def _role_changed(self, name: str) -> None:
        balancer_id = self._ids.get(name)
        if balancer_id is not None:
            _log.info("load balancer", balancer=balancer_id, role=self.role(balancer_id))
            self.changed(balancer_id)


def balancer_members(run_dir: Path, hosts: HostsNetwork, host: str) -> BalancerMembers:
    """Give this host's part in load balancers; `run_dir` is the same path on the host."""
    keepalived = Keepalived(HostServices(run_dir / "lb-vrrp-services"), run_dir / "lb-vrrp")
    return BalancerMembers(keepalived, hosts, host)
