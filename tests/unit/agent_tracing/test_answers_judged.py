"""What the kernel knows of an answer, as a trace reads it: its connection, its translation, and rules about both."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from kumulus_agent.network.groups import Flow, GroupRule, SecurityGroup
from kumulus_agent.network.state import PortDesired
from kumulus_agent.tracing import answers
from kumulus_agent.tracing.connections import ESTABLISHED, INVALID, NEW, UNTRACKED, Connection, reply
from kumulus_agent.tracing.nft import Frame, Passage, Ruleset, pass_hook
from kumulus_api.network_trace import TraceVerdict

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
IN, OUT = "krin", "krout"


def flow(source: str, target: str, protocol: int = TCP, first: int = 40000, second: int = 80) -> Flow:
    return Flow(protocol, ip_address(source), ip_address(target), first, second)


QUESTION = flow("10.0.1.11", "203.0.113.9")
HIDDEN = replace(QUESTION, source=ip_address("203.0.113.2"), first=1024)
MOVED = replace(HIDDEN, destination=ip_address("10.0.2.12"), second=8080)


def rules_of(*given: tuple[str, int, str, list[list[Any]]]) -> Ruleset:
    """Chains of one table: hook, priority, type and rules."""
    made: list[dict[str, Any]] = []
    for number, (hook, priority, kind, rules) in enumerate(given):
        of = {"family": "inet", "table": "t"}
        name = f"chain{number}"
        made.append({"chain": of | {"name": name, "hook": hook, "prio": priority, "type": kind, "policy": "accept"}})
        made += [{"rule": of | {"chain": name, "expr": rule}} for rule in rules]
    return Ruleset.read(made)


def ct(key: str, value: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"ct": {"key": key}}, "right": value}}


DROP: dict[str, Any] = {"drop": None}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (flow("10.0.0.1", "10.0.0.2"), flow("10.0.0.2", "10.0.0.1", first=80, second=40000)),
        (flow("10.0.0.1", "10.0.0.2", ICMP, 8, 0), flow("10.0.0.2", "10.0.0.1", ICMP, 0, 0)),
        (flow("fd00::1", "fd00::2", ICMP6, 128, 0), flow("fd00::2", "fd00::1", ICMP6, 129, 0)),
    ],
)
def test_an_answer_goes_from_port_to_port(question, answer):
    """Ports change places, an echo request is answered by its reply."""
    assert reply(question) == answer


@pytest.mark.parametrize(
    ("zone", "protocol", "state"),
    [(7, TCP, ESTABLISHED), (8, TCP, INVALID), (8, UDP, NEW), (8, ICMP, INVALID)],
)
def test_an_answer_is_known_in_the_zone_of_its_question(zone, protocol, state):
    """Elsewhere a segment and an echo reply are invalid, and a datagram begins a connection, as the kernel has it."""
    asked = flow("10.0.0.1", "10.0.0.2", protocol, 8 if protocol == ICMP else 40000, 0 if protocol == ICMP else 53)
    set_zone = {"mangle": {"key": {"ct": {"key": "zone"}}, "value": zone}}
    rules = rules_of(("prerouting", -450, "filter", [[set_zone]]))
    known = (Connection("here", 7, asked, asked),)
    frame = pass_hook(rules, ("inet", "ip"), "prerouting", Frame(reply(asked), answer=True, known=known)).frame
    assert (frame.zone, frame.state) == (zone, state)


def test_translation_is_undone_where_the_kernel_does_it():
    """The destination before routing, the source after it; the rules that translate are not asked again."""
    known = (Connection("here", 0, QUESTION, MOVED),)
    lies = [{"dnat": {"addr": "192.0.2.1"}}], [{"snat": {"addr": "192.0.2.2"}}]
    rules = rules_of(("prerouting", -100, "nat", [lies[0]]), ("postrouting", 100, "nat", [lies[1]]))
    before = pass_hook(rules, ("inet", "ip"), "prerouting", Frame(reply(MOVED), answer=True, known=known)).frame
    assert before.flow == replace(reply(MOVED), destination=QUESTION.source, second=QUESTION.first)
    after = pass_hook(rules, ("inet", "ip"), "postrouting", before).frame
    assert after.flow == reply(QUESTION)


@pytest.mark.parametrize(
    ("rule", "dropped"),
    [
        ([ct("state", "established", "in")], (True, False, False)),
        ([ct("state", "invalid", "in")], (False, True, False)),
        ([ct("state", "new", "in")], (False, False, True)),
        ([ct("direction", "reply")], (True, False, False)),
        ([ct("direction", "original")], (False, False, True)),
        ([ct("status", "snat", "in")], (True, False, False)),
        ([ct("mark", 1)], (False, False, False)),
        ([ct("mark", 0)], (True, False, True)),
    ],
)
def test_rules_about_connections(rule, dropped):
    """Of an answer that is known, one that is invalid, and one that begins anew: rules see what they ask for."""
    rules = rules_of(("forward", 0, "filter", [[*rule, DROP]]))
    known = Connection("here", 0, QUESTION, HIDDEN)
    frames = (
        Frame(reply(HIDDEN), answer=True, state=ESTABLISHED, translated=known.status, connection=known),
        Frame(reply(HIDDEN), answer=True, state=INVALID),
        Frame(reply(HIDDEN), answer=True, state=NEW),
    )
    assert tuple(bool(pass_hook(rules, ("inet", "ip"), "forward", item).dropped) for item in frames) == dropped


def test_what_is_not_tracked_is_not_translated():
    """A packet that a rule takes out of tracking has no connection, and no rule of translation is asked."""
    rules = rules_of(
        ("prerouting", -300, "filter", [[{"notrack": None}]]),
        ("prerouting", -100, "nat", [[{"dnat": {"addr": "192.0.2.1"}}]]),
    )
    frame = pass_hook(rules, ("inet", "ip"), "prerouting", Frame(QUESTION)).frame
    assert (frame.state, frame.flow) == (UNTRACKED, QUESTION)


GROUP = ("red", "web")
PORT = PortDesired("kt1", "02:00:00:00:00:12", (ip_address("10.0.2.12"),), "i1", groups=frozenset({GROUP}))


@pytest.mark.parametrize(
    ("stateful", "known", "why"),
    [
        (False, True, "the group is stateless"),
        (True, True, "do not let answers pass by their connection"),
        (True, False, "tracks no connection"),
    ],
)
def test_an_answer_that_is_dropped_says_why_its_connection_does_not_help(stateful, known, why):
    """Stateless groups, rules that are gone, and connections that another host tracks are told apart."""
    groups = {GROUP: SecurityGroup(frozenset({GroupRule("ingress", TCP, (80, 80), stateful=stateful)}))}
    connection = Connection("here", 0, QUESTION, QUESTION) if known else None
    frame = Frame(reply(QUESTION), answer=True, connection=connection)
    hop = answers.judged(PORT, groups, "egress", Passage(frame, "refused-egress", ("egress", "egress-1-x")))
    assert hop.verdict is TraceVerdict.DROPPED
    assert why in hop.message
    assert "40000 stands for any port that a client may take" in hop.message
    passed = answers.judged(PORT, groups, "egress", Passage(frame, "", ("egress",)))
    assert ("no rule is asked" in passed.message) is known
