"""nftables transactions: what is in them, and that reading them back gives the same state."""

from __future__ import annotations

from dataclasses import replace

from kumulus_agent.network.groups import Chain
from kumulus_agent.network.rules import BASE, Element, FirewallChange, FirewallState, parse

STATE = FirewallState(
    BASE,
    frozenset(
        {
            Element("zones", ("kt1",), 7),
            Element("guests", ("kt1",)),
            Element("macs", ("kt1", "02:00:00:00:00:01")),
            Element("addresses", ("kt1", "10.0.0.1")),
            Element("zones", ("kt2",), 8),
        }
    ),
    frozenset({7, 8}),
)


def listing(transaction: dict[str, list]) -> list[dict]:
    """What nft would list after the transaction: sets with their elements, and chains."""
    objects: dict[tuple, dict] = {}
    for command in transaction["nftables"]:
        for kind, item in command.get("add", {}).items():
            key = (item["family"], item["name"]) if "name" in item and kind != "table" else None
            if kind in {"set", "map", "chain"}:
                objects[key] = {kind: dict(item, elem=[])}
            elif kind == "element":
                next(iter(objects[key].values()))["elem"] += item["elem"]
    return list(objects.values())


def test_a_rebuild_holds_everything() -> None:
    """When the fixed rules are replaced, all elements and zones come back in the same transaction."""
    old = FirewallState("older", STATE.elements, STATE.zones)
    transaction = FirewallChange(old, STATE).transaction()
    assert parse(listing(transaction)) == STATE
    assert "delete" in transaction["nftables"][1]


def test_an_unchanged_base_is_left_alone() -> None:
    """A new element is one command: counters and other ports' rules stay."""
    element = Element("addresses", ("kt1", "10.0.0.9"))
    result = FirewallState(BASE, STATE.elements | {element}, STATE.zones)
    added = {"family": "bridge", "table": "kumulus", "name": "addresses", "elem": [{"concat": ["kt1", "10.0.0.9"]}]}
    assert FirewallChange(STATE, result).transaction() == {"nftables": [{"add": {"element": added}}]}


def test_a_changed_value_is_deleted_before_it_is_added() -> None:
    """A map cannot hold two values of one interface."""
    moved = (STATE.elements - {Element("zones", ("kt1",), 7)}) | {Element("zones", ("kt1",), 8)}
    commands = FirewallChange(STATE, FirewallState(BASE, moved, STATE.zones)).transaction()["nftables"]
    changes = [(verb, item["element"]) for command in commands for verb, item in command.items()]
    assert [verb for verb, element in changes if element["name"] == "zones"] == ["delete", "add"]


def test_bounds_of_a_number_go_with_it() -> None:
    """What was counted about a port or network is forgotten when nothing has its number any more."""
    rest = frozenset(element for element in STATE.elements if element.set != "zones")
    commands = FirewallChange(STATE, FirewallState(BASE, rest, STATE.zones)).transaction()["nftables"]
    gone = {
        item["element"]["name"]: item["element"]["elem"]
        for c in commands
        for verb, item in c.items()
        if verb == "delete"
    }
    marks = STATE.marks().values()
    assert gone["fragments"] == sorted(set(marks))
    assert gone["network-fragments"] == sorted({mark & 0xFFFF for mark in marks})


def test_a_zone_goes_after_what_refers_to_it() -> None:
    """A zone's chain is deleted only once no map element jumps to it."""
    commands = FirewallChange(STATE, FirewallState(BASE, STATE.elements, frozenset({7}))).transaction()["nftables"]
    assert [(verb, next(iter(item))) for command in commands for verb, item in command.items()] == [
        ("delete", "element"),
        ("flush", "chain"),
        ("delete", "chain"),
    ]


def test_foreign_rules_are_passed_over() -> None:
    """Tables that are not ours change nothing of what is observed."""
    foreign = [
        {"metainfo": {}},
        {"table": {"family": "ip", "name": "nat"}},
        {"chain": {"table": "nat", "name": "zone-x"}},
    ]
    assert parse(foreign) == FirewallState()


def test_all_of_a_network_can_be_left_out() -> None:
    """Without a network there is nothing left of its interfaces, chains and sets, and all of the others."""
    rest = STATE.without(8)
    assert STATE.elements - rest.elements == {Element("zones", ("kt2",), 8)}
    assert {e.set for e in STATE.elements - STATE.without(7).elements} == {"zones", "guests", "macs", "addresses"}
    assert STATE.without(9) == STATE.without(None) == STATE


def test_ports_chains_survive_a_rebuild_with_their_rules() -> None:
    """When the fixed rules are replaced, a port's chain comes back with the rules that were read, never empty."""
    judged = Chain("ingress-7-aa", ([{"drop": None}],))
    old = FirewallState("older", STATE.elements, STATE.zones, frozenset({judged}), frozenset({"members-7-bb"}))
    listed = listing(FirewallChange(FirewallState(), old).transaction())
    listed.append({"rule": {"family": "inet", "table": "kumulus", "chain": judged.name, "expr": [{"drop": None}]}})
    found = replace(parse(listed), base="older")
    commands = FirewallChange(found, replace(found, base=BASE)).transaction()["nftables"]
    added = [command["add"]["rule"] for command in commands if "rule" in command.get("add", {})]
    assert [rule["expr"] for rule in added if rule["chain"] == judged.name] == [[{"drop": None}]]


def test_a_chain_that_lost_rules_is_filled_again() -> None:
    """A port's chain of which somebody has deleted rules is emptied and filled by one transaction, and not removed."""
    whole = Chain("ingress-7-aa", ([{"accept": None}], [{"drop": None}]))
    before = replace(STATE, chains=frozenset({Chain(whole.name, ([{"drop": None}],))}))
    commands = FirewallChange(before, replace(STATE, chains=frozenset({whole}))).transaction()["nftables"]
    verbs = [(verb, next(iter(item))) for command in commands for verb, item in command.items()]
    assert verbs == [("flush", "chain"), ("add", "chain"), ("add", "rule"), ("add", "rule")]


def test_a_port_keeps_its_number() -> None:
    """A port that has a number keeps it, and another gets one that nobody has."""
    state = FirewallState(
        BASE, frozenset({Element("zones", ("kt1",), 2 << 16 | 7), Element("zones", ("kt2",), 1 << 16 | 8)})
    )
    assert state.ports(["kt1", "kt3", "kt4"]) == {"kt1": 2, "kt3": 3, "kt4": 4}
    assert state.zone_of("kt1") == 7
