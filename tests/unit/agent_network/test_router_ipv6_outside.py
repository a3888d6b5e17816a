"""IPv6 by a router's gateway: what a host should have of it, and the steps that lead there."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from struct import pack, unpack
from typing import Any

import pytest

from kumulus_agent.network.gateways import TRANSIT_ADDRESS6
from kumulus_agent.networks.plan import Here, NetworkFacts
from kumulus_agent.routers import plan
from kumulus_agent.routers.announce import frames
from kumulus_agent.routers.desired import HereRouter, router_desired, routers_here
from kumulus_agent.routers.pair import link_local
from kumulus_agent.routers.rules import parse, transaction, version
from kumulus_agent.routers.state import (
    TABLE_OUT,
    TABLE_TRANSIT,
    Address,
    Floating,
    Forwarding,
    Neighbour,
    PolicyRule,
    Route,
    RouterDesired,
    Translation,
)
from kumulus_api.floating_ip import FloatingIPAssignment
from kumulus_api.router import RouterAssignment

ID = "11111111-1111-4111-8111-111111111111"
HERE = {name: Here(name, f"192.0.2.{name[1]}", 1450) for name in ("h1", "h2", "h3")}
FACTS = {1: NetworkFacts(1450), 9: NetworkFacts(1500)}
MAC, OWN, FIP, FIXED = "0e:00:00:00:00:ee", "2001:db8:77::2", "2001:db8:77::10", "2001:db8:1::11"


def make_router(*, standby: str | None = None, inside: str = "2001:db8:1::1/64", **gateway: Any) -> RouterAssignment:
    """A router of network 1 that host h1 leads out in both families."""
    where = {"host": standby, "tunnelAddress": HERE[standby].underlay_address} if standby else None
    body = {
        "network": "internet",
        "networkNamespace": "public",
        "vni": 9,
        "mac": MAC,
        "addresses": ["203.0.113.2/24", f"{OWN}/64"],
        "nextHops": ["203.0.113.1", "2001:db8:77::1"],
        "enableSNAT": True,
        "host": "h1",
        "tunnelAddress": "192.0.2.1",
        "takeover": {"priority": 100, "standby": where} if where else None,
    }
    interfaces = [
        {"name": f"net{number}", "network": "net1", "networkNamespace": "red", "vni": 1, "mac": mac, "addresses": [own]}
        for number, (mac, own) in enumerate((("0e:00:00:00:00:01", "10.0.1.1/24"), ("0e:00:00:00:00:02", inside)))
    ]
    return RouterAssignment.model_validate({"routerID": ID, "interfaces": interfaces, "gateway": body | gateway})


def make_floating(host: str, **fields: Any) -> FloatingIPAssignment:
    """An address outside that leads to a server."""
    body = {"floatingIPID": ID, "address": FIP, "mac": MAC, "network": "internet", "networkNamespace": "public"}
    body |= {"vni": 9, "routerID": ID, "host": host, "fixedAddress": FIXED}
    return FloatingIPAssignment.model_validate(body | fields)


def on(host: str, *floating: FloatingIPAssignment, **router: Any) -> tuple[HereRouter, RouterDesired]:
    """The router as one host needs it, and has it."""
    found = routers_here([make_router(**router)], floating, {1}, HERE[host])[ID]
    return found, router_desired(found, FACTS)


def of_ipv6(desired: RouterDesired) -> set[Route]:
    """The routes that lead out."""
    return {route for route in desired.routes if ":" in route.destination and route.table != 254}


def test_other_hosts_send_to_the_gateways_mac() -> None:
    """By the same network, under an address that nobody has; where it is led out it goes to the external subnet's."""
    router, away = on("h2")
    first = router.link(router.assignment.interfaces[0])
    assert of_ipv6(away) == {Route(TABLE_TRANSIT, "::/0", first, TRANSIT_ADDRESS6)}
    assert Neighbour(first, TRANSIT_ADDRESS6, MAC) in away.neighbours
    assert PolicyRule(34000, TABLE_TRANSIT, family=6) in away.policy
    assert first in away.speaking6
    router, leading = on("h1")
    out = router.link("external")
    assert of_ipv6(leading) == {
        Route(TABLE_OUT, "2001:db8:77::/64", out),
        Route(TABLE_OUT, "::/0", out, "2001:db8:77::1"),
    }
    assert PolicyRule(34000, TABLE_OUT, family=6) in leading.policy
    assert PolicyRule(33000, TABLE_OUT, OWN, 6) in leading.policy
    assert Address(out, f"{OWN}/128") in leading.external
    assert leading.speaking6 == {out, router.link("transit"), router.link(router.assignment.interfaces[1])}


def test_the_link_with_the_gateways_mac_says_nothing() -> None:
    """Trap: of two hosts that have it the waiting one would draw to it what others send out."""
    for host in ("h1", "h2"):
        router, desired = on(host, standby="h2")
        assert desired.translation6.silent == router.link("transit")
        rules = [
            command["add"]["rule"]
            for command in transaction(desired.translation6)["nftables"]
            if "rule" in str(command)
        ]
        assert [rule["expr"][-1] for rule in rules if rule["chain"] == "silent"] == [{"drop": None}]
        kinds = [type(step).__name__ for step in plan.plan(desired, plan.Observed())]
        assert kinds.index("SpeakIPv6") > max(n for n, kind in enumerate(kinds) if kind == "Translate")


