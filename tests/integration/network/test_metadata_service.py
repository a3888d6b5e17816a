"""The metadata service as guests find it, on hosts that are network namespaces."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from kumulus_agent import metrics
from kumulus_agent.network import metadata_link
from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import entering, within
from kumulus_agent.network.state import AddressPair, SubnetDesired
from kumulus_api.addresses import eui64
from kumulus_lab.testing.metadata_asking import (
    ADDRESS,
    BLUE,
    RED,
    SERVICE,
    SUBNET,
    Asking,
    answering_on,
    ask,
    boot,
    connected,
    guest_socket,
    make_network,
    make_port,
    refused,
    uuid_told,
)


@pytest.fixture
async def answering(hosts) -> AsyncIterator[tuple]:
    """The two hosts with the service, and what each has told."""
    async with answering_on(hosts) as found:
        yield found


async def test_each_guest_is_told_of_itself(answering):
    """Guests of two networks with the same address on one host, and two of one network, see each their own."""
    (host, _), _ = answering
    a, b, c = make_port(11), make_port(12), make_port(11, RED)
    await host.datapath.ensure_network(make_network(host, [a, b]))
    await host.datapath.ensure_network(make_network(host, [c], RED))
    guests = [await boot(host, a), await boot(host, b), await boot(host, c, RED)]
    assert [await uuid_told(guest) for guest in guests] == ["2a-11", "2a-12", "2b-11"]
    assert (await ask(guests[2], "/latest/user-data")).body == b"of 2b-11"
    assert (await ask(guests[0], "/latest/meta-data/hostname")).body == b"web"


async def test_nothing_in_a_request_says_who_asks(answering):
    """Headers by which Neutron's proxy names a guest change nothing here."""
    (host, _), (teller, _) = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11), make_port(12)]))
    guest = await boot(host, make_port(11))
    await boot(host, make_port(12))
    forged = (
        "X-Forwarded-For: 10.0.0.12",
        "X-Instance-ID: 2a-12",
        "X-Tenant-ID: other",
        "X-Instance-ID-Signature: 0",
        "Forwarded: for=10.0.0.12",
    )
    assert await uuid_told(guest, *forged) == "2a-11"
    assert teller.asked == ["2a-11"]


async def test_a_spoofed_source_gets_nothing(answering):
    """Neither another guest's address, nor one that nobody has, leads to an answer; the guest's own still does."""
    (host, _), (teller, _) = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11), make_port(12)]))
    guest, other = await boot(host, make_port(11)), await boot(host, make_port(12))
    assert await uuid_told(other) == "2a-12"
    for stolen in ("10.0.0.12", "10.0.0.99"):
        await guest.configure(IPv4Address(stolen))
        assert await refused(guest, stolen)
    assert teller.asked == ["2a-12"]
    # Its neighbour discovery may still go on with the stolen address, and what is asked next would fail along with it.
    await guest.run("ip", "neigh", "flush", "all")
    assert await uuid_told(guest, source="10.0.0.11") == "2a-11"


@pytest.mark.parametrize("lenient", ["without port security", "with the other's address as a pair"])
async def test_a_port_that_may_use_another_s_address_is_told_of_itself_alone(answering, lenient):
    """It gets nothing by the other's address or MAC, and takes no answer from the other; its own are answered."""
    (host, _), (teller, _) = answering
    first, second = make_port(11), make_port(12)
    pair = AddressPair(IPv4Network("10.0.0.12/32"), second.mac)
    changes = {"secured": False} if lenient == "without port security" else {"pairs": frozenset({pair})}
    await host.datapath.ensure_network(make_network(host, [replace(first, **changes), second]))
    guest, other = await boot(host, first), await boot(host, second)
    stolen = "10.0.0.12"
    await guest.configure(IPv4Address(stolen))
    announce = ("busybox", "arping", "-U", "-c", "2", "-w", "1", "-I", "eth0", "-s", stolen, stolen)
    await guest.run(*announce, allowed=(0, 1))
    assert await refused(guest, stolen)
    assert teller.asked == []
    # Its kernel would go on taking the service for absent for a while.
    await guest.run("ip", "neighbour", "flush", "dev", "eth0")
    assert await uuid_told(guest, source="10.0.0.11") == "2a-11"
    assert await uuid_told(other) == "2a-12"
    await guest.run("ip", "link", "set", "eth0", "address", second.mac)
    await guest.run("ip", "neighbour", "flush", "dev", "eth0")
    assert await refused(guest, "10.0.0.11")
    assert await refused(guest, stolen)
    assert teller.asked == ["2a-11", "2a-12"]


