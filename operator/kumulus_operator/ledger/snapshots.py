"""Count what snapshots of volumes take of gigabytes: each the size that its volume had, as in Cinder."""

from __future__ import annotations

from kumulus_api.quantities import format_quantity
from kumulus_operator.ledger.sizes import Sizes
from kumulus_operator.views import Key


class SnapshotBook(Sizes):
    """Admits snapshots by their bytes, one after the other: nothing is awaited between looking and counting."""

    def admit(self, key: Key, size: int, used: int) -> str | None:
        """Count a snapshot that is not taken yet, or say by what it would exceed the quota.

        Args:
            key: namespace and name; one that is counted is not counted again.
            size: bytes of the volume.
            used: bytes of all volumes and snapshots of the project.
        """
        namespace, name = key
        limit = self._quota_of(namespace).gigabytes
        if name in self._sizes[namespace]:
            return None
        if limit is not None and used + size > limit * 2**30:
            return f"{format_quantity(used)} of {limit}Gi are in use, {format_quantity(size)} is asked for"
        self.measure(key, size)
        return None
