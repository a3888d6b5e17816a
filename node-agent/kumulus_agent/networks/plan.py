"""What a network should be on this host: a pure function of its Network, its endpoints and the ports here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

from kumulus_agent.network.state import HostRecord, Neighbour, NetworkDesired, PortDesired, SubnetDesired, Uplink
from kumulus_api import Network, NetworkEndpoints
from kumulus_api.network import Endpoint, Subnet
from kumulus_api.quantities import service_address


@dataclass(frozen=True, slots=True)
class Here:
    """This host as the networks see it; `mtu` in bytes is that of guests."""

    host: str
    underlay_address: str
    mtu: int


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What of a network here a router has to know: MTU in bytes, and addresses and MACs of its ports."""

    mtu: int
    neighbours: frozenset[tuple[str, str]] = frozenset()


def network_facts(mtu: int, slices: Iterable[dict[str, Any]], ports: Iterable[PortDesired]) -> NetworkFacts:
    """Give what routers have to know: the ports here are known before any endpoint tells of them."""
    found = {
        address: endpoint["mac"]
        for body in slices
        for endpoint in body["spec"].get("endpoints") or ()
        for address in endpoint["addresses"]
    }
    found |= {str(address): port.mac for port in ports for address in port.addresses}
    return NetworkFacts(mtu, frozenset(found.items()))


def tunnels(slices: Iterable[dict[str, Any]], here: Here) -> frozenset[str]:
    """Give the tunnel addresses of the other hosts that endpoints are on."""
    endpoints = (endpoint for body in slices for endpoint in body["spec"].get("endpoints") or ())
    found = (endpoint.get("tunnelAddress") for endpoint in endpoints if endpoint["host"] != here.host)
    return frozenset(address for address in found if address) - {here.underlay_address}


def network_desired(
    vni: int,
    network: Network | None,
    slices: Iterable[dict[str, Any]],
    ports: Iterable[PortDesired],
    here: Here,
    *,
    uplink: Uplink | None = None,
) -> NetworkDesired:
    """Say what the network should be here.

    Args:
        vni: of the network.
        network: the Network object, None if it is unknown: its ports get no DHCP then.
        slices: its NetworkEndpoints objects.
        ports: those whose guests are here; they are known before any endpoint tells of them.
        here: this host.
        uplink: how a provider network is reached; None if it is not.
    """
    provider = network.spec.provider if network is not None else None
    assignment = network.spec.assignment if network is not None else None
    services = tuple(map(IPv4Network, assignment.services if assignment is not None else ()))
    endpoints = [endpoint for body in slices for endpoint in NetworkEndpoints.model_validate(body).spec.endpoints]
    local = tuple(sorted(ports, key=lambda port: port.tap))
    # To guests of a provider network the physical network leads.
    overlay = [] if provider is not None else endpoints
    away = [endpoint for endpoint in overlay if endpoint.host != here.host and endpoint.tunnel_address]
    return NetworkDesired(
        vni=vni,
        mtu=provider.mtu if provider is not None else _mtu(network, here),
        underlay_address=here.underlay_address,
        peers=frozenset(endpoint.tunnel_address for endpoint in away) - {here.underlay_address},
        neighbours=_neighbours(away, local),
        ports=local,
        subnets=tuple(_subnet(item, services) for item in network.spec.subnets) if network is not None else (),
        records=_records(endpoints, local),
        domain=(network.spec.dns_domain or "") if network is not None else "",
        provider=provider is not None,
        uplink=uplink,
        taken=frozenset(_taken(overlay, here)),
        services=services,
    )


def _taken(endpoints: Iterable[Endpoint], here: Here) -> Iterator[Neighbour]:
    """Yield where ports may be besides that two hosts share."""
    for endpoint in endpoints:
        other = endpoint.standby_tunnel_address
        if other is not None and other != here.underlay_address:
            yield endpoint.mac, other


def shared_here(slices: Iterable[dict[str, Any]], here: Here) -> bool:
    """Whether this host is one of two that share a port, whose frames tell all others where it is."""
    endpoints = (endpoint for body in slices for endpoint in body["spec"].get("endpoints") or ())
    return any(
        endpoint.get("standbyTunnelAddress") is not None
        and here.underlay_address in (endpoint.get("tunnelAddress"), endpoint["standbyTunnelAddress"])
        for endpoint in endpoints
    )


def _neighbours(away: Iterable[Endpoint], local: Iterable[PortDesired]) -> frozenset[Neighbour]:
    """Give where MACs are; one that several ports may use is wherever it spoke last, as the bridges learn."""
    own = {(endpoint.mac, endpoint.tunnel_address) for endpoint in away}
    users = Counter(mac for port in local for mac in port.macs - {port.mac})
    shared = [(mac, endpoint.tunnel_address) for endpoint in away for mac in _pair_macs(endpoint)]
    users.update(mac for mac, _ in set(shared))
    taken = {mac for mac, _ in own} | {port.mac for port in local}
    return frozenset(own | {(mac, peer) for mac, peer in shared if users[mac] == 1 and mac not in taken})


def _pair_macs(endpoint: Endpoint) -> set[str]:
    return {pair.mac for pair in endpoint.pairs if pair.mac}


def _mtu(network: Network | None, here: Here) -> int:
    """Give the MTU of an overlay: a host's own is less if its underlay carries less than the network was made for."""
    wanted = network.spec.mtu if network is not None else None
    return here.mtu if wanted is None else min(wanted, here.mtu)


def _subnet(subnet: Subnet, services: tuple[IPv4Network, ...]) -> SubnetDesired:
    cidr = ip_network(subnet.cidr)
    own = service_address(subnet.cidr, subnet.gateway)
    served = subnet.enable_dhcp and (cidr.version == 4 or subnet.ipv6_mode is not None)
    return SubnetDesired(
        cidr=cidr,
        service_address=own,
        gateway=ip_address(subnet.gateway) if subnet.gateway else None,
        dns_servers=tuple(map(ip_address, subnet.dns_servers)),
        routes=(
            *((ip_network(route.destination), ip_address(route.next_hop)) for route in subnet.routes),
            *((target, own) for target in services if cidr.version == target.version),
        ),
        served=served,
        mode=subnet.ipv6_mode.value if subnet.ipv6_mode is not None and served else None,
    )


def _records(endpoints: Iterable[Endpoint], local: Iterable[PortDesired]) -> tuple[HostRecord, ...]:
    named = {((e.hostname, e.dns_name), ip_address(address)) for e in endpoints for address in e.addresses}
    named |= {((port.hostname, port.dns_name), address) for port in local for address in port.addresses}
    told = {(name, address) for names, address in named for name in names if name}
    ordered = sorted(told, key=lambda record: (record[0], record[1].version, record[1]))
    return tuple(HostRecord(name, address) for name, address in ordered)
