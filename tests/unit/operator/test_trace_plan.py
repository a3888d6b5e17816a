"""How a trace is led from host to host."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from kumulus_api import FloatingIP, Network, NetworkTrace, Port, Server
from kumulus_api.network_trace import HopKind, LegOutcome, LegStart, TracedPacket, TraceHop, TraceReport, TraceVerdict
from kumulus_operator.refusal import Refused
from kumulus_operator.traces.answer import answer_to
from kumulus_operator.traces.plan import OPEN_AT_ONCE, asking, begin, complete, ended, go_on, is_open, may_open, silent
from kumulus_operator.traces.world import Asked, Ended, Origin, Owner, World

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = "00000000-0000-4000-8000-000000000001"


def make_trace(source: dict[str, Any], destination: dict[str, Any], status: dict | None = None, **spec: Any):
    body = {"metadata": {"name": "t", "namespace": "red", "generation": 1}}
    body["spec"] = {"source": source, "destination": destination} | spec
    return NetworkTrace.model_validate(body | ({"status": status} if status is not None else {}))


def make_server(name: str, host: str, *ports: tuple[str, str, list[str]]) -> Server:
    given = [
        {
            "name": f"nic{number}",
            "port": port,
            "portID": ID,
            "network": network,
            "networkNamespace": "red",
            "vni": 5,
            "mac": "02:00:00:00:00:01",
            "addresses": addresses,
        }
        for number, (port, network, addresses) in enumerate(ports)
    ]
    resources = {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"}
    assignment = {"instanceID": ID, "host": host, "epoch": 1, "resources": resources, "ports": given}
    spec = {"flavor": {"name": "f"}, "image": {"name": "i"}, "assignment": assignment}
    return Server.model_validate({"metadata": {"name": name, "namespace": "red"}, "spec": spec})


SERVERS = {
    "a": make_server("a", "h1", ("a0", "net1", ["10.0.1.11"]), ("a1", "net2", ["10.0.2.11", "fd00::11"])),
    "b": make_server("b", "h2", ("b0", "net2", ["10.0.2.12"])),
    "six": make_server("six", "h2", ("s0", "net2", ["fd00::12"])),
}
PORTS = {
    name: Port.model_validate(
        {
            "metadata": {"name": name, "namespace": "red"},
            "spec": {
                "network": {"name": "net2"},
                "assignment": {"portID": ID, "mac": "02:00:00:00:00:01", "addresses": addresses},
            },
        }
    )
    for name, addresses in (("a1", ["10.0.2.11", "fd00::11"]), ("b0", ["10.0.2.12"]), ("idle", ["10.0.2.13"]))
}
NETWORKS = {
    name: Network.model_validate(
        {"metadata": {"name": name, "namespace": "red"}, "spec": {"subnets": [{"name": "v4", "cidr": cidr}]}}
    )
    for name, cidr in (("net1", "10.0.1.0/24"), ("net2", "10.0.2.0/24"))
}
FLOATING = FloatingIP.model_validate(
    {
        "metadata": {"name": "f", "namespace": "red"},
        "spec": {
            "network": {"name": "internet"},
            "assignment": {
                "floatingIPID": ID,
                "address": "203.0.113.9",
                "mac": "02:00:00:00:00:09",
                "network": "internet",
                "networkNamespace": "kumulus-public",
                "vni": 9,
            },
        },
    }
)
OWNERS = {
    "203.0.113.9": Owner("red", "h2"),
    "203.0.113.8": Owner("blue", "h2"),
    "203.0.113.7": Owner("red", None),
}
WORLD = World(
    server=SERVERS.get,
    port=PORTS.get,
    user={"a1": SERVERS["a"], "b0": SERVERS["b"]}.get,
    floating_ip={"f": FLOATING}.get,
    network=lambda key: NETWORKS.get(key[1]),
    tunnel={"192.0.2.2": "h2"}.get,
    owner=lambda vni, address: OWNERS.get(address) if vni == 9 else None,
)


def named(kind: str, name: str) -> dict[str, Any]:
    return {kind: {"name": name}}


@pytest.mark.parametrize(
    ("source", "destination", "host", "port", "ends"),
    [
        (named("server", "a"), named("server", "b"), "h1", "a1", ("10.0.2.11", "10.0.2.12")),
        (named("server", "a"), named("server", "six"), "h1", "a1", ("fd00::11", "fd00::12")),
        (named("server", "a"), named("port", "b0"), "h1", "a1", ("10.0.2.11", "10.0.2.12")),
        (named("port", "a1"), {"address": "10.0.1.99"}, "h1", "a1", ("10.0.2.11", "10.0.1.99")),
        (named("server", "a"), {"address": "10.0.1.99"}, "h1", "a0", ("10.0.1.11", "10.0.1.99")),
        (named("server", "a"), {"address": "2001:db8::1"}, "h1", "a1", ("fd00::11", "2001:db8::1")),
        (named("server", "b"), named("floatingIP", "f"), "h2", "b0", ("10.0.2.12", "203.0.113.9")),
    ],
)
def test_a_trace_begins_at_the_port_that_is_nearest(source, destination, host, port, ends):
    """The source's host is asked first, about the port in the receiver's network where there is one."""
    asked = begin(make_trace(source, destination), WORLD)
    assert (asked.host, asked.leg.port, asked.leg.start) == (host, port, LegStart.PORT)
    assert (asked.leg.packet.source, asked.leg.packet.destination) == ends


@pytest.mark.parametrize(
    ("source", "destination", "reason"),
    [
        (named("server", "x"), named("server", "b"), "NotFound"),
        (named("server", "a"), named("floatingIP", "x"), "NotFound"),
        (named("port", "idle"), named("server", "b"), "NotPlaced"),
        (named("server", "b"), named("server", "six"), "NoAddress"),
    ],
)
def test_what_cannot_begin_is_refused(source, destination, reason):
    """An end that is not there, is on no host, or speaks another family is told with its reason."""
    with pytest.raises(Refused) as caught:
        begin(make_trace(source, destination), WORLD)
    assert caught.value.refusal.reason == reason


def test_the_packet_is_the_first_of_a_connection():
    """TCP goes to the port that is asked, ICMP is an echo request of the family."""
    tcp = begin(make_trace(named("server", "a"), named("server", "b"), protocol="TCP", port=80), WORLD).leg.packet
    assert (tcp.protocol, tcp.second) == (6, 80)
    six = begin(make_trace(named("server", "a"), named("server", "six")), WORLD).leg.packet
    assert (six.protocol, six.first, six.second) == (58, 128, 0)


def report(outcome: LegOutcome, to: str = "10.0.2.12", leg: int = 1, **of: Any) -> TraceReport:
    packet = TracedPacket(source="10.0.2.11", destination=to, protocol=6, first=1, second=80)
    return TraceReport(leg=leg, outcome=outcome, packet=packet, vni=9, **of)


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        (report(LegOutcome.DELIVERED), TraceVerdict.PASSED),
        (report(LegOutcome.DROPPED), TraceVerdict.DROPPED),
        (report(LegOutcome.UNKNOWN), TraceVerdict.UNKNOWN),
        (report(LegOutcome.LEFT, "198.51.100.1"), TraceVerdict.PASSED),
        (report(LegOutcome.LEFT, "203.0.113.7"), TraceVerdict.DROPPED),
        (report(LegOutcome.TUNNELLED), TraceVerdict.PASSED),
        (report(LegOutcome.FORWARDED, tunnel_address="192.0.2.99"), TraceVerdict.UNKNOWN),
        (report(LegOutcome.FORWARDED, leg=8, tunnel_address="192.0.2.2"), TraceVerdict.UNKNOWN),
    ],
)
def test_a_trace_ends_where_the_packet_does(told, verdict):
    """What a host says of the packet's end is the verdict; what leaves the cloud has passed; no way is endless."""
    following = go_on(make_trace(named("server", "a"), named("server", "b")), told, WORLD)
    assert isinstance(following, Ended)
    assert following.verdict is verdict


