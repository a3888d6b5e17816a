"""Plan a Network's status and its endpoint slices (pure)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any

from kumulus_api import FloatingIP, Host, LoadBalancer, Network, Port, Router, Server
from kumulus_api.network import NetworkReason
from kumulus_api.security_group import DEFAULT_GROUP
from kumulus_operator.bodies import counted
from kumulus_operator.ipam.plan import gateway_fault, pools_fault
from kumulus_operator.peerings.plan import Verdict
from kumulus_operator.security_groups.plan import given_groups
from kumulus_operator.views import Key
from kumulus_runtime.conditions import Condition, set_condition

SLICE_SIZE = 32
"""Ports of a slice. A slice is written, and sent to all hosts that carry the network, as a whole: for 100 ports that
costs the API server three times what it does for 30."""
_RANDOM_TRIES = 32


def choose_vni(first: int, last: int, used: Collection[int], chance: Random) -> int | None:
    """Choose a free VNI, at random so that two leaders seldom collide; None if all are used."""
    for _ in range(_RANDOM_TRIES):
        vni = chance.randint(first, last)
        if vni not in used:
            return vni
    return next((vni for vni in range(first, last + 1) if vni not in used), None)


def network_fault(network: Network) -> tuple[NetworkReason, str] | None:
    """Say what is wrong with a network's subnets beyond what its schema refuses, as reason and message, or None."""
    for subnet in network.spec.subnets:
        if fault := gateway_fault(subnet):
            return NetworkReason.GATEWAY_INVALID, f"subnet: {fault}; permanent: correct the gateway"
        if fault := pools_fault(subnet):
            return NetworkReason.POOLS_INVALID, f"subnet: {fault}; permanent: correct the pools"
    return None


def segment_fault(network: Network, holder: Key) -> tuple[NetworkReason, str]:
    """Say that another network has the segment; one of another project is not named."""
    provider = network.spec.provider
    who = f"network {holder[1]}" if holder[0] == network.key[0] else "another network"
    where = provider.shown if provider is not None else ""
    return (
        NetworkReason.SEGMENT_IN_USE,
        f"segment: physical network {where} is held by {who}; transient: goes on when that is deleted",
    )


def network_status(
    network: Network,
    vni: int | None,
    fault: tuple[NetworkReason, str] | None,
    now: datetime,
    in_use: Sequence[str] = (),
    *,
    peered: Verdict | None = None,
) -> dict[str, Any] | None:
    """Give the status to write, or None if it says so already.

    Args:
        network: as it is.
        vni: its identifier, if it has one.
        fault: why it is not Ready, as reason and message.
        now: the present.
        in_use: the subnets of which addresses are held.
        peered: what became of its peering; None if it asks for none.
    """
    found = network.status.dump() if network.status else {}
    where = f"physical network {provider.shown}" if (provider := network.spec.provider) is not None else f"VNI {vni}"
    reason, message = fault if fault is not None else (NetworkReason.ALLOCATED, where)
    conditions = set_condition(
        found.get("conditions", []), "Ready", fault is None, reason, message, network.metadata.generation, now
    )
    conditions = _peered(conditions, peered, network.metadata.generation, now)
    wanted: dict[str, Any] = {"observedGeneration": network.metadata.generation, "conditions": conditions}
    if vni is not None:
        wanted["vni"] = vni
    wanted["subnetsInUse"] = sorted(in_use)
    return None if wanted == found else wanted


def _peered(conditions: list[Condition], verdict: Verdict | None, generation: int, now: datetime) -> list[Condition]:
    """Have the condition Peered say so; where nothing is asked for there is none."""
    if verdict is None:
        return [item for item in conditions if item.get("type") != "Peered"]
    return set_condition(conditions, "Peered", verdict.ready, verdict.reason, verdict.message, generation, now)


def users_text(
    network: Key,
    servers: Collection[Key],
    ports: Collection[Key],
    routers: Collection[Key] = (),
    floating: Collection[Key] = (),
) -> str | None:
    """Say what uses a network, or None if nothing does; what is in other namespaces is counted and not named."""
    parts = []
    kinds = {"server": servers, "port": ports, "router": routers, "floating IP": floating}
    for word, users in kinds.items():
        own = [name for namespace, name in users if namespace == network[0]]
        if own:
            parts.append(counted(word, own))
        if foreign := len(users) - len(own):
            parts.append(f"{foreign} {word}{'s' if foreign > 1 else ''} of other projects")
    return f"{', '.join(parts)} still {'use' if sum(map(len, kinds.values())) > 1 else 'uses'} it" if parts else None


def tunnel_of(host: Host) -> str | None:
    """Give where a host is reached, or None if it is not there or never comes back."""
    if host.spec.decommissioned or host.status is None:
        return None
    return host.status.tunnel_address


def endpoints_of(
    network: Key, servers: Sequence[Server], hosts: Mapping[str, Host], ports: Callable[[str, str], Port | None]
) -> dict[str, dict[str, Any]]:
    """Give the endpoints of a network by their name: the port's, with the namespace in front if it is a foreign one.

    Args:
        network: namespace and name.
        servers: those that have a port on it.
        hosts: those that the servers are on.
        ports: finds a Port by namespace and name.
    """
    out: dict[str, dict[str, Any]] = {}
    for server in servers:
        given = server.spec.assignment
        host = hosts.get(given.host) if given is not None else None
        tunnel = tunnel_of(host) if host is not None else None
        if given is None or tunnel is None:
            continue
        own = server.metadata.namespace or ""
        for port in given.ports:
            if (port.network_namespace, port.network) != network:
                continue
            name = port.port if own == network[0] else f"{own}.{port.port}"
            out[name] = {
                "port": name,
                "mac": port.mac,
                "addresses": list(port.addresses),
                "host": given.host,
                "tunnelAddress": tunnel,
                "hostname": server.metadata.name,
                "groups": [group if own == network[0] else f"{own}/{group}" for group in given_groups(port)],
                **told_by(ports(own, port.port)),
            }
    return out


