"""What guests may do with a volume, by its class, its size and its own wish (pure)."""

from __future__ import annotations

from typing import Final

from kumulus_api import Volume, VolumeClass
from kumulus_api.quantities import parse_quantity
from kumulus_api.volume import VolumeReason
from kumulus_api.volume_limits import AssignedLimits, Operations, Throughput, VolumeLimits
from kumulus_operator.refusal import Refusal
from kumulus_operator.waiting import any_of

_GIB: Final = 1 << 30
_KINDS: Final = ("total", "read", "write")
_UNITS: Final = ("iops", "bytes")


def limits_of(found: VolumeClass | None, size: int, own: VolumeLimits | None = None) -> AssignedLimits | None:
    """Give the limits of a volume; None if its class, or no class, limits nothing.

    Args:
        found: the class.
        size: bytes of the volume; what is limited by the GiB is so for a GiB that is begun, too.
        own: limits of the volume; they count where the class allows it, and are lower.
    """
    by_class = _counted(found.spec.qos if found is not None else None, size)
    wished = _counted(own if found is not None and found.spec.qos_per_volume else None, size)
    given: dict[str, int] = {}
    for unit in _UNITS:
        sides = [by_class] if _differ(by_class, wished, unit) else [by_class, wished]
        for kind in _KINDS:
            name = f"{kind}_{unit}"
            there = [side for side in sides if name in side]
            if not there:
                continue
            given[name] = min(side[name] for side in there)
            # Without a burst a limit is the most that is ever allowed.
            most = min(side.get(f"{name}_burst", side[name]) for side in there)
            if most > given[name]:
                given[f"{name}_burst"] = most
    seconds = [side["burst_seconds"] for side in (by_class, wished) if "burst_seconds" in side]
    if seconds and any(name.endswith("_burst") for name in given):
        given["burst_seconds"] = min(seconds)
    return AssignedLimits(**given) if given else None


def unmet_limits(volume: Volume, found: VolumeClass | None) -> Refusal | None:
    """Say why the limits that a volume asks for do not hold as they are, or None."""
    own, needs = volume.spec.qos, frozenset({any_of("VolumeClass", "")})
    if own is None:
        return None
    name = f"class {found.metadata.name}" if found is not None else "a volume of no class"
    if found is None or not found.spec.qos_per_volume:
        message = f"qos: {name} leaves volumes no limits of their own; permanent: use a class with qosPerVolume"
        return Refusal(VolumeReason.QOS_NOT_ALLOWED, message, needs)
    size = parse_quantity(volume.spec.size)
    by_class, wished = _counted(found.spec.qos, size), _counted(own, size)
    for unit in _UNITS:
        if _differ(by_class, wished, unit):
            theirs = "reading and writing together" if f"total_{unit}" in by_class else "reading and writing each"
            message = f"qos: {name} limits {unit} of {theirs}, which counts; permanent: limit the same"
            return Refusal(VolumeReason.QOS_OF_ANOTHER_KIND, message, needs)
    over = [item for item in wished if item != "burst_seconds" and _most(by_class, item) < wished[item]]
    if not over:
        return None
    told = ", ".join(f"{item} is {wished[item]}, of the class {_most(by_class, item):.0f}" for item in sorted(over))
    message = f"qos: {told}; the lower counts; permanent: ask for less, or use another class"
    return Refusal(VolumeReason.QOS_BEYOND_CLASS, message, needs)


def _most(by_class: dict[str, int], name: str) -> float:
    """Give the most that a class allows of something; without a limit anything."""
    base = by_class.get(name.removesuffix("_burst"))
    return by_class.get(name, base) if base is not None else float("inf")


def _differ(one: dict[str, int], other: dict[str, int], unit: str) -> bool:
    """Whether one limits reading and writing together and the other each: QEMU takes only one of both."""
    kinds = [{kind for kind in _KINDS if f"{kind}_{unit}" in side} for side in (one, other)]
    return all(kinds) and ("total" in kinds[0]) != ("total" in kinds[1])


def _counted(qos: VolumeLimits | None, size: int) -> dict[str, int]:
    """Count limits out for a size, by the names of `AssignedLimits`."""
    given: dict[str, int] = {}
    if qos is None:
        return given
    gibs = max(-(-size // _GIB), 1)
    for unit, base, each, least, burst in (
        ("iops", qos.iops, qos.iops_per_gib, qos.iops_minimum, qos.iops_burst),
        ("bytes", qos.bytes, qos.bytes_per_gib, qos.bytes_minimum, qos.bytes_burst),
    ):
        for kind in _KINDS:
            by_size = _rate(each, kind)
            counted = by_size and max(by_size * gibs, _rate(least, kind) or 0)
            asked = [rate for rate in (_rate(base, kind), counted) if rate is not None]
            more = _rate(burst, kind)
            if asked:
                given[f"{kind}_{unit}"] = min(asked)
            if asked and more is not None and more > min(asked):
                given[f"{kind}_{unit}_burst"] = more
    if qos.burst_seconds is not None and any(name.endswith("_burst") for name in given):
        given["burst_seconds"] = qos.burst_seconds
    return given


def _rate(part: Operations | Throughput | None, kind: str) -> int | None:
    value = getattr(part, kind) if part is not None else None
    return parse_quantity(value) if isinstance(value, str) else value
