"""Plan which firewall groups are on which interfaces of a router, with which rules, and what they say (pure)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network
from typing import Any

from kumulus_api import FirewallGroup, Router
from kumulus_api.firewall_group import (
    AssignedFirewall,
    AssignedFirewallRule,
    FirewallGroupReason,
    FirewallPlace,
    FirewallRule,
    GuardedRouter,
)
from kumulus_api.router import AssignedGateway, RouterReason
from kumulus_operator.faults import ready_status
from kumulus_operator.refusal import Refusal
from kumulus_runtime.conditions import get_condition


def firewalls_of(
    router: Router, interfaces: Collection[str], groups: Collection[FirewallGroup]
) -> list[AssignedFirewall]:
    """Give the groups that are on a router, by name.

    An interface has one group: the one that has it stays as long as it wants it, of others the oldest gets it.

    Args:
        router: as it is, with its assignment.
        interfaces: the names of those that it has.
        groups: all that name the router.
    """
    wanting = {group.metadata.name: _wanted(group, router, interfaces) for group in groups}
    known = {group.metadata.name: group for group in groups}
    given = router.spec.assignment.firewalls if router.spec.assignment is not None else []
    holder: dict[str, str] = {}
    for firewall in given:
        for name in firewall.interfaces:
            if name in wanting.get(firewall.group, ()):
                holder[name] = firewall.group
    for group in sorted(known.values(), key=_age):
        for name in wanting[group.metadata.name]:
            holder.setdefault(name, group.metadata.name)
    held = {group: sorted(name for name in holder if holder[name] == group) for group in set(holder.values())}
    return [assigned(known[group], held[group]) for group in sorted(held)]


def assigned(group: FirewallGroup, interfaces: Sequence[str]) -> AssignedFirewall:
    """Give a group as hosts apply it: the rules that are enabled; none, so that all is denied, if it is down."""
    up = group.spec.admin_state == "Up"
    return AssignedFirewall(
        group=group.metadata.name,
        interfaces=list(interfaces),
        ingress=[_rule(rule) for rule in group.spec.ingress_rules if rule.enabled and up],
        egress=[_rule(rule) for rule in group.spec.egress_rules if rule.enabled and up],
    )


def _rule(rule: FirewallRule) -> AssignedFirewallRule:
    cidrs = [cidr for cidr in (rule.source_cidr, rule.destination_cidr) if cidr is not None]
    return AssignedFirewallRule.model_validate(
        {
            "name": rule.name,
            "action": rule.action,
            "protocol": rule.protocol,
            "ipVersion": ip_network(cidrs[0]).version if cidrs else None,
            "sourceCIDR": rule.source_cidr,
            "destinationCIDR": rule.destination_cidr,
            "sourcePorts": _ports(rule.source_port, rule.source_end_port),
            "destinationPorts": _ports(rule.destination_port, rule.destination_end_port),
        }
    )


def _ports(first: int | None, last: int | None) -> list[int]:
    return [first, last or first] if first is not None else []


def _wanted(group: FirewallGroup, router: Router, interfaces: Collection[str]) -> list[str]:
    named = next((item for item in group.spec.routers if item.name == router.metadata.name), None)
    if named is None:
        return []
    return [name for name in sorted(interfaces) if not named.interfaces or name in named.interfaces]


def _age(group: FirewallGroup) -> tuple[str, str]:
    return group.metadata.creation_timestamp or "", group.metadata.name


def admitted_before(group: FirewallGroup) -> bool:
    """Whether the operator, this process or a former one, has told of a group otherwise than that there is no room."""
    conditions = group.status.dump().get("conditions", []) if group.status is not None else []
    ready = get_condition(conditions, "Ready")
    return ready is not None and ready["reason"] != FirewallGroupReason.QUOTA_EXCEEDED


def closed(firewalls: Sequence[AssignedFirewall], gateway: AssignedGateway | None) -> list[Refusal]:
    """Say that a router with firewall groups routes nothing, as no host is its gateway's."""
    if not firewalls or gateway is not None:
        return []
    names = ", ".join(item.group for item in firewalls)
    message = (
        f"gateway: firewall group {names} is judged on the gateway's host, and the router has no gateway: it routes "
        "nothing; transient: goes on when it has one"
    )
    return [Refusal(RouterReason.NO_GATEWAY.value, message)]