def test_the_next_host_is_asked():
    """What goes through a tunnel is the other host's, what goes to a floating IP of the project its host's."""
    trace = make_trace(named("server", "a"), named("server", "b"))
    following = go_on(trace, report(LegOutcome.FORWARDED, tunnel_address="192.0.2.2"), WORLD)
    assert isinstance(following, Asked)
    assert (following.host, following.leg.number, following.leg.start) == ("h2", 2, LegStart.OVERLAY)
    following = go_on(trace, report(LegOutcome.LEFT, "203.0.113.9"), WORLD)
    assert isinstance(following, Asked)
    assert (following.host, following.leg.start, following.leg.vni) == ("h2", LegStart.EXTERNAL, 9)


def test_another_projects_address_is_the_end():
    """No host is asked about an address of another project, and the verdict says that it is not known."""
    following = go_on(
        make_trace(named("server", "a"), {"address": "203.0.113.8"}), report(LegOutcome.LEFT, "203.0.113.8"), WORLD
    )
    assert isinstance(following, Ended)
    assert following.verdict is TraceVerdict.UNKNOWN
    assert "another project" in following.hops[-1].message


def test_a_project_asks_few_hosts_at_once():
    """Open traces count, those that have ended or wait do not."""
    plain = make_trace(named("server", "a"), named("server", "b"))
    asked = begin(plain, WORLD)
    running = make_trace(named("server", "a"), named("server", "b"), asking(plain, asked, (), NOW))
    assert is_open(running)
    assert not complete(running)
    done = make_trace(named("server", "a"), named("server", "b"), ended(running, silent("h1"), (), NOW))
    assert complete(done)
    assert not is_open(done)
    assert may_open([plain, done, *[running] * (OPEN_AT_ONCE - 1)])
    assert not may_open([running] * OPEN_AT_ONCE)


PLAIN = make_trace(named("server", "a"), named("server", "b"))


