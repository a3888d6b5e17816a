"""Plan what hosts are told of a VPNConnection (pure)."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Interface, IPv4Network, ip_interface
from typing import Any

from kumulus_api import Router, VPNConnection
from kumulus_api.router import TUNNELLED, RouterAssignment
from kumulus_api.vpn_connection import (
    TunnelTerms,
    VPNConnectionAssignment,
    VPNConnectionConditionType,
    VPNConnectionReason,
)
from kumulus_operator.faults import ready_status
from kumulus_operator.refusal import Refusal, Refused, refuse
from kumulus_operator.views import Key
from kumulus_operator.waiting import Need, any_of
from kumulus_runtime.conditions import get_condition


@dataclass(frozen=True)
class Ends:
    """Where a tunnel begins, and what is behind it on this side.

    Attributes:
        router_id: of the router.
        host: the host that leads it out.
        standby: the host that may take over.
        address: the router's in the external network.
        subnets: that the peer reaches.
    """

    router_id: str
    host: str
    standby: str | None
    address: str
    subnets: tuple[str, ...]


def ends_of(connection: VPNConnection, router: Router | None, others: Iterable[VPNConnection]) -> Ends:
    """Give this side of a tunnel.

    Args:
        connection: which.
        router: that it names; None if there is none.
        others: the project's other connections.

    Raises:
        Refused: it can have no tunnel as it is.
    """
    namespace, spec = connection.key[0], connection.spec
    need: Need = ("Router", namespace, spec.router.name)
    given = router.spec.assignment if router is not None and not router.deleting else None
    if given is None:
        message = f"router: {spec.router.name} was not found or has nothing yet; transient: goes on when it has"
        raise refuse(VPNConnectionReason.ROUTER_NOT_FOUND, message, need)
    gateway = given.gateway
    outside = _ipv4(gateway.addresses) if gateway is not None else []
    if gateway is None or not outside:
        message = f"router: {spec.router.name} has no IPv4 address outside; transient: goes on when it has a gateway"
        raise refuse(VPNConnectionReason.NO_GATEWAY, message, need)
    subnets = _subnets(connection, given)
    _apart(connection, [*_inside(given), *(address.network for address in outside)])
    _apart_from_others(connection, others)
    takeover = gateway.takeover
    standby = takeover.standby.host if takeover is not None and takeover.standby is not None else None
    return Ends(given.router_id, gateway.host, standby, str(outside[0].ip), subnets)


def _subnets(connection: VPNConnection, given: RouterAssignment) -> tuple[str, ...]:
    inside, spec = _inside(given), connection.spec
    need: Need = ("Router", connection.key[0], spec.router.name)
    if not inside:
        message = f"router: {spec.router.name} joins no IPv4 subnet; transient: goes on when it does"
        raise refuse(VPNConnectionReason.SUBNETS_INVALID, message, need)
    for text in spec.local_subnets:
        if not any(IPv4Network(text).subnet_of(network) for network in inside):
            joined = ", ".join(map(str, inside))
            message = (
                f"localSubnets: {text} is in no subnet of router {spec.router.name}, which joins {joined}; "
                "transient: goes on when it is"
            )
            raise refuse(VPNConnectionReason.SUBNETS_INVALID, message, need)
    return tuple(sorted(spec.local_subnets)) or tuple(map(str, inside))


def _apart(connection: VPNConnection, own: Iterable[IPv4Network]) -> None:
    need: Need = ("Router", connection.key[0], connection.spec.router.name)
    for network in own:
        for text in connection.spec.peer_cidrs:
            if IPv4Network(text).overlaps(network):
                message = (
                    f"peerCIDRs: {text} overlaps {network}, which router {connection.spec.router.name} is in itself; "
                    "transient: goes on when they are apart"
                )
                raise refuse(VPNConnectionReason.NETWORKS_OVERLAP, message, need)


def _apart_from_others(connection: VPNConnection, others: Iterable[VPNConnection]) -> None:
    """Look that no other connection of the router, which was first, leads to the same networks."""
    mine = [IPv4Network(text) for text in connection.spec.peer_cidrs]
    for other in others:
        if other.key == connection.key or other.spec.router != connection.spec.router or not _first(other, connection):
            continue
        found = other.spec.assignment.peer_cidrs if other.spec.assignment is not None else other.spec.peer_cidrs
        if any(IPv4Network(text).overlaps(network) for text in found for network in mine):
            message = (
                f"peerCIDRs: VPNConnection {other.metadata.name} of the same router leads there already; "
                "transient: goes on when it does not"
            )
            raise refuse(VPNConnectionReason.NETWORKS_OVERLAP, message, any_of("VPNConnection", connection.key[0]))


def _first(other: VPNConnection, connection: VPNConnection) -> bool:
    return _age(other) < _age(connection)


def _age(connection: VPNConnection) -> tuple[bool, str, str]:
    metadata = connection.metadata
    return connection.spec.assignment is None, metadata.creation_timestamp or "", metadata.name


def assignment_of(connection: VPNConnection, ends: Ends, version: str) -> VPNConnectionAssignment:
    """Give what hosts are told.

    Args:
        connection: which.
        ends: this side.
        version: of the Secret with its key.
    """
    spec = connection.spec
    terms = {name: getattr(spec, name) for name in TunnelTerms.model_fields}
    return VPNConnectionAssignment(
        **terms,
        up=spec.admin_state_up,
        router_id=ends.router_id,
        host=ends.host,
        standby=ends.standby,
        local_address=ends.address,
        local_id=spec.local_id or ends.address,
        peer_id=spec.peer_id or spec.peer_address,
        local_subnets=list(ends.subnets),
        psk_version=version,
    )


def taken_down(connection: VPNConnection) -> VPNConnectionAssignment | None:
    """Give what hosts are told of a connection that can have no tunnel now; None if they know nothing of it."""
    given = connection.spec.assignment
    return given.model_copy(update={"up": False}) if given is not None else None


def down() -> Refusal:
    """Say that a tunnel is down as its user wants it."""
    return Refusal(VPNConnectionReason.DOWN.value, "adminStateUp is false")


def tunnelled(router: Router, connections: Iterable[VPNConnection], admitted: Container[Key]) -> list[str]:
    """Give the networks behind the peers of a router's connections, whether these have a tunnel yet or not.

    Args:
        router: with the assignment that it has, or is about to have.
        connections: the project's.
        admitted: those that its quota allows.
    """
    mine = [item for item in connections if item.spec.router.name == router.metadata.name and not item.deleting]
    known = (item.spec.assignment.peer_cidrs for item in mine if item.spec.assignment is not None)
    found = {text for texts in known for text in texts}
    for item in sorted(mine, key=_age):
        more = found | set(item.spec.peer_cidrs)
        if item.key in admitted and len(more) <= TUNNELLED and _may_be_behind(item, router, mine):
            found = more
    return sorted(found)


def _may_be_behind(connection: VPNConnection, router: Router, others: Iterable[VPNConnection]) -> bool:
    """Whether a connection can have a tunnel, but for its key."""
    try:
        ends_of(connection, router, others)
    except Refused:
        return False
    return True


def untold(connection: VPNConnection, router: Router) -> Refusal | None:
    """Say that a connection's networks are too many for its router, or None if that has been told of them."""
    given = router.spec.assignment
    if given is None or set(connection.spec.peer_cidrs) <= set(given.tunnelled):
        return None
    message = (
        f"peerCIDRs: with them router {router.metadata.name} had more than {TUNNELLED} networks behind tunnels; "
        "transient: goes on when there are fewer"
    )
    return Refusal(
        VPNConnectionReason.TOO_MANY_NETWORKS.value, message, frozenset({any_of("VPNConnection", connection.key[0])})
    )


