"""What guests are told of several subnets of both families, by real clients: addresses, routes, names."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest
import yaml

from kumulus_agent.network.state import HostRecord, NetworkDesired, PortDesired, SubnetDesired
from kumulus_agent.networks.plan import Here, network_desired
from kumulus_api import Network
from kumulus_api.addresses import eui64
from kumulus_api.quantities import service_address

VNI = 0x67
MTU = 1450
ROUTE = (IPv4Network("172.16.0.0/12"), IPv4Address("10.0.0.9"))


def subnet(cidr: str, gateway: str = "", **fields) -> SubnetDesired:
    """A subnet with its service address, as the agent makes it."""
    network = IPv6Network(cidr) if ":" in cidr else IPv4Network(cidr)
    way = (IPv6Address(gateway) if ":" in gateway else IPv4Address(gateway)) if gateway else None
    return SubnetDesired(network, service_address(cidr, gateway or None), way, **fields)


V4 = subnet("10.0.0.0/24", "10.0.0.1", routes=(ROUTE,))
OTHER_V4 = subnet("10.1.0.0/24")
STATEFUL = subnet("fd00:1::/64", "fd00:1::1", mode="DHCPv6Stateful")
SLAAC = subnet("fd00:2::/64", mode="SLAAC")
STATELESS = subnet("fd00:3::/64", mode="DHCPv6Stateless")


def make_port(number: int, *addresses: str) -> PortDesired:
    """A port with these addresses; of a prefix with the one that follows from its MAC there."""
    mac = f"02:00:00:00:00:{number:02x}"
    given = [
        eui64(IPv6Network(address), mac)
        if "/" in address
        else (IPv6Address(address) if ":" in address else IPv4Address(address))
        for address in addresses
    ]
    return PortDesired(f"kt67{number:09x}", mac, tuple(given), f"i{number}", f"web-{number}")


async def serve(host, ports: list[PortDesired], *subnets: SubnetDesired, **overrides) -> NetworkDesired:
    """Have the network on a host."""
    records = tuple(HostRecord(port.hostname, address) for port in ports for address in port.addresses)
    network = NetworkDesired(
        VNI, MTU, host.address, ports=tuple(ports), subnets=subnets, records=records, domain="lan.example"
    )
    network = replace(network, **overrides)
    await host.datapath.ensure_network(network)
    return network


async def lease4(guest, tmp_path: Path) -> str:
    """Ask by DHCP; give what was told."""
    script = tmp_path / "told4"
    script.write_text('#!/bin/sh\necho "$1 ip=$ip/$mask mtu=$mtu router=$router routes=$staticroutes domain=$domain"\n')
    script.chmod(0o755)
    options = [word for name in ("mtu", "router", "staticroutes", "domain") for word in ("-O", name)]
    argv = ("-i", "eth0", "-f", "-q", "-n", "-t", "5", "-T", "1", *options, "-s", str(script))
    return await guest.run("busybox", "udhcpc", *argv)


async def lease6(guest, tmp_path: Path, *options: str, seconds: int = 9) -> str:
    """Ask by DHCPv6; give what was told."""
    script = tmp_path / "told6"
    script.write_text(
        '#!/bin/sh\necho "$reason ip=$new_ip6_address dns=$new_dhcp6_name_servers search=$new_dhcp6_domain_search"\n'
        '[ "$reason" = BOUND6 ] && kill $PPID\nexit 0\n'
    )
    script.chmod(0o755)
    state = tmp_path / guest.namespace
    state.mkdir(exist_ok=True)
    files = ("-cf", "/dev/null", "-sf", str(script), "-lf", str(state / "leases"), "-pf", str(state / "pid"))
    await guest.settled()  # it asks from the link's address
    client = ("timeout", str(seconds), "dhclient", "-6", "-1", "-d", *options, *files, "eth0")
    return await guest.run(*client, allowed=(0, 2, 124, -15))


async def test_dhcpv6_gives_a_port_its_address(hosts, tmp_path: Path):
    """A guest is given its port's address by DHCPv6, the DNS server and the domain; a stranger nothing."""
    host = hosts[0]
    port, stranger = make_port(11, "10.0.0.11", "fd00:1::11"), make_port(12, "fd00:1::12")
    network = await serve(host, [port], V4, STATEFUL)
    guest = await host.boot(port, VNI)
    await guest.settled()
    told = await lease6(guest, tmp_path)
    assert "BOUND6 ip=fd00:1::11 dns=fd00:1::ffff:ffff:ffff:ffff search=lan.example." in told
    assert "fd00:1" not in await guest.run("ip", "-6", "address", "show", "dev", "eth0")  # not made by itself
    assert await host.datapath.ensure_network(network) == []
    # Its rules let it ask; it is no port with an address of a served subnet.
    outside = replace(stranger, addresses=(IPv6Address("fd00:9::12"),))
    await serve(host, [port, outside], V4, STATEFUL)
    other = await host.boot(outside, VNI)
    await other.settled()
    assert "BOUND6" not in await lease6(other, tmp_path, seconds=4)


