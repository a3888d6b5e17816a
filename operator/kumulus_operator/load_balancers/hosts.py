"""Choose the hosts of a load balancer: the one that has its addresses, and the one that takes over (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kumulus_api.load_balancer import AssignedBalancerTakeover, LoadBalancerAssignment
from kumulus_api.load_balancer_status import LoadBalancerReason
from kumulus_api.router import AssignedStandby, AssignedTakeover
from kumulus_operator.refusal import Refusal
from kumulus_operator.routers.ways import FIRST_PRIORITY, next_priority
from kumulus_operator.waiting import Need


@dataclass(frozen=True)
class Hosts:
    """Where a load balancer is.

    Attributes:
        host: has its addresses; None if no host can.
        standby: is to take over; None if there is no other.
        by_itself: it does so without the operator.
    """

    host: str | None
    standby: str | None = None
    by_itself: bool = False


@dataclass(frozen=True)
class Seen:
    """What is known of hosts.

    Attributes:
        able: those that are Ready, speak, and reach its network.
        counts: how many load balancers each has.
        tunnels: where those are reached that can share a load balancer with another.
        silent: those that say nothing, and lack nothing else.
        taken_over: the standby says that it serves.
    """

    able: Sequence[str]
    counts: Mapping[str, int] = field(default_factory=dict)
    tunnels: Mapping[str, str] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()
    taken_over: bool = False


def choose_hosts(given: LoadBalancerAssignment | None, seen: Seen) -> Hosts:
    """Choose: those that it has are kept while they are able, so that connections last.

    A host that is silent is kept as long as its standby, which hears it, has not taken over: it serves though its agent
    says nothing. Where no other host can stand by, a silent one may come back.

    Args:
        given: what it has; None if it is new.
        seen: the hosts.

    Returns:
        The standby in the host's place if the host is able no more; where nobody is, the host as it is.
    """
    had = [given.host, *([given.standby] if given.standby else [])] if given is not None else []
    host = _host(given, had, seen)
    if host is None:
        return Hosts(given.host if given is not None else None)
    standby = _standby(host, had, seen)
    shared = given is not None and given.takeover is not None
    if standby is None and shared and host in seen.tunnels:
        standby = next((name for name in had if name != host and name in seen.silent and name in seen.tunnels), None)
    return Hosts(host, standby, standby is not None and {host, standby} <= seen.tunnels.keys())


def _host(given: LoadBalancerAssignment | None, had: Sequence[str], seen: Seen) -> str | None:
    if (
        given is not None
        and given.takeover is not None
        and given.standby in seen.able
        and given.standby in seen.tunnels
    ):
        replaced = seen.taken_over or given.host not in {*seen.able, *seen.silent}
        return given.standby if replaced else given.host
    kept = [name for name in had if name in seen.able]
    return kept[0] if kept else min(seen.able, key=lambda name: (seen.counts.get(name, 0), name), default=None)


def _standby(host: str, had: Sequence[str], seen: Seen) -> str | None:
    """Give the other host: one that can share comes first, then the one that it is."""

    def rank(name: str) -> tuple[bool, bool, int, str]:
        return host in seen.tunnels and name not in seen.tunnels, name not in had, seen.counts.get(name, 0), name

    return min((name for name in seen.able if name != host), key=rank, default=None)


def priority_of(given: LoadBalancerAssignment | None, hosts: Hosts) -> int:
    """Give the priority of the host in VRRP: above all that any host but a standby has had of this load balancer."""
    if given is None or given.takeover is None or given.standby is None or hosts.host is None:
        return FIRST_PRIORITY
    standby = AssignedStandby(host=given.standby, tunnelAddress=given.takeover.standby_tunnel_address)
    former = AssignedTakeover(priority=given.takeover.priority, standby=standby)
    return next_priority(former, given.host, hosts.host, hosts.standby)


def moved_takeover(
    given: LoadBalancerAssignment, hosts: Hosts, tunnels: Mapping[str, str]
) -> AssignedBalancerTakeover | None:
    """Give how a load balancer goes over whose hosts are others, and which keeps all else that it has."""
    if given.takeover is None or not hosts.by_itself or hosts.host is None or hosts.standby is None:
        return None
    return given.takeover.model_copy(
        update={
            "priority": priority_of(given, hosts),
            "tunnel_address": tunnels[hosts.host],
            "standby_tunnel_address": tunnels[hosts.standby],
        }
    )


@dataclass(frozen=True)
class Standing:
    """What is told of the standby: whether it takes over by itself, why, in words, and what that waits for."""

    holds: bool
    reason: LoadBalancerReason
    message: str
    needs: frozenset[Need] = frozenset()


def standing(hosts: Hosts, refusal: Refusal | None) -> Standing:
    """Say whether another host takes over.

    Args:
        hosts: as chosen.
        refusal: why the standby has no port of its own, if it has none.
    """
    later = "the operator moves the load balancer when its host is silent"
    if hosts.standby is None:
        message = "standby: no other Ready host reaches its network; transient: goes on when one does"
        return Standing(holds=False, reason=LoadBalancerReason.NO_STANDBY, message=message)
    if not hosts.by_itself:
        message = (
            f"standby: hosts {hosts.host} and {hosts.standby} do not both have keepalived and a tunnel address; "
            f"{later}; transient: goes on when they have"
        )
        return Standing(holds=False, reason=LoadBalancerReason.KEEPALIVED_MISSING, message=message)
    if refusal is not None:
        message = f"standby: {refusal.message}; {later}"
        reason = LoadBalancerReason.NO_ADDRESS_FOR_STANDBY
        return Standing(holds=False, reason=reason, message=message, needs=refusal.needs)
    return Standing(holds=True, reason=LoadBalancerReason.TAKES_OVER, message=f"host {hosts.standby} takes over")
