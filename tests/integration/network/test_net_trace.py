"""Traces on a real kernel: what is said of a packet is what becomes of one that is sent."""

from __future__ import annotations

import contextlib
import json
from ipaddress import IPv4Address

import pytest

from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import entering
from kumulus_agent.tracing.state import Hop
from kumulus_agent.tracing.walk import Walk
from kumulus_agent.tracing.way import packet_of
from kumulus_agent.tracing.world import LiveWorld
from kumulus_api.network_trace import HopKind, LegOutcome, LegStart, TracedPacket, TraceLeg, TraceVerdict
from kumulus_lab.testing.routed import OUTSIDE, OUTSIDE6, RoutedCloud

RED1, RED2 = "red1", "red2"
OUT = {"etherType": "IPv4"}


def group(cloud: RoutedCloud, name: str, *ingress: dict, egress: tuple[dict, ...] = (OUT,), project="red") -> None:
    """Make a security group, or give it other rules."""
    cloud.api.put("SecurityGroup", name, {"ingress": list(ingress), "egress": list(egress)}, project)


@pytest.fixture
def cloud(cloud) -> RoutedCloud:
    """Two networks, and three groups; no guests and no routers."""
    group(cloud, "clients")
    group(cloud, "web", {"protocol": "TCP", "port": 80}, {"protocol": "ICMP", "icmpType": 8})
    group(cloud, "mute", egress=({"protocol": "TCP", "port": 443},))
    return cloud


def packet(source: str, target: str, protocol: int, port: int) -> TracedPacket:
    """The first packet of a connection."""
    first, second = (8, 0) if protocol == 1 else (40000, port)
    return TracedPacket(source=source, destination=target, protocol=protocol, first=first, second=second)


async def trace(
    cloud: RoutedCloud, source: str, target: str, port: int = 0, protocol: int = 6, *, project: str = "red"
) -> tuple[LegOutcome, list[Hop], str]:
    """Follow a packet over the hosts, as the operator does; give the outcome, the hops, and the last host."""
    guest = cloud.guests[source]
    own = guest.address6 if ":" in target else guest.address
    leg = TraceLeg(number=1, start=LegStart.PORT, port=source, packet=packet(str(own), target, protocol, port))
    node, hops = guest.node, []
    for number in range(2, 7):
        world = LiveWorld(node.host.namespace, node.networks, node.routers)
        result = await Walk(world, project, leg).run()
        hops += result.hops
        if result.outcome is LegOutcome.FORWARDED:
            node, start = next(other for other in cloud.nodes if other.host.address == result.peer), LegStart.OVERLAY
        elif result.outcome is LegOutcome.LEFT and (other := _translates(cloud, str(result.flow.destination))):
            node, start = other, LegStart.EXTERNAL
        else:
            return result.outcome, hops, node.host.name
        leg = TraceLeg(number=number, start=start, vni=result.vni, packet=packet_of(result.flow, result.macs))
    raise AssertionError(hops)


def _translates(cloud: RoutedCloud, address: str):
    for (kind, _, _), body in cloud.api.objects.items():
        assignment = body["spec"].get("assignment") or {}
        if kind == "FloatingIP" and assignment["address"] == address:
            return next(node for node in cloud.nodes if node.host.name == assignment["host"])
    return None


async def fails(cloud: RoutedCloud, source: str, target: str, port: int) -> str:
    """Give what drops a packet."""
    _, hops, _ = await trace(cloud, source, target, port)
    assert hops[-1].verdict is TraceVerdict.DROPPED, hops
    return hops[-1].what


