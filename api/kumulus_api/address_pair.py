"""Addresses that a port may use besides its own (Neutron's allowed address pair)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kumulus_api.base import MACAddress, Model, Rule, validated

SERVERS_MACS = "0e:6b:6d:"
"""With this begin the MACs of the networks' own servers (DHCP, DNS)."""


def outside_servers(mac: str) -> str:
    """Give the CEL expression that a MAC is none of the networks' own servers'."""
    return f"!{mac}.startsWith('{SERVERS_MACS}')"


class AddressPair(Model):
    """An address, or a range of addresses, and the MAC that goes with it."""

    address: Annotated[str, Field(min_length=2, max_length=49, pattern=r"^[0-9a-fA-F:.]+(/[0-9]{1,3})?$")]
    """An IPv4 or IPv6 address, or a range such as 10.8.0.0/16 or 2001:db8:8::/48."""
    mac: MACAddress | None = None
    """The port's own without it."""

    model_config = validated(
        Rule(
            "isIP(self.address) || (isCIDR(self.address) && cidr(self.address) == cidr(self.address).masked())",
            "address is neither an address nor a range such as 10.8.0.0/16 or 2001:db8:8::/48",
            ".address",
        ),
        Rule(f"!has(self.mac) || {outside_servers('self.mac')}", "mac is kept for the networks' own servers", ".mac"),
    )
