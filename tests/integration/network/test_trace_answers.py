"""What a trace says of answers, on a real kernel: it is what whoever asked hears."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import entering, within
from kumulus_api.network_trace import HopKind, TraceVerdict
from kumulus_lab.testing.packet_traces import There, told
from kumulus_lab.testing.questions import asked
from kumulus_lab.testing.routed import OUTSIDE, OUTSIDE6, RoutedCloud, eventually, routed_cloud
from kumulus_lab.testing.speakers import Speaker
from kumulus_operator.traces.world import Owner

RED1, RED2 = "red1", "red2"
TCP, UDP, ICMP = 6, 17, 1
PASSED, DROPPED, UNKNOWN = TraceVerdict.PASSED, TraceVerdict.DROPPED, TraceVerdict.UNKNOWN
Address = IPv4Address | IPv6Address
BOTH = ("IPv4", "IPv6")
EPHEMERAL = {"port": 1024, "endPort": 65535}


def group(cloud: RoutedCloud, name: str, *rules: dict[str, Any], stateful: bool = True) -> None:
    """Make a security group of rules for both families; those with `out` are of what a port sends."""
    made: dict[str, list[dict[str, Any]]] = {"ingress": [], "egress": []}
    for rule in rules:
        given = {key: value for key, value in rule.items() if key != "out"}
        made["egress" if rule.get("out") else "ingress"] += [{"etherType": kind, **given} for kind in BOTH]
    cloud.api.put("SecurityGroup", name, made | {"stateful": stateful}, "red")


@pytest.fixture
async def cloud(prefix, hosts) -> AsyncIterator[RoutedCloud]:
    """Two networks of both families, and groups whose answers pass, or do not."""
    async with routed_cloud(prefix, hosts) as made:
        for number, name in enumerate((RED1, RED2), start=1):
            made.network(name, 0x100 + number, f"10.0.{number}.0/24")
            six = {"name": "v6", "cidr": f"2001:db8:{number}::/64", "gateway": f"2001:db8:{number}::1"}
            four = {"name": "v4", "cidr": f"10.0.{number}.0/24", "gateway": f"10.0.{number}.1", "enableDHCP": False}
            made.api.put("Network", name, {"subnets": [four, six | {"enableDHCP": False}]})
            made.networks[f"{name}-v6"] = (made.networks[name][0], f"2001:db8:{number}::/64")
        group(made, "clients", {"out": True})
        group(made, "open", {}, {"out": True})
        asked = ({"protocol": "TCP", "port": 80}, {"protocol": "UDP", "port": 53})
        group(made, "web", *asked)
        answers = tuple({"protocol": protocol, "out": True} | EPHEMERAL for protocol in ("TCP", "UDP"))
        group(made, "mute", *asked, stateful=False)
        group(made, "bare", *asked, *answers, stateful=False)
        group(made, "deaf", {"out": True}, stateful=False)
        yield made


async def spoken(client: Speaker, server: Speaker, address: Address, port: int, seconds: float = 0.4) -> list[bool]:
    """Tell whether a datagram comes to a server, and whether its answer comes back."""
    loop, family = asyncio.get_running_loop(), socket.AF_INET if address.version == 4 else socket.AF_INET6
    ends = [within(item.namespace, lambda: socket.socket(family, socket.SOCK_DGRAM)) for item in (client, server)]
    heard: list[bool] = []
    with ends[0] as asking, ends[1] as answering:
        for end in ends:
            end.setblocking(False)
        answering.bind(("", port))
        # It takes an answer from whom it asked, as resolvers do.
        await loop.sock_connect(asking, (str(address), port))
        await loop.sock_sendall(asking, b"?")
        try:
            async with asyncio.timeout(seconds):
                _, sender = await loop.sock_recvfrom(answering, 9)
                heard.append(True)
                await loop.sock_sendto(answering, b"!", sender)
                heard.append(await loop.sock_recv(asking, 9) == b"!")
        except OSError:  # nothing came, or there is no way back
            pass
    return [*heard, False, False][:2]


async def compared(cloud: RoutedCloud, source: str, target: str, address: Address, **given: Any) -> dict[int, There]:
    """Trace datagrams and streams from one to another, and see that what is said is what they hear."""
    client, server = cloud.guests[source], cloud.guests.get(target, cloud.outside)
    found = {}
    for protocol, port in ((UDP, 53), (TCP, 80)):
        there = found[protocol] = await told(cloud, source, str(address), port, protocol, **given)
        assert there.verdict is not UNKNOWN, there
        assert there.answer is not UNKNOWN, there
        if protocol == UDP:
            said = [there.verdict is PASSED, there.answer is PASSED]
            assert said == await spoken(client, server, address, port), there
        else:
            stream = await client.connect(server, address, port, seconds=0.5)
            assert there.answered is (stream is not None), there
    return found


async def test_an_answer_passes_where_it_is_known_or_let_through(cloud):
    """Of stateful and stateless groups at either end, near, far and routed, in both families: said is what is heard."""
    clients = {"a": "clients", "deaf": "deaf"}
    servers = {"web": ("a", RED1), "mute": ("b", RED1), "bare": ("b", RED2)}
    for number, (name, of) in enumerate(clients.items(), start=11):
        await cloud.boot(name, "a", RED1, f"10.0.1.{number}", f"2001:db8:1::{number}", groups=(of,))
    for number, (name, (host, network)) in enumerate(servers.items(), start=21):
        addresses = (f"10.0.{network[-1]}.{number}", f"2001:db8:{network[-1]}::{number}")
        await cloud.boot(name, host, network, *addresses, groups=(name,))
    cloud.router("r", RED1, f"{RED1}-v6", RED2, f"{RED2}-v6")
    await cloud.settled()
    await with_routes(cloud)
    said = {}
    for client in clients:
        for server in servers:
            guest = cloud.guests[server]
            for address in (guest.address, guest.address6):
                for protocol, there in (await compared(cloud, client, server, address)).items():
                    said[client, server, address.version, protocol] = there
    assert {there.answered for there in said.values()} == {True, False}
    for (client, server, _, _), there in said.items():
        assert there.answered is (client == "a" and server != "mute"), there
    mute = said["a", "mute", 4, TCP]
    assert (mute.last.what, mute.last.host) == (HopKind.EGRESS_RULES, cloud.node("b").host.name)
    assert "the group is stateless: answers need a rule of their own" in mute.last.message
    assert mute.last.remedy == "add an egress rule for it to security group mute"
    deaf = said["deaf", "web", 6, TCP]
    assert (deaf.last.what, deaf.last.remedy) == (
        HopKind.INGRESS_RULES,
        "add an ingress rule for it to security group deaf",
    )
    fine = said["a", "bare", 4, TCP]
    assert fine.kinds() == [
        HopKind.SOURCE_PORT,
        HopKind.ADDRESS_CHECK,
        HopKind.EGRESS_RULES,
        HopKind.NETWORK,
        HopKind.ROUTER,
        HopKind.NETWORK,
        HopKind.TUNNEL,
        HopKind.TUNNEL,
        HopKind.NETWORK,
        HopKind.INGRESS_RULES,
        HopKind.DESTINATION_PORT,
    ], fine
    assert fine.back[-2].message == "it answers a connection that this host tracks: no rule is asked"


async def with_routes(cloud: RoutedCloud) -> None:
    """Give guests the IPv6 route that they would be told of."""
    for guest in cloud.guests.values():
        six = guest.address6
        gateway = ":".join(str(six).split(":")[:3]) + "::1"
        await guest.run("ip", "route", "replace", "default", "via", gateway, "dev", "eth0")


async def test_an_answer_from_a_network_without_a_way_back_ends_there(cloud):
    """A server whose subnet tells of no gateway hears what is routed to it, and its answers go nowhere."""
    bare = {"name": "v4", "cidr": "10.0.2.0/24", "enableDHCP": False}
    cloud.api.put("Network", RED2, {"subnets": [bare]})
    group(cloud, "web", {"protocol": "TCP", "port": 80}, {"protocol": "UDP", "port": 53}, {"protocol": "ICMP"})
    await cloud.boot("a", "a", RED1, "10.0.1.11", groups=("clients",))
    lost = await cloud.boot("lost", "b", RED2, "10.0.2.22", groups=("web",))
    cloud.router("r", RED1, RED2)
    await cloud.settled()
    await lost.run("ip", "route", "del", "default")
    for there in (await compared(cloud, "a", "lost", lost.address)).values():
        assert (there.verdict, there.answer, there.last.what) == (PASSED, DROPPED, HopKind.NETWORK), there
        assert "gives its guests no route to 10.0.1.11" in there.last.message
        assert there.last.host == cloud.node("b").host.name


async def test_answers_from_outside_come_by_who_translated(cloud):
    """Under the router's address, a floating one, and by IPv6 as routed or translated: they come back as it is said."""
    cloud.external_subnets({"name": "v6", "cidr": "2001:db8:77::/64", "gateway": str(OUTSIDE6), "enableDHCP": False})
    await cloud.boot("a", "a", RED1, "10.0.1.11", "2001:db8:1::11", groups=("clients",))
    router = cloud.router("r", RED1, f"{RED1}-v6", gateway="b", address6="2001:db8:77::2", snat6=True)
    await cloud.settled()
    await with_routes(cloud)
    node = cloud.node("b").host.name
    for address in (OUTSIDE, OUTSIDE6):
        for there in (await compared(cloud, "a", "outside", address)).values():
            assert there.answered, there
            assert there.back[1].host == node, there
            assert any("put back" in hop.message for hop in there.back), there
    assert (await told(cloud, "a", str(OUTSIDE), protocol=ICMP)).answered
    assert (await told(cloud, "a", str(OUTSIDE6), protocol=ICMP)).answered
    assert await cloud.guests["a"].reaches(OUTSIDE)
    assert await cloud.guests["a"].reaches(OUTSIDE6)
    cloud.floating("fa", "203.0.113.8", router, "a", fixed="10.0.1.11")
    cloud.floating("fa6", "2001:db8:77::8", router, "a", fixed="2001:db8:1::11")
    await cloud.settled()
    for address in (OUTSIDE, OUTSIDE6):
        for there in (await compared(cloud, "a", "outside", address)).values():
            assert there.answered, there
            assert {hop.host for hop in there.back[1:]} == {cloud.node("a").host.name}, there


