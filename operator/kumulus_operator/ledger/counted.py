"""Count objects that a project may have so many of, and that take room on no host."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from kumulus_operator.views import Key


class Counted:
    """Admits objects of one kind, one after the other: nothing is awaited between looking and counting.

    Args:
        words: what they are called, in the plural.
        limit_of: gives how many a project may have; None if it has no limit.
        changed: is told of a project whose count is another now.
    """

    def __init__(
        self, words: str, limit_of: Callable[[str], int | None], changed: Callable[[str], None] = lambda _: None
    ) -> None:
        self._words = words
        self._limit_of = limit_of
        self._changed = changed
        self._names: defaultdict[str, set[str]] = defaultdict(set)

    def admit(self, key: Key, *, admitted: bool = False) -> str | None:
        """Count an object, or say by what it would exceed the quota.

        Args:
            key: namespace and name; one that is counted is not counted again.
            admitted: it was admitted before this process started, and no quota refuses it any more.
        """
        namespace, name = key
        names, limit = self._names[namespace], self._limit_of(namespace)
        if name in names:
            return None
        if not admitted and limit is not None and len(names) + 1 > limit:
            return f"{len(names)} of {limit} {self._words} are in use"
        names.add(name)
        self._changed(namespace)
        return None

    def withdraw(self, key: Key) -> bool:
        """Count an object no more; give whether it was counted."""
        namespace, name = key
        if name not in self._names[namespace]:
            return False
        self._names[namespace].discard(name)
        self._changed(namespace)
        return True

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and key[1] in self._names.get(key[0], ())

    def count(self, namespace: str) -> int:
        """Give how many a project has."""
        return len(self._names[namespace])
