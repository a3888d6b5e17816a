"""What a router's own rules do with a packet, as a trace reads them."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

import pytest

from kumulus_agent.network.groups import Flow
from kumulus_agent.routers.rules import transaction
from kumulus_agent.routers.state import Floating, Translation
from kumulus_agent.tracing.nft import Frame, Ruleset, pass_hook

OUT, IN = "krout", "krin"
SERVER, WORLD, FLOATING = "2001:db8:1::11", "2001:db8:99::1", "2001:db8:77::10"


def rules_of(wanted: Translation) -> Ruleset:
    """The rules as the kernel is told of them."""
    return Ruleset.read(command["add"] for command in transaction(wanted)["nftables"] if "add" in command)


def frame(source: str, target: str, *links: str, local: tuple[str, ...] = ()) -> Frame:
    """The first packet of a connection."""
    flow = Flow(6, ip_address(source), ip_address(target), 40000, 80)
    return Frame(flow, incoming=links[0], outgoing=links[1], local=frozenset(map(ip_address, local)))


@pytest.mark.parametrize(
    ("routed", "source", "floating", "outward", "inward"),
    [
        ((), "", (), False, False),
        (("2001:db8:1::/64",), "", (), True, True),
        (("2001:db8:2::/64",), "", (), False, False),
        ((), "2001:db8:77::2", (), True, False),
        ((), "", (Floating(FLOATING, SERVER),), True, False),
    ],
)
def test_ipv6_passes_where_the_outside_routes_it_or_it_is_translated(routed, source, floating, outward, inward):
    """What leaves is of a network that is routed, or translated; what is begun outside enters the former alone."""
    given = {"family": 6, "routed": routed, "closed": not source}
    rules = rules_of(Translation(OUT, ("2001:db8:1::/64",), source, "", frozenset(floating), **given))
    for packet, passes in ((frame(SERVER, WORLD, IN, OUT), outward), (frame(WORLD, SERVER, OUT, IN), inward)):
        assert (not pass_hook(rules, ("inet", "ip6"), "forward", packet).dropped) is passes


@pytest.mark.parametrize(("local", "leads_to"), [((FLOATING,), SERVER), ((), FLOATING)])
def test_of_two_hosts_the_one_translates_that_has_the_address(local, leads_to):
    """A floating address that goes with the gateway is translated where it is now."""
    wanted = Translation(OUT, floating=frozenset({Floating(FLOATING, SERVER)}), shared=True, family=6)
    passage = pass_hook(rules_of(wanted), ("ip6",), "prerouting", frame(WORLD, FLOATING, OUT, "", local=local))
    assert passage.frame.flow.destination == IPv6Address(leads_to)


def test_what_comes_in_by_a_floating_address_passes():
    """Redirected to a server, though nobody routes that one's network."""
    wanted = Translation(OUT, floating=frozenset({Floating(FLOATING, SERVER)}), family=6)
    rules = rules_of(wanted)
    entered = pass_hook(rules, ("ip6",), "prerouting", frame(WORLD, FLOATING, OUT, IN)).frame
    assert not pass_hook(rules, ("ip6",), "forward", entered).dropped
    assert pass_hook(rules, ("ip6",), "forward", frame(WORLD, SERVER, OUT, IN)).dropped == "unrouted"
