"""The datapath on two hosts that are network namespaces."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from kumulus_agent.network.command import run
from kumulus_agent.network.errors import NetworkAbsent
from kumulus_agent.network.namespace import entering
from kumulus_agent.network.state import HostRecord, NetworkDesired, PortDesired, SubnetDesired

VNI = 0x2A
SERVICE = IPv4Address("10.0.0.2")
SUBNET = SubnetDesired(IPv4Network("10.0.0.0/24"), SERVICE)


def make_port(number: int, **overrides) -> PortDesired:
    """A port with the address 10.0.0.<number>."""
    port = PortDesired(
        f"kt{number:011x}",
        f"02:00:00:00:00:{number:02x}",
        (IPv4Address(f"10.0.0.{number}"),),
        f"i{number}",
        f"web-{number}",
    )
    return replace(port, **overrides)


def make_network(host, other, ports, remote=(), **overrides) -> NetworkDesired:
    """The network as `host` should have it, with `remote` ports on the other host."""
    records = tuple(HostRecord(port.hostname, port.addresses[0]) for port in (*ports, *remote))
    network = NetworkDesired(
        VNI,
        1450,
        host.address,
        peers=frozenset({host.address, other.address}),
        neighbours=frozenset((port.mac, other.address) for port in remote),
        ports=tuple(ports),
        records=records,
    )
    return replace(network, **overrides)


async def connect(hosts, **overrides):
    """A guest on each host, configured with their ports' addresses."""
    first, second = hosts
    a, b = make_port(11), make_port(12)
    await first.datapath.ensure_network(make_network(first, second, [a], [b], **overrides))
    await second.datapath.ensure_network(make_network(second, first, [b], [a], **overrides))
    guests = await first.boot(a, VNI), await second.boot(b, VNI)
    for guest in guests:
        await guest.configure()
    return guests


async def test_guests_on_two_hosts_reach_each_other(hosts):
    """Two ports of a network on two hosts exchange packets up to the network's MTU."""
    a, b = await connect(hosts)
    assert await a.reaches(b.port.addresses[0])
    assert await b.reaches(a.port.addresses[0], "-s", str(1450 - 28))
    counters = await hosts[0].datapath.counters(a.port.tap)
    assert counters is not None
    assert counters.sent_bytes > 1400
    assert counters.received_packets >= 2


async def test_a_spoofed_ip_source_is_dropped(hosts):
    """A guest cannot send from an IPv4 address that its port does not have."""
    a, b = await connect(hosts)
    stolen = IPv4Address("10.0.0.77")
    await a.configure(stolen)
    assert await a.reaches(b.port.addresses[0])
    assert not await a.reaches(b.port.addresses[0], "-I", str(stolen))


async def test_a_spoofed_mac_is_dropped(hosts):
    """A guest cannot send from a MAC that its port does not have."""
    a, b = await connect(hosts)
    assert await a.reaches(b.port.addresses[0])
    await a.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
    assert not await a.reaches(b.port.addresses[0])


async def test_a_spoofed_arp_sender_is_dropped(hosts):
    """A guest cannot announce another's address by ARP."""
    a, b = await connect(hosts)
    stolen = IPv4Address("10.0.0.77")
    await a.configure(stolen)
    await a.run(
        "busybox", "arping", "-U", "-c", "2", "-I", "eth0", "-s", str(stolen), str(b.port.addresses[0]), allowed=(0, 1)
    )
    assert str(stolen) not in await b.run("ip", "neighbour", "show")


async def test_ipv6_is_dropped(hosts):
    """No IPv6 leaves a port, as no port has IPv6 addresses to check it against."""
    a, b = await connect(hosts)
    await a.run("ip", "address", "add", "fd00::1/64", "dev", "eth0", "nodad")
    await b.run("ip", "address", "add", "fd00::2/64", "dev", "eth0", "nodad")
    assert " 0% packet loss" not in await a.run("busybox", "ping6", "-c", "1", "-W", "2", "fd00::2", allowed=(0, 1))


