"""What placement knows: hosts as they are, and what is asked of them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Amounts:
    """vCPUs (count), memory and disk (bytes)."""

    vcpus: float = 0
    memory: float = 0
    disk: float = 0

    def plus(self, other: Amounts) -> Amounts:
        """Give the sum."""
        return Amounts(self.vcpus + other.vcpus, self.memory + other.memory, self.disk + other.disk)

    def minus(self, other: Amounts) -> Amounts:
        """Give the difference, which may be negative."""
        return Amounts(self.vcpus - other.vcpus, self.memory - other.memory, self.disk - other.disk)


@dataclass(frozen=True)
class HostFacts:
    """A host at the moment of the decision; `total` is after overcommit."""

    name: str
    ready: bool
    fresh: bool
    schedulable: bool
    maintenance: bool
    decommissioned: bool
    tunnel: bool
    total: Amounts = field(default_factory=Amounts)


@dataclass(frozen=True)
class Wish:
    """What a server asks of a host.

    Attributes:
        amounts: disk includes volumes that will be made with it, not those that exist.
        only_host: the user's placement or the host of a volume; None for any.
        only_reason: what binds it there, for the message.
    """

    amounts: Amounts
    only_host: str | None = None
    only_reason: str = ""