async def test_the_mac_counts_where_a_port_may_use_any_address(answering):
    """Where no rule checks sources, as on a port without port security, a stolen address still gets nothing."""
    (host, _), (teller, _) = answering
    network = make_network(host, [make_port(11), make_port(12)])
    await host.datapath.ensure_network(network)
    guest = await boot(host, make_port(11))
    await run((*entering(host.namespace), "nft", "flush", "chain", "bridge", "kumulus", "guest"))
    await guest.run("ip", "address", "flush", "dev", "eth0")
    await guest.configure(IPv4Address("10.0.0.12"))
    await guest.run("ip", "route", "add", f"{ADDRESS[0]}/32", "via", str(SERVICE))
    before = metrics.METADATA_REFUSED.labels(reason="unknown")._value.get()
    assert await refused(guest)
    assert metrics.METADATA_REFUSED.labels(reason="unknown")._value.get() == before + 1
    assert teller.asked == []


async def test_a_host_answers_its_own_guests_only(answering):
    """A guest is answered on its host, by nobody else when that does not, and there after it has moved."""
    (first, second), (here, there) = answering
    a, b = make_port(11), make_port(12)
    peers = frozenset({first.address, second.address})

    def carry(host, other, local, remote):
        near = frozenset((port.mac, other.address) for port in remote)
        return host.datapath.ensure_network(make_network(host, local, peers=peers, neighbours=near))

    await carry(first, second, [a], [b])
    await carry(second, first, [b], [a])
    guest = await boot(second, b)
    assert await uuid_told(guest) == "2a-12"
    assert (here.asked, there.asked) == ([], ["2a-12"])
    # Its own host has no servers any more: the other's must not step in.
    silent = make_network(second, [b], peers=peers, neighbours=frozenset({(a.mac, first.address)}), subnets=())
    await second.datapath.ensure_network(silent)
    await guest.run("ip", "neighbour", "flush", "dev", "eth0")
    assert await refused(guest)
    await second.datapath.unplug(b.tap)
    await carry(first, second, [a, b], [])
    moved = await boot(first, b)
    assert await uuid_told(moved) == "2a-12"
    assert here.asked == ["2a-12"]


async def test_a_port_that_is_gone_is_not_answered(answering):
    """A connection that is kept does not outlive its port, whoever has the address then."""
    (host, _), (teller, _) = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11), make_port(12)]))
    guest = await boot(host, make_port(11))
    async with connected(guest) as asking:
        assert (await asking.ask("/openstack")).status == 200
        host.datapath._metadata._served[BLUE].know(make_network(host, [make_port(12)]))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asking.ask("/openstack")
    assert teller.asked == ["2a-11"]


async def test_requests_follow_one_another(answering):
    """A connection is kept; what is not there, not allowed or no request is said so, and paths lead nowhere else."""
    (host, _), _ = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11)]))
    guest = await boot(host, make_port(11))
    async with connected(guest) as asking:
        whole = await asking.ask("/latest/meta-data/hostname")
        head = await asking.ask("/latest/meta-data/hostname", "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.head == whole.head
        assert (await asking.ask("/openstack/latest/../../../../etc/passwd")).status == 404
        assert (await asking.ask("/nothing")).status == 404
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            answer = await asking.ask("/openstack/latest/meta_data.json", method)
            assert answer.status == 405
            assert "Allow: GET, HEAD" in answer.head
        last = await asking.ask("/openstack", "POST", "Content-Length: 3")
        assert "Connection: close" in last.head
        assert await asking.reader.read() == b""
    async with connected(guest) as asking:
        asking.writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n")
        assert (await asking.reader.read()).startswith(b"HTTP/1.1 431 ")
    async with connected(guest) as asking:
        asking.writer.write(b"\x16\x03\x01\x02\x00\r\n\r\n")
        assert (await asking.reader.read()).startswith(b"HTTP/1.1 400 ")


async def test_a_guest_tells_its_password_for_itself(answering):
    """What is posted is kept for the guest that posts; a body that is too large, or elsewhere, is not taken."""
    (host, _), (teller, _) = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11), make_port(12)]))
    guest, other = await boot(host, make_port(11)), await boot(host, make_port(12))
    path = "/openstack/2013-04-04/password"
    for status in (200, 409):
        async with connected(guest) as asking:
            assert (await asking.ask(path, "POST", "X-Instance-ID: 2a-12", body="QUJD\n")).status == status
    async with connected(other) as asking:
        assert (await asking.ask(path, "POST", body="x" * 2000)).status == 413
    async with connected(other) as asking:
        assert (await asking.ask("/openstack/latest/user_data", "POST", body="QUJD")).status == 405
    assert teller.passwords == {"2a-11": "QUJD"}


