"""Judge what a Network asks of the cluster, and put its assignment together (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

from kumulus_api import Network
from kumulus_api.network import Subnet
from kumulus_api.peering import AssignedPeer, NetworkAssignment, Peering, PeeringGrant, PeeringReason
from kumulus_operator.views import Key

Fault = tuple[PeeringReason, str]
_LINK_LOCAL = IPv4Network("169.254.0.0/16")


@dataclass(frozen=True)
class ClusterRanges:
    """Where what belongs to the cluster is: pods, Services, and nodes by their addresses."""

    pods: tuple[IPv4Network, ...] = ()
    services: tuple[IPv4Network, ...] = ()
    nodes: frozenset[str] = frozenset()

    def within(self, cidr: IPv4Network) -> str | None:
        """Say what of the cluster a range overlaps, or None."""
        for what, ranges in (("pods", self.pods), ("Services", self.services)):
            for item in ranges:
                if item.overlaps(cidr):
                    return f"the cluster's {what} ({item})"
        node = next((item for item in sorted(self.nodes) if ip_address(item) in cidr), None)
        if node is not None:
            return f"the node address {node}"
        return "link-local addresses" if cidr.overlaps(_LINK_LOCAL) else None


@dataclass(frozen=True)
class Judgement:
    """What of a wish comes true: subnets that pods reach, ranges of Services, and why not the rest."""

    subnets: tuple[Subnet, ...] = ()
    services: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The condition Peered."""

    ready: bool
    reason: PeeringReason
    message: str


def judge(
    network: Network,
    grant: PeeringGrant | None,
    ranges: ClusterRanges,
    taken: Mapping[Key, Collection[str]],
) -> Judgement:
    """Judge what a network asks for, subnet by subnet.

    Args:
        network: that asks.
        grant: what its project may have.
        ranges: those of the cluster.
        taken: subnets that pods reach in other networks.
    """
    wanted, given = network.spec.peering, grant or PeeringGrant()
    if wanted is None or not (wanted.from_pods or wanted.to_services):
        return Judgement()
    four = [subnet for subnet in network.spec.subnets if ":" not in subnet.cidr]
    subnets: list[Subnet] = []
    faults: list[Fault] = []
    if wanted.from_pods:
        judged = [(subnet, _subnet_fault(network.key, subnet, given, ranges, taken)) for subnet in four]
        subnets = [subnet for subnet, fault in judged if fault is None]
        faults += [fault for _, fault in judged if fault is not None]
        if not four:
            told = "fromPods: the network has no IPv4 subnet; permanent: add one"
            faults.append((PeeringReason.NO_IPV4_SUBNET, told))
    fault = _services_fault(four, given, ranges) if wanted.to_services else None
    if fault is not None:
        faults.append(fault)
    services = tuple(map(str, ranges.services)) if wanted.to_services and fault is None else ()
    return Judgement(tuple(subnets), services, tuple(faults))


def _subnet_fault(
    own: Key, subnet: Subnet, grant: PeeringGrant, ranges: ClusterRanges, taken: Mapping[Key, Collection[str]]
) -> Fault | None:
    cidr, what = IPv4Network(subnet.cidr), f"fromPods: subnet {subnet.name} ({subnet.cidr})"
    if not any(cidr.subnet_of(IPv4Network(item)) for item in grant.from_pods):
        granted = ", ".join(grant.from_pods) or "nothing"
        told = f"{what} is in none of the ranges that an administrator has granted the project ({granted})"
        return PeeringReason.NOT_GRANTED, f"{told}; transient: goes on when spec.peering.fromPods of the Project has it"
    if not ranges.pods or not ranges.services:
        return _unknown("fromPods")
    found = ranges.within(cidr)
    if found is not None:
        return PeeringReason.OVERLAPS_CLUSTER, f"{what} overlaps {found}; permanent: choose another range"
    for holder, cidrs in sorted(taken.items()):
        other = next((item for item in cidrs if IPv4Network(item).overlaps(cidr)), None)
        if other is not None:
            # One of another project is not named.
            who = f"network {holder[1]}" if holder[0] == own[0] else "a network of another project"
            told = f"{what} overlaps {other if holder[0] == own[0] else 'a subnet'} of {who}, which pods reach already"
            return PeeringReason.OVERLAPS_NETWORK, f"{told}; transient: goes on when that is no longer peered"
    return None


