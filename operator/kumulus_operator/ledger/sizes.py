"""Count objects of projects and their bytes, for the books that admit them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from kumulus_api.tenancy import Quota
from kumulus_operator.views import Key


class Sizes:
    """What each project has of one kind.

    Args:
        quota_of: gives the limits of a project, for what admits by them.
        changed: is told of a project whose figures are others now.
    """

    def __init__(self, quota_of: Callable[[str], Quota], changed: Callable[[str], None] = lambda _: None) -> None:
        self._quota_of = quota_of
        self._changed = changed
        self._sizes: defaultdict[str, dict[str, int]] = defaultdict(dict)

    def measure(self, key: Key, size: int) -> None:
        """Count an object with its size, whatever the quota: it was admitted, or is there."""
        namespace, name = key
        if self._sizes[namespace].get(name) != size:
            self._sizes[namespace][name] = size
            self._changed(namespace)

    def withdraw(self, key: Key) -> bool:
        """Count an object no more; give whether it was counted."""
        namespace, name = key
        if self._sizes[namespace].pop(name, None) is None:
            return False
        self._changed(namespace)
        return True

    def used(self, namespace: str) -> tuple[int, int]:
        """Give how many a project has, and their bytes."""
        sizes = self._sizes.get(namespace, {})
        return len(sizes), sum(sizes.values())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and key[1] in self._sizes.get(key[0], ())