@dataclass(frozen=True)
class Findings:
    """What became of a group.

    Attributes:
        places: where it is in force.
        faults: what is not as its spec says.
        due: a router has not been given its rules yet: that it has them is told then.
    """

    places: tuple[FirewallPlace, ...] = ()
    faults: tuple[Refusal, ...] = ()
    due: bool = False


def find(group: FirewallGroup, router_of: Callable[[str], Router | None]) -> Findings:
    """Say where a group is in force.

    Args:
        group: the group.
        router_of: gives a Router of the project by its name.
    """
    places: list[FirewallPlace] = []
    faults: list[Refusal] = []
    due = False
    for named in group.spec.routers:
        router = router_of(named.name)
        if router is None:
            message = f"routers: Router {named.name} was not found; transient: goes on when it is made"
            faults.append(Refusal(FirewallGroupReason.ROUTER_NOT_FOUND.value, message))
            continue
        faults += _faults(group, named, router)
        given = router.spec.assignment
        interfaces = [item.name for item in given.interfaces] if given is not None else []
        here = next((item for item in (given.firewalls if given else ()) if item.group == group.metadata.name), None)
        wanted = _wanted(group, router, interfaces)
        due = due or (here != assigned(group, here.interfaces) if here is not None else bool(_free(wanted, router)))
        if here is not None:
            places.append(_place(router, here.interfaces))
    return Findings(tuple(places), tuple(faults), due)


def _free(wanted: Iterable[str], router: Router) -> list[str]:
    given = router.spec.assignment
    taken = {name for item in (given.firewalls if given is not None else ()) for name in item.interfaces}
    return [name for name in wanted if name not in taken]


def _place(router: Router, interfaces: list[str]) -> FirewallPlace:
    gateway = router.spec.assignment.gateway if router.spec.assignment is not None else None
    standby = gateway.takeover.standby if gateway is not None and gateway.takeover is not None else None
    return FirewallPlace(
        router=router.metadata.name,
        interfaces=interfaces,
        host=gateway.host if gateway is not None else None,
        standby=standby.host if standby is not None else None,
    )


def _faults(group: FirewallGroup, named: GuardedRouter, router: Router) -> list[Refusal]:
    given, where = router.spec.assignment, f"router {named.name}"
    if given is None or not given.interfaces:
        message = f"{where}: it has no interfaces yet; transient: look at the Router's conditions"
        return [Refusal(FirewallGroupReason.ROUTER_NOT_READY.value, message)]
    faults = []
    had, asked = {item.name for item in given.interfaces}, {item.name for item in router.spec.interfaces}
    for name in named.interfaces:
        if name not in had | asked:
            reason, what = (
                FirewallGroupReason.INTERFACE_NOT_FOUND,
                "is none of its interfaces; transient: goes on when it is",
            )
        elif name not in had:
            reason, what = (
                FirewallGroupReason.ROUTER_NOT_READY,
                "is not there yet; transient: look at the Router's conditions",
            )
        else:
            continue
        faults.append(Refusal(reason.value, f"{where}: interface {name} {what}"))
    wanted = set(_wanted(group, router, had))
    for other in given.firewalls:
        taken = sorted(wanted & set(other.interfaces))
        if other.group != group.metadata.name and taken:
            message = (
                f"{where}: interface {', '.join(taken)} has firewall group {other.group}; an interface has one; "
                "transient: goes on when that leaves it"
            )
            faults.append(Refusal(FirewallGroupReason.INTERFACE_IN_USE.value, message))
    if given.gateway is None:
        message = (
            f"{where}: it has no gateway, on whose host it would be judged, and routes nothing; "
            "transient: goes on when it has one"
        )
        faults.append(Refusal(FirewallGroupReason.NO_GATEWAY.value, message))
    return faults


def firewall_status(group: FirewallGroup, found: Findings, now: datetime) -> dict[str, Any] | None:
    """Give the status to write, or None if it says so already."""
    former = group.status.dump() if group.status is not None else {}
    wanted = ready_status(group, former, found.faults, _shown(group, found), now)
    wanted["places"] = [place.dump() for place in found.places]
    return None if wanted == former else wanted


def _shown(group: FirewallGroup, found: Findings) -> tuple[str, str]:
    if not group.spec.routers:
        return FirewallGroupReason.INACTIVE.value, "names no router"
    where = ", ".join(f"{place.router} on host {place.host}" for place in found.places)
    if group.spec.admin_state == "Down":
        return FirewallGroupReason.DOWN.value, f"denies everything on {where}"
    return FirewallGroupReason.IN_FORCE.value, f"judges what passes {where}"
