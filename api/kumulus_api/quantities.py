"""Kubernetes quantities of bytes, and addresses that a subnet keeps for itself."""

from __future__ import annotations

import re
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network

_SUFFIXES = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "Pi": 2**50,
}
_PATTERN = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$")


def parse_quantity(text: str) -> int:
    """Give the bytes that a quantity such as `512Mi` stands for, rounded up.

    Raises:
        ValueError: the text is no quantity without sign and exponent.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity such as 512Mi or 10Gi")
    value = Decimal(match[1]) * _SUFFIXES[match[2] or ""]
    return int(value.to_integral_value(rounding="ROUND_CEILING"))


def format_quantity(size: int) -> str:
    """Give a quantity for bytes, in the largest binary unit that divides them."""
    for suffix in ("Pi", "Ti", "Gi", "Mi", "Ki"):
        if size and size % _SUFFIXES[suffix] == 0:
            return f"{size // _SUFFIXES[suffix]}{suffix}"
    return str(size)


def service_address(cidr: str, gateway: str | None) -> IPv4Address | IPv6Address:
    """Give the address on which a subnet's DHCP and DNS answer: the last usable one that is not the gateway.

    It is the same on each host and is never given to a port.
    """
    network = ip_network(cidr)
    last = network[-2] if isinstance(network, IPv4Network) else network[-1]
    return last - 1 if gateway is not None and ip_address(gateway) == last else last
