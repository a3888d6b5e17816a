"""Ports in stateless groups on a real kernel: each packet is judged by itself, and answers need rules of their own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from kumulus_agent.metadata.ec2 import Guest as Told
from kumulus_agent.metadata.service import MetadataService
from kumulus_agent.network.groups import GroupRule, SecurityGroup
from kumulus_agent.network.namespace import within
from kumulus_agent.network.state import HostRecord, NetworkDesired, PortDesired, SubnetDesired
from kumulus_agent.storage.seed import Seed

VNI = 0x61
CIDR = IPv4Network("10.0.0.0/24")
SUBNET = SubnetDesired(CIDR, CIDR[254], CIDR[1])
BARE, NEAR, FAR = (CIDR[number] for number in (11, 12, 13))
STATELESS, OPEN = ("red", "bare"), ("red", "open")
EVERYTHING = frozenset({GroupRule("ingress"), GroupRule("egress")})
EPHEMERAL = (1024, 65535)
TO_WEB = GroupRule("ingress", 6, (80, 80), stateful=False)
ANSWERS_OF_WEB = GroupRule("egress", 6, EPHEMERAL, stateful=False)
TO_OTHERS = GroupRule("egress", 6, (80, 80), stateful=False)
ANSWERS_OF_OTHERS = GroupRule("ingress", 6, EPHEMERAL, stateful=False)


class Teller:
    """What guests are told of themselves."""

    async def guest(self, instance_id: str) -> Told:
        """Tell a guest its id."""
        return Told(Seed(instance_id, "web", user_data=f"of {instance_id}".encode()))


@dataclass
class Site:
    """A port in a stateless group, one beside it and one on another host in a stateful group that lets all through."""

    hosts: tuple
    stack: AsyncExitStack
    guests: dict = field(default_factory=dict)
    own: frozenset = frozenset({STATELESS})

    async def rules(self, *rules: GroupRule) -> None:
        """Give the stateless group these rules."""
        groups = {STATELESS: SecurityGroup(frozenset(rules)), OPEN: SecurityGroup(EVERYTHING)}
        for host, addresses in zip(self.hosts, ((BARE, NEAR), (FAR,)), strict=True):
            await host.datapath.ensure_network(
                NetworkDesired(
                    VNI,
                    1450,
                    host.address,
                    peers=frozenset(other.address for other in self.hosts),
                    ports=tuple(self.port(address) for address in addresses),
                    subnets=(SUBNET,),
                    records=(HostRecord("near", NEAR),),
                    groups=groups,
                )
            )

    def port(self, address: IPv4Address) -> PortDesired:
        """Give a port."""
        number = address.packed[-1]
        groups = self.own if address == BARE else frozenset({OPEN})
        mac = f"02:00:00:00:00:{number:02x}"
        return PortDesired(f"kt61{number:09x}", mac, (address,), f"i{number}", "web", groups=groups)

    async def connects(self, source: IPv4Address, target: IPv4Address) -> bool:
        """Tell whether a connection to port 80 carries data there and back."""
        loop = asyncio.get_running_loop()
        ends = [within(self.guests[item].namespace, socket.socket) for item in (source, target)]
        client, listener = ends
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(target), 80))
        listener.listen()
        try:
            for end in ends:
                end.setblocking(False)
            async with asyncio.timeout(1.5):
                await loop.sock_connect(client, (str(target), 80))
                server, _ = await loop.sock_accept(listener)
                with server:
                    await loop.sock_sendall(server, b"hello")
                    return await loop.sock_recv(client, 9) == b"hello"
        except TimeoutError:
            return False
        finally:
            for end in ends:
                end.close()


@pytest.fixture
async def site(hosts) -> AsyncIterator[Site]:
    """Three guests on two hosts."""
    async with AsyncExitStack() as stack:
        made = Site(hosts, stack)
        hosts[0].datapath._metadata = MetadataService(Teller())
        await made.rules()
        for host, addresses in zip(hosts, ((BARE, NEAR), (FAR,)), strict=True):
            for address in addresses:
                made.guests[address] = await host.boot(made.port(address), VNI)
                await made.guests[address].configure()
        yield made


async def test_answers_need_rules_of_their_own(site):
    """A stateless port takes and makes connections only where rules let both directions through, near and far."""
    for rules, taken, begun in (
        ((TO_WEB,), False, False),
        ((TO_WEB, ANSWERS_OF_WEB), True, False),
        ((TO_OTHERS,), False, False),
        ((TO_OTHERS, ANSWERS_OF_OTHERS), False, True),
    ):
        await site.rules(*rules)
        for other in (NEAR, FAR):
            assert await site.connects(other, BARE) is taken, (rules, other)
            assert await site.connects(BARE, other) is begun, (rules, other)
        assert await site.connects(NEAR, FAR)


async def test_what_a_stateful_group_lets_begin_is_answered(site):
    """The same rules in a stateful group let connections through both ways: the kind of the group is the difference."""
    for rule, ends in ((TO_WEB, (NEAR, BARE)), (TO_OTHERS, (BARE, FAR))):
        await site.rules(rule)
        assert not await site.connects(*ends)
        await site.rules(replace(rule, stateful=True))
        assert await site.connects(*ends)


async def test_a_stateful_port_beside_a_stateless_one_keeps_its_state(site):
    """What a port in a stateful group without rules for answers begins is answered by a stateless port."""
    await site.rules(TO_WEB, ANSWERS_OF_WEB)
    for host, address in zip(site.hosts, (NEAR, FAR), strict=True):
        network = NetworkDesired(
            VNI,
            1450,
            host.address,
            peers=frozenset(other.address for other in site.hosts),
            ports=tuple(site.port(item) for item in ((BARE, NEAR) if address == NEAR else (FAR,))),
            subnets=(SUBNET,),
            groups={
                STATELESS: SecurityGroup(frozenset({TO_WEB, ANSWERS_OF_WEB})),
                OPEN: SecurityGroup(frozenset({GroupRule("egress")})),
            },
        )
        await host.datapath.ensure_network(network)
    for address in (NEAR, FAR):
        assert await site.connects(address, BARE)
        assert not await site.connects(BARE, address)


async def test_the_networks_own_servers_answer(site):
    """Addresses, names and metadata reach a stateless port that lets nothing in; other servers' answers do not."""
    await site.rules(GroupRule("egress", stateful=False))
    bare = site.guests[BARE]
    ask = ("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "3", "-T", "1", "-s", "/bin/true")
    await bare.run(*ask)
    assert str(NEAR) in await bare.run("busybox", "nslookup", "-type=a", "near", str(CIDR[254]))
    await bare.run("ip", "route", "add", "169.254.169.254", "via", str(CIDR[254]))
    handle = within(bare.namespace, socket.socket)
    handle.setblocking(False)
    async with asyncio.timeout(5):
        await asyncio.get_running_loop().sock_connect(handle, ("169.254.169.254", 80))
        reader, writer = await asyncio.open_connection(sock=handle)
        writer.write(b"GET /latest/user-data HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"of i11" in await reader.read()
    writer.close()
    assert not await site.connects(BARE, NEAR)
    assert not await bare.reaches(NEAR)


async def test_applied_again_it_changes_nothing(site):
    """A stateless port is told from others by what the kernel has; one whose group is another is judged otherwise."""
    await site.rules(TO_WEB)
    host = site.hosts[0]
    before = (await host.datapath.observe()).firewall
    host.datapath._firewall._seen = None
    assert (await host.datapath.observe()).firewall == before
    await site.rules(TO_WEB)
    assert (await host.datapath.observe()).firewall == before
    site.own = frozenset({OPEN})
    await site.rules(TO_WEB)
    assert await site.connects(BARE, NEAR)
    assert not [
        item for item in (await host.datapath.observe()).firewall.elements if item.set in ("stateless", "answered")
    ]