async def test_an_address_that_goes_to_another_port_is_given_to_it(hosts, tmp_path: Path):
    """A lease of DHCPv6 ends with its port."""
    host = hosts[0]
    first, heir = make_port(11, "fd00:1::11"), make_port(12, "fd00:1::11")
    for port in (first, heir):
        await serve(host, [port], STATEFUL)
        guest = await host.boot(port, VNI)
        await guest.settled()
        assert "BOUND6 ip=fd00:1::11" in await lease6(guest, tmp_path)


async def test_slaac_makes_the_address_that_was_claimed(hosts):
    """A guest's kernel makes the address that its port has, and learns MTU and on-link prefix but no way out."""
    host = hosts[0]
    port = make_port(11, "10.0.0.11", "fd00:2::/64")
    await serve(host, [port], V4, SLAAC, mtu=1400)
    guest = await host.boot(port, VNI)
    expected = str(port.addresses[1])
    await until(guest, expected, "ip", "-6", "address", "show", "dev", "eth0", "dynamic", "-tentative")
    routes = await guest.run("ip", "-6", "route", "show")
    assert "fd00:2::/64 dev eth0" in routes
    assert "default" not in routes
    assert (await guest.run("cat", "/proc/sys/net/ipv6/conf/eth0/mtu")).strip() == "1400"
    assert await guest.reaches(SLAAC.service_address)


async def test_stateless_asks_for_the_rest(hosts, tmp_path: Path):
    """With DHCPv6Stateless a guest makes its address, and DHCPv6 tells of the DNS server."""
    host = hosts[0]
    port = make_port(11, "fd00:3::/64")
    await serve(host, [port], STATELESS)
    guest = await host.boot(port, VNI)
    await until(guest, str(port.addresses[0]), "ip", "-6", "address", "show", "dev", "eth0", "-tentative")
    assert "dns=fd00:3::ffff:ffff:ffff:ffff" in await lease6(guest, tmp_path, "-S")


async def test_each_subnet_has_its_own_options(hosts, tmp_path: Path):
    """Routes come with the default one among them; a subnet without gateway tells none, on the same link."""
    host = hosts[0]
    ports = [make_port(11, "10.0.0.11"), make_port(12, "10.1.0.12")]
    await serve(host, ports, V4, OTHER_V4)
    first, second = [await host.boot(port, VNI) for port in ports]
    told = await lease4(first, tmp_path)
    assert "ip=10.0.0.11/24 mtu=1450" in told
    assert "routes=169.254.169.254/32 10.0.0.254 172.16.0.0/12 10.0.0.9 0.0.0.0/0 10.0.0.1" in told
    assert "domain=lan.example" in told
    told = await lease4(second, tmp_path)
    assert "ip=10.1.0.12/24 mtu=1450 router= routes=169.254.169.254/32 10.1.0.254 domain" in told