async def test_dhcp_tells_the_way(answering, tmp_path):
    """The lease has a route to the service, and the default route with it, as its clients ignore the router option."""
    (host, _), _ = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11)]))
    guest = await host.boot(make_port(11), BLUE)
    script = tmp_path / "lease"
    script.write_text('#!/bin/sh\necho "$1 $ip routes=$staticroutes"\n')
    script.chmod(0o755)
    argv = ("-i", "eth0", "-f", "-q", "-n", "-t", "5", "-T", "1", "-O", "staticroutes", "-s", str(script))
    output = await guest.run("busybox", "udhcpc", *argv)
    assert f"bound 10.0.0.11 routes=169.254.169.254/32 {SERVICE} 0.0.0.0/0 10.0.0.1" in output


async def test_a_guest_that_takes_it_for_a_neighbour_is_answered(answering):
    """A guest that asks for the address by ARP, as one without DHCP or with a zeroconf route does, is answered."""
    (host, _), _ = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11)]))
    guest = await host.boot(make_port(11), BLUE)
    await guest.configure()
    await guest.run("ip", "route", "add", "169.254.0.0/16", "dev", "eth0")
    assert await uuid_told(guest) == "2a-11"


@asynccontextmanager
async def connected6(guest, source: str) -> AsyncIterator[Asking]:
    """A connection from the guest by IPv6."""
    index = within(guest.namespace, lambda: socket.if_nametoindex("eth0"))
    handle = guest_socket(guest, source, socket.AF_INET6, index)
    try:
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().sock_connect(handle, (str(metadata_link.ADDRESS6), 80, 0, index))
            asking = Asking(*await asyncio.open_connection(sock=handle))
            yield asking
        asking.writer.transport.abort()
    finally:
        handle.close()


async def test_ipv6_is_answered_where_the_link_has_it(answering):
    """On a network with IPv6 a guest is told of itself at fe80::a9fe:a9fe, from each address that its port may use."""
    (host, _), (teller, _) = answering
    subnet = SubnetDesired(IPv6Network("fd00:1::/64"), IPv6Address("fd00:1::ffff:ffff:ffff:ffff"), mode="SLAAC")
    ports = []
    for number in (11, 12):
        port = make_port(number)
        ports.append(replace(port, addresses=(*port.addresses, eui64(IPv6Network("fd00:1::/64"), port.mac))))
    await host.datapath.ensure_network(make_network(host, ports, subnets=(SUBNET, subnet)))
    guest, other = await boot(host, ports[0]), await boot(host, ports[1])
    own, stolen = ports[0].sources6, ports[1].sources6
    # Made anew, so that they may be used at once: nobody is waited for who might have them too.
    await guest.run("ip", "-6", "address", "flush", "dev", "eth0")
    for which, address in ((guest, own[0]), (guest, own[1]), (guest, stolen[0]), (other, stolen[0])):
        await which.run("ip", "address", "add", f"{address}/64", "dev", "eth0", "nodad")
    for source in own:
        async with connected6(guest, str(source)) as asking:
            answer = await asking.ask("/openstack/latest/meta_data.json")
        assert json.loads(answer.body)["uuid"] == "2a-11"
    with pytest.raises((TimeoutError, OSError)):
        async with connected6(guest, str(stolen[0])) as asking:
            await asking.ask("/openstack/latest/meta_data.json")
    async with connected6(other, str(stolen[0])) as asking:
        answer = await asking.ask("/openstack/latest/meta_data.json")
    assert json.loads(answer.body)["uuid"] == "2a-12"
    assert teller.asked == ["2a-11", "2a-11", "2a-12"]
