"""Plan which hosts keep the bytes of an Image, and tell how far that is (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kumulus_api import Image
from kumulus_api.image_store import ReplicaReason, StoreType
from kumulus_runtime.conditions import set_condition

REPLICATED = "Replicated"
"""The condition."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """A host as a place for images.

    Attributes:
        name: of the Host.
        good: it may be named anew: Ready, heard of, neither in maintenance nor decommissioned.
        coming: it may still get what it was named for: as `good`, but also if it was not heard of for a moment.
        stays: what it has counts: not decommissioned, and not silent for longer than the grace.
        lost: it never returns.
        zone: its availability zone, or empty.
        load: how many images it keeps already.
        full: the image would not fit on its disk now.
    """

    name: str
    good: bool = True
    coming: bool = True
    stays: bool = True
    lost: bool = False
    zone: str = ""
    load: int = 0
    full: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for.

    Attributes:
        replicas: how many hosts.
        first: the host that imports the image, which needs no copy; it is named whatever else is.
    """

    replicas: int
    first: str = ""


def name_hosts(
    named: Sequence[str], holding: Collection[str], keepers: Iterable[Keeper], wanted: Wanted
) -> tuple[str, ...]:
    """Give the hosts that are to keep an image, those that do already first.

    Who has it keeps it; who has gone is replaced, and stays named while fewer than are wanted have told that they have
    it, unless he is lost. What is too much goes when enough others have told that they have it.

    Args:
        named: hosts that were named before.
        holding: hosts that say that they have it.
        keepers: all hosts.
        wanted: how many.
    """
    known = {keeper.name: keeper for keeper in keepers}
    kept = [name for name in dict.fromkeys(named) if _keeps(known.get(name), name in holding)]
    if wanted.first in known and wanted.first not in kept:
        kept.insert(0, wanted.first)
    # One that comes back with what it had saves a copy.
    back = [name for name in sorted(holding) if name not in kept and name in known and known[name].stays]
    kept += sorted(back, key=lambda name: not known[name].good)[: max(0, wanted.replicas - len(kept))]
    while len(kept) < wanted.replicas and (new := _next(kept, known)):
        kept.append(new)
    # One that has it goes only where all others have it.
    kept = _without_surplus(kept, holding, known, wanted)
    enough = sum(name in holding for name in kept) >= min(wanted.replicas, len(kept)) > 0
    leaving = [name for name in dict.fromkeys(named) if name not in kept and _may_serve(known.get(name), holding)]
    return (*kept, *(() if enough else leaving))


def _keeps(keeper: Keeper | None, holds: bool) -> bool:
    return keeper is not None and keeper.stays and (holds or keeper.coming)


def _may_serve(keeper: Keeper | None, holding: Collection[str]) -> bool:
    return keeper is not None and keeper.name in holding and not keeper.lost


def _next(kept: Sequence[str], known: Mapping[str, Keeper]) -> str | None:
    """Give the best host for another copy: with room for it, in a zone that has none, with the fewest images."""
    zones = Counter(known[name].zone for name in kept)
    left = [keeper for keeper in known.values() if keeper.good and keeper.name not in kept]
    best = min(left, key=lambda keeper: (keeper.full, zones[keeper.zone], keeper.load, keeper.name), default=None)
    return best.name if best is not None else None


def _without_surplus(
    kept: Sequence[str], holding: Collection[str], known: Mapping[str, Keeper], wanted: Wanted
) -> list[str]:
    left = list(kept)
    while len(left) > wanted.replicas:
        zones = Counter(known[name].zone for name in left)
        # The least of a loss: without the bytes, in maintenance, beside another in its zone, named last.
        worst = max(
            (name for name in left if name != wanted.first),
            key=lambda name: (
                name not in holding,
                not known[name].good,
                zones[known[name].zone],
                left.index(name),
            ),
            default=None,
        )
        if worst is None:
            break
        left.remove(worst)
    return left


def replica_status(image: Image, holding: Collection[str], wanted: int, pulled: str | None, now: datetime) -> Any:
    """Give our part of the status of an image that is Ready: who has it, and whether that is as it should be.

    Ready is repeated with the generation at hand, which our naming of hosts has raised: who waits for it compares them.

    Args:
        image: with an assignment.
        holding: hosts that say that they have it and are not lost.
        wanted: how many should.
        pulled: on how many hosts it was pulled beforehand, or None if that is not asked for.
        now: the present.
    """
    given, status = image.spec.assignment, image.status
    generation = image.metadata.generation
    found = [item.dump() for item in status.conditions] if status is not None else []
    ready = [item | {"observedGeneration": generation} for item in found if item["type"] == "Ready"]
    before = [item for item in found if item["type"] == REPLICATED]
    named = given.hosts if given is not None else []
    in_bucket = given is not None and given.store is StoreType.S3
    reason, message = _in_words(named, holding, wanted) if not in_bucket else (ReplicaReason.IN_BUCKET, "")
    whole = reason in (ReplicaReason.REPLICATED, ReplicaReason.IN_BUCKET)
    conditions = set_condition(before, REPLICATED, whole, reason, message, generation, now)
    replicas = sorted(holding) if not in_bucket else []
    told: dict[str, Any] = {"replicas": replicas, "conditions": [*ready, *conditions]}
    return told | ({"prePulled": pulled} if pulled is not None else {})


def _in_words(named: Sequence[str], holding: Collection[str], wanted: int) -> tuple[ReplicaReason, str]:
    have = [name for name in named if name in holding]
    missing = [name for name in named if name not in holding]
    if not have:
        message = f"no host that can be asked has it; transient: {', '.join(named) or 'a host'} gets it when one can"
        return ReplicaReason.NO_HOLDER, message
    kept = f"kept by {', '.join(have)}"
    if missing:
        return ReplicaReason.REPLICATING, f"{kept}; {', '.join(missing)} gets it; transient"
    if len(named) < wanted:
        message = f"{kept}, {wanted} hosts are wanted and no other is Ready; transient: goes on when one is"
        return ReplicaReason.TOO_FEW_HOSTS, message
    return ReplicaReason.REPLICATED, kept