def unheard(connection: VPNConnection) -> Refusal | None:
    """Say that packets do not pass as far as hosts have told, or None."""
    given, status = connection.spec.assignment, connection.status
    if given is None or not given.up:
        return None
    conditions = status.dump().get("conditions", []) if status is not None else []
    told = get_condition(conditions, VPNConnectionConditionType.ESTABLISHED)
    if told is None or status is None or status.host not in (given.host, given.standby):
        message = f"host: {given.host} has not told yet; transient: goes on when it has"
        return Refusal(VPNConnectionReason.WAITING_FOR_HOST.value, message)
    if told["reason"] == VPNConnectionReason.TAKEN_DOWN:
        message = f"host: {given.host} has not told of it since it was taken down; transient: goes on when it has"
        return Refusal(VPNConnectionReason.WAITING_FOR_HOST.value, message)
    if told["status"] != "True":
        return Refusal(str(told["reason"]), f"host: {status.host}: {told['message']}")
    return None


def connection_status(connection: VPNConnection, faults: Sequence[Refusal], now: datetime) -> dict[str, Any] | None:
    """Give the operator's part of the status, or None if it says so already.

    Args:
        connection: as it is, with its assignment.
        faults: what is not as its spec says; the first is told.
        now: the present.
    """
    status = connection.status.dump() if connection.status is not None else {}
    conditions = [item for item in status.get("conditions", []) if item["type"] == "Ready"]
    found: dict[str, Any] = {name: status[name] for name in ("observedGeneration", "localAddress") if name in status}
    found |= {"conditions": conditions} if conditions else {}
    given = connection.spec.assignment
    good = f"packets pass to {', '.join(given.peer_cidrs)}" if given is not None else ""
    wanted = ready_status(connection, found, faults, (VPNConnectionReason.ESTABLISHED, good), now)
    if given is not None:
        wanted["localAddress"] = given.local_address
    return None if wanted == found else wanted


def _inside(given: RouterAssignment) -> list[IPv4Network]:
    found = {address.network for interface in given.interfaces for address in _ipv4(interface.addresses)}
    return sorted(found)


def _ipv4(addresses: Iterable[str]) -> list[IPv4Interface]:
    return [found for found in map(ip_interface, addresses) if isinstance(found, IPv4Interface)]
