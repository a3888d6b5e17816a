"""Decide on an admission (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kumulus_api.quantities import format_quantity, parse_quantity
from kumulus_api.server import ScheduledReason
from kumulus_api.tenancy import Quota
from kumulus_operator.placement.facts import Amounts, HostFacts, Wish
from kumulus_operator.placement.filters import passing, refusal_text
from kumulus_operator.placement.weigh import best
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
    ports: int = 0


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

    hosts: Iterable[HostFacts]
    used: Mapping[str, Amounts]
    usage: Usage
    quota: Quota
    held: Mapping[Hold, str] = field(default_factory=dict)
    """Who holds what, by the server's name."""


def decide(request: Request, position: Position) -> str | Refusal:
    """Give the host for a server, or why there is none now."""
    for hold in sorted(request.holds):
        holder = position.held.get(hold)
        if holder is not None and holder != request.name:
            return _held(hold, holder)
    if request.adopted_host is not None:
        return request.adopted_host
    excess = quota_excess(request, position.usage, position.quota)
    if excess is not None:
        message = (
            f"quota of project {request.namespace}: {excess}; "
            "transient: admitted when servers of the project are deleted or its quota is raised"
        )
        return Refusal(ScheduledReason.QUOTA_EXCEEDED, message, frozenset({quota(request.namespace)}))
    good, refused = passing(position.hosts, position.used, request.wish)
    chosen = best(good, position.used)
    if chosen is None:
        message = f"placement: {refusal_text(refused)}; transient: placed as soon as a host has room"
        return Refusal(ScheduledReason.NO_VALID_HOST, message, frozenset({CAPACITY}))
    return chosen.name


def _held(hold: Hold, holder: str) -> Refusal:
    kind, namespace, name = hold
    reason = ScheduledReason.PORT_IN_USE if kind == "Port" else ScheduledReason.VOLUME_IN_USE
    message = f"{kind.lower()} {name} is in use by server {holder}; transient: free when that server is deleted"
    return Refusal(reason, message, frozenset({hold, ("Server", namespace, holder)}))


def quota_excess(request: Request, usage: Usage, limits: Quota) -> str | None:
    """Say by what a server would exceed the project's quota, or None."""
    amounts = request.wish.amounts
    if limits.servers is not None and usage.servers + 1 > limits.servers:
        return f"{usage.servers} of {limits.servers} servers are in use"
    if limits.vcpus is not None and usage.vcpus + amounts.vcpus > limits.vcpus:
        return f"{usage.vcpus:g} of {limits.vcpus} vCPUs are in use, {amounts.vcpus:g} are asked for"
    if limits.memory is not None and usage.memory + amounts.memory > parse_quantity(limits.memory):
        in_use, asked = format_quantity(int(usage.memory)), format_quantity(int(amounts.memory))
        return f"{in_use} of {limits.memory} memory is in use, {asked} is asked for"
    if limits.ports is not None and request.new_ports and usage.ports + len(request.new_ports) > limits.ports:
        return f"{usage.ports} of {limits.ports} ports are in use, {len(request.new_ports)} are asked for"
    return None


def volume_excess(size: int, volumes: int, used: int, limits: Quota) -> str | None:
    """Say by what a volume of `size` bytes would exceed the quota, given the project's count and bytes, or None."""
    if limits.volumes is not None and volumes + 1 > limits.volumes:
        return f"{volumes} of {limits.volumes} volumes are in use"
    if limits.gigabytes is not None and used + size > limits.gigabytes * 2**30:
        return f"{format_quantity(used)} of {limits.gigabytes}Gi are in use, {format_quantity(size)} is asked for"
    return None