async def test_an_answer_that_nobody_outside_knows_to_send_back_is_not_known(cloud):
    """What leaves untranslated is answered to where nothing here leads: the trace says so, and what to do."""
    await cloud.boot("a", "a", RED1, "10.0.1.11", groups=("clients",))
    cloud.router("r", RED1, gateway="b", snat=False)
    await cloud.settled()
    there = await told(cloud, "a", str(OUTSIDE), 53, UDP)
    assert (there.verdict, there.answer) == (PASSED, UNKNOWN), there
    assert "10.0.1.11" in there.last.message
    assert "enableSNAT" in there.last.remedy
    assert await spoken(cloud.guests["a"], cloud.outside, OUTSIDE, 53) == [True, False]


async def test_answers_come_back_from_floating_addresses_and_forwarded_ports(cloud):
    """To a server behind a floating address of the same project, by whichever host: the answer has that address."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11", groups=("clients",))
    b = await cloud.boot("b", "b", RED2, "10.0.2.12", groups=("web",))
    router = cloud.router("r", RED1, RED2, gateway="b")
    cloud.floating("fb", "203.0.113.9", router, "b", fixed="10.0.2.12")
    await cloud.settled()
    said = await compared(cloud, "a", "b", IPv4Address("203.0.113.9"))
    assert all(there.answered for there in said.values())
    cloud.floating("fa", "203.0.113.8", router, "a", fixed="10.0.1.11")
    await cloud.settled()
    said = await compared(cloud, "a", "b", IPv4Address("203.0.113.9"))
    assert all(there.answered for there in said.values())
    cloud.floating("pf", "203.0.113.10", router, "b", forwardings=(("TCP", 8080, "10.0.2.12", 80),))
    await cloud.settled()
    there = await told(cloud, "a", "203.0.113.10", 8080)
    stream = await a.connect(b, IPv4Address("203.0.113.10"), 8080, at=80)
    assert there.answered is (stream is not None) is True, there


async def test_what_routers_and_services_answer_comes_back(cloud):
    """A gateway answers a ping by itself, and the answer is held to the asker's own rules."""
    for name, of in (("a", "clients"), ("deaf", "deaf")):
        await cloud.boot(name, "a", RED1, f"10.0.1.1{len(name)}", f"2001:db8:1::1{len(name)}", groups=(of,))
    cloud.router("r", RED1, f"{RED1}-v6", RED2)
    await cloud.settled()
    for text in ("10.0.1.1", "2001:db8:1::1", "10.0.2.1"):
        for name in ("a", "deaf"):
            there = await told(cloud, name, text, protocol=ICMP)
            assert there.verdict is PASSED, there
            heard = await cloud.guests[name].reaches(IPv6Address(text) if ":" in text else IPv4Address(text))
            assert there.answered is heard is (name == "a"), there
    kinds = (await told(cloud, "a", "10.0.2.1", protocol=ICMP)).kinds()
    assert kinds == [HopKind.ROUTER, HopKind.NETWORK, HopKind.INGRESS_RULES, HopKind.DESTINATION_PORT]


