"""The plan of the links between networks and the cluster: its order, its numbers, and that it is done once."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

from kumulus_agent.networks.plan import Here, network_desired
from kumulus_agent.peering import rules
from kumulus_agent.peering.plan import (
    CreateLink,
    NoteNumber,
    PutRules,
    RemoveLink,
    RemoveRules,
    SetEnd,
    plan,
)
from kumulus_agent.peering.state import LinkDesired, LinkSeen, Observed
from kumulus_agent.services.dnsmasq_files import classless_routes
from kumulus_api import Network

HOST_RULES = (rules.of_host(["10.251.0.0/16"]), "v1")


def make_link(name: str = "ks000061", **overrides: Any) -> LinkDesired:
    """A link to a network's own servers."""
    told = rules.of_services(["10.128.0.0/24"], ["10.96.0.0/16"])
    fields: dict[str, Any] = {
        "name": name,
        "namespace": f"kd{name[2:]}",
        "mtu": 1450,
        "outside": frozenset(),
        "inside": frozenset({"10.96.0.0/16"}),
        "rules": told,
        "version": "v2",
    }
    return LinkDesired(**fields | overrides)


def made(link: LinkDesired, number: int) -> LinkSeen:
    """The link as it is when all is done."""
    outer, inner = link.ends(number)
    return LinkSeen(number, outer, inner, link.version)


def kinds(steps: tuple[Any, ...]) -> list[type]:
    """Give the kinds of steps."""
    return [type(step) for step in steps]


def test_rules_come_before_the_link() -> None:
    """Both sides have their rules before anything can pass, and the note comes last."""
    steps = plan([make_link()], HOST_RULES, Observed(), {})
    assert kinds(steps) == [PutRules, PutRules, CreateLink, SetEnd, SetEnd, NoteNumber]
    assert [step.namespace for step in steps[:2]] == [None, "kd000061"]  # type: ignore[attr-defined]


def test_what_is_so_is_left_alone() -> None:
    """A link that is as it should be needs nothing."""
    link = make_link()
    assert plan([link], HOST_RULES, Observed({link.name: made(link, 3)}, "v1"), {}) == ()


def test_a_link_keeps_its_number_and_others_get_free_ones() -> None:
    """Addresses of a link stay while another comes; one that is not judged now keeps its number too."""
    had, new, other = make_link(), make_link("kq000062"), make_link("ks000063")
    observed = Observed({had.name: made(had, 1), other.name: made(other, 0)}, "v1")
    steps = plan([had, new], HOST_RULES, observed, {})
    assert {step.target for step in steps} == {"kq000062"} | {"kd000062"}
    (note,) = [step for step in steps if isinstance(step, NoteNumber)]
    assert note.number == 2


def test_the_last_link_takes_the_rules_along() -> None:
    """A link goes before the rules that judge it; the host's go with the last one, and stay for one that is left."""
    link, other = make_link(), make_link("ks000063")
    observed = Observed({link.name: made(link, 0)}, "v1")
    assert kinds(plan([], HOST_RULES, observed, {link.name: "kd000061"})) == [RemoveLink, RemoveRules]
    both = Observed({link.name: made(link, 0), other.name: made(other, 1)}, "v1")
    assert kinds(plan([], HOST_RULES, both, {link.name: "kd000061"})) == [RemoveLink]
    assert plan([], HOST_RULES, Observed(), {}) == ()


def test_a_half_made_link_is_made_anew() -> None:
    """One without its note, or whose other end is elsewhere, begins again, with its number if it had one."""
    link = make_link()
    outer, inner = link.ends(4)
    for seen in (LinkSeen(None, outer, inner, "v2"), LinkSeen(4, outer)):
        steps = plan([link], HOST_RULES, Observed({link.name: seen}, "v1"), {})
        assert CreateLink in kinds(steps)
        (note,) = [step for step in steps if isinstance(step, NoteNumber)]
        assert note.number == (seen.number or 0)


def test_guests_are_told_the_way_to_services() -> None:
    """The way leads to the network's own server, which is on each host, and the default route stays beside it."""
    spec = {
        "subnets": [{"name": "v4", "cidr": "10.128.0.0/24", "gateway": "10.128.0.1"}],
        "assignment": {"services": ["10.96.0.0/16"]},
    }
    network = Network.model_validate({"metadata": {"name": "n", "namespace": "red"}, "spec": spec})
    desired = network_desired(0x61, network, [], [], Here("h1", "192.0.2.1", 1450))
    assert desired.services == (IPv4Network("10.96.0.0/16"),)
    assert list(classless_routes(desired.subnets[0])) == [
        ("169.254.169.254/32", "10.128.0.254"),
        ("10.96.0.0/16", "10.128.0.254"),
        ("0.0.0.0/0", "10.128.0.1"),
    ]
