"""The security groups of a network's ports here, as the network sees them (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Any

from kumulus_agent.network.groups import GroupKey, GroupRule, SecurityGroup, remotes
from kumulus_agent.network.state import PortDesired

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network
_Member = tuple[frozenset[GroupKey], Iterable[_Address], Iterable[_Network]]
"""Its groups, its addresses, and those of its pairs: as Neutron has it, these are members too."""


def groups_desired(
    slices: Collection[dict[str, Any]],
    ports: Collection[PortDesired],
    rules: Mapping[GroupKey, frozenset[GroupRule]],
    behind: Collection[PortDesired] = (),
) -> dict[GroupKey, SecurityGroup]:
    """Give the groups of the ports here with their rules, and those that the rules speak of with their members.

    Args:
        slices: NetworkEndpoints objects of the network, and of those that routers join to it.
        ports: those here; their own groups count, whatever an endpoint still says of them.
        rules: of groups, as far as they are known.
        behind: ports here of the networks that routers join to it: members as its own are.
    """
    here = (*ports, *behind)
    named = {key for port in ports for key in port.groups or ()}
    known = {key: SecurityGroup(rules[key]) for key in named if key in rules}
    members: dict[GroupKey, tuple[set[_Address], set[_Network]]] = {
        key: (set(), set()) for key in remotes(named, known)
    }
    for keys, addresses, pairs in (*_of(here), *_of_endpoints(slices, {port.mac for port in here})):
        for key in members.keys() & keys:
            members[key][0].update(addresses, (pair[0] for pair in pairs if _single(pair)))
            members[key][1].update(pair for pair in pairs if not _single(pair))
    return {key: _with(known.get(key, SecurityGroup()), members.get(key)) for key in known.keys() | members.keys()}


def _with(group: SecurityGroup, members: tuple[set[_Address], set[_Network]] | None) -> SecurityGroup:
    if members is None:
        return group
    four = collapse_addresses(item for item in members[1] if isinstance(item, IPv4Network))
    six = collapse_addresses(item for item in members[1] if isinstance(item, IPv6Network))
    return replace(group, members=frozenset(members[0]), ranges=frozenset([*four, *six]))


def _single(network: _Network) -> bool:
    return network.prefixlen == network.max_prefixlen


def _of(ports: Iterable[PortDesired]) -> Iterator[_Member]:
    for port in ports:
        yield port.groups or frozenset(), port.addresses, [pair.addresses for pair in port.pairs]


def _of_endpoints(slices: Iterable[dict[str, Any]], here: Collection[str]) -> Iterator[_Member]:
    for body in slices:
        namespace = body["metadata"]["namespace"]
        for endpoint in body["spec"].get("endpoints", ()):
            if endpoint["mac"] not in here:
                keys = frozenset(_key(text, namespace) for text in endpoint.get("groups", ()))
                pairs = [ip_network(pair["address"]) for pair in endpoint.get("pairs", ())]
                yield keys, [ip_address(address) for address in endpoint["addresses"]], pairs


def _key(text: str, namespace: str) -> GroupKey:
    foreign, slash, name = text.rpartition("/")
    return (foreign if slash else namespace, name)
