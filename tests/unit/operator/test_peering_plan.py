"""What of a wish to be peered with the cluster comes true, and what the network is told of the rest."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest

from kumulus_api import Network
from kumulus_api.network import Subnet
from kumulus_api.peering import AssignedPeer, NetworkAssignment, PeeringGrant, PeeringReason
from kumulus_operator.peerings.plan import (
    ClusterRanges,
    assignment_of,
    condition_of,
    judge,
    kept_addresses,
    peer_endpoints,
)

RANGES = ClusterRanges((IPv4Network("10.251.0.0/16"),), (IPv4Network("10.96.0.0/16"),), frozenset({"192.0.2.11"}))
GRANT = PeeringGrant(fromPods=["10.128.0.0/16", "10.96.0.0/12", "10.250.0.0/15", "192.0.2.0/24"], toServices=True)
BOTH = {"fromPods": True, "toServices": True}


def make_network(*cidrs: str, peering: dict[str, Any] | None = None, namespace: str = "red", **subnet: Any) -> Network:
    """A network of these subnets that asks for both directions."""
    subnets = [{"name": f"s{number}", "cidr": cidr} | subnet for number, cidr in enumerate(cidrs)]
    spec = {"peering": BOTH if peering is None else peering, "subnets": subnets}
    return Network.model_validate({"metadata": {"name": "net", "namespace": namespace}, "spec": spec})


def reasons(
    network: Network, *, grant: PeeringGrant | None = GRANT, ranges: ClusterRanges = RANGES, **taken: Any
) -> list[str]:
    """Give the reasons of all faults."""
    return [
        reason.value
        for reason, _ in judge(network, grant, ranges, {("red", name): of for name, of in taken.items()}).faults
    ]


def test_what_is_granted_and_free_comes_true() -> None:
    """Both directions, with all IPv4 subnets; IPv6 has no part in it and is told of."""
    network = make_network("10.128.0.0/24", "10.128.1.0/24", "fd00::/64")
    judged = judge(network, GRANT, RANGES, {})
    assert [subnet.cidr for subnet in judged.subnets] == ["10.128.0.0/24", "10.128.1.0/24"]
    assert (judged.services, judged.faults) == (("10.96.0.0/16",), ())
    given = assignment_of(judged, network.spec.peering, RANGES, [peer("h1", "10.128.0.1/24")])
    verdict = condition_of(network, given, judged.faults)
    assert verdict is not None
    assert verdict.ready
    assert verdict.message == (
        "pods reach 10.128.0.0/24, 10.128.1.0/24; servers reach Services in 10.96.0.0/16; IPv6 is not peered"
    )


def test_off_by_default() -> None:
    """A network that asks for nothing is given nothing, whatever its project is granted, and has no condition."""
    network = make_network("10.128.0.0/24", peering={})
    judged = judge(network, GRANT, RANGES, {})
    assert assignment_of(judged, network.spec.peering, RANGES, []) == NetworkAssignment()
    assert condition_of(network, NetworkAssignment(), judged.faults) is None


@pytest.mark.parametrize(
    ("cidr", "expected"),
    [
        ("10.129.0.0/24", [PeeringReason.NOT_GRANTED]),
        ("10.96.5.0/24", [PeeringReason.OVERLAPS_CLUSTER, PeeringReason.OVERLAPS_CLUSTER]),
        ("10.251.5.0/24", [PeeringReason.OVERLAPS_CLUSTER]),
        ("192.0.2.0/28", [PeeringReason.OVERLAPS_CLUSTER]),
        ("10.128.7.0/24", [PeeringReason.OVERLAPS_NETWORK]),
        ("fd00::/64", [PeeringReason.NO_IPV4_SUBNET, PeeringReason.NO_IPV4_SUBNET]),
    ],
)
def test_what_cannot_be_is_told(cidr: str, expected: list[str]) -> None:
    """What is not granted, or overlaps pods, Services, nodes, or what another network has, is refused by its reason."""
    assert reasons(make_network(cidr), other=["10.128.6.0/23"]) == expected


def test_without_a_grant_nothing_is_peered() -> None:
    """A project that is granted nothing, or that is none, opens the cluster to nobody."""
    expected = [PeeringReason.NOT_GRANTED, PeeringReason.NOT_GRANTED]
    assert reasons(make_network("10.128.0.0/24"), grant=None) == expected
    assert reasons(make_network("10.128.0.0/24"), grant=PeeringGrant()) == expected


def test_a_range_that_is_wider_than_the_grant_is_refused() -> None:
    """A subnet lies within one of the ranges as a whole: it would lead to servers what is meant for others."""
    assert reasons(make_network("10.128.0.0/15", peering={"fromPods": True})) == [PeeringReason.NOT_GRANTED]


def test_a_cluster_that_nobody_has_described_is_not_peered() -> None:
    """Without the ranges of pods and Services nothing can be compared with them."""
    expected = [PeeringReason.CLUSTER_RANGES_UNKNOWN] * 2
    assert reasons(make_network("10.128.0.0/24"), ranges=ClusterRanges()) == expected


def test_services_need_a_subnet_with_dhcp() -> None:
    """Servers hear of the way to Services by DHCP, from a server whose address is the way."""
    wanted = {"toServices": True}
    assert reasons(make_network("10.128.0.0/24", peering=wanted, enableDHCP=False)) == [PeeringReason.NO_IPV4_SUBNET]


def test_one_bad_subnet_leaves_the_others() -> None:
    """A subnet that cannot be peered is told of, and those that can be are."""
    network = make_network("10.128.0.0/24", "10.129.0.0/24")
    judged = judge(network, GRANT, RANGES, {})
    assert [subnet.cidr for subnet in judged.subnets] == ["10.128.0.0/24"]
    given = assignment_of(judged, network.spec.peering, RANGES, [peer("h1", "10.128.0.1/24")])
    verdict = condition_of(network, given, judged.faults)
    assert verdict is not None
    assert not verdict.ready
    assert "10.129.0.0/24" in verdict.message
    assert "pods reach 10.128.0.0/24" in verdict.message


def test_another_project_is_not_named() -> None:
    """Who has a range is told by name within a project only."""
    taken = {("blue", "secret"): ["10.128.0.128/25"]}
    ((_, message),) = judge(make_network("10.128.0.0/24", peering={"fromPods": True}), GRANT, RANGES, taken).faults
    assert "another project" in message
    assert "secret" not in message
    assert "10.128.0.128" not in message


def peer(host: str, *addresses: str) -> AssignedPeer:
    """A host's part."""
    return AssignedPeer(host=host, mac="02:00:00:00:00:01", addresses=list(addresses))


