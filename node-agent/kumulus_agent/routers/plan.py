"""The pure part: which steps lead from the router that is there to the one that should be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from kumulus_agent.routers import firewall
from kumulus_agent.routers.firewall import Firewall
from kumulus_agent.routers.rules import version
from kumulus_agent.routers.state import (
    NOWHERE,
    Address,
    Floating,
    Forwarding,
    Join,
    Neighbour,
    Observed,
    PolicyRule,
    Route,
    RouterDesired,
    Translation,
)


@dataclass(frozen=True)
class Step:
    """One thing to do, and why."""

    reason: str


@dataclass(frozen=True)
class EnsureNamespace(Step):
    """Make the router's namespace, and set what the kernel is to do there."""


@dataclass(frozen=True)
class CreateJoin(Step):
    """Make a link anew, with both ends up."""

    join: Join


@dataclass(frozen=True)
class DeleteJoin(Step):
    """Delete a link."""

    name: str


@dataclass(frozen=True)
class Add(Step):
    """Add an address, neighbour, route or policy rule."""

    item: Address | Neighbour | Route | PolicyRule


@dataclass(frozen=True)
class Remove(Step):
    """Remove one."""

    item: Address | Neighbour | Route | PolicyRule


@dataclass(frozen=True)
class Translate(Step):
    """Replace the rules of a family."""

    translation: Translation


@dataclass(frozen=True)
class Judge(Step):
    """Have these rules judge what is passed on, and hold to them the connections that there are.

    Attributes:
        firewall: the rules.
        anew: whatever was tracked before was not judged, and of some connections only answers were seen.
    """

    firewall: Firewall
    anew: bool


@dataclass(frozen=True)
class SpeakIPv6(Step):
    """Have IPv6 on a link, or none."""

    link: str
    speaks: bool


@dataclass(frozen=True)
class EndConnections(Step):
    """End the connections that went by a translation which is no more: of an address, or of one forwarded port.

    Or those to a network that is behind a tunnel now: they would keep the address that they went out by.
    """

    by: Floating | Forwarding | PolicyRule | str


@dataclass(frozen=True)
class Announce(Step):
    """Tell the external network where an address is now."""

    address: Address
    mac: str


def plan(desired: RouterDesired, observed: Observed) -> tuple[Step, ...]:
    """Return the steps that make the router as desired; none if it is so already.

    An address that goes is taken away first, and one that comes is there after the rules that translate it.
    """
    return tuple(_steps(desired, observed))


def assumed(applied: RouterDesired) -> Observed:
    """Give what is there if all is as it was applied."""
    return Observed(
        exists=True,
        joins=applied.joins,
        links=frozenset(join.name for join in applied.joins),
        addresses=applied.addresses | applied.external,
        neighbours=applied.neighbours,
        routes=applied.routes,
        policy=applied.policy,
        version=version(applied.translation),
        source=applied.translation.source,
        version6=version(applied.translation6),
        source6=applied.translation6.source,
        speaking6=applied.speaking6,
        floating=applied.translation.floating | applied.translation6.floating,
        forwardings=applied.translation.forwardings | applied.translation6.forwardings,
        firewall=firewall.version(applied.firewall) or None,
    )


def _steps(desired: RouterDesired, observed: Observed) -> Iterator[Step]:
    if not observed.exists or not observed.version:  # without rules it may be half made
        yield EnsureNamespace("absent")
    if (observed.firewall or "") != firewall.version(desired.firewall) or observed.firewall == "":
        # Before anything can pass.
        reason = "other rules" if observed.firewall else "absent"
        yield Judge(reason, desired.firewall, anew=observed.firewall is None)
    observed = _lost(desired, observed)
    kept = {join.name for join in desired.joins & observed.joins}
    wanted = desired.addresses | desired.external
    for address in sorted(observed.addresses - wanted - desired.virtual):
        if address.link in kept:
            yield Remove("not the router's here", address)
    for name in sorted(observed.links - kept):
        yield DeleteJoin("not as it should be", name)
    for join in sorted(desired.joins - observed.joins):
        yield CreateJoin("absent", join)
    yield from _removed(desired, observed)
    yield from _translated(desired, observed)
    # After the rules, by which it may be that nothing is said there.
    yield from _speaking(desired, observed)
    yield from _ended(desired, observed)
    yield from _added(desired, observed, wanted)
    macs = {join.name: join.mac for join in desired.joins}
    for address in sorted(wanted - observed.addresses):
        if address in desired.external or ":" not in address.text:
            yield Announce("is here now", address, macs[address.link])


