"""What a network should be on this host: a pure function of its Network, its endpoints and the ports here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Any

from kumulus_agent.network.state import HostRecord, NetworkDesired, PortDesired, SubnetDesired, Uplink
from kumulus_api import Network, NetworkEndpoints
from kumulus_api.network import Endpoint
from kumulus_api.quantities import service_address


@dataclass(frozen=True, slots=True)
class Here:
    """This host as the networks see it; `mtu` in bytes is that of guests."""

    host: str
    underlay_address: str
    mtu: int


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
    endpoints = [endpoint for body in slices for endpoint in NetworkEndpoints.model_validate(body).spec.endpoints]
    local = tuple(sorted(ports, key=lambda port: port.tap))
    # To guests of a provider network the physical network leads.
    overlay = [] if provider is not None else endpoints
    away = [endpoint for endpoint in overlay if endpoint.host != here.host and endpoint.tunnel_address]
    return NetworkDesired(
        vni=vni,
        mtu=provider.mtu if provider is not None else here.mtu,
        underlay_address=here.underlay_address,
        peers=frozenset(endpoint.tunnel_address for endpoint in away) - {here.underlay_address},
        neighbours=frozenset((endpoint.mac, endpoint.tunnel_address) for endpoint in away),
        ports=local,
        subnet=_subnet(network),
        records=_records(endpoints, local),
        provider=provider is not None,
        uplink=uplink,
    )


def _subnet(network: Network | None) -> SubnetDesired | None:
    subnet = network.spec.subnets[0] if network is not None else None
    if network is None or subnet is None or not subnet.enable_dhcp:
        return None
    return SubnetDesired(
        cidr=IPv4Network(subnet.cidr),
        service_address=service_address(subnet.cidr, subnet.gateway),
        gateway=IPv4Address(subnet.gateway) if subnet.gateway else None,
        dns_servers=tuple(IPv4Address(server) for server in subnet.dns_servers if ":" not in server),
        forwards=network.spec.provider is None,
    )


def _records(endpoints: Iterable[Endpoint], local: Iterable[PortDesired]) -> tuple[HostRecord, ...]:
    named = {(e.hostname, address) for e in endpoints for address in _ipv4(e.addresses)}
    named |= {(port.hostname, address) for port in local if port.hostname for address in port.addresses}
    return tuple(HostRecord(name, address) for name, address in sorted(named))


def _ipv4(addresses: Iterable[str]) -> list[IPv4Address]:
    return [parsed for parsed in map(ip_address, addresses) if isinstance(parsed, IPv4Address)]