async def test_a_firewall_passes_the_answers_of_what_it_tracks(cloud):
    """Answers of what a centralised router lets begin need no rule of it, and come back by its host."""
    await cloud.boot("a", "a", RED1, "10.0.1.11", groups=("clients",))
    await cloud.boot("far", "a", RED2, "10.0.2.13", groups=("web",))
    rules = [{"name": "http", "action": "Allow", "protocol": "TCP", "destinationPorts": [80, 80]}]
    cloud.firewalls = ({"group": "in", "interfaces": [RED2], "ingress": rules, "egress": []},)
    cloud.router("r", RED1, RED2, gateway="b")
    await cloud.settled()
    said = await compared(cloud, "a", "far", cloud.guests["far"].address)
    assert [there.answered for there in said.values()] == [False, True]
    assert (said[UDP].answer, said[UDP].last.what) == (None, HopKind.FIREWALL)
    (hop,) = [hop for hop in said[TCP].back if hop.what is HopKind.FIREWALL]
    assert "answers a connection that the router tracks" in hop.message
    assert hop.host == cloud.node("b").host.name


async def test_what_the_kernel_lost_on_the_way_back_is_told(cloud):
    """A rule by which answers pass, and that is gone where they begin, drops them, and the trace says where.

    An entry for the asker's host that is gone is none: the question has it learned again.
    """
    a = await cloud.boot("a", "a", RED1, "10.0.1.11", groups=("clients",))
    far = await cloud.boot("far", "b", RED1, "10.0.1.13", groups=("web",))
    await cloud.settled()
    node, other = cloud.node("b"), cloud.node("a")
    fdb = ("bridge", "-netns", node.host.namespace, "fdb")
    await run((*fdb, "del", a.port.mac, "dev", "kx000101", "self"))
    await run((*fdb, "del", "00:00:00:00:00:00", "dev", "kx000101", "dst", other.host.address, "self"))
    there = (await compared(cloud, "a", "far", far.address))[UDP]
    assert there.answered, there
    nft = (*entering(node.host.namespace), "nft")
    listed = json.loads(await run((*nft, "--json", "list", "chain", "inet", "kumulus", "egress")))["nftables"]
    rules = [entry["rule"] for entry in listed if "rule" in entry]
    (handle,) = (str(rule["handle"]) for rule in rules if "established" in json.dumps(rule))
    await run((*nft, "delete", "rule", "inet", "kumulus", "egress", "handle", handle))
    for there in (await compared(cloud, "a", "far", far.address)).values():
        assert (there.verdict, there.answer, there.last.host) == (PASSED, DROPPED, node.host.name), there
        assert there.last.what is HopKind.EGRESS_RULES
        assert "this host's rules do not let answers pass by their connection" in there.last.message