def balancer_endpoints(
    network: Key,
    balancers: Iterable[LoadBalancer],
    tunnel: Callable[[str], str | None],
    ports: Callable[[str, str], Port | None],
) -> dict[str, dict[str, Any]]:
    """Give the endpoints of load balancers, which are ports as servers' are, by their names.

    Args:
        network: namespace and name.
        balancers: those with an address in it.
        tunnel: gives where a host is reached.
        ports: finds a Port by namespace and name.
    """
    out: dict[str, dict[str, Any]] = {}
    for balancer in balancers:
        given, own = balancer.spec.assignment, balancer.key[0]
        where = tunnel(given.host) if given is not None else None
        if given is None or where is None or (given.network_namespace, given.network) != network:
            continue
        foreign = own != network[0]
        name = f"{own}.{given.port}" if foreign else given.port
        groups = given.security_groups or [DEFAULT_GROUP]
        out[name] = {
            "port": name,
            "mac": given.mac,
            "addresses": [item.partition("/")[0] for item in given.addresses],
            "host": given.host,
            "tunnelAddress": where,
            "hostname": balancer.metadata.name,
            "groups": [f"{own}/{group}" if foreign else group for group in groups],
            **told_by(ports(own, given.port)),
        }
        takeover = given.takeover
        if takeover is not None and given.standby is not None:
            out[name]["standbyTunnelAddress"] = takeover.standby_tunnel_address
            another = f"{own}.{takeover.port}" if foreign else takeover.port
            out[another] = {
                "port": another,
                "mac": takeover.mac,
                "addresses": [item.partition("/")[0] for item in takeover.addresses],
                "host": given.standby,
                "tunnelAddress": takeover.standby_tunnel_address,
                "hostname": takeover.port,
                "groups": out[name]["groups"],
                **told_by(ports(own, takeover.port)),
            }
    return out


def edge_endpoints(
    network: Key, routers: Iterable[Router], floating_ips: Iterable[FloatingIP], tunnels: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Give the endpoints of an external overlay that are no ports: routers that lead out there, and floating IPs."""
    out: dict[str, dict[str, Any]] = {}
    for router in routers:
        given = router.spec.assignment
        way = given.gateway if given is not None else None
        if given is None or way is None or way.host not in tunnels:
            continue
        if (way.network_namespace, way.network) == network:
            name = f"router.{given.router_id}"
            addresses = [item.partition("/")[0] for item in way.addresses]
            out[name] = _edge(name, way.mac, addresses, way.host, tunnels[way.host])
    for floating in floating_ips:
        place = floating.spec.assignment
        if place is not None and place.host is not None and place.host in tunnels:
            name = f"floating-ip.{place.floating_ip_id}"
            out[name] = _edge(name, place.mac, [place.address], place.host, tunnels[place.host])
    return out


def _edge(name: str, mac: str, addresses: list[str], host: str, tunnel: str) -> dict[str, Any]:
    # Named by its address: a project that could choose the name would answer for another's.
    hostname = "ip-" + addresses[0].replace(".", "-").replace(":", "-").strip("-")
    return {
        "port": name,
        "mac": mac,
        "addresses": addresses,
        "host": host,
        "tunnelAddress": tunnel,
        "hostname": hostname,
        "groups": [],
        "pairs": [],
    }


def told_by(port: Port | None) -> dict[str, Any]:
    """Give what a port itself says that the other hosts have to know."""
    if port is None:
        return {"pairs": []}
    spec = port.spec
    named = {"dnsName": spec.dns_name} if spec.dns_name else {}
    if not spec.port_security_enabled:
        return named | {"groups": [], "pairs": []}
    return named | {"pairs": [pair.dump() for pair in spec.allowed_address_pairs]}


@dataclass(frozen=True)
class SlicePlan:
    """Slices to write, by index, and indexes to delete."""

    write: dict[int, list[dict[str, Any]]]
    delete: tuple[int, ...]


def plan_slices(wanted: Mapping[str, dict[str, Any]], found: Mapping[int, Sequence[dict[str, Any]]]) -> SlicePlan:
    """Spread endpoints over slices so that as few slices as possible change.

    An endpoint stays in its slice; a new one goes to the first slice with room. A slice that became empty goes, except
    the first. Planning again after the plan was carried out gives nothing to do.
    """
    slices: dict[int, list[dict[str, Any]]] = {}
    left = dict(wanted)
    for index, endpoints in sorted(found.items()):
        names = [item["port"] for item in endpoints]
        slices[index] = [left.pop(name) for name in names if name in left]
    index = 0
    for name in sorted(left):
        while len(slices.setdefault(index, [])) >= SLICE_SIZE:
            index += 1
        slices[index].append(left[name])
    delete = tuple(index for index, items in slices.items() if not items and index in found and index != 0)
    write = {
        index: items
        for index, items in slices.items()
        if index not in delete and (list(found.get(index, [])) != items or (index not in found and items))
    }
    return SlicePlan(write, delete)
