"""Choose among all hosts, and explain the choice (pure). The ledger's index gives the same, but faster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kumulus_operator.placement.facts import Amounts, Candidate, HostFacts, Weights, Wish
from kumulus_operator.placement.filters import Objection, candidates, objections
from kumulus_operator.placement.weigh import group_weight, room_weights, scale_of, weight


@dataclass(frozen=True, slots=True)
class Judgement:
    """What placement thinks of a host.

    Attributes:
        host: its name.
        objections: all that speaks against it; none if the server fits.
        free: what is left of it.
        weights: how much each resource counts, and the servers of the group.
        weight: the sum; the heaviest host that fits is taken.
    """

    host: str
    objections: tuple[Objection, ...]
    free: Amounts
    weights: Mapping[str, float]
    weight: float


def judge(
    hosts: Iterable[HostFacts],
    used: Mapping[str, Amounts],
    crowd: Mapping[str, int],
    wish: Wish,
    weights: Weights,
) -> list[Judgement]:
    """Judge all hosts for a server: first those that fit, the one that is taken at the top.

    Args:
        hosts: all of them.
        used: what is given out on each.
        crowd: servers of the wish's group by host.
        wish: what the server asks for.
        weights: what counts how much.
    """
    known = list(hosts)
    scale = scale_of(known)
    judged = [_judgement(candidate, wish, scale, weights) for candidate in candidates(known, used, crowd)]
    return sorted(judged, key=lambda item: (bool(item.objections), -item.weight, item.host))


def _judgement(candidate: Candidate, wish: Wish, scale: Amounts, weights: Weights) -> Judgement:
    here = candidate.crowd.get(candidate.host.name, 0)
    parts = room_weights(candidate.free, scale, weights)
    return Judgement(
        host=candidate.host.name,
        objections=tuple(objections(candidate, wish)),
        free=candidate.free,
        weights=parts | {"group": group_weight(wish.group, here, weights)},
        weight=weight(candidate, wish.group, scale, weights),
    )


def choose(judged: Iterable[Judgement]) -> str | None:
    """Give the host that is taken, or None."""
    return next((item.host for item in judged if not item.objections), None)