async def test_a_trace_says_what_becomes_of_a_packet(cloud):
    """Of every case between guests, on one host and two, in one network and routed, the trace says what is seen."""
    await cloud.boot("a", "a", RED1, "10.0.1.11", groups=("clients",))
    await cloud.boot("near", "a", RED1, "10.0.1.12", groups=("web",))
    await cloud.boot("far", "b", RED1, "10.0.1.13", groups=("web",))
    await cloud.boot("routed", "a", RED2, "10.0.2.14", groups=("web",))
    await cloud.boot("away", "b", RED2, "10.0.2.15", groups=("web",))
    await cloud.boot("mute", "a", RED1, "10.0.1.16", groups=("mute",))
    cloud.router("r", RED1, RED2)
    await cloud.settled()
    sources, targets = ("a", "mute", "away"), ("near", "far", "routed", "away")
    cases = [(s, t, port) for s in sources for t in targets for port in (80, 443) if s != t]
    said, seen = {}, {}
    for source, target, port in cases:
        guest = cloud.guests[target]
        outcome, hops, _ = await trace(cloud, source, str(guest.address), port)
        said[source, target, port] = outcome is LegOutcome.DELIVERED
        assert (hops[-1].verdict is TraceVerdict.DROPPED) is (outcome is LegOutcome.DROPPED), hops
        assert (hops[-1].what in (HopKind.EGRESS_RULES, HopKind.INGRESS_RULES)) is (outcome is LegOutcome.DROPPED)
        stream = await cloud.guests[source].connect(guest, guest.address, port, seconds=0.5)
        seen[source, target, port] = stream is not None
    assert said == seen
    assert set(said.values()) == {True, False}


async def test_a_trace_names_the_rule(cloud):
    """Who lets a packet through is named with the group and the rule, and so is what no rule lets in."""
    await cloud.boot("a", "a", RED1, "10.0.1.11", groups=("clients",))
    await cloud.boot("far", "b", RED1, "10.0.1.13", groups=("web",))
    await cloud.settled()
    outcome, hops, host = await trace(cloud, "a", "10.0.1.13", 80)
    assert outcome is LegOutcome.DELIVERED
    assert host == cloud.node("b").host.name
    kinds = [hop.what for hop in hops]
    assert kinds == [
        HopKind.SOURCE_PORT,
        HopKind.ADDRESS_CHECK,
        HopKind.EGRESS_RULES,
        HopKind.NETWORK,
        HopKind.TUNNEL,
        HopKind.TUNNEL,
        HopKind.NETWORK,
        HopKind.INGRESS_RULES,
        HopKind.DESTINATION_PORT,
    ]
    assert hops[2].message == "egress rule of group clients lets out all of IPv4 to anywhere"
    assert hops[7].message == "ingress rule of group web lets in TCP port 80 from anywhere"
    outcome, hops, _ = await trace(cloud, "a", "10.0.1.13", 22)
    assert outcome is LegOutcome.DROPPED
    assert "no ingress rule of security group web lets in TCP port 22 from 10.0.1.11" in hops[-1].message
    assert hops[-1].remedy == "add an ingress rule for it to security group web"
    outcome, _, _ = await trace(cloud, "a", "10.0.1.13", protocol=1)
    assert outcome is LegOutcome.DELIVERED


async def _nft(node, *argv: str) -> bytes:
    return await run((*entering(node.host.namespace), "nft", *argv))


