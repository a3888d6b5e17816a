"""Security groups as a host's datapath gets them: rules from the groups, members from the endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from kumulus_agent.network.groups import GroupKey, GroupRule, rules_of
from kumulus_agent.network.state import AddressPair, PortDesired
from kumulus_agent.networks.groups import WatchedGroups, read_rules
from kumulus_agent.networks.members import groups_desired
from kumulus_api import SecurityGroup
from kumulus_api.testing import make_object

WEB: GroupKey = ("demo", "web")
DEFAULT: GroupKey = ("demo", "default")
FOREIGN: GroupKey = ("other", "web")
HERE = "02:00:00:00:00:01"


def make_port(*groups: GroupKey) -> PortDesired:
    """Give a port of this host in these groups."""
    return PortDesired("kt1", HERE, (IPv4Address("10.0.0.1"),), "i1", groups=frozenset(groups))


def make_slice(*endpoints: tuple[str, str, list[str]], namespace: str = "demo") -> dict[str, Any]:
    """Give a slice of endpoints: MAC, address, groups."""
    items = [{"mac": mac, "addresses": [address, "fd00::1"], "groups": groups} for mac, address, groups in endpoints]
    return {"metadata": {"name": "net-0", "namespace": namespace}, "spec": {"endpoints": items}}


def test_rules_are_read_as_they_are_written() -> None:
    """Every field of a rule restricts, and protocols are numbers: those of ICMP are two."""
    ingress = [
        {"protocol": "TCP", "port": 80, "remoteCIDR": "192.0.2.0/24"},
        {"protocol": "UDP", "port": 5000, "endPort": 5010},
        {"protocol": "ICMP", "icmpType": 8},
        {"protocolNumber": 47, "remoteGroup": {"name": "default"}},
        {"etherType": "IPv6", "protocol": "ICMP", "remoteCIDR": "2001:db8::/32"},
    ]
    body = make_object(SecurityGroup, "web", ingress=ingress, egress=[])
    assert read_rules(SecurityGroup.model_validate(body)) == {
        GroupRule("ingress", 6, (80, 80), remote=IPv4Network("192.0.2.0/24")),
        GroupRule("ingress", 17, (5000, 5010)),
        GroupRule("ingress", 1, icmp=(8, None)),
        GroupRule("ingress", 47, remote=DEFAULT),
        GroupRule("ingress", 58, remote=IPv6Network("2001:db8::/32"), family=6),
    }
    open_ = SecurityGroup.model_validate(make_object(SecurityGroup, "web", ingress=[]))
    assert read_rules(open_) == {GroupRule("egress"), GroupRule("egress", family=6)}


def test_members_are_those_of_the_groups_that_rules_speak_of() -> None:
    """Endpoints are members by their text; a port here by its own groups, whatever its endpoint still says."""
    rules = {DEFAULT: frozenset({GroupRule("ingress", remote=WEB)}), WEB: frozenset({GroupRule("egress")})}
    slices = [
        make_slice(("02:00:00:00:00:02", "10.0.0.2", ["web"]), ("02:00:00:00:00:03", "10.0.0.3", ["default"])),
        make_slice((HERE, "10.0.0.1", ["web"]), ("02:00:00:00:00:04", "10.0.0.4", ["other/web"])),
    ]
    found = groups_desired(slices, [make_port(DEFAULT)], rules)
    assert found.keys() == {DEFAULT, WEB}
    assert found[WEB].members == {IPv4Address("10.0.0.2"), IPv6Address("fd00::1")}
    assert found[WEB].rules == frozenset(), "nobody here is in it"
    assert found[DEFAULT].members == frozenset(), "no rule speaks of it"
    both = groups_desired(slices, [make_port(DEFAULT, WEB)], rules)
    assert both[WEB].members == {IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"), IPv6Address("fd00::1")}


def test_pairs_of_members_are_members() -> None:
    """Addresses of pairs count as members, ranges as rules of their own, of ports here and elsewhere; of its family."""
    rules = {DEFAULT: frozenset({GroupRule("ingress", 6, (80, 80), remote=WEB)}), WEB: frozenset[GroupRule]()}
    endpoints = make_slice(("02:00:00:00:00:02", "10.0.0.2", ["web"]))
    told = [{"address": "10.0.0.50"}, {"address": "10.8.0.0/16", "mac": HERE}, {"address": "fd09::/64"}]
    endpoints["spec"]["endpoints"][0]["pairs"] = told
    mine = frozenset({AddressPair(IPv4Network("10.8.0.0/17")), AddressPair(IPv6Network("fd00::51/128"))})
    found = groups_desired([endpoints], [replace(make_port(DEFAULT, WEB), pairs=mine)], rules)
    members = {IPv4Address(f"10.0.0.{number}") for number in (1, 2, 50)}
    assert found[WEB].members == members | {IPv6Address("fd00::1"), IPv6Address("fd00::51")}
    assert found[WEB].ranges == {IPv4Network("10.8.0.0/16"), IPv6Network("fd09::/64")}
    assert rules_of([DEFAULT], found, "ingress") == [
        GroupRule("ingress", 6, (80, 80), remote=WEB),
        GroupRule("ingress", 6, (80, 80), remote=IPv4Network("10.8.0.0/16")),
    ]


def test_members_are_also_those_behind_a_router() -> None:
    """Ports of networks that a router joins are members where these are here; their own groups are not asked for."""
    rules = {DEFAULT: frozenset({GroupRule("ingress", remote=WEB)})}
    behind = replace(make_port(WEB), mac="02:00:00:00:00:09", addresses=(IPv4Address("10.1.0.9"),))
    slices = [make_slice(("02:00:00:00:00:02", "10.1.0.2", ["web"]), ("02:00:00:00:00:09", "10.1.0.9", ["default"]))]
    found = groups_desired(slices, [make_port(DEFAULT)], rules, [behind])
    assert found.keys() == {DEFAULT, WEB}
    assert found[WEB].members == {IPv4Address("10.1.0.2"), IPv6Address("fd00::1"), IPv4Address("10.1.0.9")}


def test_a_group_of_another_project_is_another_group() -> None:
    """On a public network a foreign port is no member of a group that has the same name."""
    rules = {("kumulus-public", "web"): frozenset({GroupRule("ingress", remote=("kumulus-public", "web"))})}
    slices = [make_slice(("02:00:00:00:00:02", "10.0.0.2", ["other/web"]), namespace="kumulus-public")]
    found = groups_desired(slices, [make_port(("kumulus-public", "web"))], rules)
    assert found["kumulus-public", "web"].members == {IPv4Address("10.0.0.1")}
    rules = {FOREIGN: frozenset({GroupRule("ingress", remote=FOREIGN)})}
    assert groups_desired(slices, [make_port(FOREIGN)], rules)[FOREIGN].members >= {IPv4Address("10.0.0.2")}


def test_a_group_that_is_not_known_lets_nothing_through() -> None:
    """It is left out, and what is left out has no rules."""
    assert groups_desired([], [make_port(WEB)], {}) == {}


class Groups:
    """An API server of which a test says what it shows of each group."""

    def __init__(self) -> None:
        self.shown: dict[str, asyncio.Queue[tuple[str, dict[str, Any]]]] = {}
        self.watched: list[str] = []

    def show(self, name: str, event: str, **spec: Any) -> None:
        """Show an event of a group, or that all was listed."""
        body = make_object(SecurityGroup, name, **spec) if event != "SYNCED" else {}
        self.shown.setdefault(name, asyncio.Queue()).put_nowait((event, body))

    async def watch(self, _kind: Any, *, namespace: str, field_selector: str) -> AsyncIterator[tuple[str, Any]]:
        """Watch one group."""
        name = field_selector.removeprefix("metadata.name=")
        self.watched.append(f"{namespace}/{name}")
        try:
            while True:
                yield await self.shown.setdefault(name, asyncio.Queue()).get()
        finally:
            self.watched.remove(f"{namespace}/{name}")


async def test_groups_are_watched_while_a_port_is_in_them() -> None:
    """Each has one watch, which ends when it is not asked for; what has left a watch keeps its rules."""
    api, told = Groups(), asyncio.Queue[GroupKey]()
    groups = WatchedGroups(api, told.put_nowait)  # type: ignore[arg-type]
    groups.follow({WEB, DEFAULT})
    groups.follow({WEB, DEFAULT})
    api.show("web", "ADDED", ingress=[], egress=[])
    for name in ("web", "default"):
        api.show(name, "SYNCED")
    async with asyncio.timeout(5):
        await groups.read({WEB, DEFAULT})
        assert {await told.get(), await told.get()} == {WEB, DEFAULT}
    assert sorted(api.watched) == ["demo/default", "demo/web"]
    assert groups.rules == {WEB: frozenset()}, "one that is absent is in no answer"
    api.show("web", "MODIFIED", ingress=[], egress=[], description="the rules are the same")
    api.show("web", "MODIFIED", ingress=[{"protocol": "TCP"}], egress=[])
    api.show("web", "DELETED")
    async with asyncio.timeout(5):
        assert await told.get() == WEB
    assert groups.rules == {WEB: {GroupRule("ingress", 6)}}
    groups.follow({DEFAULT})
    assert groups.rules == {}
    await groups.close()
    assert api.watched == []
    assert told.empty()
