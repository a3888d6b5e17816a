"""Choose addresses (pure)."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network

from kumulus_api.network import Subnet
from kumulus_api.quantities import service_address


def reserved_addresses(subnet: Subnet) -> frozenset[IPv4Address]:
    """Give the addresses that no port may have: network, broadcast, gateway, DHCP/DNS."""
    return _reserved(subnet.cidr, subnet.gateway)


@lru_cache(maxsize=1024)
def _reserved(cidr: str, gateway: str | None) -> frozenset[IPv4Address]:
    network = IPv4Network(cidr)
    kept = {network.network_address, network.broadcast_address, service_address(cidr, gateway)}
    if gateway is not None:
        kept.add(IPv4Address(gateway))
    return frozenset(kept)


def pools_of(subnet: Subnet) -> list[tuple[int, int]]:
    """Give the ranges of automatic addresses as numbers, both ends included."""
    if subnet.pools:
        return [(int(IPv4Address(pool.start)), int(IPv4Address(pool.end))) for pool in subnet.pools]
    network = IPv4Network(subnet.cidr)
    return [(int(network.network_address), int(network.broadcast_address))]


def gateway_fault(subnet: Subnet) -> str | None:
    """Say what is wrong with a subnet's gateway, or None."""
    network = IPv4Network(subnet.cidr)
    ends = (network.network_address, network.broadcast_address)
    if subnet.gateway is not None and IPv4Address(subnet.gateway) in ends:
        return f"gateway {subnet.gateway} is the network or broadcast address of {subnet.cidr}"
    return None


def pools_fault(subnet: Subnet) -> str | None:
    """Say what is wrong with a subnet's pools, or None."""
    network = IPv4Network(subnet.cidr)
    ranges = []
    for pool in subnet.pools:
        start, end = IPv4Address(pool.start), IPv4Address(pool.end)
        if start > end:
            return f"pool {start}-{end} of subnet {subnet.name} ends before it starts"
        if start not in network or end not in network:
            return f"pool {start}-{end} of subnet {subnet.name} lies outside {subnet.cidr}"
        ranges.append((start, end))
    ranges.sort()
    for (start, end), (next_start, next_end) in itertools.pairwise(ranges):
        if next_start <= end:
            return f"pools {start}-{end} and {next_start}-{next_end} of subnet {subnet.name} overlap"
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
    after = int(IPv4Address(start_after)) if start_after else -1
    parts = [(max(low, after + 1), high) for low, high in pools] + [(low, min(high, after)) for low, high in pools]
    for low, high in parts:
        for number in range(low, high + 1):
            if number not in kept and (text := str(IPv4Address(number))) not in used:
                return text
    return None


def fixed_address_fault(subnet: Subnet, address: str) -> str | None:
    """Say why an address cannot be asked for in a subnet, or None."""
    try:
        wanted = IPv4Address(address)
    except ValueError:
        return f"{address} is not an IPv4 address"
    if wanted not in IPv4Network(subnet.cidr):
        return f"{address} lies outside {subnet.cidr}"
    if wanted in reserved_addresses(subnet):
        return f"{address} is kept by the subnet {subnet.cidr} itself (network, broadcast, gateway or DHCP)"
    return None
