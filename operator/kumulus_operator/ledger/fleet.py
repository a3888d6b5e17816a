"""The hosts in the order of their weights, so that a decision looks at few of them.

What `placement` says by looking at all hosts, this says by looking at the first that fits: for each set of terms that
servers ask for, it keeps the hosts that meet them sorted by weight, and moves one when something is placed on it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from kumulus_api.server_group import GroupPolicy
from kumulus_operator.placement.facts import Amounts, Candidate, HostFacts, Terms, Weights, Wish
from kumulus_operator.placement.filters import (
    SILENT,
    Objection,
    enough_disk,
    existing,
    has_room,
    lacking,
    unfit,
    wanted,
)
from kumulus_operator.placement.weigh import group_weight, room_weight, scale_of

_RANKINGS = 64
"""How many sets of terms are kept sorted; those that were not asked for the longest go first."""

_SOFT = (GroupPolicy.SOFT_AFFINITY, GroupPolicy.SOFT_ANTI_AFFINITY)


class _Ranking:
    """The hosts that meet some terms, heaviest first, as negative weight and name; and why the others do not."""

    def __init__(self, names: Iterable[str]) -> None:
        self.order: list[tuple[float, str]] = []
        self.keys: dict[str, float] = {}
        self.unfit: dict[str, Objection] = {}
        self.stale = set(names)

    def move(self, name: str, key: float | None) -> None:
        """Put a host where it belongs now; None takes it out."""
        former = self.keys.pop(name, None)
        if former is not None:
            del self.order[bisect_left(self.order, (former, name))]
        if key is not None:
            self.keys[name] = key
            insort(self.order, (key, name))


class Fleet:
    """All hosts, and what is given out on each.

    Args:
        weights: what counts how much.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._hosts: dict[str, HostFacts] = {}
        self._used: defaultdict[str, Amounts] = defaultdict(Amounts)
        self._free: dict[str, Amounts] = {}
        self._scale = Amounts()
        self._scale_known = False
        self._rankings: dict[Terms, _Ranking] = {}

    @property
    def hosts(self) -> Mapping[str, HostFacts]:
        """All hosts by name."""
        return self._hosts

    @property
    def used(self) -> Mapping[str, Amounts]:
        """What is given out on each host, also on those that are not there."""
        return self._used

    def put(self, host: HostFacts) -> bool:
        """Take a host in, or what became of it; give whether it is news."""
        known = self._hosts.get(host.name)
        if known == host:
            return False
        self._hosts[host.name] = host
        if known is None or known.total != host.total:
            self._scale_known = False
        self._moved(host.name)
        return True

    def drop(self, name: str) -> None:
        """Take a host out; what is given out on it stays noted."""
        if self._hosts.pop(name, None) is not None:
            self._scale_known = False
            self._moved(name)

    def give(self, host: str, amounts: Amounts) -> None:
        """Count something on a host."""
        self._used[host] = self._used[host].plus(amounts)
        self._moved(host)

    def take_back(self, host: str, amounts: Amounts) -> None:
        """Count something on a host no more."""
        self._used[host] = self._used[host].minus(amounts)
        self._moved(host)

    def objection_of(self, name: str, wish: Wish) -> Objection | None:
        """Say why a host's disk has no room, whatever else speaks against it; None also if the host is not there."""
        return enough_disk(self._candidate(name, {}), wish) if name in self._hosts else None

    def free_on(self, name: str) -> Amounts:
        """Give what is left of a host; nothing of one that is not there."""
        return self._free.get(name, Amounts())

    def choose(self, wish: Wish, crowd: Mapping[str, int], fresh: Callable[[str], bool]) -> str | None:
        """Give the heaviest host that fits, or None.

        Args:
            wish: what a server asks for.
            crowd: servers of the wish's group by host.
            fresh: whether a host renews its Lease.
        """
        ranking = self._ranking(wish.terms)
        policy = wish.group.policy if wish.group is not None else None
        if wish.only_host is not None:
            return self._best(ranking, [wish.only_host], wish, crowd, fresh)
        near = self._best(ranking, [wish.near], wish, crowd, fresh) if wish.near is not None else None
        if near is not None:
            return near
        inhabited = [name for name, count in crowd.items() if count]
        if policy is GroupPolicy.AFFINITY and inhabited:
            return self._best(ranking, inhabited, wish, crowd, fresh)
        rest = set(inhabited) if policy in _SOFT else set()
        first = next(
            (
                name
                for _, name in ranking.order
                if name not in rest and has_room(self._candidate(name, crowd), wish) and fresh(name)
            ),
            None,
        )
        if not rest:
            return first
        return self._best(ranking, [*inhabited, *([first] if first is not None else [])], wish, crowd, fresh)

    def refused(self, wish: Wish, crowd: Mapping[str, int], fresh: Callable[[str], bool]) -> Counter[Objection]:
        """Count why no host fits, each by the gravest objection; see `choose`."""
        ranking = self._ranking(wish.terms)
        counts: Counter[Objection] = Counter()
        for name, host in self._hosts.items():
            objection = existing(host, wish.terms) or wanted(host, wish)
            if objection is None and not fresh(name):
                objection = SILENT
            if objection is None:
                objection = ranking.unfit.get(name) or lacking(Candidate(host, self._free[name], crowd), wish)
            if objection is not None:
                counts[objection] += 1
        return counts

    def _best(
        self,
        ranking: _Ranking,
        names: Iterable[str],
        wish: Wish,
        crowd: Mapping[str, int],
        fresh: Callable[[str], bool],
    ) -> str | None:
        fitting = [
            name
            for name in names
            if name in ranking.keys and has_room(self._candidate(name, crowd), wish) and fresh(name)
        ]

        def rank(name: str) -> tuple[float, str]:
            return ranking.keys[name] - group_weight(wish.group, crowd.get(name, 0), self._weights), name

        return min(fitting, key=rank, default=None)

    def _candidate(self, name: str, crowd: Mapping[str, int]) -> Candidate:
        return Candidate(self._hosts[name], self._free[name], crowd)

    def _moved(self, name: str) -> None:
        """Note that a host, or what is free on it, is another now."""
        host = self._hosts.get(name)
        if host is None:
            self._free.pop(name, None)
        else:
            self._free[name] = host.free_of(self._used[name])
        for ranking in self._rankings.values():
            ranking.stale.add(name)

    def _ranking(self, terms: Terms) -> _Ranking:
        """Give the ranking for some terms, up to date and noted as the last that was asked for."""
        if not self._scale_known:
            former, self._scale, self._scale_known = self._scale, scale_of(self._hosts.values()), True
            if former != self._scale:
                self._rankings.clear()
        ranking = self._rankings.pop(terms, None) or _Ranking(self._hosts)
        self._rankings[terms] = ranking
        if len(self._rankings) > _RANKINGS:
            del self._rankings[next(iter(self._rankings))]
        for name in ranking.stale:
            host = self._hosts.get(name)
            objection = unfit(host, terms) if host is not None else None
            ranking.unfit.pop(name, None)
            if objection is not None:
                ranking.unfit[name] = objection
            if host is None or objection is not None:
                ranking.move(name, None)
            else:
                ranking.move(name, -room_weight(self._free[name], self._scale, self._weights))
        ranking.stale.clear()
        return ranking
