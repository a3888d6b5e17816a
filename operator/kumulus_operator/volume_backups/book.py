"""Count backups, and the bytes of their volumes: a project may have so much of both."""

from __future__ import annotations

from kumulus_api.quantities import format_quantity
from kumulus_operator.ledger.sizes import Sizes
from kumulus_operator.views import Key


class BackupBook(Sizes):
    """Admits backups one after the other: nothing is awaited between looking and counting."""

    def admit(self, key: Key, size: int) -> str | None:
        """Count a backup, or say by what it would exceed the quota.

        Args:
            key: namespace and name; one that is counted is not counted again.
            size: bytes of its volume.
        """
        namespace, name = key
        if name in self._sizes[namespace]:
            return None
        limits, (backups, used) = self._quota_of(namespace), self.used(namespace)
        if limits.backups is not None and backups + 1 > limits.backups:
            return f"{backups} of {limits.backups} backups are in use"
        if limits.backup_gigabytes is not None and used + size > limits.backup_gigabytes * 2**30:
            asked = f"{format_quantity(size)} more is asked for"
            return f"{format_quantity(used)} of {limits.backup_gigabytes}Gi of backups are in use, {asked}"
        self.measure(key, size)
        return None