def led(asked: Asked) -> NetworkTrace:
    """A trace that asks a host."""
    return make_trace(named("server", "a"), named("server", "b"), asking(PLAIN, asked, (), NOW))


def answering(told: TraceReport, world: World = WORLD) -> tuple[Asked | Ended, list[TraceHop]]:
    """Say who is asked about the answer to a packet that has passed."""
    return answer_to(led(begin(make_trace(named("server", "a"), named("server", "b")), WORLD)), told, world)


TRACKED = {
    "host": "h1",
    "place": "kumulus",
    "zone": 3,
    "begun": {"source": "10.0.2.11", "destination": "10.0.2.12", "protocol": 6},
    "left": {"source": "10.0.2.11", "destination": "10.0.2.12", "protocol": 6},
}


@pytest.mark.parametrize("start", [LegStart.PORT, LegStart.ROUTER, LegStart.SERVICE])
def test_who_was_reached_is_asked_about_the_answer(start):
    """The answer begins where the packet was delivered, goes the other way, and what hosts track goes along."""
    told = report(LegOutcome.DELIVERED, answered_by=start, port="b0", router="r", connections=[TRACKED])
    following, hops = answering(told)
    assert isinstance(following, Asked)
    assert not hops
    leg = following.leg
    assert (following.host, leg.number, leg.start, leg.port, leg.router) == ("h1", 2, start, "b0", "r")
    assert leg.answer
    assert (leg.packet.source, leg.packet.destination, leg.packet.first, leg.packet.second) == (
        "10.0.2.12",
        "10.0.2.11",
        80,
        1,
    )
    assert leg.first is not None
    assert leg.first.source == "10.0.2.11"
    assert [item.zone for item in leg.connections] == [3]
    further = go_on(led(following), report(LegOutcome.FORWARDED, leg=2, tunnel_address="192.0.2.2"), WORLD)
    assert isinstance(further, Asked)
    assert (further.host, further.leg.answer, len(further.leg.connections)) == ("h2", True, 1)


def test_an_answer_from_outside_comes_to_who_has_its_address():
    """To the host of a floating IP or router, also one that a prefix is routed to; else that is not known."""
    left = report(LegOutcome.LEFT, "198.51.100.1")
    for owner, ends in (
        (Owner("red", "h2", "h3"), ("h2", ["h3"], None)),
        (Owner("red", "h2", via="2001:db8:77::2"), ("h2", [], "2001:db8:77::2")),
    ):
        world = replace(WORLD, owner=lambda _vni, address, owner=owner: owner if address == "10.0.2.11" else None)
        following, hops = answering(left, world)
        assert isinstance(following, Asked)
        leg = following.leg
        assert (following.host, leg.others, leg.via, leg.start) == (*ends, LegStart.EXTERNAL)
        assert [hop.what for hop in hops] == [HopKind.EXTERNAL]
    following, _ = answering(left)
    assert isinstance(following, Ended)
    assert following.verdict is TraceVerdict.UNKNOWN
    assert "enableSNAT" in following.hops[-1].remedy
    following, _ = answering(report(LegOutcome.DELIVERED))
    assert isinstance(following, Ended)
    assert following.verdict is TraceVerdict.UNKNOWN


def test_the_other_host_is_asked_where_one_waits():
    """Of two hosts that share an address each is asked once."""
    vip = make_server("vip", "h1", ("vip0", "net2", ["10.0.2.30"])).spec.assignment.ports[0]
    world = replace(
        WORLD,
        port=lambda _name: PORTS["idle"],
        balancer=lambda name: Origin(vip, ("h1", "h2")) if name == "vip0" else None,
    )
    trace = make_trace(named("port", "vip0"), named("server", "b"))
    first = begin(trace, world)
    assert (first.host, first.leg.others, first.leg.packet.source) == ("h1", ["h2"], "10.0.2.30")
    second = go_on(led(first), report(LegOutcome.WAITING), world)
    assert isinstance(second, Asked)
    assert (second.host, second.leg.others, second.leg.number, second.leg.start) == ("h2", [], 2, LegStart.PORT)


def test_the_status_tells_both_ways():
    """While the answer is followed the packet's verdict and hops stay, and in the end both verdicts are there."""
    trace = make_trace(named("server", "a"), named("server", "b"))
    following, _ = answering(report(LegOutcome.DELIVERED, answered_by=LegStart.PORT, port="b0"))
    assert isinstance(following, Asked)
    hop = TraceHop(what=HopKind.NETWORK, verdict=TraceVerdict.PASSED, message="there")
    back = hop.model_copy(update={"message": "back"})
    status = asking(trace, following, [back], NOW, [hop])
    assert (status["verdict"], status["message"]) == ("Passed", "host h1 is asked about the answer")
    assert [item["message"] for item in (*status["hops"], *status["answer"]["hops"])] == ["there", "back"]
    assert "verdict" not in status["answer"]
    status = ended(trace, Ended(TraceVerdict.DROPPED), [back], NOW, [hop])
    assert (status["verdict"], status["answer"]["verdict"], status["message"]) == ("Passed", "Dropped", "back")