async def test_a_port_without_rules_is_closed(hosts):
    """A tap that is plugged before its network names it passes nothing."""
    first, second = hosts
    a, b, stranger = make_port(11), make_port(12), make_port(13)
    await first.datapath.ensure_network(make_network(first, second, [a]))
    guest, other = await first.boot(a, VNI), await first.boot(stranger, VNI)
    await guest.configure()
    await other.configure()
    assert not await other.reaches(a.addresses[0])
    await first.datapath.ensure_network(make_network(first, second, [a, stranger], [b]))
    # A question that was asked while the port was closed may be about to fail, with all that waits for its answer.
    await other.run("ip", "neighbour", "flush", "dev", "eth0")
    assert await other.reaches(a.addresses[0])


async def test_applying_again_changes_nothing(hosts):
    """A second apply of the same network finds nothing to do, also by a datapath that was started anew."""
    first, second = hosts
    await connect(hosts, subnets=(SUBNET,))
    network = make_network(first, second, [make_port(11)], [make_port(12)], subnets=(SUBNET,))
    assert await first.datapath.ensure_network(network) == []
    await first.datapath.close()
    await first.datapath.start()
    assert await first.datapath.ensure_network(network) == []


async def test_tenants_with_equal_addresses_do_not_meet(hosts):
    """Two networks with the same addresses have conntrack zones of their own."""
    first, second = hosts
    a, b = await connect(hosts)
    ports = [make_port(number, tap=f"kt{number:010x}f") for number in (11, 12)]
    for host, other, port in ((first, second, ports[0]), (second, first, ports[1])):
        await host.datapath.ensure_network(make_network(host, other, [port], vni=VNI + 1))
    c, d = await first.boot(ports[0], VNI + 1), await second.boot(ports[1], VNI + 1)
    for guest in (c, d):
        await guest.configure()
    assert await a.reaches(b.port.addresses[0], "-s", "4000")
    assert await c.reaches(d.port.addresses[0], "-s", "4000")
    tracked = (await run((*entering(first.namespace), "conntrack", "-L"))).decode()
    assert "zone=1" in tracked
    assert "zone=2" in tracked


async def test_dhcp_and_dns(hosts, tmp_path: Path):
    """A guest gets its port's address, the MTU and the names of all ports of the network, on each host alike."""
    first, second = hosts
    a, b = make_port(11), make_port(12)
    await first.datapath.ensure_network(make_network(first, second, [a], [b], subnets=(SUBNET,)))
    await second.datapath.ensure_network(make_network(second, first, [b], [a], subnets=(SUBNET,)))
    script = tmp_path / "leased"
    script.write_text(
        "#!/bin/sh\n"
        'echo "$1 $ip $mask $mtu $dns"\n'
        '[ "$1" = bound ] && exec ip address replace "$ip/$mask" dev "$interface"\nexit 0\n'
    )
    script.chmod(0o755)
    for host, port, other in ((first, a, b), (second, b, a)):
        guest = await host.boot(port, VNI)
        argv = ("-i", "eth0", "-f", "-q", "-n", "-t", "5", "-T", "1", "-O", "mtu", "-s", str(script))
        output = await guest.run("busybox", "udhcpc", *argv)
        assert f"bound {port.addresses[0]} 24 1450 {SERVICE}" in output
        answer = await guest.run("busybox", "nslookup", other.hostname, str(SERVICE), allowed=(0, 1))
        assert str(other.addresses[0]) in answer


async def test_dhcp_answers_only_ports(hosts):
    """A MAC that belongs to no port of the host gets no lease."""
    first, second = hosts
    a, b = make_port(11), make_port(12)
    # The second host has no server of its own: only the first's could answer.
    await first.datapath.ensure_network(make_network(first, second, [a], [b], subnets=(SUBNET,)))
    await second.datapath.ensure_network(make_network(second, first, [b], [a]))
    guest = await second.boot(b, VNI)
    output = await guest.run(
        "busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "2", "-T", "1", "-s", "/bin/true", allowed=(0, 1)
    )
    assert "lease of" not in output