async def test_what_the_kernel_lost_is_told_as_such(cloud):
    """A rule, an address, a neighbour or a tap that the API has and the kernel lost is what drops the packet."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11", groups=("clients",))
    far = await cloud.boot("far", "b", RED1, "10.0.1.13", groups=("web",))
    await cloud.settled()
    node, other = cloud.node("a"), cloud.node("b")
    bridges, tunnel = ("ip", "-netns", node.host.namespace), "kx000101"

    async def dropped(message: str) -> None:
        outcome, hops, _ = await trace(cloud, "a", "10.0.1.13", 80)
        assert outcome is LegOutcome.DROPPED, hops
        assert message in hops[-1].message
        assert await a.connect(far, far.address, 80, seconds=0.5) is None

    listed = json.loads(await _nft(other, "--json", "list", "ruleset"))["nftables"]
    rule = next(
        entry["rule"]
        for entry in listed
        if "rule" in entry and entry["rule"]["chain"].startswith("ingress-") and "tcp" in json.dumps(entry)
    )
    await _nft(other, "delete", "rule", "inet", "kumulus", rule["chain"], "handle", str(rule["handle"]))
    await dropped("the ingress rule of group web for TCP port 80 from anywhere is missing in the kernel")
    group(cloud, "web", {"protocol": "TCP", "port": 80, "endPort": 81})
    await cloud.settled()
    assert (await trace(cloud, "a", "10.0.1.13", 80))[0] is LegOutcome.DELIVERED

    await _nft(node, "delete", "element", "bridge", "kumulus", "addresses", f"{{ {a.port.tap} . 10.0.1.11 }}")
    await dropped("10.0.1.11 and 02:00:00:01:00:01 are the port's, but the kernel does not know that")
    await node.networks.compare()
    await cloud.settled()
    assert await a.connect(far, far.address, 80)

    fdb = ("bridge", "-netns", node.host.namespace, "fdb")
    await run((*fdb, "del", far.port.mac, "dev", tunnel, "self"))
    await run((*fdb, "del", "00:00:00:00:00:00", "dev", tunnel, "dst", other.host.address, "self"))
    await dropped(f"no interface of bridge kb000101 leads to {far.port.mac}")
    await node.networks.compare()
    await cloud.settled()
    await run((*bridges, "link", "set", a.port.tap, "down"))
    await dropped(f"the tap {a.port.tap} is down")


async def test_a_trace_follows_translation(cloud):
    """Ways out, floating addresses and forwarded ports are told with what is translated, and packets go so."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11", groups=("clients",))
    b = await cloud.boot("b", "b", RED1, "10.0.1.12", groups=("web",))
    router = cloud.router("r", RED1, gateway="b")
    await cloud.settled()
    outcome, hops, host = await trace(cloud, "a", str(OUTSIDE), 80)
    assert outcome is LegOutcome.LEFT, "\n".join(f"{h.what} {h.verdict} {h.message}" for h in hops)
    assert host == cloud.node("b").host.name
    assert "10.0.1.11 leaves as 203.0.113.2" in [hop.message for hop in hops]
    assert await a.connect(cloud.outside, OUTSIDE, 80)
    cloud.floating("fb", "203.0.113.9", router, "b", fixed="10.0.1.12")
    cloud.floating("fa", "203.0.113.8", router, "a", fixed="10.0.1.11")
    await cloud.settled()
    _, hops, host = await trace(cloud, "a", str(OUTSIDE), 80)
    assert host == cloud.node("a").host.name
    assert "10.0.1.11 leaves as 203.0.113.8" in [hop.message for hop in hops]
    for port in (80, 22):
        outcome, hops, host = await trace(cloud, "a", "203.0.113.9", port)
        assert (outcome is LegOutcome.DELIVERED) is (port == 80), hops
        assert "203.0.113.9 port" in next(hop.message for hop in hops if "leads to 10.0.1.12" in hop.message)
        assert host == cloud.node("b").host.name
        with contextlib.suppress(TimeoutError):
            stream = await a.connect(b, IPv4Address("203.0.113.9"), port, seconds=0.5)
            assert (stream is not None) is (port == 80)


async def test_of_ipv6_it_is_told_what_leaves_and_how(cloud):
    """As it is, under the router's or a floating address, or not at all: what is told is what is seen outside."""
    six = {"name": "v6", "cidr": "2001:db8:1::/64", "gateway": "2001:db8:1::1"}
    subnets = [{"name": "v4", "cidr": "10.0.1.0/24", "gateway": "10.0.1.1"}, six]
    cloud.api.put("Network", RED1, {"subnets": subnets})
    cloud.networks[f"{RED1}-v6"] = (cloud.networks[RED1][0], "2001:db8:1::/64")
    cloud.external_subnets({"name": "v6", "cidr": "2001:db8:77::/64", "gateway": str(OUTSIDE6), "enableDHCP": False})
    group(cloud, "out", egress=({"etherType": "IPv6"}, OUT))
    await cloud.boot("a", "a", RED1, "10.0.1.11", "2001:db8:1::11", groups=("out",))
    ways = {
        "unrouted": {},
        "leaves as 2001:db8:77::2": {"snat6": True},
        "routed": {"routed": ("2001:db8:1::/64",)},
    }
    for said, given in ways.items():
        router = cloud.router("r", RED1, f"{RED1}-v6", gateway="b", address6="2001:db8:77::2", **given)
        await cloud.settled()
        outcome, hops, host = await trace(cloud, "a", str(OUTSIDE6), 80)
        told = "\n".join(f"{hop.what} {hop.verdict} {hop.message} {hop.remedy}" for hop in hops)
        assert host == cloud.node("b").host.name, told
        assert (outcome is LegOutcome.LEFT) is (said != "unrouted"), told
        assert said in told or said == "routed"
        assert ("leaves as" in told) is (said == "leaves as 2001:db8:77::2")
        assert ("routedPrefixes" in told) is (said == "unrouted")
    cloud.floating("fa", "2001:db8:77::8", router, "a", fixed="2001:db8:1::11")
    await cloud.settled()
    outcome, hops, host = await trace(cloud, "a", str(OUTSIDE6), 80)
    assert (outcome, host) == (LegOutcome.LEFT, cloud.node("a").host.name)
    assert "2001:db8:1::11 leaves as 2001:db8:77::8" in [hop.message for hop in hops]


