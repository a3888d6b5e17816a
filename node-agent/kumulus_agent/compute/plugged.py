"""What is plugged into a domain, by the names under which it is known outside."""

from __future__ import annotations

from dataclasses import dataclass

from kumulus_agent.passthrough.facts import Passed


@dataclass(frozen=True, slots=True)
class Devices:
    """MACs of NICs, and ids of volumes; and what it has of the host, which neither comes nor leaves while it runs.

    `bound` are the volumes that could not be copied to another host as it runs: what they lie on would stay behind, or
    it cannot write to them. `root_limits` are those of its root disk, by libvirt's names; None if it has no such disk.
    """

    macs: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()
    passed: tuple[Passed, ...] = ()
    bound: frozenset[str] = frozenset()
    root_limits: frozenset[tuple[str, int]] | None = None

    def __bool__(self) -> bool:
        return bool(self.macs or self.volumes)
