"""What a network's DHCP and DNS server is told."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from kumulus_agent.network.state import HostRecord, NetworkDesired, PortDesired, SubnetDesired
from kumulus_agent.services.dnsmasq_files import Files, argv, conflicting_leases, host_lines, record_lines

SUBNET = SubnetDesired(IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.2"))
PORT = PortDesired("kt1", "02:00:00:00:00:01", (IPv4Address("10.0.0.5"),), "i", "web")
NETWORK = NetworkDesired(42, 1450, "192.0.2.1", ports=(PORT,), subnets=(SUBNET,))


def arguments(subnet: SubnetDesired) -> tuple[str, ...]:
    """The command line for the subnet."""
    return argv(replace(NETWORK, subnets=(subnet,)), Files(Path("/run/kumulus/dns/00002a")))


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
    assert record_lines(replace(network, domain="t.example")) == ("10.0.0.5 web.t.example web",)


def test_without_a_gateway_no_router_is_told() -> None:
    """The server does not name itself as the router."""
    assert "--dhcp-option=tag:s0,option:router" in arguments(SUBNET)
    assert "--dhcp-option=tag:s0,option:router,10.0.0.1" in arguments(replace(SUBNET, gateway=IPv4Address("10.0.0.1")))


def test_routes_include_the_default_route() -> None:
    """Guests that take classless routes ignore the router, so the default route is among them."""
    route = (IPv4Network("172.16.0.0/12"), IPv4Address("10.0.0.9"))
    subnet = replace(SUBNET, gateway=IPv4Address("10.0.0.1"), routes=(route,))
    metadata = "--dhcp-option=tag:s0,option:classless-static-route,169.254.169.254/32,10.0.0.2"
    assert f"{metadata},172.16.0.0/12,10.0.0.9,0.0.0.0/0,10.0.0.1" in arguments(subnet)
    assert f"{metadata},0.0.0.0/0,10.0.0.1" in arguments(replace(SUBNET, gateway=IPv4Address("10.0.0.1")))


def test_the_metadata_service_is_reached_without_a_gateway() -> None:
    """A subnet without a gateway tells the way to the metadata service, and no default route."""
    expected = "--dhcp-option=tag:s0,option:classless-static-route,169.254.169.254/32,10.0.0.2"
    assert expected in arguments(SUBNET)


def test_a_lease_of_another_mac_is_a_conflict() -> None:
    """Only an address that now belongs to another MAC makes the leases invalid."""
    hosts = host_lines(NETWORK)
    assert conflicting_leases("1 02:00:00:00:00:99 10.0.0.5 old *\n", (), hosts)
    assert not conflicting_leases("1 02:00:00:00:00:01 10.0.0.5 web *\n", (), hosts)
    assert not conflicting_leases("1 02:00:00:00:00:99 10.0.0.6 gone *\n\n", (), hosts)


STATEFUL = SubnetDesired(
    IPv6Network("fd00:1::/64"),
    IPv6Address("fd00:1::ffff:ffff:ffff:ffff"),
    mode="DHCPv6Stateful",
    gateway=IPv6Address("fd00:1::1"),
)
SLAAC = SubnetDesired(IPv6Network("fd00:2::/64"), IPv6Address("fd00:2::ffff:ffff:ffff:ffff"), mode="SLAAC")
BOTH = replace(
    NETWORK,
    ports=(replace(PORT, addresses=(*PORT.addresses, IPv6Address("fd00:1::5"), IPv6Address("fd00:2::ff:fe00:1"))),),
    subnets=(SUBNET, STATEFUL, SLAAC),
)


def test_addresses_of_both_families_are_given() -> None:
    """DHCPv6 gives the addresses of its subnets; one of SLAAC is not given, but its port is known."""
    assert host_lines(BOTH) == ("02:00:00:00:00:01,10.0.0.5,[fd00:1::5],web,3600",)
    (port,) = BOTH.ports
    only = replace(BOTH, ports=(replace(port, addresses=port.addresses[-1:]),))
    assert host_lines(only) == ("02:00:00:00:00:01,web,3600",)


def test_each_mode_is_told_as_it_is() -> None:
    """Each IPv6 subnet is advertised by its mode; the server itself never offers a way out."""
    told = argv(BOTH, Files(Path("/d")))
    assert "--dhcp-range=set:s1,fd00:1::,static,64,3600" in told
    assert "--dhcp-range=set:s2,fd00:2::,ra-only,64,86400" in told
    assert "--ra-param=eth0,mtu:1450,600,0" in told
    assert "--enable-ra" not in argv(NETWORK, Files(Path("/d")))


def test_subnets_have_options_of_their_own() -> None:
    """The gateway of one subnet is not told in another."""
    other = SubnetDesired(IPv4Network("10.1.0.0/24"), IPv4Address("10.1.0.254"), gateway=IPv4Address("10.1.0.1"))
    told = argv(replace(NETWORK, subnets=(SUBNET, other)), Files(Path("/d")))
    assert "--dhcp-option=tag:s0,option:router" in told
    assert "--dhcp-option=tag:s1,option:router,10.1.0.1" in told


def test_a_lease_of_an_address_that_is_given_anew_is_a_conflict() -> None:
    """Of DHCPv6 a lease does not tell whose it is: an address that a port has just got must not be leased."""
    hosts, lease = host_lines(BOTH), "1 4711 fd00:1::5 web 00:04:aa\n"
    assert conflicting_leases(lease, (), hosts)
    assert not conflicting_leases(lease, hosts, hosts)