async def test_guests_on_a_physical_network_are_followed(cloud):
    """Between hosts, to the outside, and from behind a router: there and back by the physical network."""
    cloud.networks["internet"] = (cloud.external, "203.0.113.0/24")
    for name, host, address in (("p", "a", "203.0.113.50"), ("q", "b", "203.0.113.51")):
        guest = await cloud.boot(name, host, "internet", address, groups=("clients" if name == "p" else "web",))
        await guest.run("ip", "route", "replace", "default", "via", str(OUTSIDE))
    await cloud.boot("a", "a", RED1, "10.0.1.11", groups=("clients",))
    cloud.router("r", RED1, gateway="a")
    await cloud.settled()
    owners = {f"203.0.113.5{number}": Owner("red", cloud.node(host).host.name) for number, host in enumerate("ab")}
    for source, target, address in (
        ("p", "q", cloud.guests["q"].address),
        ("p", "outside", OUTSIDE),
        ("a", "q", cloud.guests["q"].address),
    ):
        for there in (await compared(cloud, source, target, address, owners=owners)).values():
            assert there.answered, there
    hosts = [hop.host for hop in (await told(cloud, "a", "203.0.113.51", 80, owners=owners)).hops]
    assert hosts[-1] == cloud.node("b").host.name


async def test_an_answer_that_leaves_by_another_router_is_none(cloud):
    """A server that was reached as itself, and answers by its floating address, is heard as a stranger.

    The datagram is translated where its host leads out, and the asker does not take it; a segment that acknowledges is
    of no connection there, and is dropped.
    """
    way = [{"destination": "10.0.2.0/24", "nextHop": "203.0.113.2"}]
    four = {"name": "v4", "cidr": "203.0.113.0/24", "gateway": str(OUTSIDE), "enableDHCP": False, "routes": way}
    where = {"type": "Provider", "provider": {"physicalNetwork": "physnet1"}}
    cloud.api.put("Network", cloud.external.name, where | {"subnets": [four]}, cloud.external.namespace)
    cloud.networks["internet"] = (cloud.external, "203.0.113.0/24")
    for name, address in (("clients", "203.0.113.50"), ("open", "203.0.113.51")):
        asker = await cloud.boot(name, "a", "internet", address, groups=(name,))
        await asker.run("ip", "route", "replace", "10.0.2.0/24", "via", "203.0.113.2")
    server = await cloud.boot("b", "b", RED2, "10.0.2.12", groups=("web",))
    router = cloud.router("r", RED2, gateway="a")
    cloud.floating("fb", "203.0.113.9", router, "b", fixed="10.0.2.12")
    await cloud.settled()
    owners = {f"203.0.113.5{number}": Owner("red", cloud.node("a").host.name) for number in range(2)}
    for source, what in (("clients", HopKind.INGRESS_RULES), ("open", HopKind.DESTINATION_PORT)):
        said = await compared(cloud, source, "b", server.address, owners=owners)
        assert {(there.verdict, there.answer) for there in said.values()} == {(PASSED, DROPPED)}, said
        assert "it comes as UDP port 40000 from 203.0.113.9 to 203.0.113.5" in said[UDP].last.message, said
        assert (said[UDP].last.what, said[UDP].last.host) == (what, cloud.node("a").host.name), said
        assert (said[TCP].last.what, said[TCP].last.host) == (HopKind.ROUTER, cloud.node("b").host.name), said
        assert "answers no connection that the router tracks on this host" in said[TCP].last.message