def test_of_two_hosts_one_has_the_addresses_and_rules_of_both_families() -> None:
    """They come and go without the agent, and what the waiting host's guests send out goes to the other."""
    moving = make_floating("h1", standby="h2", fixedAddress=None)
    forwarded = [{"protocol": "TCP", "externalPort": 80, "address": FIXED, "internalPort": 8080}]
    moving = moving.model_copy(update={"forwardings": make_floating("h1", forwardings=forwarded).forwardings})
    (router, one), (_, other) = (on(host, moving, standby="h2") for host in ("h1", "h2"))
    assert one.virtual == other.virtual
    assert {Address(router.link("external"), f"{text}/128") for text in (OWN, FIP)} <= one.virtual
    assert {PolicyRule(34500, TABLE_OUT, family=6), PolicyRule(33500, TABLE_OUT, OWN, 6)} <= one.virtual
    assert one.translation6 == other.translation6
    assert one.translation6.forwardings == {Forwarding("tcp", FIP, 80, FIXED, 8080)}
    assert router.pair is not None
    peer = link_local(router.pair.forward()[0])
    assert Route(TABLE_TRANSIT, "::/0", router.pair.link, peer) in one.routes
    assert not one.external


def test_a_floating_address_is_translated_on_its_own_host() -> None:
    """There it has a way out of its own; one of IPv4 does not meet it."""
    router, desired = on(
        "h2", make_floating("h2"), make_floating("h2", address="203.0.113.10", fixedAddress="10.0.1.11")
    )
    out = router.link("external")
    assert {item.text for item in desired.external} == {f"{FIP}/128", "203.0.113.10/32"}
    assert PolicyRule(33000, TABLE_OUT, FIXED, 6) in desired.policy
    assert desired.translation6.floating == {Floating(FIP, FIXED)}
    assert desired.translation.floating == {Floating("203.0.113.10", "10.0.1.11")}
    assert Route(TABLE_OUT, "::/0", out, "2001:db8:77::1") in desired.routes
    gone = on("h2", make_floating("h2", address="203.0.113.10", fixedAddress="10.0.1.11"))[1]
    ended = [step.by for step in plan.plan(gone, plan.assumed(desired)) if isinstance(step, plan.EndConnections)]
    assert ended == [Floating(FIP, FIXED)]


@pytest.mark.parametrize("translated", [False, True])
def test_what_is_routed_is_never_translated(*, translated: bool) -> None:
    """The rest is, if that is asked for, on the host that leads out; else it is closed out on every host."""
    for host in ("h1", "h2"):
        given = on(host, make_floating(host), enableSNATIPv6=translated, routed=["2001:db8:1::/64"])[1].translation6
        assert given.routed == ("2001:db8:1::/64",)
        assert given.source == (OWN if translated and host == "h1" else "")
        assert given.closed is not translated
        assert given.hairpin == OWN


def test_steps_lead_to_it_and_back() -> None:
    """What is as desired needs none; IPv6 that comes and goes leaves the links, and IPv4, alone."""
    four = on("h1", addresses=["203.0.113.2/24"], nextHops=["203.0.113.1"])[1]
    six = on("h1", make_floating("h1"), enableSNATIPv6=True)[1]
    for desired in (four, six):
        assert plan.plan(desired, plan.assumed(desired)) == ()
    there, back = plan.plan(six, plan.assumed(four)), plan.plan(four, plan.assumed(six))
    assert not [step for step in (*there, *back) if isinstance(step, plan.CreateJoin | plan.DeleteJoin)]
    assert [step.translation.family for step in (*there, *back) if isinstance(step, plan.Translate)] == [6, 6]
    left = [
        item["add"]["chain"]["name"]
        for item in transaction(four.translation6)["nftables"]
        if "chain" in item.get("add", {})
    ]
    assert left == ["asking", f"version-{version(four.translation6)}"]
    assert {step.by for step in back if isinstance(step, plan.EndConnections)} == {OWN, Floating(FIP, FIXED)}
    turned = {step.link: step.speaks for step in back if isinstance(step, plan.SpeakIPv6)}
    assert turned == dict.fromkeys(six.speaking6 - four.speaking6, False)


def test_a_router_of_ipv6_alone_leads_out() -> None:
    """The way to the gateway is through its first IPv4 network, or else through its first one."""
    assignment = make_router()
    alone = assignment.model_copy(update={"interfaces": assignment.interfaces[1:]})
    assert HereRouter(HERE["h2"], alone).first == assignment.interfaces[1]
    assert HereRouter(HERE["h2"], assignment).first == assignment.interfaces[0]


def test_the_two_families_have_tables_of_their_own() -> None:
    """What is read of one is not taken for the other's."""
    wanted = Translation("kr1", source=OWN, floating=frozenset({Floating(FIP, FIXED)}), family=6)
    listed = [command["add"] for command in transaction(wanted)["nftables"] if "add" in command]
    found = parse(listed, 6)
    assert (found.version, found.source, found.floating) == (version(wanted), OWN, wanted.floating)
    assert parse(listed).version == ""
    assert version(wanted) != version(replace(wanted, closed=True))


def test_an_address_is_announced_to_all_nodes() -> None:
    """An unsolicited neighbour advertisement with the override flag, of the address, with a right checksum."""
    (frame,) = frames(MAC, FIP)
    own, address = bytes.fromhex(MAC.replace(":", "")), IPv6Address(FIP).packed
    assert frame[:14] == bytes.fromhex("333300000001") + own + b"\x86\xdd"
    assert (frame[20], frame[21], frame[22:38]) == (58, 255, address)
    assert (frame[54], frame[58] & 0x60, frame[62:78], frame[80:86]) == (136, 0x20, address, own)
    covered = frame[22:54] + pack("!II", len(frame) - 54, 58) + frame[54:]
    total = sum(unpack(f"!{len(covered) // 2}H", covered))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