def _services_fault(subnets: Sequence[Subnet], grant: PeeringGrant, ranges: ClusterRanges) -> Fault | None:
    if not grant.to_services:
        told = "toServices: an administrator has not granted it to the project; transient: goes on when"
        return PeeringReason.NOT_GRANTED, f"{told} spec.peering.toServices of the Project is set"
    if not ranges.services:
        return _unknown("toServices")
    if not any(subnet.enable_dhcp for subnet in subnets):
        told = "toServices: the network has no IPv4 subnet with DHCP, by which servers hear of the way"
        return PeeringReason.NO_IPV4_SUBNET, f"{told}; permanent: add one"
    for subnet in subnets:
        hidden = next((item for item in ranges.services if item.overlaps(IPv4Network(subnet.cidr))), None)
        if hidden is not None:
            told = f"toServices: subnet {subnet.name} ({subnet.cidr}) overlaps the cluster's Services ({hidden})"
            return PeeringReason.OVERLAPS_CLUSTER, f"{told}; permanent: choose another range"
    return None


def _unknown(direction: str) -> Fault:
    told = f"{direction}: it is not known where the cluster's pods and Services are; transient: goes on when an"
    return (
        PeeringReason.CLUSTER_RANGES_UNKNOWN,
        f"{told} administrator sets peering.podCIDRs and peering.serviceCIDRs of the chart",
    )


def assignment_of(
    judged: Judgement, wanted: Peering | None, ranges: ClusterRanges, peers: Sequence[AssignedPeer]
) -> NetworkAssignment:
    """Put together what was decided; `peers` are the hosts that have addresses."""
    if not judged.subnets or wanted is None:
        return NetworkAssignment(services=list(judged.services))
    return NetworkAssignment(
        fromPods=True,
        subnets=[subnet.cidr for subnet in judged.subnets],
        hosts=list(peers),
        pods=list(map(str, ranges.pods)),
        securityGroups=list(wanted.security_groups),
        services=list(judged.services),
    )


def kept_addresses(
    given: NetworkAssignment | None, held: Collection[str], hosts: Iterable[str], subnets: Sequence[Subnet]
) -> dict[tuple[str, str], str]:
    """Give the addresses that stay, by host and subnet's CIDR: those of before, and those that an attempt claimed.

    Args:
        given: the assignment of before.
        held: addresses on which the network has claims.
        hosts: that are to have one in each subnet.
        subnets: that pods reach.
    """
    before = {peer.host: {_bare(item) for item in peer.addresses} for peer in (given.hosts if given else ())}
    wanted = sorted(hosts)
    spoken = {address for host in wanted for address in before.get(host, ())}
    spare = sorted((item for item in held if item not in spoken), key=ip_address)
    kept: dict[tuple[str, str], str] = {}
    for subnet in subnets:
        cidr = ip_network(subnet.cidr)
        free = iter([item for item in spare if ip_address(item) in cidr])
        for host in wanted:
            own = next((item for item in sorted(before.get(host, ())) if ip_address(item) in cidr), None)
            found = own if own is not None else next(free, None)
            if found is not None:
                kept[host, subnet.cidr] = found
    return kept


def _bare(address: str) -> str:
    return address.partition("/")[0]


def addresses_in(given: NetworkAssignment | None) -> set[str]:
    """Give all addresses by which pods come."""
    return {_bare(item) for peer in (given.hosts if given is not None else ()) for item in peer.addresses}


def condition_of(network: Network, given: NetworkAssignment, faults: Sequence[Fault]) -> Verdict | None:
    """Say what became of the wish; None if there is none."""
    wanted = network.spec.peering
    if wanted is None or not (wanted.from_pods or wanted.to_services):
        return None
    parts = [f"pods reach {', '.join(given.subnets)}"] if given.subnets and given.hosts else []
    parts += [f"servers reach Services in {', '.join(given.services)}"] if given.services else []
    if any(":" in subnet.cidr for subnet in network.spec.subnets):
        parts.append("IPv6 is not peered")
    if faults:
        text = "; ".join([*(message for _, message in faults), *parts])
        return Verdict(ready=False, reason=faults[0][0], message=text[:4000])
    return Verdict(ready=True, reason=PeeringReason.PEERED, message="; ".join(parts) or "no host is known yet")


def peer_endpoints(network: Network, tunnels: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the endpoints by which pods come, with their names: two dots are in the name of no object.

    Args:
        network: as it is.
        tunnels: where hosts are reached.
    """
    given = network.spec.assignment
    for peer in given.hosts if given is not None else ():
        if peer.host in tunnels:
            addresses = [_bare(item) for item in peer.addresses]
            yield (
                f"peering..{peer.host}",
                {
                    "port": f"peering..{peer.host}",
                    "mac": peer.mac,
                    "addresses": addresses,
                    "host": peer.host,
                    "tunnelAddress": tunnels[peer.host],
                    # Named by its address, so that it answers for no server's name.
                    "hostname": "ip-" + addresses[0].replace(".", "-"),
                    "groups": list(given.security_groups) if given is not None else [],
                    "pairs": [],
                },
            )
