"""What is plugged into a domain, by the names under which it is known outside."""

from __future__ import annotations

from dataclasses import dataclass

from kumulus_agent.passthrough.facts import Passed


@dataclass(frozen=True, slots=True)
class Devices:
    """MACs of NICs, and ids of volumes; and what it has of the host, which neither comes nor leaves while it runs."""

    macs: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()
    passed: tuple[Passed, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.macs or self.volumes)
