"""Plan where a floating IP leads (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from kumulus_api import FloatingIP, Network, Port, Router
from kumulus_api.floating_ip import FloatingIPAssignment, FloatingIPReason, PortForwarding
from kumulus_api.network import Subnet
from kumulus_operator.faults import ready_status
from kumulus_operator.ipam.plan import fixed_address_fault
from kumulus_operator.refusal import Refusal, Refused, refuse
from kumulus_operator.routers.plan import ranges_of
from kumulus_operator.views import Key
from kumulus_operator.waiting import any_of

_IPV4 = 4


@dataclass(frozen=True)
class Target:
    """What an address leads to: one address of a port."""

    port: str
    address: str


@dataclass(frozen=True)
class Leads:
    """Where a floating IP is to lead, with the faults of what it cannot.

    Attributes:
        router: which leads there.
        host: where it is translated.
        standby: where it is when another host takes over the router's gateway; None if that does not concern it.
        fixed: what all of it is translated to.
        forwardings: what its ports are translated to.
    """

    router: Router | None = None
    host: str | None = None
    fixed: str | None = None
    forwardings: tuple[dict[str, Any], ...] = ()
    faults: tuple[Refusal, ...] = ()
    standby: str | None = None


@dataclass(frozen=True)
class World:
    """What is looked at.

    Attributes:
        port: gives a Port of the project by its name.
        routers: of the project.
        host_of: gives the host of the server that uses a port.
        reached: gives whether a host reaches the external network.
        holder: gives the other floating IP that a router leads to an address already.
        moves: gives whether a port's hosts decide by themselves on which of them it is.
    """

    port: Callable[[str], Port | None]
    routers: Sequence[Router]
    host_of: Callable[[str], str | None]
    reached: Callable[[str], bool]
    holder: Callable[[Router, str], str | None]
    moves: Callable[[str], bool] = lambda _port: False


def external_subnets(network: Network, address: str | None, named: str | None = None) -> list[Subnet]:
    """Give the subnets that a floating IP's address may come from: all are of one family.

    Args:
        network: the external one.
        address: the one to have; None for a free one.
        named: the subnet that is asked for; None for one with that address, else an IPv4 one if there is any.

    Raises:
        Refused: the network is not external, or the address cannot be had there.
    """
    need = ("Network", *network.key)
    name = network.metadata.name
    if not network.spec.external:
        message = f"network: {name} is not external; transient: goes on when its spec.external is true"
        raise refuse(FloatingIPReason.NOT_EXTERNAL, message, need)
    subnets = [item for item in network.spec.subnets if named in (None, item.name)]
    if not subnets:
        known = ", ".join(item.name for item in network.spec.subnets)
        message = f"subnet: network {name} has no {named} but {known}; transient: goes on when it has it"
        raise refuse(FloatingIPReason.SUBNET_UNKNOWN, message, need)
    if address is None:
        of_ipv4 = [item for item in subnets if ip_network(item.cidr).version == _IPV4]
        return of_ipv4 or subnets
    within = [item for item in subnets if ip_address(address) in ip_network(item.cidr)] or subnets[:1]
    fault = fixed_address_fault(within[0], address)
    if fault is not None:
        message = f"address: {fault}; permanent: make another floating IP"
        raise refuse(FloatingIPReason.ADDRESS_INVALID, message, need)
    return within


def target_of(port: str, wanted: str | None, found: Port | None, part: str, family: int = _IPV4) -> Target:
    """Give the address of a port that is meant.

    Args:
        port: its name.
        wanted: one of its addresses; None for the first of the family.
        found: the port.
        part: of the spec, with which messages begin.
        family: 4 or 6, of the floating IP.

    Raises:
        Refused: the port is not there, or has no such address.
    """
    given = found.spec.assignment if found is not None else None
    if given is None:
        what = "was not found" if found is None else "has no address yet"
        message = f"{part}: port {port} {what}; transient: goes on when it is made"
        raise refuse(FloatingIPReason.PORT_UNKNOWN, message)
    addresses = [item for item in given.addresses if ip_address(item).version == family]
    address = next((item for item in addresses if wanted is None or ip_address(item) == ip_address(wanted)), None)
    if address is None:
        asked = f"no address {wanted}" if wanted is not None else f"no IPv{family} address"
        message = f"{part}: port {port} has {asked} but {', '.join(given.addresses)}; permanent: choose another"
        raise refuse(FloatingIPReason.ADDRESS_INVALID, message)
    return Target(port, address)


def lead(floating: FloatingIP, given: FloatingIPAssignment, world: World) -> Leads:
    """Find where a floating IP is to lead.

    Args:
        floating: with what its user wants.
        given: its address, and where it leads now.
        world: what is looked at.

    Raises:
        Refused: it cannot lead to its port.
    """
    if floating.spec.port is not None:
        return _whole(floating, given, world)
    if floating.spec.port_forwardings:
        return _by_ports(floating, given, world)
    return Leads()


def _whole(floating: FloatingIP, given: FloatingIPAssignment, world: World) -> Leads:
    name = floating.spec.port.name if floating.spec.port is not None else ""
    found = world.port(name)
    target = target_of(name, floating.spec.fixed_address, found, "port", ip_address(given.address).version)
    able = _leading(floating, given, world.routers, [(found, target)])
    if not able:
        raise _no_router(floating, given, "port", target)
    router = able[0]
    holder = world.holder(router, target.address)
    if holder is not None:
        message = (
            f"port: floating IP {holder} leads to {target.address} of port {name} already; "
            "transient: goes on when that leads elsewhere"
        )
        raise refuse(FloatingIPReason.PORT_IN_USE, message, ("FloatingIP", floating.key[0], holder))
    server_host = world.host_of(name)
    if server_host is None:
        message = f"port: port {name} is used by no server that has a host; transient: goes on when one is"
        refusal = Refusal(FloatingIPReason.NO_HOST.value, message)
        return Leads(router, None, target.address, faults=(refusal,))
    # A centralised router has its translation where it has everything, and what moves without the operator is led to
    # from where the router leads out, which does so as well.
    central = router.spec.assignment is not None and router.spec.assignment.centralised
    if world.reached(server_host) and not central and not world.moves(name):
        return Leads(router, server_host, target.address)
    host, standby = _gateway_hosts(router)
    return Leads(router, host, target.address, standby=standby)


def _by_ports(floating: FloatingIP, given: FloatingIPAssignment, world: World) -> Leads:
    """Find the way of each forwarding; they all take the router that leads to most of them."""
    faults: list[Refusal] = []
    found: list[tuple[PortForwarding, Port | None, Target]] = []
    for item in floating.spec.port_forwardings:
        port = world.port(item.port.name)
        try:
            family = ip_address(given.address).version
            found.append((item, port, target_of(item.port.name, item.address, port, _part(item), family)))
        except Refused as refused:
            faults.append(refused.refusal)
    able = _leading(floating, given, world.routers, [(port, target) for _, port, target in found])
    router = able[0] if able else None
    forwardings = []
    for item, port, target in found:
        if router is None or not _joins(router, port, target):
            faults.append(_no_router(floating, given, _part(item), target).refusal)
            continue
        forwardings.append(
            {
                "protocol": item.protocol,
                "externalPort": item.external_port,
                "address": target.address,
                "internalPort": item.internal_port,
            }
        )
    if router is None:
        return Leads(faults=tuple(faults))
    host, standby = _gateway_hosts(router)
    return Leads(router, host, None, tuple(forwardings), tuple(faults), standby)


def _part(item: PortForwarding) -> str:
    return f"forwarding of {item.protocol} {item.external_port}"


def _leading(
    floating: FloatingIP,
    given: FloatingIPAssignment,
    routers: Iterable[Router],
    targets: Sequence[tuple[Port | None, Target]],
) -> list[Router]:
    """Give the routers that lead to any target, those to most of them first; of equal ones the present one stays."""
    counts = []
    for router in routers:
        present = router.metadata.name == given.router
        if not _leads_out(router, given) or (router.deleting and not present):
            continue
        count = sum(_joins(router, port, target) for port, target in targets)
        if count:
            counts.append((-count, not present, router.metadata.name, router))
    return [entry[-1] for entry in sorted(counts, key=lambda entry: entry[:-1])]


def _leads_out(router: Router, given: FloatingIPAssignment) -> bool:
    way = router.spec.assignment.gateway if router.spec.assignment is not None else None
    if way is None or (way.network_namespace, way.network) != (given.network_namespace, given.network):
        return False
    return any(ip_interface(item).version == ip_address(given.address).version for item in way.addresses)


def _joins(router: Router, port: Port | None, target: Target) -> bool:
    joined = router.spec.assignment
    if joined is None or port is None:
        return False
    network: Key = (port.spec.network.namespace or port.key[0], port.spec.network.name)
    address = ip_address(target.address)
    return any(
        (item.network_namespace, item.network) == network
        and any(address in subnet for subnet in ranges_of(item.addresses))
        for item in joined.interfaces
    )


def _gateway_hosts(router: Router) -> tuple[str | None, str | None]:
    """Give where a router leads out, and which host takes over."""
    way = router.spec.assignment.gateway if router.spec.assignment is not None else None
    if way is None:
        return None, None
    standby = way.takeover.standby if way.takeover is not None else None
    return way.host, standby.host if standby is not None else None


def _no_router(floating: FloatingIP, given: FloatingIPAssignment, part: str, target: Target) -> Refused:
    message = (
        f"{part}: no Router of project {floating.key[0]} joins {target.address} of port {target.port} with network "
        f"{given.network}; transient: goes on when one has an interface in that subnet and its gateway in that network"
    )
    return refuse(FloatingIPReason.NO_ROUTER, message, any_of("Router", floating.key[0]))


def assignment_of(given: FloatingIPAssignment, leads: Leads) -> FloatingIPAssignment:
    """Give the assignment of a floating IP that leads there."""
    somewhere = leads.fixed is not None or bool(leads.forwardings)
    router = leads.router if somewhere else None
    routing = router.spec.assignment if router is not None else None
    body = {
        "floatingIPID": given.floating_ip_id,
        "address": given.address,
        "mac": given.mac,
        "network": given.network,
        "networkNamespace": given.network_namespace,
        "vni": given.vni,
        "router": router.metadata.name if router is not None else None,
        "routerID": routing.router_id if routing is not None else None,
        "host": leads.host if somewhere else None,
        "standby": leads.standby if somewhere else None,
        "fixedAddress": leads.fixed,
        "forwardings": list(leads.forwardings),
    }
    return FloatingIPAssignment.model_validate({key: value for key, value in body.items() if value is not None})


def floating_status(floating: FloatingIP, faults: Sequence[Refusal], now: datetime) -> dict[str, Any] | None:
    """Give the status to write, or None if it says so already.

    Args:
        floating: as it is, with its assignment.
        faults: what is not as the spec says; the first is told.
        now: the present.
    """
    found = floating.status.dump() if floating.status else {}
    wanted = ready_status(floating, found, faults, _shown(floating), now)
    return None if wanted == found else wanted


def _shown(floating: FloatingIP) -> tuple[FloatingIPReason, str]:
    given = floating.spec.assignment
    if given is None or given.router is None:
        return FloatingIPReason.UNBOUND, "leads nowhere: neither a port nor port forwardings are asked for"
    if given.fixed_address is None:
        count = len(given.forwardings)
        return FloatingIPReason.BOUND, f"{count} port{' leads' if count == 1 else 's lead'} to servers"
    port = floating.spec.port.name if floating.spec.port is not None else ""
    return FloatingIPReason.BOUND, f"leads to {given.fixed_address} of port {port}"
