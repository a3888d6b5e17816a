"""Who has an address outside, or is sent what is for it, as the watches have shown it."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

from kumulus_api import Port
from kumulus_api.load_balancer import LoadBalancerAssignment
from kumulus_api.router import AssignedGateway
from kumulus_api.server_assignment import AssignedPort
from kumulus_operator.cloud import Cloud
from kumulus_operator.traces.world import Origin, Owner
from kumulus_operator.views import Key


def leading(namespace: str, gateway: AssignedGateway | None, via: str = "") -> Owner:
    """Give the hosts of a router's gateway as those that answer."""
    takeover = gateway.takeover if gateway is not None else None
    standby = takeover.standby.host if takeover is not None and takeover.standby is not None else None
    return Owner(namespace, gateway.host if gateway is not None else None, standby, via)


def routed_to(cloud: Cloud, vni: int, address: str) -> Owner | None:
    """Give the router to whose address an external network routes an address; None if it is nobody's."""
    target = ip_address(address)
    for router in cloud.routers:
        gateway = router.spec.assignment.gateway if router.spec.assignment is not None else None
        if gateway is None or gateway.vni != vni or not any(target in ip_network(item) for item in gateway.routed):
            continue
        own = (ip_interface(text).ip for text in gateway.addresses)
        via = next((str(item) for item in own if item.version == target.version), "")
        return leading(router.key[0], gateway, via)
    return None


def port_owner(cloud: Cloud, port: Key) -> Owner:
    """Give the host of a Port: its server's, or those of its load balancer."""
    found = cloud.ports.get(*port)
    given = found.spec.assignment if found is not None else None
    balancer = balancer_of(cloud, port)
    if balancer is None:
        return Owner(port[0], given.host if given is not None else None)
    host, standby, *_ = (*balancer.hosts, None)
    return Owner(port[0], host, standby)


def balancer_of(cloud: Cloud, port: Key) -> Origin | None:
    """Give the load balancer that has a Port, and its hosts; None of any other Port."""
    for key in cloud.balancers.of_port.get(port, ()):
        balancer = cloud.load_balancers.get(*key)
        given = balancer.spec.assignment if balancer is not None else None
        if given is not None:
            return _origin(given, port[1])
    return None


def users_of(cloud: Cloud, vni: int, address: str) -> list[str]:
    """Give the hosts of what may have an address: of a router that two share, else of ports that may use it."""
    hosts = _sharing(cloud, vni, address)
    if hosts:
        return hosts
    wanted = {network.key for network in cloud.networks if network.status is not None and network.status.vni == vni}
    found = {
        port.spec.assignment.host
        for port in cloud.ports
        if port.spec.assignment is not None
        and (port.spec.network.namespace or port.key[0], port.spec.network.name) in wanted
        and _may_use(port, address)
    }
    return sorted(host for host in found if host is not None)


def _sharing(cloud: Cloud, vni: int, address: str) -> list[str]:
    for router in cloud.routers:
        given = router.spec.assignment
        if given is None or given.gateway is None or not given.centralised:
            continue
        interfaces = (interface.addresses for interface in given.interfaces if interface.vni == vni)
        if any(str(ip_interface(text).ip) == address for addresses in interfaces for text in addresses):
            owner = leading(router.key[0], given.gateway)
            return [host for host in (owner.host, owner.standby) if host is not None]
    return []


def _may_use(port: Port, address: str) -> bool:
    target, pairs = ip_address(address), port.spec.allowed_address_pairs
    held = any(target in ip_network(pair.address, strict=False) for pair in pairs)
    return held or not port.spec.port_security_enabled


def _origin(given: LoadBalancerAssignment, port: str) -> Origin:
    takeover = given.takeover
    spare = takeover is not None and port == takeover.port
    what = takeover if takeover is not None and spare else given
    both = (given.host, given.standby) if takeover is not None else (given.host,)
    hosts = tuple(host for host in both if host is not None)
    own = AssignedPort(
        name="vip",
        port=port,
        port_id=what.port_id,
        network=given.network,
        network_namespace=given.network_namespace,
        vni=given.vni,
        mac=what.mac,
        addresses=[str(ip_interface(text).ip) for text in what.addresses],
    )
    return Origin(own, (hosts[1:] or hosts) if spare else hosts)
