"""The reading of nftables' rules: what it says of a packet, without a kernel."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest

from kumulus_agent.network.elements import elements, guarding, judging
from kumulus_agent.network.groups import Flow, GroupRule, SecurityGroup, permits
from kumulus_agent.network.rules import BASE, FirewallChange, FirewallState
from kumulus_agent.network.state import NetworkDesired, PortDesired
from kumulus_agent.tracing.nft import Frame, Ruleset, Unjudged, pass_hook

WEB, CLIENTS = ("red", "web"), ("red", "clients")
TAP, MAC = "kt00000000001", "02:00:00:00:00:01"
OWN, OWN6 = IPv4Address("10.0.0.11"), IPv6Address("fd00::11")
MEMBER, OTHER = IPv4Address("10.0.0.12"), IPv4Address("10.0.0.13")
MEMBER6, OTHER6 = IPv6Address("fd00::12"), IPv6Address("fd00::13")
RULES = (
    GroupRule("ingress", 6, (80, 90)),
    GroupRule("ingress", 6, (80, 80), remote=CLIENTS),
    GroupRule("ingress", 17, (53, 53), remote=IPv4Network("10.0.0.12/31")),
    GroupRule("ingress", 1, icmp=(8, 0)),
    GroupRule("ingress", 1, icmp=(3, None)),
    GroupRule("ingress"),
    GroupRule("ingress", 58, icmp=(128, 0), family=6),
    GroupRule("ingress", 6, (22, 22), remote=CLIENTS, family=6),
)
FLOWS = [
    *(Flow(6, source, OWN, 40000, port) for source in (MEMBER, OTHER) for port in (22, 79, 80, 90, 91)),
    *(Flow(17, source, OWN, 40000, port) for source in (MEMBER, OTHER) for port in (53, 80)),
    *(Flow(1, MEMBER, OWN, kind, 0) for kind in (8, 3, 13)),
    *(Flow(6, source, OWN6, 40000, port) for source in (MEMBER6, OTHER6) for port in (22, 80)),
    Flow(58, MEMBER6, OWN6, 128, 0),
]


def ruleset(*rules: GroupRule, port: PortDesired | None = None) -> Ruleset:
    """The rules of a network with one port, which has these of its group, as they are told to the kernel."""
    port = port or PortDesired(TAP, MAC, (OWN, OWN6), "i", groups=frozenset({WEB}))
    groups = {
        WEB: SecurityGroup(frozenset(rules)),
        CLIENTS: SecurityGroup(members=frozenset({MEMBER, MEMBER6})),
    }
    desired = NetworkDesired(0x3C, 1450, "192.0.2.1", ports=(port,), groups=groups)
    chains, sets = judging(desired, 1)
    made = frozenset(elements(desired, 1, {TAP: 1}))
    state = FirewallState(BASE, made, frozenset({1}), chains | guarding(desired, 1), sets)
    commands = FirewallChange(FirewallState(), state).transaction()["nftables"]
    added = [command["add"] for command in commands if "add" in command]
    read = Ruleset.read(added)
    for item in (command["element"] for command in added if "element" in command):
        where = (item["family"], item["table"], item["name"])
        read.sets[where] = [*read.sets[where], *item["elem"]]
    return read


def comes(rules: Ruleset, flow: Flow) -> bool:
    """Whether the port takes the connection."""
    return not pass_hook(rules, ("inet", "ip"), "forward", Frame(flow, mark=1 << 16 | 1)).dropped


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_rule_lets_in_what_permits_says(rule):
    """Of each kind of rule, the reading of its expressions lets in the very connections that the rule is about."""
    groups = {WEB: SecurityGroup(frozenset({rule})), CLIENTS: SecurityGroup(members=frozenset({MEMBER, MEMBER6}))}
    read = ruleset(rule)
    said = {flow: comes(read, flow) for flow in FLOWS}
    assert said == {flow: permits({WEB}, groups, "ingress", flow) for flow in FLOWS}


def test_a_rule_that_the_kernel_lost_is_missed():
    """What the API permits and the kernel's chain does not say is dropped, by the chain that drops."""
    read = ruleset(GroupRule("ingress", 6, (80, 80)))
    flow = Flow(6, OTHER, OWN, 40000, 80)
    assert comes(read, flow)
    (chain,) = (key for key in read.chains if key[2].startswith("ingress-"))
    del read.chains[chain][0]
    passage = pass_hook(read, ("inet", "ip"), "forward", Frame(flow, mark=1 << 16 | 1))
    assert passage.dropped == "refused-ingress"
    assert chain[2] in passage.path


@pytest.mark.parametrize(
    ("mac", "source", "dropped"),
    [
        (MAC, OWN, ""),
        (MAC, OWN6, ""),
        (MAC, OTHER, "guest-ip"),
        (MAC, OTHER6, "guest-ip6"),
        ("02:00:00:00:00:02", OWN, "guest"),
    ],
)
def test_a_port_uses_its_own_addresses_alone(mac, source, dropped):
    """A frame with another's MAC or address is dropped by the chain that looks at it, one with its own gets a mark."""
    target = MEMBER if source.version == 4 else MEMBER6
    frame = Frame(Flow(6, source, target, 40000, 80), mac, "02:00:00:00:00:09", TAP)
    passage = pass_hook(ruleset(), ("bridge",), "prerouting", frame)
    assert passage.dropped == dropped
    assert dropped or passage.frame.mark == 1 << 16 | 1


def test_an_interface_without_number_is_closed():
    """What comes by an interface of which the rules know nothing is dropped."""
    frame = Frame(Flow(6, OWN, MEMBER, 40000, 80), MAC, "02:00:00:00:00:09", "kt00000000002")
    assert pass_hook(ruleset(), ("bridge",), "prerouting", frame).dropped == "entering"


