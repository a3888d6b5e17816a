"""Tenants on one host: frames that no honest kernel sends, and addresses that are the same, never meet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from ipaddress import IPv4Address

import pytest

from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import entering, within
from kumulus_agent.network.state import NetworkDesired, PortDesired
from kumulus_lab.testing.frames import ARP, BROADCAST, IPV4, IPV6, VLAN, Wire, arp, ethernet, fragments, ipv4, udp, vlan

RED, BLUE = 0x2A, 0x2B
A, B = IPv4Address("10.0.0.11"), IPv4Address("10.0.0.12")
STOLEN = IPv4Address("10.0.0.77")
CLUSTER_IP = IPv4Address("10.96.0.1")
MAC_A, MAC_B = "02:00:00:00:00:0b", "02:00:00:00:00:0c"
STOLEN_MAC = "02:00:00:00:00:99"
BAD = b"this must not arrive"


def make_port(tenant: int, mac: str, address: IPv4Address) -> PortDesired:
    """A port of a tenant; two tenants' ports may differ in nothing but the tap."""
    return PortDesired(f"kt{tenant:x}{mac[-2:]}{0:07x}", mac, (address,), f"i{tenant}{mac[-2:]}", "web")


def red_and_blue() -> dict[int, tuple[PortDesired, PortDesired]]:
    """Two ports of each tenant, with equal MACs and addresses."""
    return {vni: (make_port(vni, MAC_A, A), make_port(vni, MAC_B, B)) for vni in (RED, BLUE)}


async def carry(host, other, vni: int, ports) -> None:
    """Have a network with ports on a host, which floods to the other one."""
    peers = frozenset({host.address, other.address})
    await host.datapath.ensure_network(NetworkDesired(vni, 1450, host.address, peers=peers, ports=tuple(ports)))


@pytest.fixture
async def wires(hosts) -> AsyncIterator[dict[tuple[int, IPv4Address], Wire]]:
    """The guests' ends of four cables on one host, by network and address; the other host carries both networks."""
    first, second = hosts
    async with AsyncExitStack() as stack:
        found = {}
        for vni, ports in red_and_blue().items():
            await carry(first, second, vni, ports)
            await carry(second, first, vni, ())
            for port in ports:
                guest = await first.boot(port, vni)
                wire = Wire.open(partial(within, guest.namespace))
                stack.callback(wire.close)
                found[vni, port.addresses[0]] = wire
        yield found


def datagram(source: IPv4Address, destination: IPv4Address, data: bytes) -> bytes:
    """A packet with a UDP datagram."""
    return ipv4(source, destination, udp(4000, 4000, data))


def from_a(packet: bytes) -> bytes:
    """An honest frame from A to B."""
    return ethernet(MAC_B, MAC_A, IPV4, packet)


async def test_equal_tenants_hear_only_their_own(wires):
    """Of two tenants with the same MACs and addresses each hears its own frames, broadcasts and ARP, and no other's."""
    for vni, color in ((RED, b"red"), (BLUE, b"blue")):
        request = arp(MAC_A, A, B) + bytes(18) + color
        shout = ipv4(A, IPv4Address("255.255.255.255"), udp(4000, 4000, color + b" shout"))
        frames = (
            ethernet(BROADCAST, MAC_A, ARP, request),
            ethernet(BROADCAST, MAC_A, IPV4, shout),
            from_a(datagram(A, B, color + b" last")),
        )
        await wires[vni, A].send(*frames)
    for vni, own, other in ((RED, b"red", b"blue"), (BLUE, b"blue", b"red")):
        heard = await wires[vni, B].until(own + b" last")
        assert sum(own in frame for frame in heard) == 3
        assert not any(other in frame for frame in heard)


async def test_fragments_of_two_tenants_are_never_joined(wires):
    """Halves of two tenants' packets with equal addresses and identification make no packet; each own half does."""
    halves = {}
    for vni, color in ((RED, b"red! "), (BLUE, b"blue ")):
        halves[vni] = fragments((A, B), udp(4000, 4000, color * 400), 77)
    await wires[RED, A].send(from_a(halves[RED][0]))
    await wires[BLUE, A].send(from_a(halves[BLUE][1]))
    # What is sent later on the same way has come when it comes: what was joined would have come before.
    for vni in (RED, BLUE):
        await wires[vni, A].send(from_a(datagram(A, B, b"marker")))
        heard = await wires[vni, B].until(b"marker")
        assert not any(b"red! red! " in frame or b"blue blue " in frame for frame in heard)
    await wires[RED, A].send(from_a(halves[RED][1]), from_a(datagram(A, B, b"second")))
    heard = await wires[RED, B].until(b"second")
    whole = b"".join(frame[34:] for frame in heard if b"red! red! " in frame)
    assert whole.count(b"red! ") >= 398
    assert b"blue" not in whole
    assert not wires[BLUE, B].has(b"red! ")


