"""The host's CPUs: those that servers share, and those that each go to one (pure)."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ONLINE_CPUS: Final = Path("/sys/devices/system/cpu/online")


@dataclass(frozen=True, slots=True)
class Processors:
    """CPUs by their numbers.

    Attributes:
        online: all that the host has.
        dedicated: those for servers with CPUs of their own.
    """

    online: frozenset[int]
    dedicated: frozenset[int] = frozenset()

    @property
    def shared(self) -> tuple[int, ...]:
        """Those that servers share."""
        return tuple(sorted(self.online - self.dedicated))

    @property
    def shared_only(self) -> tuple[int, ...]:
        """Those to which servers have to be tied that share; empty where all CPUs are shared."""
        return self.shared if self.dedicated else ()

    def choose(self, count: int, taken: AbstractSet[int]) -> tuple[int, ...]:
        """Give up to `count` dedicated CPUs that are not taken, neighbours first."""
        return tuple(sorted(self.dedicated - taken)[:count])


def processors(online: AbstractSet[int], dedicated: str | None) -> Processors:
    """Read a Host's `spec.dedicatedCPUs`; a CPU that the host does not have counts for nothing."""
    wanted = parse_cpus(dedicated) if dedicated else frozenset()
    return Processors(frozenset(online), wanted & frozenset(online))


def parse_cpus(text: str) -> frozenset[int]:
    """Read a list of CPUs such as `0,2-4`.

    Raises:
        ValueError: it is none.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
