"""Take in what was seen of load balancers, and have those looked at that something else concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kumulus_api import LoadBalancer, Server
from kumulus_operator.load_balancers.plan import matches
from kumulus_operator.routers.intake import ports_moved
from kumulus_operator.views import Key
from kumulus_operator.waiting import quota

if TYPE_CHECKING:
    from kumulus_operator.cloud import Cloud


def take_load_balancer(cloud: Cloud, former: LoadBalancer | None, new: LoadBalancer | None) -> None:
    """Take in a load balancer."""
    item = new or former
    if item is None:
        return
    cloud.queues.load_balancers.add(item.key)
    cloud.balancers.see(former, new)
    was, now = (one.spec.assignment if one is not None else None for one in (former, new))
    if now is not None:
        cloud.counted_load_balancers.admit(item.key, admitted=True)
    where = [(one.host, one.port, one.vni, one.takeover) if one is not None else None for one in (was, now)]
    if where[0] != where[1]:
        for given in (was, now):
            if given is not None:
                cloud.queues.endpoints.add((given.network_namespace, given.network))
                ports_moved(cloud, [(item.key[0], given.port)])
    if new is None:
        cloud.counted_load_balancers.withdraw(item.key)
        cloud.wake(quota(item.key[0]))


def host_of_port(cloud: Cloud, port: Key) -> str | None:
    """Give the host that has the address of a load balancer's port; None of any other port."""
    for key in cloud.balancers.of_port.get(port, ()):
        balancer = cloud.load_balancers.get(*key)
        given = balancer.spec.assignment if balancer is not None else None
        if given is not None:
            return given.host if given.port == port[1] else given.standby
    return None


def is_shared(cloud: Cloud, port: Key) -> bool:
    """Whether a port is a load balancer's whose two hosts decide which of them has its address."""
    found = (cloud.load_balancers.get(*key) for key in cloud.balancers.of_port.get(port, ()))
    given = (balancer.spec.assignment for balancer in found if balancer is not None)
    return any(item is not None and item.takeover is not None and item.port == port[1] for item in given)


def host_in_balancers(cloud: Cloud, name: str) -> None:
    """Have the load balancers of a host looked at, and where they are reached."""
    for key in cloud.balancers.on_host.get(name, ()):
        cloud.queues.load_balancers.add(key)
        balancer = cloud.load_balancers.get(*key)
        given = balancer.spec.assignment if balancer is not None else None
        if given is not None:
            cloud.queues.endpoints.add((given.network_namespace, given.network))


def server_in_balancers(cloud: Cloud, former: Server | None, new: Server | None) -> None:
    """Have the load balancers looked at of which a server is a member, or was, when its addresses or labels change."""
    item = new or former
    if item is None:
        return
    naming, selecting = cloud.balancers.naming.get(item.key, ()), cloud.balancers.selecting.get(item.key[0], ())
    if not (naming or selecting) or _facts(former) == _facts(new):
        return
    for key in naming:
        cloud.queues.load_balancers.add(key)
    for key in selecting:
        balancer = cloud.load_balancers.get(*key)
        if balancer is not None and any(_selects(balancer, one) for one in (former, new) if one is not None):
            cloud.queues.load_balancers.add(key)


def _selects(balancer: LoadBalancer, server: Server) -> bool:
    selectors = (listener.pool.member_selector for listener in balancer.spec.listeners)
    return any(matches(selector.match_labels, server) for selector in selectors if selector is not None)


def _facts(server: Server | None) -> object:
    if server is None:
        return None
    given = server.spec.assignment
    ports = (
        [(port.network_namespace, port.network, port.addresses) for port in given.ports] if given is not None else None
    )
    return server.deleting, server.metadata.labels, ports