SPOOFS = {
    "source MAC": ethernet(MAC_B, STOLEN_MAC, IPV4, datagram(A, B, BAD)),
    "broadcast as source MAC": ethernet(MAC_B, BROADCAST, IPV4, datagram(A, B, BAD)),
    "source address": from_a(datagram(STOLEN, B, BAD)),
    "unspecified source address": from_a(datagram(IPv4Address(0), B, BAD)),
    "neighbour's source address": from_a(datagram(B, B, BAD)),
    "source address of a second fragment": from_a(ipv4(STOLEN, B, BAD * 4, (9, 100))),
    "ARP request for another's address": ethernet(BROADCAST, MAC_A, ARP, arp(MAC_A, STOLEN, B) + BAD),
    "ARP reply for another's address": ethernet(MAC_B, MAC_A, ARP, arp(MAC_A, STOLEN, B, operation=2) + BAD),
    "gratuitous ARP": ethernet(BROADCAST, MAC_A, ARP, arp(MAC_A, STOLEN, STOLEN) + BAD),
    "another's MAC in ARP": ethernet(BROADCAST, MAC_A, ARP, arp(STOLEN_MAC, A, B) + BAD),
    "DHCP server": from_a(ipv4(A, B, udp(67, 68, BAD))),
    "router advertisement": ethernet("33:33:00:00:00:01", MAC_A, IPV6, bytes(40) + BAD),
    "source address behind a VLAN tag": ethernet(MAC_B, MAC_A, VLAN, vlan(IPV4, datagram(STOLEN, B, BAD))),
    "own address behind a VLAN tag": ethernet(MAC_B, MAC_A, VLAN, vlan(IPV4, datagram(A, B, BAD))),
    "ARP behind two tags": ethernet(BROADCAST, MAC_A, 0x88A8, vlan(VLAN, vlan(ARP, arp(MAC_A, STOLEN, B) + BAD))),
    "spanning tree": ethernet("01:80:c2:00:00:00", MAC_A, len(BAD) + 3, b"\x42\x42\x03" + BAD),
    "link-level discovery": ethernet("01:80:c2:00:00:0e", MAC_A, 0x88CC, BAD),
    "frame of PPPoE": ethernet(MAC_B, MAC_A, 0x8864, BAD),
}
"""What a guest with port A may not send, as the frame that it sends."""


async def test_what_a_guest_may_not_send_reaches_nobody(wires):
    """Spoofed senders, other protocols, tags and a DHCP server's answers stop at the port; honest frames go on."""
    tenant = wires[RED, A]
    arrived = set()
    for number, (what, frame) in enumerate(SPOOFS.items()):
        marker = b"marker %03d" % number
        await tenant.send(frame, from_a(datagram(A, B, marker)))
        heard = await wires[RED, B].until(marker)
        if any(BAD in item for item in heard):
            arrived.add(what)
        heard.clear()
    assert arrived == set()


@pytest.fixture
async def kube_proxy(hosts) -> None:
    """What kube-proxy has on every host: bridged packets go through its rules, which translate a Service's address."""
    rules = f"""
        table ip kube-proxy {{
            chain services {{
                type nat hook prerouting priority dstnat
                ip daddr {CLUSTER_IP} counter dnat to 192.0.2.1
            }}
            chain outbound {{
                type nat hook postrouting priority srcnat
                ip daddr 192.0.2.1 counter masquerade
            }}
        }}
    """
    for host in hosts:
        inside = entering(host.name)
        await run((*inside, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"))
        await run((*inside, "nft", rules))


async def test_a_packet_to_a_service_address_is_not_rewritten(hosts, kube_proxy):
    """A guest's packet to an address that the host translates for pods arrives as sent, on either host."""
    first, second = hosts
    a, near, far = (make_port(RED, f"02:00:00:00:00:{n:02x}", IPv4Address(f"10.0.0.{n}")) for n in (11, 12, 13))
    for host, other, ports, remote in ((first, second, [a, near], [far]), (second, first, [far], [a, near])):
        await host.datapath.ensure_network(
            NetworkDesired(
                RED,
                1450,
                host.address,
                peers=frozenset({host.address, other.address}),
                neighbours=frozenset((port.mac, other.address) for port in remote),
                ports=tuple(ports),
            )
        )
    async with AsyncExitStack() as stack:
        wires = {}
        for host, port in ((first, a), (first, near), (second, far)):
            guest = await host.boot(port, RED)
            wires[port.mac] = Wire.open(partial(within, guest.namespace))
            stack.callback(wires[port.mac].close)
        for receiver, data in ((near, b"by the neighbour"), (far, b"by the other host")):
            sent = ethernet(receiver.mac, a.mac, IPV4, datagram(A, CLUSTER_IP, data))
            await wires[a.mac].send(sent)
            heard = await wires[receiver.mac].until(data)
            assert [frame for frame in heard if data in frame] == [sent]
