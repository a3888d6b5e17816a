"""Choose addresses (pure)."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from kumulus_api.addresses import canonical, eui64
from kumulus_api.network import IPv6Mode, Subnet
from kumulus_api.quantities import service_address

_FAMILIES = (4, 6)


class NoneFree(Exception):
    """No address is free in the subnets of a family; the message names them."""


def reserved_addresses(subnet: Subnet) -> frozenset[IPv4Address | IPv6Address]:
    """Give the addresses that no port may have: network (of IPv6: all routers), broadcast, gateway, DHCP/DNS."""
    return _reserved(subnet.cidr, subnet.gateway)


@lru_cache(maxsize=1024)
def _reserved(cidr: str, gateway: str | None) -> frozenset[IPv4Address | IPv6Address]:
    network = ip_network(cidr)
    kept = {network.network_address, service_address(cidr, gateway)}
    if isinstance(network, IPv4Network):
        kept.add(network.broadcast_address)
    if gateway is not None:
        kept.add(ip_address(gateway))
    return frozenset(kept)


@lru_cache(maxsize=1024)
def _network(cidr: str) -> IPv4Network | IPv6Network:
    return ip_network(cidr)


def pools_of(subnet: Subnet) -> list[tuple[int, int]]:
    """Give the ranges of automatic addresses as numbers, both ends included."""
    if subnet.pools:
        return [(int(ip_address(pool.start)), int(ip_address(pool.end))) for pool in subnet.pools]
    network = _network(subnet.cidr)
    return [(int(network.network_address), int(network.broadcast_address))]


def gateway_fault(subnet: Subnet) -> str | None:
    """Say what is wrong with a subnet's gateway, or None."""
    network = _network(subnet.cidr)
    if subnet.gateway is None:
        return None
    gateway = ip_address(subnet.gateway)
    if isinstance(network, IPv6Network):
        # RFC 4291, section 2.6.1.
        all_routers = f"gateway {subnet.gateway} is the address of all routers of {subnet.cidr}"
        return all_routers if gateway == network.network_address else None
    if gateway in (network.network_address, network.broadcast_address):
        return f"gateway {subnet.gateway} is the network or broadcast address of {subnet.cidr}"
    return None


def pools_fault(subnet: Subnet) -> str | None:
    """Say what is wrong with a subnet's pools, or None."""
    network = _network(subnet.cidr)
    ranges = []
    for pool in subnet.pools:
        start, end = ip_address(pool.start), ip_address(pool.end)
        if start not in network or end not in network:
            return f"pool {start}-{end} of subnet {subnet.name} lies outside {subnet.cidr}"
        if int(start) > int(end):
            return f"pool {start}-{end} of subnet {subnet.name} ends before it starts"
        ranges.append((int(start), int(end), f"{start}-{end}"))
    ranges.sort()
    for (_, last, one), (following, _, other) in itertools.pairwise(ranges):
        if following <= last:
            return f"pools {one} and {other} of subnet {subnet.name} overlap"
    return None


def choose_address(subnet: Subnet, used: Collection[str], start_after: str | None = None) -> str | None:
    """Choose a free address.

    Args:
        subnet: the range.
        used: addresses that are held, in their usual text form.
        start_after: the address that was given out last. The search begins behind it, so that an address comes back
            into use as late as possible.

    Returns:
        The address; None if all are held.
    """
    kept = {int(address) for address in reserved_addresses(subnet)}
    pools = pools_of(subnet)
    after = int(ip_address(start_after)) if start_after else -1
    parts = [(max(low, after + 1), high) for low, high in pools] + [(low, min(high, after)) for low, high in pools]
    made = IPv4Address if isinstance(_network(subnet.cidr), IPv4Network) else IPv6Address
    for low, high in parts:
        number = low
        while number <= high:
            if number not in kept and (text := str(made(number))) not in used:
                return text
            number += 1
    return None


def self_made(subnet: Subnet) -> bool:
    """Whether servers make their addresses of the subnet of their MACs."""
    return subnet.ipv6_mode in (IPv6Mode.SLAAC, IPv6Mode.STATELESS)


def choose_addresses(
    subnets: Sequence[Subnet], mac: str, fixed: Sequence[str], used: Collection[str], last: Mapping[str, str]
) -> list[str]:
    """Choose the addresses of a port: as Neutron, one of each family, and one of each subnet in which it makes its own.

    Args:
        subnets: of the network, in their order: the first of a family that has room gives the address.
        mac: of the port.
        fixed: addresses that it must have; they stand in place of the automatic one of their family.
        used: addresses that are held, in their usual text form.
        last: by the subnet's range, the address that was given out last.

    Raises:
        NoneFree: the network has subnets of a family, and none of them has room.
    """
    wanted = [canonical(address) for address in fixed]
    made = [str(eui64(IPv6Network(subnet.cidr), mac)) for subnet in subnets if self_made(subnet)]
    given = [address for address in wanted if address not in made]
    for family in _FAMILIES:
        own = [subnet for subnet in subnets if not self_made(subnet) and _network(subnet.cidr).version == family]
        if not own or any(ip_address(address).version == family for address in given):
            continue
        found = (choose_address(subnet, used, last.get(subnet.cidr)) for subnet in own)
        chosen = next((address for address in found if address is not None), None)
        if chosen is None:
            raise NoneFree(f"all addresses of {', '.join(subnet.cidr for subnet in own)} are in use")
        given.append(chosen)
    # sorted() is stable: fixed addresses keep their order.
    return [*sorted(given, key=lambda address: ip_address(address).version), *made]


def subnet_of(subnets: Sequence[Subnet], address: str) -> Subnet | None:
    """Give the subnet that an address lies in, if any."""
    wanted = ip_address(address)
    return next((subnet for subnet in subnets if wanted in _network(subnet.cidr)), None)


def fixed_address_fault(subnet: Subnet, address: str) -> str | None:
    """Say why an address cannot be asked for in a subnet, or None."""
    return fixed_fault((subnet,), address, None)


def fixed_fault(subnets: Sequence[Subnet], address: str, mac: str | None) -> str | None:
    """Say why an address cannot be asked for in any subnet of a network, or None.

    Args:
        subnets: of the network.
        address: as it was written.
        mac: of the port, if that is fixed, too.
    """
    try:
        wanted = ip_address(address)
    except ValueError:
        return f"{address} is not an IP address"
    subnet = subnet_of(subnets, address)
    if subnet is None:
        return f"{address} lies outside {', '.join(subnet.cidr for subnet in subnets)}"
    if wanted in reserved_addresses(subnet):
        return f"{address} is kept by the subnet {subnet.cidr} itself (network, broadcast, gateway or DHCP)"
    if self_made(subnet):
        follows = eui64(IPv6Network(subnet.cidr), mac) if mac is not None else None
        if wanted != follows:
            why = f"of {mac} {follows} follows" if mac is not None else "it follows from the MAC"
            return f"{address} cannot be chosen in the subnet {subnet.cidr}, where servers make their addresses: {why}"
    return None
