"""The pure part: which steps lead from the links and rules that are there to those that should be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kumulus_agent.network.steps import Step
from kumulus_agent.peering.state import NUMBERS, End, LinkDesired, LinkSeen, Observed


@dataclass(frozen=True)
class CreateLink(Step):
    """Make the link, and note its number when all is there."""

    namespace: str
    mtu: int


@dataclass(frozen=True)
class RemoveLink(Step):
    """Remove the link, then what its namespace forwards, then the rules there."""

    namespace: str


@dataclass(frozen=True)
class PutRules(Step):
    """Put rules into a namespace (None: the host's), in place of those of ours that are there."""

    namespace: str | None
    rules: Any


@dataclass(frozen=True)
class RemoveRules(Step):
    """Remove our rules from the host's namespace."""


@dataclass(frozen=True)
class SetEnd(Step):
    """Make an end of a link as it should be; `former` is how it was."""

    namespace: str | None
    end: End
    former: End


@dataclass(frozen=True)
class NoteNumber(Step):
    """Note the link's number, which is the last that is done to it."""

    number: int


class NumbersExhausted(Exception):
    """There are more links than numbers."""


def plan(
    desired: Collection[LinkDesired], host_rules: tuple[Any, str], observed: Observed, unwanted: Mapping[str, str]
) -> tuple[Step, ...]:
    """Return the steps; none if all is so already.

    Rules come before what they judge, and go after it.

    Args:
        desired: the links.
        host_rules: those of the host's namespace, and their version.
        observed: what is there.
        unwanted: links that are there and are to go, with the namespaces that they lead to.

    Raises:
        NumbersExhausted: there are too many.
    """
    return tuple(_steps(desired, host_rules, observed, unwanted))


def _steps(
    desired: Collection[LinkDesired], host_rules: tuple[Any, str], observed: Observed, unwanted: Mapping[str, str]
) -> Iterator[Step]:
    wanted = {item.name: item for item in desired}
    staying = wanted.keys() | (observed.links.keys() - unwanted.keys())
    for name, namespace in sorted(unwanted.items()):
        yield RemoveLink(name, "nothing is peered by it", namespace)
    rules, version = host_rules
    if staying and observed.version != version:
        yield PutRules("host", f"found {observed.version or 'none'}", None, rules)
    numbers = _numbers(wanted, observed)
    for name, item in sorted(wanted.items()):
        yield from _link(item, numbers[name], observed.links.get(name))
    if not staying and observed.version:
        yield RemoveRules("host", "nothing is peered here")


def _numbers(wanted: Collection[str], observed: Observed) -> dict[str, int]:
    """Give the numbers that links have, and the lowest free ones to the others."""
    had = {name: seen.number for name, seen in observed.links.items() if seen.number is not None}
    used = set(had.values())
    free = (number for number in range(NUMBERS) if number not in used)
    found: dict[str, int] = {}
    for name in sorted(wanted):
        number = had[name] if name in had else next(free, None)
        if number is None:
            raise NumbersExhausted(f"a host has {NUMBERS} links to networks at most")
        found[name] = number
    return found


def _link(desired: LinkDesired, number: int, seen: LinkSeen | None) -> Iterator[Step]:
    name = desired.name
    outer, inner = desired.ends(number)
    if seen is None or seen.inner is None or seen.number is None:
        if seen is None or seen.version != desired.version:
            yield PutRules(desired.namespace, "before the link", desired.namespace, desired.rules)
        yield CreateLink(name, "absent" if seen is None else "half made", desired.namespace, desired.mtu)
        yield SetEnd(name, "made anew", desired.namespace, inner, End(inner.name))
        yield SetEnd(name, "made anew", None, outer, End(outer.name))
        yield NoteNumber(name, "whole", number)
        return
    if seen.version != desired.version:
        yield PutRules(desired.namespace, f"found {seen.version or 'none'}", desired.namespace, desired.rules)
    if seen.inner != inner:
        yield SetEnd(name, "the other end is otherwise", desired.namespace, inner, seen.inner)
    if seen.outer != outer:
        yield SetEnd(name, "it is otherwise", None, outer, seen.outer)