def _lost(desired: RouterDesired, observed: Observed) -> Observed:
    """Leave out what is lost with links that are made anew."""
    lost = observed.links - {join.name for join in desired.joins & observed.joins}
    return replace(
        observed,
        addresses=frozenset(item for item in observed.addresses if item.link not in lost),
        neighbours=frozenset(item for item in observed.neighbours if item.link not in lost),
        routes=frozenset(item for item in observed.routes if item.link not in lost),
        speaking6=observed.speaking6 - lost,
    )


def _translated(desired: RouterDesired, observed: Observed) -> Iterator[Step]:
    there = (observed.version, version(desired.translation)), (observed.version6, version(desired.translation6))
    for (found, wanted), by in zip(there, (desired.translation, desired.translation6), strict=True):
        if found != wanted:
            yield Translate("addresses are translated otherwise" if found else "absent", by)


def _speaking(desired: RouterDesired, observed: Observed) -> Iterator[Step]:
    kept = {join.name for join in desired.joins & observed.joins}
    for name in sorted((observed.speaking6 & kept) - desired.speaking6):
        yield SpeakIPv6("no IPv6 here", name, speaks=False)
    for name in sorted(desired.speaking6 - observed.speaking6):
        yield SpeakIPv6("IPv6 here", name, speaks=True)


def _removed(desired: RouterDesired, observed: Observed) -> Iterator[Step]:
    for rule in sorted(observed.policy - desired.policy - desired.virtual):
        yield Remove("leads elsewhere", rule)
    kept = {(route.table, route.destination) for route in desired.routes}
    for route in sorted(observed.routes - desired.routes):
        if (route.table, route.destination) not in kept:  # one that leads elsewhere now is overwritten
            yield Remove("leads nowhere now", route)
    known = {(neighbour.link, neighbour.address) for neighbour in desired.neighbours}
    for neighbour in sorted(observed.neighbours - desired.neighbours):
        if (neighbour.link, neighbour.address) not in known:
            yield Remove("no such port", neighbour)


def _added(desired: RouterDesired, observed: Observed, wanted: frozenset[Address]) -> Iterator[Step]:
    for address in sorted(wanted - observed.addresses):
        yield Add("the router's here", address)
    for neighbour in sorted(desired.neighbours - observed.neighbours):
        yield Add("the port's MAC", neighbour)
    # What is behind a tunnel comes before anything that leads elsewhere.
    for rule in sorted(desired.policy - observed.policy):
        if rule.destination:
            yield Add("leads there alone", rule)
    # What is on the link comes before what is behind it.
    for route in sorted(desired.routes - observed.routes, key=lambda route: (bool(route.via), route)):
        yield Add("leads there", route)
    for rule in sorted(desired.policy - observed.policy):
        if not rule.destination:
            yield Add("leads there", rule)


def _ended(desired: RouterDesired, observed: Observed) -> Iterator[Step]:
    four, six = desired.translation, desired.translation6
    for floating in sorted(observed.floating - four.floating - six.floating):
        yield EndConnections("the floating address leads elsewhere", floating)
    for forwarding in sorted(observed.forwardings - four.forwardings - six.forwardings):
        yield EndConnections("the port leads elsewhere", forwarding)
    for rule in sorted(desired.policy - observed.policy):
        if rule.table == NOWHERE:
            yield EndConnections("behind a tunnel now", rule)
    for source, wanted in ((observed.source, four.source), (observed.source6, six.source)):
        if source and source != wanted:
            yield EndConnections("the router's address is elsewhere", source)
