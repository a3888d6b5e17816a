"""What is plugged into a domain, by the names under which it is known outside."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Devices:
    """MACs of NICs, and ids of volumes."""

    macs: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.macs or self.volumes)