def test_what_nft_prints_otherwise_is_understood():
    """Names that the kernel's listing has for numbers, its negated flags and its masks mean what they stand for."""

    def match(left, op, right):
        return {"match": {"op": op, "left": left, "right": right}}

    def payload(protocol, field):
        return {"payload": {"protocol": protocol, "field": field}}

    status, mark = {"ct": {"key": "status"}}, {"meta": {"key": "mark"}}
    echo = Frame(Flow(1, MEMBER, OWN, 8, 0), mark=5 << 16)
    cases = [
        (match(payload("icmp", "type"), "==", "echo-request"), True),
        (match(payload("icmp", "code"), "==", "host-unreachable"), False),
        (match(payload("icmpv6", "type"), "==", "echo-request"), False),
        (match(payload("tcp", "dport"), "!=", 80), False),
        (match(status, "!", "confirmed"), True),
        (match(status, "in", "dnat"), False),
        (match({"ct": {"key": "state"}}, "in", "invalid"), False),
        (match({"ct": {"key": "state"}}, "==", {"set": ["established", "related"]}), False),
        (match(mark, "!=", {"prefix": {"addr": 0, "len": 16}}), True),
        (match(payload("ip", "saddr"), "==", {"set": [{"range": ["10.0.0.12", "10.0.0.14"]}]}), True),
        (match({"meta": {"key": "l4proto"}}, "==", "sctp"), False),
        (match({"exthdr": {"name": "frag"}}, "==", True), False),
    ]
    chain = {"family": "inet", "table": "t", "name": "c"}
    for expression, holds in cases:
        rule = {"rule": {"family": "inet", "table": "t", "chain": "c", "expr": [expression, {"drop": None}]}}
        listed = [{"chain": chain | {"hook": "forward", "prio": 0, "policy": "accept"}}, rule]
        assert bool(pass_hook(Ruleset.read(listed), ("inet",), "forward", echo).dropped) is holds, expression


def test_what_cannot_be_judged_is_not_guessed():
    """A statement that is not known is told, with its chain."""
    chain = {"family": "inet", "table": "t", "name": "c", "hook": "forward", "prio": 0, "policy": "accept"}
    rule = {"family": "inet", "table": "t", "chain": "c", "expr": [{"queue": {"num": 1}}]}
    read = Ruleset.read([{"chain": chain}, {"rule": rule}])
    with pytest.raises(Unjudged, match=r"chain c.*queue"):
        pass_hook(read, ("inet",), "forward", Frame(FLOWS[0]))


def test_translation_changes_the_packet():
    """A map of addresses gives the one of its own, the first rule that fits translates, and no other rule is asked."""
    incoming = {"family": "ip", "table": "t", "name": "in", "hook": "prerouting", "prio": -100, "policy": "accept"}
    key = {"payload": {"protocol": "ip", "field": "daddr"}}
    mapped = {"dnat": {"addr": {"map": {"key": key, "data": "@floating"}}}}
    read = Ruleset.read(
        [
            {"map": {"family": "ip", "table": "t", "name": "floating", "elem": [["203.0.113.9", "10.0.1.11"]]}},
            {"chain": incoming},
            {"rule": {"family": "ip", "table": "t", "chain": "in", "expr": [mapped]}},
            {"rule": {"family": "ip", "table": "t", "chain": "in", "expr": [{"drop": None}]}},
        ]
    )
    for address, wanted in (("203.0.113.9", "10.0.1.11"), ("203.0.113.8", None)):
        passage = pass_hook(read, ("ip",), "prerouting", Frame(Flow(6, OWN, IPv4Address(address), 1, 80)))
        assert bool(passage.dropped) is (wanted is None)
        if wanted:
            assert passage.frame.flow.destination == IPv4Address(wanted)


def test_what_a_port_begins_is_within_its_bounds():
    """One packet exceeds no rate: what a group lets out passes the rules that bound connections, and no more does."""
    read = ruleset(GroupRule("egress", 6, (443, 443)))
    for port, dropped in ((443, ""), (80, "refused-egress")):
        frame = Frame(Flow(6, OWN, OTHER, 40000, port), mark=1 << 16 | 1)
        assert pass_hook(read, ("inet", "ip"), "prerouting", frame).dropped == dropped


@pytest.mark.parametrize(("call", "dropped"), [("jump", "base"), ("goto", "")])
def test_a_chain_comes_back_from_a_jump_alone(call, dropped):
    """Behind a jump to a chain that says nothing the next rule is asked, behind a goto the policy holds."""
    base = {"family": "inet", "table": "t", "name": "base", "hook": "forward", "prio": 0, "policy": "accept"}
    rules = [
        {"family": "inet", "table": "t", "chain": "base", "expr": expression}
        for expression in ([{call: {"target": "empty"}}], [{"drop": None}])
    ]
    chains = [{"chain": base}, {"chain": {"family": "inet", "table": "t", "name": "empty"}}]
    read = Ruleset.read([*chains, *({"rule": rule} for rule in rules)])
    passage = pass_hook(read, ("inet",), "forward", Frame(FLOWS[0]))
    assert passage.dropped == dropped
    assert passage.path == ("base", "empty")


def test_all_kinds_of_flows_are_judged():
    """The table of flows has both outcomes for nearly every rule: it can tell a reading that always says yes."""
    outcomes = {rule: {comes(ruleset(rule), flow) for flow in FLOWS} for rule in RULES}
    assert all(found == {True, False} for found in outcomes.values())
