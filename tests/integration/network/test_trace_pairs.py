"""Traces to an address that several ports may use: the guest that has it is found by asking, as its neighbours do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import within
from kumulus_agent.networks.port_settings import PortsHere
from kumulus_api.network_trace import HopKind, TraceVerdict
from kumulus_lab.testing.packet_traces import There, told
from kumulus_lab.testing.routed import RoutedCloud, routed_cloud
from kumulus_lab.testing.routing_nodes import Node
from kumulus_lab.testing.watched_objects import WatchedObjects
from kumulus_runtime.store import Store

RED1, RED2 = "red1", "red2"
SHARED = (IPv4Address("10.0.1.50"), IPv6Address("2001:db8:1::50"))
PASSED, DROPPED = TraceVerdict.PASSED, TraceVerdict.DROPPED
UDP = 17


class Api:
    """Asked for single objects of what is watched."""

    def __init__(self, watched: WatchedObjects) -> None:
        self._watched = watched

    async def get(self, kind: Any, name: str, namespace: str) -> dict[str, Any] | None:
        """Give an object."""
        found: dict[str, Any] | None = self._watched.objects.get((kind.__name__, namespace, name))
        return found


class PairedNode(Node):
    """A host that knows what Ports say."""

    def settings(self) -> PortsHere:
        """Give what they say."""
        return PortsHere(Api(self.api), Store())  # type: ignore[arg-type]


@pytest.fixture
async def cloud(prefix, hosts) -> AsyncIterator[RoutedCloud]:
    """Two ports on two hosts that may use the same addresses, and guests beside them and behind a router."""
    async with routed_cloud(prefix, hosts, PairedNode) as made:
        made.network(RED1, 0x101, "10.0.1.0/24")
        six = {"name": "v6", "cidr": "2001:db8:1::/64", "gateway": "2001:db8:1::1", "enableDHCP": False}
        four = {"name": "v4", "cidr": "10.0.1.0/24", "gateway": "10.0.1.1", "enableDHCP": False}
        made.api.put("Network", RED1, {"subnets": [four, six]})
        made.network(RED2, 0x102, "10.0.2.0/24")
        rules = [{"etherType": kind} for kind in ("IPv4", "IPv6")]
        made.api.put("SecurityGroup", "all", {"ingress": rules, "egress": rules}, "red")
        pairs = {"allowedAddressPairs": [{"address": str(address)} for address in SHARED]}
        guests = (
            ("one", "a", RED1),
            ("two", "b", RED1),
            ("near", "a", RED1),
            ("far", "b", RED1),
            ("routed", "b", RED2),
        )
        for number, (name, host, network) in enumerate(guests, start=1):
            addresses = [f"10.0.{network[-1]}.1{number}"] + [f"2001:db8:1::1{number}"] * (network == RED1)
            given = {
                "portID": f"11111111-2222-4333-8444-00000000000{number}",
                "mac": f"02:00:00:0{network[-1]}:00:{number:02x}",
                "addresses": addresses,
            }
            said = pairs if name in ("one", "two") else {}
            made.api.put("Port", name, {"network": {"name": network}, "assignment": given, **said})
            await made.boot(name, host, network, *addresses, groups=("all",))
        made.router("r", RED1, RED2)
        await made.settled()
        yield made


async def held(cloud: RoutedCloud, *names: str) -> None:
    """Have these guests have the addresses, and nobody else; nobody remembers another."""
    for guest in cloud.guests.values():
        for address, length in zip(SHARED, (32, 128), strict=True):
            verb = "replace" if guest.port.port in names else "del"
            where = ("ip", "address", verb, f"{address}/{length}", "dev", "eth0", *(["nodad"] if verb != "del" else []))
            await guest.run(*where, allowed=(0, 2))
        await guest.run("ip", "neighbour", "flush", "all")


async def hears(client: Any, server: Any, address: Any) -> bool:
    """Tell whether a client is answered from an address of a server."""
    loop, family = asyncio.get_running_loop(), socket.AF_INET if address.version == 4 else socket.AF_INET6
    ends = [within(item.namespace, lambda: socket.socket(family, socket.SOCK_DGRAM)) for item in (client, server)]
    with ends[0] as asking, ends[1] as answering:
        for end in ends:
            end.setblocking(False)
        try:
            answering.bind((str(address), 53))
            await loop.sock_connect(asking, (str(address), 53))
            await loop.sock_sendall(asking, b"?")
            async with asyncio.timeout(1):
                _, sender = await loop.sock_recvfrom(answering, 9)
                await loop.sock_sendto(answering, b"!", sender)
                return await loop.sock_recv(asking, 9) == b"!"
        except OSError:
            return False


async def compared(cloud: RoutedCloud, source: str, holder: str, address: Any) -> There:
    """Trace a datagram to the address, and see that what is said is what the sender hears."""
    there = await told(cloud, source, str(address), 53, UDP)
    assert there.answered is await hears(cloud.guests[source], cloud.guests[holder], address), there
    return there


@pytest.mark.parametrize("address", SHARED, ids=["IPv4", "IPv6"])
async def test_a_trace_follows_the_guest_that_has_the_address(cloud, address):
    """From either host it leads to the one that has it now, named with its port; where nobody has it, that is said."""
    for holder, where in (("two", "b"), ("one", "a")):
        await held(cloud, holder)
        for source in ("near", "far"):
            there = await compared(cloud, source, holder, address)
            assert there.answered, there
            found = [hop for hop in there.hops if f"may use {address} this one answers" in hop.message]
            assert {(hop.host, hop.name) for hop in found} == {(cloud.node(where).host.name, f"red/{holder}")}, there
            assert (there.hops[-1].what, there.hops[-1].name) == (HopKind.DESTINATION_PORT, f"red/{holder}")
    await held(cloud)
    for source in ("near", "far"):
        there = await told(cloud, source, str(address), 53, UDP)
        assert there.verdict is DROPPED, there
        assert f"nobody here who may have {address} answers" in there.last.message
    there = await told(cloud, "near", "10.0.1.99", 53, UDP)
    assert (there.verdict, there.last.what) == (DROPPED, HopKind.NETWORK), there


async def test_a_router_finds_it_on_its_own_host_alone(cloud):
    """What comes from another network is led to the guest that has the address if that is on the same host."""
    for holder, found in (("two", True), ("one", False)):
        await held(cloud, holder)
        await forgotten(cloud)
        there = await compared(cloud, "routed", holder, SHARED[0])
        assert there.answered is found, there


async def forgotten(cloud: RoutedCloud) -> None:
    """Have routers forget whom they have asked; what is noted for good stays."""
    for node in cloud.nodes:
        for link in node.routers.links().values():
            await run(("ip", "-netns", link.namespace, "neighbour", "flush", "all"))