async def test_names_have_addresses_of_both_families_and_back(hosts):
    """The network's DNS answers A, AAAA and PTR for a server, over both families."""
    host = hosts[0]
    port = make_port(11, "10.0.0.11", "fd00:1::11")
    await serve(host, [port], V4, STATEFUL)
    guest = await host.boot(port, VNI)
    for address in port.addresses:
        await guest.configure(address)
    for server in (V4.service_address, STATEFUL.service_address):
        for asked, answer in (
            ("web-11.lan.example", "10.0.0.11"),
            ("web-11.lan.example", "fd00:1::11"),
            ("10.0.0.11", "web-11.lan.example"),
            ("fd00:1::11", "web-11.lan.example"),
        ):
            argv = ("busybox", "nslookup", asked, str(server))
            assert answer in await guest.run(*argv, allowed=(0, 1)), (server, asked)


async def test_a_subnet_comes_to_a_network_that_lives(hosts, tmp_path: Path):
    """A network that gets a subnet tells of it at once; its former ones stay as they were."""
    host = hosts[0]
    port = make_port(11, "10.0.0.11")
    await serve(host, [port], V4)
    guest = await host.boot(port, VNI)
    assert "ip=10.0.0.11/24" in await lease4(guest, tmp_path)
    both = replace(port, addresses=(*port.addresses, IPv6Address("fd00:1::11")))
    network = await serve(host, [both], V4, STATEFUL)
    await guest.settled()
    assert "BOUND6 ip=fd00:1::11" in await lease6(guest, tmp_path)
    assert "ip=10.0.0.11/24" in await lease4(guest, tmp_path)
    assert await host.datapath.ensure_network(network) == []


async def test_the_example_of_both_families(hosts, tmp_path: Path):
    """The example network tells its port all that it says: addresses, routes, MTU and domain."""
    host, example = hosts[0], Path(__file__).parents[3] / "examples" / "two-families.yaml"
    network, port, _ = yaml.safe_load_all(example.read_text())
    mac = port["spec"]["mac"]
    chosen, made = port["spec"]["addresses"][0], eui64(IPv6Network("fd00:20:2::/64"), mac)
    held = PortDesired("kt67000000eea", mac, (IPv4Address("10.20.0.2"), IPv6Address(chosen), made), "i", "both")
    here = Here(host.name, host.address, MTU)
    desired = network_desired(VNI, Network.model_validate(network), [], [held], here)
    await host.datapath.ensure_network(desired)
    guest = await host.boot(held, VNI)
    told = await lease4(guest, tmp_path)
    assert "ip=10.20.0.2/24 mtu=1400" in told
    assert (
        "routes=169.254.169.254/32 10.20.0.254 172.16.0.0/12 10.20.0.9 0.0.0.0/0 10.20.0.1 domain=both.example.org"
        in told
    )
    await until(guest, str(made), "ip", "-6", "address", "show", "dev", "eth0", "-tentative")
    assert f"BOUND6 ip={chosen}" in await lease6(guest, tmp_path)
    assert await host.datapath.ensure_network(desired) == []


async def test_only_local_ports_are_told(hosts):
    """What one host's server advertises reaches no guest of another host."""
    (first, second), (a, b) = hosts, (make_port(11, "fd00:2::/64"), make_port(12, "fd00:2::/64"))
    peers = frozenset(host.address for host in hosts)
    await serve(first, [a], SLAAC, peers=peers)
    await serve(second, [b], peers=peers)  # without a server of its own
    guests = [await first.boot(a, VNI), await second.boot(b, VNI)]
    await until(guests[0], str(a.addresses[0]), "ip", "-6", "address", "show", "dev", "eth0", "-tentative")
    await guests[1].settled()
    assert "fd00:2" not in await guests[1].run("ip", "-6", "address", "show", "dev", "eth0")


async def until(guest, text: str, *argv: str) -> None:
    """Wait until a command's answer has the text.

    Raises:
        Failed: it has not within ten seconds.
    """
    for _ in range(100):
        answer = await guest.run(*argv)
        if text in answer:
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"{text} is not in {answer}")
