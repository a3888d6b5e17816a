"""What a network's DHCP and DNS server is told."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from kumulus_agent.network.state import HostRecord, NetworkDesired, PortDesired, SubnetDesired
from kumulus_agent.services.dnsmasq import Files, argv, conflicting_leases, host_lines, record_lines

SUBNET = SubnetDesired(IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.2"))
PORT = PortDesired("kt1", "02:00:00:00:00:01", (IPv4Address("10.0.0.5"),), "i", "web")
NETWORK = NetworkDesired(42, 1450, "192.0.2.1", ports=(PORT,), subnet=SUBNET)


def arguments(subnet: SubnetDesired) -> tuple[str, ...]:
    """The command line for the subnet."""
    return argv(NETWORK, subnet, Files(Path("/run/kumulus/dns/00002a")))


def test_a_port_gets_its_own_address() -> None:
    """A port is given its first address that lies in the subnet, and its name."""
    port = replace(PORT, addresses=(IPv4Address("192.0.2.9"), IPv4Address("10.0.0.6")))
    assert host_lines(replace(NETWORK, ports=(port,))) == ("02:00:00:00:00:01,10.0.0.6,web,3600",)


def test_a_port_without_a_name_gets_its_address() -> None:
    """A name is not needed for a lease."""
    assert host_lines(replace(NETWORK, ports=(replace(PORT, hostname=""),))) == ("02:00:00:00:00:01,10.0.0.5,3600",)


def test_records_carry_the_domain() -> None:
    """With a domain a name is answered with and without it."""
    network = replace(NETWORK, records=(HostRecord("web", IPv4Address("10.0.0.5")),))
    assert record_lines(network) == ("10.0.0.5 web",)
    assert record_lines(replace(network, subnet=replace(SUBNET, domain="t.example"))) == ("10.0.0.5 web.t.example web",)


def test_without_a_gateway_no_router_is_told() -> None:
    """The server does not name itself as the router."""
    assert "--dhcp-option=option:router" in arguments(SUBNET)
    assert "--dhcp-option=option:router,10.0.0.1" in arguments(replace(SUBNET, gateway=IPv4Address("10.0.0.1")))


def test_routes_include_the_default_route() -> None:
    """Guests that take classless routes ignore the router, so the default route is among them."""
    route = (IPv4Network("172.16.0.0/12"), IPv4Address("10.0.0.9"))
    subnet = replace(SUBNET, gateway=IPv4Address("10.0.0.1"), routes=(route,))
    expected = "--dhcp-option=option:classless-static-route,172.16.0.0/12,10.0.0.9,0.0.0.0/0,10.0.0.1"
    assert expected in arguments(subnet)


def test_a_lease_of_another_mac_is_a_conflict() -> None:
    """Only an address that now belongs to another MAC makes the leases invalid."""
    hosts = host_lines(NETWORK)
    assert conflicting_leases("1 02:00:00:00:00:99 10.0.0.5 old *\n", hosts)
    assert not conflicting_leases("1 02:00:00:00:00:01 10.0.0.5 web *\n", hosts)
    assert not conflicting_leases("1 02:00:00:00:00:99 10.0.0.6 gone *\n\n", hosts)
