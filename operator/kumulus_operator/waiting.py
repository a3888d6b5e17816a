"""Who waits for what: so that a change wakes exactly those that it may help, and nothing polls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from kumulus_operator.views import Key

Need = tuple[str, str, str]
"""Kind, namespace and name of what is waited for. See also `CAPACITY` and `quota`."""

CAPACITY: Need = ("Capacity", "", "")
"""Room on some host."""
STANDBY: Need = ("Standby", "", "")
"""A host that may share a router's gateway."""


def quota(namespace: str) -> Need:
    """Give the need for more quota of a project."""
    return ("Quota", namespace, "")


def any_of(kind: str, namespace: str) -> Need:
    """Give the need for a change of any object of a kind in a namespace."""
    return (kind, namespace, "*")


class Waiters:
    """Objects that wait, and their needs."""

    def __init__(self) -> None:
        self._needs: dict[Key, frozenset[Need]] = {}
        self._waiting: dict[Need, dict[Key, None]] = defaultdict(dict)

    def wait(self, key: Key, needs: Iterable[Need]) -> None:
        """Replace what `key` waits for."""
        self.forget(key)
        self._needs[key] = frozenset(needs)
        for need in self._needs[key]:
            self._waiting[need][key] = None

    def settle(self, key: Key, needs: Iterable[Need]) -> None:
        """Replace what `key` waits for; it waits no more if that is nothing."""
        wanted = frozenset(needs)
        if wanted:
            self.wait(key, wanted)
        else:
            self.forget(key)

    def forget(self, key: Key) -> None:
        """Note that `key` waits no more."""
        for need in self._needs.pop(key, frozenset()):
            waiting = self._waiting[need]
            waiting.pop(key, None)
            if not waiting:
                del self._waiting[need]

    def woken_by(self, *needs: Need) -> list[Key]:
        """Give those that wait for one of the needs, the longest waiting first."""
        found: dict[Key, None] = {}
        for need in needs:
            found.update(self._waiting.get(need, {}))
            if need[2] and need[2] != "*":
                found.update(self._waiting.get((need[0], need[1], "*"), {}))
        return list(found)

    def needs_of(self, key: Key) -> frozenset[Need]:
        """Give what `key` waits for."""
        return self._needs.get(key, frozenset())

    def __len__(self) -> int:
        return len(self._needs)

    def __contains__(self, key: object) -> bool:
        return key in self._needs
