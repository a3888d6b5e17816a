"""Addresses: one spelling for each, and those that follow from a MAC."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address

_INTERFACE_BITS = 64
_UNIVERSAL = 1 << 57
"""The bit of an interface identifier that says whether the MAC in it was given by a manufacturer, turned around."""


def canonical(address: str) -> str:
    """Give an address as it is usually written (RFC 5952 for IPv6).

    Raises:
        ValueError: it is none.
    """
    return str(ip_address(address))


def eui64(network: IPv6Network, mac: str) -> IPv6Address:
    """Give the address that follows from a MAC in a network of prefix length 64 (RFC 4291, appendix A).

    Raises:
        ValueError: the prefix is of another length.
    """
    if network.prefixlen != _INTERFACE_BITS:
        raise ValueError(f"{network} has a prefix of {network.prefixlen} bits, not {_INTERFACE_BITS}")
    octets = mac.split(":")
    identifier = int("".join([*octets[:3], "fffe", *octets[3:]]), 16) ^ _UNIVERSAL
    return network[identifier]


def link_local(mac: str) -> IPv6Address:
    """Give the link-local address that follows from a MAC."""
    return eui64(_LINK_LOCAL, mac)


_LINK_LOCAL = IPv6Network("fe80::/64")
