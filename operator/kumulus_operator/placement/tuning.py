"""What an administrator may tune of placement: the operator's settings and its environment say the same (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from kumulus_operator.placement.facts import Weights

PREFIX = "KUMULUS_"
"""Of the environment variables that the settings are read from."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Ratios of overcommit, and weights; the defaults are Nova's but for the group's, which outweighs all room."""

    vcpu_overcommit: float = 4.0
    memory_overcommit: float = 1.0
    disk_overcommit: float = 1.0
    disk_reserved_percent: float = 0.0
    weight_vcpus: float = 1.0
    weight_memory: float = 1.0
    weight_disk: float = 1.0
    weight_group: float = 10.0
    host_silence: float = 40.0

    @property
    def weights(self) -> Weights:
        """The weights."""
        return Weights(self.weight_vcpus, self.weight_memory, self.weight_disk, self.weight_group)


DEFAULT = Tuning()


def tuning_of(environment: Mapping[str, str]) -> Tuning:
    """Read what an operator with these environment variables places by.

    Raises:
        ValueError: a variable is no number.
    """
    names = {field.name: f"{PREFIX}{field.name.upper()}" for field in fields(Tuning)}
    return Tuning(**{name: float(environment[key]) for name, key in names.items() if key in environment})
