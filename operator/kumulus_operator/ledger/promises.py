"""Which disk, and which share, each volume was promised bytes of: written, or about to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from kumulus_api import Volume
from kumulus_api.quantities import parse_quantity
from kumulus_api.volume import VolumeAssignment, VolumeReason
from kumulus_operator.ledger.fleet import Fleet
from kumulus_operator.ledger.shares import ShareBook
from kumulus_operator.placement.facts import NOTHING, Amounts, Wish
from kumulus_operator.placement.usage import volume_amounts
from kumulus_operator.refusal import Refusal
from kumulus_operator.views import Key
from kumulus_operator.waiting import CAPACITY


@dataclass(frozen=True, slots=True)
class Promise:
    """What a volume takes.

    Attributes:
        host: on whose disk.
        amounts: of that disk.
        classes: bytes by class, wherever they lie.
    """

    host: str = ""
    amounts: Amounts = NOTHING
    classes: Counter[str] = field(default_factory=Counter)


def promise_of(volume: Volume) -> Promise | None:
    """Give what a bound volume takes (pure); None if it is not bound.

    What is copied to another class takes room in both.
    """
    place = volume.spec.assignment
    if place is None:
        return None
    size = parse_quantity(place.size or volume.spec.size)
    there = (item.volume_class for item in (place, place.moving, place.left) if item is not None)
    return Promise(place.host, volume_amounts(volume), Counter({name: size for name in there if name is not None}))


class Promises:
    """What all volumes were promised.

    Between a decision and its writing the decision counts, whatever a watch shows: so of several that are decided at
    once each sees those before.

    Args:
        fleet: the hosts.
        shares: the classes.
        changed: is told of a class whose volumes take more or less.
    """

    def __init__(self, fleet: Fleet, shares: ShareBook, changed: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._shares = shares
        self._changed = changed
        self._kept: dict[Key, Promise] = {}
        self._writing: Counter[Key] = Counter()

    def seen(self, volume: Volume) -> None:
        """Count a volume as a watch shows it, unless it is being written."""
        if volume.key not in self._writing and (promise := promise_of(volume)) is not None:
            self._count(volume.key, promise)

    def gone(self, key: Key) -> bool:
        """Count a volume no more; give whether it was counted."""
        if key not in self._kept:
            return False
        self._count(key, None)
        return True

    def begin(self, volume: Volume, place: VolumeAssignment, *, admitted: bool) -> Refusal | None:
        """Count a volume as it is about to be written, or say why it must not be; `end` follows unless it is refused.

        Args:
            volume: as it is.
            place: as it shall be.
            admitted: its host's room was counted with the server that it is made for.
        """
        key = volume.key
        wanted = promise_of(volume.model_copy(update={"spec": volume.spec.model_copy(update={"assignment": place})}))
        source = volume.spec.source
        # What is taken over from another project counts as that one's until that is gone.
        if source is None or source.transfer is None or volume.spec.assignment is not None:
            # One that has gone since it was read takes no room anew: the API server refuses the write.
            former = self._kept.get(key) or promise_of(volume) or Promise()
            refusal = self._refusal(former, wanted or Promise(), on_hosts=not admitted)
            if refusal is not None:
                return refusal
        self._writing[key] += 1
        self._count(key, wanted)
        return None

    def end(self, key: Key, now: Volume | None) -> None:
        """Count a volume as it is after it was written, or was not."""
        self._writing[key] -= 1
        if not self._writing[key]:
            del self._writing[key]
            self._count(key, promise_of(now) if now is not None else None)

    def growth(self, volume: Volume, more: int) -> Refusal | None:
        """Say why the share of a bound volume's class has no room for more bytes of it, or None."""
        place = volume.spec.assignment
        if place is None or place.volume_class is None:
            return None
        return self._shares.refusal(place.volume_class, more)

    def _refusal(self, former: Promise, wanted: Promise, *, on_hosts: bool) -> Refusal | None:
        for name, size in (wanted.classes - former.classes).items():
            refusal = self._shares.refusal(name, size)
            if refusal is not None:
                return refusal
        if not on_hosts or (wanted.host != former.host and former.host):
            return None  # It has migrated with its server, or another host works on the share.
        known = dict(former.amounts.volumes)
        if all(size <= known.get(name, 0) for name, size in wanted.amounts.volumes):
            return None
        # What it takes there already it needs no second time.
        self._fleet.take_back(wanted.host, former.amounts)
        try:
            return self.no_room(wanted.host, wanted.amounts, former.amounts)
        finally:
            self._fleet.give(wanted.host, former.amounts)

    def no_room(self, host: str, asked: Amounts, lying: Amounts = NOTHING) -> Refusal | None:
        """Say why a host has no room for volumes of classes that have a ratio or a reserve of their own, or None.

        Args:
            host: the host.
            asked: what they take of its disk.
            lying: what of it lies there.
        """
        facts = self._fleet.hosts.get(host)
        if facts is None or not any(name in facts.by_class for name, _ in asked.volumes):
            return None
        objection = self._fleet.objection_of(host, Wish(asked, lying=facts.disk_of(lying)))
        return host_full(host, objection.why) if objection is not None else None

    def _count(self, key: Key, promise: Promise | None) -> None:
        former = self._kept.pop(key, None)
        if promise is not None:
            self._kept[key] = promise
        if former == promise:
            return
        if former is not None:
            self._fleet.take_back(former.host, former.amounts)
            self._shares.promised.subtract(former.classes)
        if promise is not None:
            self._fleet.give(promise.host, promise.amounts)
            self._shares.promised.update(promise.classes)
        for name in (former or Promise()).classes | (promise or Promise()).classes:
            self._changed(name)


def host_full(host: str, why: str) -> Refusal:
    """Say that a host has no room for a volume."""
    message = f"placement: host {host} is {why}; transient: goes on when it has room, or the ratio is raised"
    return Refusal(VolumeReason.HOST_FULL, message, frozenset({CAPACITY}))