async def test_a_port_that_leaves_loses_its_lease(hosts):
    """An address that goes to another port of the host is given to that one at once."""
    first, second = hosts
    a = make_port(11)
    await first.datapath.ensure_network(make_network(first, second, [a], subnets=(SUBNET,)))
    guest = await first.boot(a, VNI)
    udhcpc = ("busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "5", "-T", "1", "-s", "/bin/true")
    await guest.run(*udhcpc)
    heir = make_port(14, addresses=a.addresses)
    await first.datapath.unplug(a.tap)
    await first.datapath.ensure_network(make_network(first, second, [heir], subnets=(SUBNET,)))
    guest = await first.boot(heir, VNI)
    await guest.run(*udhcpc)


async def test_a_network_that_is_removed_leaves_nothing(hosts):
    """After removal there is no link, rule, zone, process, file or namespace of the network."""
    first, _ = hosts
    before = await first.datapath.observe()
    await connect(hosts, subnets=(SUBNET,))
    assert first.services.observe()
    assert await first.datapath.remove_network(VNI)
    assert await first.datapath.observe() == before
    assert await first.datapath.remove_network(VNI) == []
    assert not first.services.observe()
    assert not list((first.directory / "dns").iterdir())
    assert f"{first.name}-kd" not in (await run(("ip", "netns", "list"))).decode()


async def test_a_tap_goes_from_the_host_to_the_bridge(hosts):
    """A tap is made in the host's namespace, plugged once, and gone after unplugging."""
    first, second = hosts
    port = make_port(11)
    await first.datapath.ensure_network(make_network(first, second, [port]))
    await first.datapath.prepare_tap(port.tap, 1450)
    await first.datapath.prepare_tap(port.tap, 1450)
    assert port.tap not in (await first.datapath.observe()).links
    assert not await first.datapath.plugged(port.tap)
    assert await first.datapath.plug(port.tap, VNI)
    assert await first.datapath.plugged(port.tap)
    assert not await first.datapath.plug(port.tap, VNI)
    link = (await first.datapath.observe()).links[port.tap]
    assert (link.master, link.mtu, link.up) == (f"kb{VNI:06x}", 1450, True)
    assert await first.datapath.unplug(port.tap)
    assert not await first.datapath.unplug(port.tap)


async def test_plugging_needs_the_network(hosts):
    """A port cannot be plugged into a network that is not on the host."""
    await hosts[0].datapath.prepare_tap("kt1", 1450)
    with pytest.raises(NetworkAbsent, match="ensure the network first"):
        await hosts[0].datapath.plug("kt1", VNI)


async def test_a_changed_network_is_followed(hosts):
    """Peers, neighbours, MTU and ports that change are changed, and then there is nothing more to do."""
    first, second = hosts
    a, b = make_port(11), make_port(12)
    await first.datapath.ensure_network(make_network(first, second, [a], [b]))
    await first.boot(a, VNI)
    changed = make_network(
        first, second, [b], mtu=1400, peers=frozenset({"192.0.2.9"}), neighbours=frozenset({(a.mac, "192.0.2.9")})
    )
    assert await first.datapath.ensure_network(changed)
    assert await first.datapath.ensure_network(changed) == []
    observed = await first.datapath.observe()
    assert a.tap not in observed.links
    assert observed.flood[changed.vxlan] == {"192.0.2.9"}
    assert observed.neighbours[changed.vxlan] == {(a.mac, "192.0.2.9")}
    moved = replace(changed, neighbours=frozenset({(a.mac, "192.0.2.8")}))
    assert await first.datapath.ensure_network(moved)
    assert await first.datapath.ensure_network(moved) == []


async def test_kernel_settings_are_the_datapaths_own(hosts):
    """Bridged packets are filtered in the datapath namespace, and the host's settings are left as found."""
    first, _ = hosts
    settings = {
        "/proc/sys/net/bridge/bridge-nf-call-iptables": "1",
        "/proc/sys/net/bridge/bridge-nf-call-ip6tables": "1",
        "/proc/sys/net/ipv6/conf/all/disable_ipv6": "1",
    }
    for file, value in settings.items():
        assert (await run((*entering(first.namespace), "cat", file))).decode().strip() == value
    host = await run((*entering(first.name), "cat", "/proc/sys/net/ipv6/conf/all/disable_ipv6"))
    assert host.decode().strip() == "0"
