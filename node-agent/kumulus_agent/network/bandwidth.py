"""How fast a port may be: the pure part.

Towards the guest its tap is slowed down; from the guest, an interface of its own (an ifb) that all that comes from the
tap is led through, as what has come already cannot be slowed down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kumulus_agent.network import names
from kumulus_agent.network.state import Bucket, Observed, PortDesired, Rates
from kumulus_agent.network.steps import DeleteLink, Step

_LEAST_BURST = 64 * 1024
"""Bytes: less would slow a guest down that hands over 64 KiB at once."""
_LONGEST_BURST = 200
"""Seconds that a burst may take at the rate: the kernel counts no longer ones."""
_ALIKE = 0.01
"""The kernel keeps a burst as time: what is read is a little less than what was written."""


@dataclass(frozen=True)
class SetRate(Step):
    """Let an interface send no faster than this."""

    bucket: Bucket


@dataclass(frozen=True)
class RemoveRate(Step):
    """Let an interface send as fast as it can."""


@dataclass(frozen=True)
class CreateQueue(Step):
    """Make the interface that what comes from a guest is led through."""


@dataclass(frozen=True)
class Redirect(Step):
    """Lead what comes from a guest through another interface."""

    through: str


@dataclass(frozen=True)
class Unredirect(Step):
    """Lead what comes from a guest straight on."""


def bucket(kilobits: int, burst: int, peak: int = 0) -> Bucket | None:
    """Give the bucket for a rate in kbit/s (0: none) and a burst in kbit (0: what passes in a tenth of a second).

    A peak in kbit/s that is not above the rate is none.
    """
    if not kilobits:
        return None
    rate = kilobits * 125
    most = min(burst * 125, rate * _LONGEST_BURST) or max(rate // 10, _LEAST_BURST)
    return Bucket(rate, most, peak * 125 if peak > kilobits else 0)


def shaping(port: PortDesired, observed: Observed) -> Iterator[Step]:
    """Yield the steps after which a port whose tap is there is as fast as it may be."""
    rates, tap, queue = port.rates, port.tap, names.queue(port.tap)
    ingress = bucket(rates.ingress, rates.burst, rates.ingress_peak) if rates is not None else None
    egress = _egress(rates) if rates is not None else None
    yield from _limit(tap, ingress, observed)
    led, there = tap in observed.redirected, queue in observed.links
    if egress is None:
        if led:
            yield Unredirect(tap, "the port may send as fast as it can")
        if there:
            yield DeleteLink(queue, "nothing is led through it")
        return
    if not there:
        yield CreateQueue(queue, "absent")
    yield from _limit(queue, egress, observed)
    if not led or not there:
        yield Redirect(tap, "what comes from the guest has a rate", queue)


def _egress(rates: Rates) -> Bucket | None:
    burst = rates.burst if rates.egress_burst is None else rates.egress_burst
    return bucket(rates.egress, burst, rates.egress_peak)


def _limit(name: str, wanted: Bucket | None, observed: Observed) -> Iterator[Step]:
    found = observed.buckets.get(name)
    if wanted is None:
        if found is not None:
            yield RemoveRate(name, f"found {found.rate} bytes/s")
    elif found is None or not _alike(wanted, found):
        yield SetRate(name, f"found {found.rate} bytes/s" if found is not None else "found no rate", wanted)


def _alike(wanted: Bucket, found: Bucket) -> bool:
    return (wanted.rate, wanted.peak) == (found.rate, found.peak) and abs(
        wanted.burst - found.burst
    ) <= _ALIKE * wanted.burst


def orphans(observed: Observed) -> Iterator[Step]:
    """Yield the steps that remove the interfaces for taps that are gone."""
    for name in sorted(observed.links):
        if names.is_queue(name) and names.tap_of(name) not in observed.links:
            yield DeleteLink(name, "its tap is gone")