async def test_ways_that_lead_nowhere(cloud):
    """An address that nobody has, a network without gateway's router, and a route that is not there are told apart."""
    await cloud.boot("a", "a", RED1, "10.0.1.11", groups=("clients",))
    await cloud.settled()
    assert await fails(cloud, "a", "10.0.1.99", 80) is HopKind.NETWORK
    assert await fails(cloud, "a", "10.0.2.14", 80) is HopKind.NETWORK
    cloud.router("r", RED1)
    await cloud.settled()
    assert await fails(cloud, "a", "10.0.2.14", 80) is HopKind.ROUTER
    outcome, hops, _ = await trace(cloud, "a", "10.0.1.1", protocol=1)
    assert outcome is LegOutcome.DELIVERED, hops


async def test_of_another_project_nothing_is_told(cloud):
    """What a trace of one project says ends where another's port begins, whether its rules let the packet in or not."""
    group(cloud, "theirs", project="blue")
    await cloud.boot("a", "a", RED1, "10.0.1.11", groups=("clients",))
    await cloud.boot("theirs", "a", RED1, "10.0.1.12", groups=("theirs",), project="blue")
    await cloud.settled()
    outcome, hops, _ = await trace(cloud, "a", "10.0.1.12", 80)
    assert outcome is LegOutcome.UNKNOWN
    assert "another project" in hops[-1].message
    assert "theirs" not in str(hops)
    outcome, hops, _ = await trace(cloud, "theirs", "10.0.1.11", 80)
    assert (outcome, hops[-1].what) == (LegOutcome.DROPPED, HopKind.SOURCE_PORT)


async def test_a_trace_passes_the_firewall_of_a_centralised_router(cloud):
    """Between two hosts, or within one that has no router, it goes by the gateway's host and says who decides there."""
    await cloud.boot("a", "a", RED1, "10.0.1.11", groups=("clients",))
    await cloud.boot("near", "a", RED2, "10.0.2.12", groups=("web",))
    await cloud.boot("far", "b", RED2, "10.0.2.13", groups=("web",))
    web = {"name": "http", "action": "Allow", "protocol": "TCP", "destinationPorts": [80, 80]}
    reject = {"name": "no-tls", "action": "Reject", "protocol": "TCP", "destinationPorts": [443, 443]}
    out = {"name": "out", "action": "Allow"}
    cloud.firewalls = ({"group": "inner", "interfaces": [RED1, RED2], "ingress": [web, reject], "egress": [out]},)
    cloud.router("r", RED1, RED2, gateway="b")
    await cloud.settled()
    for target in ("near", "far"):
        guest = cloud.guests[target]
        for port in (80, 22, 443):
            outcome, hops, host = await trace(cloud, "a", str(guest.address), port)
            stream = await cloud.guests["a"].connect(guest, guest.address, port, seconds=0.5)
            assert (outcome is LegOutcome.DELIVERED) is (stream is not None) is (port == 80), hops
            judged = [(hop.verdict, hop.message) for hop in hops if hop.what is HopKind.FIREWALL]
            assert judged[0][1].startswith("egress rule out of firewall group inner (Allow)")
            assert judged[1][0] is (TraceVerdict.PASSED if port == 80 else TraceVerdict.DROPPED)
            if port != 80:
                assert host == cloud.node("b").host.name
        assert "ingress rule no-tls of firewall group inner (Reject)" in judged[1][1]
    _, hops, _ = await trace(cloud, "a", "10.0.2.13", 22)
    assert hops[-1].remedy == "add an ingress rule that allows it to firewall group inner"