async def test_ipv6_that_the_outside_routes_here_is_answered(cloud):
    """A network that is routed to the router's address leaves as it is; answers come to the router, from any host."""
    cloud.external_subnets({"name": "v6", "cidr": "2001:db8:77::/64", "gateway": str(OUTSIDE6), "enableDHCP": False})
    await cloud.boot("a", "a", RED1, "10.0.1.11", "2001:db8:1::11", groups=("clients",))
    routed = {"address6": "2001:db8:77::2", "routed": ("2001:db8:1::/64",)}
    cloud.router("r", RED1, f"{RED1}-v6", gateway="b", **routed)
    await cloud.settled()
    await with_routes(cloud)
    await cloud.outside.run("ip", "route", "add", "2001:db8:1::/64", "via", "2001:db8:77::2")
    await eventually(lambda: cloud.guests["a"].reaches(OUTSIDE6))  # addresses of IPv6 are looked for doubles first
    gateway = cloud.node("b").host.name
    owners = {"2001:db8:1::11": Owner("red", gateway, via="2001:db8:77::2")}
    for there in (await compared(cloud, "a", "outside", OUTSIDE6, owners=owners)).values():
        assert there.answered, there
        assert "which it routes to 2001:db8:77::2" in there.back[0].message
        assert there.back[1].host == gateway
        assert not any(hop.what is HopKind.TRANSLATION for hop in there.back)


async def test_names_of_the_networks_own_server_come_back(cloud):
    """What a network's own server answers passes without a rule, to stateless ports too, as its guests see."""
    cloud.api.put(
        "Network", RED1, {"subnets": [{"name": "v4", "cidr": "10.0.1.0/24", "gateway": "10.0.1.1", "enableDHCP": True}]}
    )
    await cloud.boot("deaf", "a", RED1, "10.0.1.11", groups=("deaf",))
    await cloud.settled()
    network = cloud.node("a").networks.applied[0x101][1]
    server = network.subnets[0].service_address
    there = await told(cloud, "deaf", str(server), 53, UDP)
    assert there.answered, there
    assert there.kinds() == [HopKind.SOURCE_PORT, HopKind.NETWORK, HopKind.INGRESS_RULES, HopKind.DESTINATION_PORT]
    assert await asked(cloud.guests["deaf"], server)
