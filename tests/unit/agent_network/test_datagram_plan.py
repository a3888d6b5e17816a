"""Where datagrams that come to a load balancer go, whose entries end, and when a member is well."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.load_balancers.desired import HereBalancer
from kumulus_agent.load_balancers.haproxy_config import Files, needs_haproxy, render
from kumulus_agent.load_balancers.udp.checks import Health, asked_of, judged
from kumulus_agent.load_balancers.udp.flows import Led, ended, led
from kumulus_agent.load_balancers.udp.plan import SLOTS, TURNS, Target, groups, turns, ways
from kumulus_agent.load_balancers.udp.rules import BOUNDS, TABLE, replacing, tables, version, versions
from kumulus_agent.network.groups import GroupRule
from kumulus_api import LoadBalancer
from kumulus_api.load_balancer import HealthCheck, LoadBalancerAssignment
from kumulus_api.load_balancer_status import MemberState
from kumulus_api.testing import make_assigned

A, B, C = (Target(f"10.0.0.1{number}", 5353) for number in range(3))
WHERE = {"a": A, "b": B, "c": C}
MEMBERS = [{"name": name, "address": target.address, "port": target.port} for name, target in WHERE.items()]


def make_assignment(*members: dict[str, Any], addresses: tuple[str, ...] = ("10.0.0.30/24",), **fields: Any) -> Any:
    """Give an assignment of one listener that takes datagrams."""
    listener = {"name": "dns", "protocol": "UDP", "port": 53, "algorithm": "RoundRobin", "members": list(members)}
    body = make_assigned(LoadBalancer, "lb", "h1")["spec"]["assignment"]
    body |= {"addresses": list(addresses), "listeners": [listener | fields]}
    return LoadBalancerAssignment.model_validate(body)


def test_turns_are_as_weights_say_and_spread() -> None:
    """Each member has its turn as often as its weight says, and another's comes between two of one's."""
    assert turns([("a", A, 10), ("b", B, 10)]) == [A, B]
    found = turns([("a", A, 4), ("b", B, 2), ("c", C, 1)])
    assert Counter(found) == {A: 4, B: 2, C: 1}
    assert (A, A, A) not in list(zip(found, found[1:], found[2:], strict=False))
    many = turns([(str(number), Target("10.0.0.1", number), 255 + number % 2) for number in range(1, 257)])
    assert len(set(many)) == 256
    assert len(many) <= TURNS + 256
    assert turns([]) == []


def test_a_member_that_goes_moves_its_own_clients_alone() -> None:
    """Groups of clients are spread by weight; without one member all groups but its own are where they were."""
    all_three = groups([("a", A, 1), ("b", B, 1), ("c", C, 2)])
    assert len(all_three) == SLOTS
    shares = Counter(all_three)
    assert shares[A] + shares[B] == pytest.approx(SLOTS / 2, rel=0.1)
    assert shares[A] == pytest.approx(SLOTS / 4, rel=0.15)
    without = groups([("c", C, 2), ("a", A, 1)])
    assert all(now == before for now, before in zip(without, all_three, strict=True) if before != B)
    assert B not in without


def test_only_members_that_are_well_get_what_begins() -> None:
    """One that is down gets and keeps nothing, one without weight keeps what it has, an unknown one gets its share."""
    members = [MEMBERS[0], MEMBERS[1] | {"weight": 0}, MEMBERS[2]]
    (way,) = ways(make_assignment(*members), {("dns", "c"): MemberState.DOWN})
    assert way.chosen == (A,)
    assert way.kept == {A, B}
    (way,) = ways(make_assignment({"name": "none", "port": 1}), {})
    assert (way.chosen, way.kept) == ((), frozenset())


def test_backups_get_what_begins_while_no_other_is_well() -> None:
    """A backup that is well keeps what it has when others are well again."""
    given = make_assignment(MEMBERS[0], MEMBERS[1] | {"backup": True})
    (well,) = ways(given, {})
    assert (well.chosen, well.kept) == ((A,), {A, B})
    (poor,) = ways(given, {("dns", "a"): MemberState.DOWN})
    assert (poor.chosen, poor.kept) == ((B,), {B})


def test_datagrams_stay_of_their_family() -> None:
    """Each of a load balancer's addresses leads to members' addresses of its family."""
    both = MEMBERS[0] | {"secondAddress": "2001:db8::10"}
    given = make_assignment(both, MEMBERS[1], addresses=("10.0.0.30/24", "2001:db8::30/64"))
    four, six = ways(given, {})
    assert (four.address, four.chosen) == ("10.0.0.30", (A, B))
    assert (six.address, six.chosen) == ("2001:db8::30", (Target("2001:db8::10", 5353),))


def test_rules_are_known_again_and_counts_outlast_members() -> None:
    """Equal plans make equal tables; a member that comes changes where datagrams go, and not the table that counts."""
    first, again, more = (
        tables(ways(make_assignment(*members), {})) for members in (MEMBERS[:2], MEMBERS[:2], MEMBERS)
    )
    assert first == again
    assert version(first[TABLE]) != version(more[TABLE])
    assert first[BOUNDS] == more[BOUNDS]
    assert "'val': 8192, 'inv': True" in str(first[BOUNDS])
    assert tables(ways(make_assignment(*MEMBERS, connectionLimit=9), {}))[BOUNDS] != first[BOUNDS]
    made = [item["add"] for name, objects in first.items() for item in replacing(name, objects) if "add" in item]
    found = versions([{"chain": item["chain"]} for item in made if "chain" in item])
    assert found == {name: version(objects) for name, objects in first.items()}


DUMPED = """\
udp      17 118 src=10.0.0.21 dst=10.0.0.30 sport=4000 dport=53 src=10.0.0.10 dst=10.0.0.30 sport=5353 dport=14000 [ASSURED] mark=0 use=1
udp      17 28 src=10.0.0.22 dst=10.0.0.30 sport=4001 dport=53 [UNREPLIED] src=10.0.0.11 dst=10.0.0.30 sport=5353 dport=14001 mark=0 use=1
udp      17 28 src=fd00::22 dst=fd00:0:0::30 sport=4001 dport=53 src=fd00::11 dst=fd00::30 sport=5353 dport=14001 mark=0 use=1
"""  # noqa: E501 - as conntrack prints


def test_what_is_led_to_nobody_any_more_ends() -> None:
    """Entries of a member that is down, and of a listener that is gone, end; others do not."""
    found = list(led(DUMPED))
    six = Led("fd00::30", 53, Target("fd00::11", 5353))
    assert found == [Led("10.0.0.30", 53, A), Led("10.0.0.30", 53, B), six]
    assert ended(found, ways(make_assignment(*MEMBERS), {("dns", "b"): MemberState.DOWN})) == [found[1], six]
    assert ended(found, ()) == sorted(found)


def test_a_member_is_judged_by_answers_in_a_row() -> None:
    """So many bad answers in a row take it out, so many good ones bring it back, and one of the others begins anew."""
    check = HealthCheck(rise=2, fall=3)
    health = Health()
    for well, expected in ((False, True), (False, True), (True, True), (False, True), (False, True), (False, False)):
        health = judged(health, check, well=well)
        assert health.well is expected
    for well, expected in ((True, False), (False, False), (True, False), (True, True)):
        health = judged(health, check, well=well)
        assert health.well is expected


def test_haproxy_checks_whom_it_passes_nothing_on_to() -> None:
    """A check by HTTP of a listener that takes datagrams is a backend of HAProxy's; one by datagrams is not its own."""
    files = Files(Path("/run/x"))
    (asked,) = make_assignment(*MEMBERS, healthCheck={"type": "HTTP", "path": "/up"}).listeners
    text = render([asked], ["10.0.0.30"], files)
    assert "backend dns\n" in text
    assert "bind" not in text.replace("bind-options", "")
    assert "http-check send meth GET uri /up\n" in text
    assert "server a 10.0.0.10:5353 weight 1 check inter 5s" in text
    assert needs_haproxy([asked])
    assert asked_of("kl-1", asked) is None
    (own,) = make_assignment(*MEMBERS, healthCheck={"type": "UDPConnect"}).listeners
    assert "dns" not in render([own], ["10.0.0.30"], files)
    assert not needs_haproxy([own])
    found = asked_of("kl-1", own)
    assert found is not None
    assert found.members[0] == ("a", ("10.0.0.10", 5353))


def test_its_port_lets_datagrams_in() -> None:
    """What takes datagrams is open to datagrams, and to no connection."""
    here = HereBalancer("demo", "lb", "uid", 1, make_assignment(*MEMBERS), "h1")
    assert GroupRule("ingress", 17, (53, 53), None, None, 4) in here.rules()
    assert not [rule for rule in here.rules() if rule.protocol == 6]
