"""Nova's extra specs: which a flavor may have, and how the metadata of aggregates matches them (pure)."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping

_TRAIT = "trait:"
_AGGREGATE = "aggregate_instance_extra_specs:"
_RESOURCE = "resources:"
PREFIXES = (_TRAIT, _AGGREGATE, _RESOURCE)
"""How the extra specs begin that say what a host must be or have, not what a guest's machine is made of."""

_NUMBERS: dict[str, Callable[[float, float], bool]] = {
    "=": operator.ge,  # as in Nova, where a demand of an amount is met by more
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
}
_TEXTS: dict[str, Callable[[str, str], bool]] = {
    "s==": operator.eq,
    "s!=": operator.ne,
    "s<": operator.lt,
    "s<=": operator.le,
    "s>": operator.gt,
    "s>=": operator.ge,
}


def traits_of(specs: Mapping[str, str]) -> tuple[frozenset[str], frozenset[str]]:
    """Give the required and the forbidden traits of a flavor."""
    traits = {key.removeprefix(_TRAIT): value for key, value in specs.items() if key.startswith(_TRAIT)}
    required = frozenset(name for name, value in traits.items() if value == "required")
    return required, frozenset(name for name, value in traits.items() if value == "forbidden")


def resources_of(specs: Mapping[str, str]) -> dict[str, int]:
    """Give how many of each custom resource class, and of VGPU, a flavor asks for."""
    return {key.removeprefix(_RESOURCE): int(value) for key, value in specs.items() if key.startswith(_RESOURCE)}


def aggregate_specs(specs: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """Give keys and demands that an aggregate's metadata must match."""
    return frozenset(
        (key.removeprefix(_AGGREGATE), value) for key, value in specs.items() if key.startswith(_AGGREGATE)
    )


def unmet(specs: Collection[tuple[str, str]], metadata: Mapping[str, Collection[str]]) -> tuple[str, str] | None:
    """Give the first demand, by its key, that none of the values of that key meets, or None.

    Args:
        specs: keys and demands.
        metadata: the values of each key, from all aggregates of the host.
    """
    for key, demand in sorted(specs):
        if not any(matches(value, demand) for value in metadata.get(key, ())):
            return key, demand
    return None


def matches(value: str, demand: str) -> bool:
    """Give whether a value of an aggregate's metadata meets a demand; without operator they must be equal.

    A number is asked of what is none: it does not match.
    """
    words = demand.split()
    sign, rest = (words[0], words[1:]) if words else ("", [])
    if sign == "<or>":
        return value in rest[::2]
    if sign == "<in>":
        return bool(rest) and rest[0] in value
    if sign == "<all-in>":
        return bool(rest) and all(word in value for word in rest)
    if sign in _TEXTS:
        return bool(rest) and _TEXTS[sign](value, rest[0])
    if sign in _NUMBERS:
        return _numbers(_NUMBERS[sign], value, rest)
    return value == demand


def _numbers(holds: Callable[[float, float], bool], value: str, rest: list[str]) -> bool:
    try:
        return bool(rest) and holds(float(value), float(rest[0]))
    except ValueError:
        return False