def test_hosts_keep_their_addresses() -> None:
    """A host keeps its address in each subnet; what an interrupted attempt has claimed goes to one that has none."""
    subnets = [Subnet(name="a", cidr="10.128.0.0/24"), Subnet(name="b", cidr="10.128.1.0/24")]
    given = NetworkAssignment(hosts=[peer("h1", "10.128.0.5/24"), peer("gone", "10.128.0.6/24")])
    held = {"10.128.0.5", "10.128.0.6", "10.128.1.9"}
    assert kept_addresses(given, held, ["h2", "h1"], subnets) == {
        ("h1", "10.128.0.0/24"): "10.128.0.5",
        ("h2", "10.128.0.0/24"): "10.128.0.6",
        ("h1", "10.128.1.0/24"): "10.128.1.9",
    }


def test_other_hosts_hear_of_pods() -> None:
    """The endpoints name MAC, addresses and groups of each host that is reached, by names that no object can have."""
    network = make_network("10.128.0.0/24")
    given = NetworkAssignment(
        fromPods=True, hosts=[peer("h1", "10.128.0.5/24"), peer("h2", "10.128.0.6/24")], securityGroups=["web"]
    )
    network = network.model_copy(update={"spec": network.spec.model_copy(update={"assignment": given})})
    ((name, endpoint),) = peer_endpoints(network, {"h1": "192.0.2.11"})
    assert name == endpoint["port"] == "peering..h1"
    assert (endpoint["addresses"], endpoint["tunnelAddress"], endpoint["groups"]) == (
        ["10.128.0.5"], "192.0.2.11", ["web"],
    )  # fmt: skip
