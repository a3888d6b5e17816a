"""A centralised router: all packets of its networks pass it on one host, so that its firewall sees both directions.

Pure functions of what the operator has assigned. On its gateway's host its interfaces have MACs of that host, by which
the other hosts reach it over the overlay; guests ask for them, and hear of another host by gratuitous ARP. Where two
hosts share the gateway, VRRP moves the addresses of its interfaces as it moves those outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network

from kumulus_agent.network import names
from kumulus_agent.network.groups import ICMP
from kumulus_agent.routers.firewall import Firewall, Guard, Rule
from kumulus_agent.routers.pair import mac_of
from kumulus_agent.routers.state import Address, Route
from kumulus_api.firewall_group import AssignedFirewallRule
from kumulus_api.router import AssignedInterface, RouterAssignment
from kumulus_api.security_group import Protocol

_NUMBERS = {
    Protocol.TCP: 6,
    Protocol.UDP: 17,
    Protocol.ICMP: ICMP[4],
    Protocol.SCTP: 132,
    Protocol.DCCP: 33,
    Protocol.UDPLITE: 136,
}


def hosts_of(assignment: RouterAssignment) -> dict[str, str]:
    """Give the hosts that have a centralised router, with where the others reach them; the gateway's comes first."""
    gateway = assignment.gateway
    if gateway is None:
        return {}
    found = {gateway.host: gateway.tunnel_address}
    if gateway.takeover is not None and gateway.takeover.standby is not None:
        found[gateway.takeover.standby.host] = gateway.takeover.standby.tunnel_address
    return found


def interface_mac(router_id: str, interface: AssignedInterface, host: str) -> str:
    """Give the MAC that an interface of a centralised router has on a host."""
    return mac_of(router_id, host, f"interface/{interface.name}")


def reached(assignment: RouterAssignment, host: str) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield where a host reaches a router that is centralised on others: number of the network, MAC, tunnel address."""
    for name, tunnel in hosts_of(assignment).items():
        if name != host:
            for interface in assignment.interfaces:
                yield interface.vni, (interface_mac(assignment.router_id, interface, name), tunnel)


def answering(assignments: Iterable[RouterAssignment], vni: int) -> dict[str, str]:
    """Give the addresses of centralised routers in a network, with the MACs that their gateways' hosts answer with."""
    return {
        str(ip_interface(text).ip): interface_mac(assignment.router_id, interface, next(iter(hosts_of(assignment))))
        for assignment in assignments
        if assignment.centralised and hosts_of(assignment)
        for interface in assignment.interfaces
        if interface.vni == vni
        for text in interface.addresses
    }


def moving(assignments: Iterable[RouterAssignment], vni: int) -> frozenset[str]:
    """Give the addresses of centralised routers in a network that one of two hosts has, without the API."""
    return frozenset(
        str(ip_interface(text).ip)
        for assignment in assignments
        if assignment.centralised and len(hosts_of(assignment)) > 1
        for interface in assignment.interfaces
        if interface.vni == vni
        for text in interface.addresses
    )


def shared_addresses(link: str, interface: AssignedInterface) -> Iterator[Address]:
    """Yield the addresses of an interface that the one of two hosts has that leads."""
    for text in interface.addresses:
        address = ip_interface(text)
        yield Address(link, f"{address.ip}/{address.max_prefixlen}")


def shared_routes(table: int, link: str, interface: AssignedInterface) -> Iterator[Route]:
    """Yield the ways into the network of an interface: addresses that come and go bring none."""
    for text in interface.addresses:
        yield Route(table, str(ip_interface(text).network), link)


def firewall_of(assignment: RouterAssignment) -> Firewall:
    """Give the rules of a router, and behind which of its links addresses are."""
    if not assignment.firewalls:
        return Firewall()
    links = {
        item.name: names.router_link(assignment.router_id, f"interface/{item.name}") for item in assignment.interfaces
    }
    guards = tuple(
        Guard(
            item.group,
            tuple(sorted(links[name] for name in item.interfaces if name in links)),
            tuple(map(_rule, item.ingress)),
            tuple(map(_rule, item.egress)),
        )
        for item in sorted(assignment.firewalls, key=lambda item: item.group)
    )
    return Firewall(guards, tuple(sorted(_ways(assignment, links))))


def _ways(assignment: RouterAssignment, links: dict[str, str]) -> Iterator[tuple[str, str]]:
    for interface in assignment.interfaces:
        own = [ip_interface(text).network for text in interface.addresses]
        yield from ((str(network), links[interface.name]) for network in own)
        for route in assignment.routes:
            hop = ip_address(route.next_hop)
            if any(hop in network for network in own):
                yield str(ip_network(route.destination, strict=False)), links[interface.name]


def _rule(item: AssignedFirewallRule) -> Rule:
    return Rule(
        name=item.name,
        action=item.action.value,
        protocol=_NUMBERS[item.protocol] if item.protocol is not None else None,
        family=item.ip_version,
        source=_network(item.source_cidr),
        destination=_network(item.destination_cidr),
        source_ports=tuple(item.source_ports),
        destination_ports=tuple(item.destination_ports),
    )


def _network(text: str | None) -> IPv4Network | IPv6Network | None:
    return ip_network(text) if text is not None else None
