"""Decide on an admission (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from kumulus_api.quantities import format_quantity, parse_quantity
from kumulus_api.server_status import ScheduledReason
from kumulus_api.tenancy import Quota
from kumulus_operator.placement.facts import Wish
from kumulus_operator.placement.filters import Objection, refusal_text, remedy_text
from kumulus_operator.refusal import Refusal
from kumulus_operator.waiting import CAPACITY, quota

Hold = tuple[str, str, str]
"""Kind, namespace and name of an object that one server holds alone: a Port or a Volume."""


@dataclass(frozen=True)
class Usage:
    """What a project uses already."""

    servers: int = 0
    vcpus: float = 0
    memory: float = 0
    dns_zones: int = 0
    """Counted by claims, not by the ledger."""
    ports: int = 0
    volumes: int = 0
    volume_bytes: int = 0
    snapshots: int = 0
    backups: int = 0
    backup_bytes: int = 0
    images: int = 0
    image_bytes: int = 0
    groups: int = 0
    group_rules: int = 0
    routers: int = 0
    floating_ips: int = 0
    load_balancers: int = 0
    firewall_groups: int = 0
    vpn_connections: int = 0


@dataclass(frozen=True)
class Request:
    """A server that asks for admission.

    Attributes:
        namespace: its namespace, which is its project.
        name: its name.
        wish: what it asks of a host.
        new_ports: names of ports that will be made.
        holds: ports and volumes that it will hold alone.
        adopted_host: where the instance runs already; capacity and quota cannot refuse it any more.
    """

    namespace: str
    name: str
    wish: Wish
    new_ports: frozenset[str] = frozenset()
    holds: frozenset[Hold] = frozenset()
    adopted_host: str | None = None


@dataclass(frozen=True)
class Position:
    """What the ledger knows at the moment of the decision."""

    usage: Usage
    quota: Quota
    held: Mapping[Hold, str] = field(default_factory=dict)
    """Who holds what, by the server's name."""


def refusal_of(request: Request, position: Position) -> Refusal | None:
    """Say why a server is not admitted whatever room there is, or None."""
    refusal = _held_by_another(request, position)
    if refusal is not None or request.adopted_host is not None:
        return refusal
    return _over_quota(request, quota_excess(request, position.usage, position.quota), "servers")


def refusal_of_devices(request: Request, position: Position) -> Refusal | None:
    """Say why a server that has its size is not given more ports and volumes, or None."""
    excess = port_excess(len(request.new_ports), position.usage, position.quota)
    return _held_by_another(request, position) or _over_quota(request, excess, "ports")


def _held_by_another(request: Request, position: Position) -> Refusal | None:
    for hold in sorted(request.holds):
        holder = position.held.get(hold)
        if holder is not None and holder != request.name:
            return _held(hold, holder)
    return None


def _over_quota(request: Request, excess: str | None, what: str) -> Refusal | None:
    if excess is None:
        return None
    message = (
        f"quota of project {request.namespace}: {excess}; "
        f"transient: admitted when {what} of the project are deleted or its quota is raised"
    )
    return Refusal(ScheduledReason.QUOTA_EXCEEDED, message, frozenset({quota(request.namespace)}))


def no_valid_host(refused: Counter[Objection], *, moving: bool = False) -> Refusal:
    """Say that no host fits, how many for what reason, and what would change it.

    Args:
        refused: objections to all hosts, with their counts.
        moving: it is about a server that has a host, and for which nobody waits.
    """
    if moving:
        message = f"placement: {refusal_text(refused)}; transient: ask again when a host has room"
        return Refusal(ScheduledReason.NO_VALID_HOST, message)
    message = f"placement: {refusal_text(refused)}; transient: {remedy_text(refused)}"
    return Refusal(ScheduledReason.NO_VALID_HOST, message, frozenset({CAPACITY}))


def _held(hold: Hold, holder: str) -> Refusal:
    kind, namespace, name = hold
    reason = ScheduledReason.PORT_IN_USE if kind == "Port" else ScheduledReason.VOLUME_IN_USE
    message = f"{kind.lower()} {name} is in use by server {holder}; transient: free when that server is deleted"
    if kind == "Volume":
        message += " or lets go of it; several servers may have volumes of a class with multiAttach"
    return Refusal(reason, message, frozenset({hold, ("Server", namespace, holder)}))


def quota_excess(request: Request, usage: Usage, limits: Quota) -> str | None:
    """Say by what a server would exceed the project's quota, or None."""
    amounts = request.wish.amounts
    if limits.servers is not None and usage.servers + 1 > limits.servers:
        return f"{usage.servers} of {limits.servers} servers are in use"
    asked_vcpus = amounts.vcpus + amounts.dedicated
    if limits.vcpus is not None and usage.vcpus + asked_vcpus > limits.vcpus:
        return f"{usage.vcpus:g} of {limits.vcpus} vCPUs are in use, {asked_vcpus:g} are asked for"
    if limits.memory is not None and usage.memory + amounts.memory > parse_quantity(limits.memory):
        in_use, asked = format_quantity(int(usage.memory)), format_quantity(int(amounts.memory))
        return f"{in_use} of {limits.memory} memory is in use, {asked} is asked for"
    return port_excess(len(request.new_ports), usage, limits)


def port_excess(ports: int, usage: Usage, limits: Quota) -> str | None:
    """Say by what so many new ports would exceed the project's quota, or None."""
    if limits.ports is not None and ports and usage.ports + ports > limits.ports:
        return f"{usage.ports} of {limits.ports} ports are in use, {ports} are asked for"
    return None


def group_excess(groups: int, rules: int, limits: Quota) -> str | None:
    """Say by what so many security groups with so many rules in all would exceed the project's quota, or None."""
    if limits.security_groups is not None and groups > limits.security_groups:
        return f"{groups} security groups are asked for, {limits.security_groups} are allowed"
    if limits.security_group_rules is not None and rules > limits.security_group_rules:
        return f"{rules} rules of security groups are asked for, {limits.security_group_rules} are allowed"
    return None


def volume_excess(size: int, volumes: int, used: int, limits: Quota) -> str | None:
    """Say by what a volume of `size` bytes would exceed the quota, given the project's count and bytes, or None."""
    if limits.volumes is not None and volumes + 1 > limits.volumes:
        return f"{volumes} of {limits.volumes} volumes are in use"
    if limits.gigabytes is not None and used + size > limits.gigabytes * 2**30:
        return f"{format_quantity(used)} of {limits.gigabytes}Gi are in use, {format_quantity(size)} is asked for"
    return None
