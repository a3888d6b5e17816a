"""What placement knows: hosts as they are, and what is asked of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf

from kumulus_api.server_group import GroupPolicy


@dataclass(frozen=True, slots=True)
class Amounts:
    """vCPUs (count), memory and disk (bytes), CPUs that are nobody else's (count); custom classes, sorted, no 0.

    `volumes` are bytes by VolumeClass, sorted, no 0: what they count for on a host's disk that says itself, see
    `HostFacts.disk_of`.
    """

    vcpus: float = 0
    memory: float = 0
    disk: float = 0
    dedicated: float = 0
    custom: tuple[tuple[str, float], ...] = ()
    volumes: tuple[tuple[str, float], ...] = ()

    def plus(self, other: Amounts) -> Amounts:
        """Give the sum."""
        return Amounts(
            self.vcpus + other.vcpus,
            self.memory + other.memory,
            self.disk + other.disk,
            self.dedicated + other.dedicated,
            _each(operator.add, self.custom, other.custom),
            _each(operator.add, self.volumes, other.volumes),
        )

    def most(self, other: Amounts) -> Amounts:
        """Give the larger of each."""
        return Amounts(
            max(self.vcpus, other.vcpus),
            max(self.memory, other.memory),
            max(self.disk, other.disk),
            max(self.dedicated, other.dedicated),
            _each(max, self.custom, other.custom),
            _each(max, self.volumes, other.volumes),
        )

    def minus(self, other: Amounts) -> Amounts:
        """Give the difference, which may be negative."""
        return Amounts(
            self.vcpus - other.vcpus,
            self.memory - other.memory,
            self.disk - other.disk,
            self.dedicated - other.dedicated,
            _each(operator.sub, self.custom, other.custom),
            _each(operator.sub, self.volumes, other.volumes),
        )


def _each(
    combine: Callable[[float, float], float], one: tuple[tuple[str, float], ...], other: tuple[tuple[str, float], ...]
) -> tuple[tuple[str, float], ...]:
    if not one and not other:
        return ()
    left, right = dict(one), dict(other)
    combined = {name: combine(left.get(name, 0), right.get(name, 0)) for name in sorted(left.keys() | right.keys())}
    return tuple((name, count) for name, count in combined.items() if count)


NOTHING = Amounts()


@dataclass(frozen=True, slots=True)
class ClassTerms:
    """How volumes of a class count on a host's disk, if their class says it.

    Attributes:
        factor: what a byte counts for where one of a root disk counts for one: the host's ratio through the class's.
        kept: bytes, after the host's overcommit, that they leave.
        told: capacity of the disk and the class's ratio, for messages.
    """

    factor: float = 1.0
    kept: float = 0
    told: str = ""


AS_OTHERS = ClassTerms()


@dataclass(frozen=True, slots=True)
class HostFacts:
    """A host at the moment of the decision.

    Attributes:
        fresh: it renews its Lease.
        total: what it has, after overcommit.
        architecture: as uname says it; empty if it is not known.
        traits: what the agent found, what administrators say of it, what its aggregates give it.
        zones: the availability zones of its aggregates; more than one is a contradiction.
        metadata: of its aggregates, all values of a key.
        numa_nodes: how many it has.
        huge_pages: bytes in huge pages, by the size of these in KiB.
        segments: the physical networks that it reaches, with the type of networks; and the MTU in bytes.
        unreached: those of which it says why it does not.
        withheld: why devices that it might give are not given, by their class.
        disk_left: bytes of disk that may be given out by what is free of it now, after overcommit.
        by_class: how volumes of classes count that say it.
    """

    name: str
    ready: bool
    fresh: bool
    schedulable: bool
    maintenance: bool
    decommissioned: bool
    tunnel: bool
    total: Amounts = NOTHING
    architecture: str = ""
    traits: frozenset[str] = frozenset()
    zones: frozenset[str] = frozenset()
    metadata: Mapping[str, frozenset[str]] = field(default_factory=dict)
    numa_nodes: int = 1
    huge_pages: Mapping[int, int] = field(default_factory=dict)
    segments: Mapping[tuple[str, str], int] = field(default_factory=dict)
    unreached: Mapping[tuple[str, str], str] = field(default_factory=dict)
    withheld: Mapping[str, str] = field(default_factory=dict)
    disk_left: float = inf
    by_class: Mapping[str, ClassTerms] = field(default_factory=dict)

    def disk_of(self, amounts: Amounts) -> float:
        """Give the bytes of disk that amounts count for here, those of volumes by the ratios of their classes."""
        if not amounts.volumes:
            return amounts.disk
        return amounts.disk + sum(size * self.by_class.get(name, AS_OTHERS).factor for name, size in amounts.volumes)

    def disk_kept(self, amounts: Amounts) -> float:
        """Give the bytes of disk that new volumes leave here by their classes."""
        return max((self.by_class.get(name, AS_OTHERS).kept for name, _ in amounts.volumes), default=0)

    def free_of(self, used: Amounts) -> Amounts:
        """Give what is left when so much is given out; its `volumes` are those given out, negative."""
        free = self.total.minus(used)
        return replace(free, disk=self.total.disk - self.disk_of(used)) if used.volumes else free


@dataclass(frozen=True, slots=True)
class Terms:
    """What a server asks of a host whatever else runs there. Many servers share the same ones.

    Attributes:
        zone: the availability zone, or None for any.
        required: traits that the host must have.
        forbidden: traits that it must not have.
        specs: keys and demands that the metadata of its aggregates must match.
        architecture: what the image is made for, or empty.
        numa_nodes: how many the guest is spread over; 0 if it does not matter.
        huge_pages: bytes of its memory, if that is made of huge pages; else 0.
        page_size: of these, in KiB; 0 for any size.
        segments: physical networks that it must reach, with the type of networks and the MTU in bytes.
    """

    zone: str | None = None
    required: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()
    specs: frozenset[tuple[str, str]] = frozenset()
    architecture: str = ""
    numa_nodes: int = 0
    huge_pages: int = 0
    page_size: int = 0
    segments: frozenset[tuple[str, str, int]] = frozenset()


ANY = Terms()


@dataclass(frozen=True, slots=True)
class Group:
    """The server group of a server.

    Attributes:
        name: of the ServerGroup.
        policy: how its servers lie to each other.
        limit: how many may share a host, with AntiAffinity.
    """

    name: str
    policy: GroupPolicy
    limit: int = 1


@dataclass(frozen=True, slots=True)
class Wish:
    """What a server asks of a host.

    Attributes:
        amounts: disk includes volumes that will be made with it, not those that exist.
        only_host: the user's placement or the host of a volume; None for any.
        only_reason: what binds it there, for the message.
        terms: what it asks beside room.
        group: its server group, or None.
        leaving: the host that it leaves, if it is placed already and migrates.
        lying: bytes of the disk that lie where it is: of them no room is taken anew.
        near: the host that is taken if it fits, as a volume lies there that can be used from elsewhere; None for any.
    """

    amounts: Amounts
    only_host: str | None = None
    only_reason: str = ""
    terms: Terms = ANY
    group: Group | None = None
    leaving: str | None = None
    lying: float = 0
    near: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host as one server sees it.

    Attributes:
        host: the host.
        free: what is left of it.
        crowd: servers of the wish's group by host, those that are just being placed included.
    """

    host: HostFacts
    free: Amounts
    crowd: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Weights:
    """How much counts what when several hosts would do; a negative one packs instead of spreading.

    Attributes:
        vcpus: of the share of vCPUs that is free.
        memory: of the share of memory.
        disk: of the share of disk.
        group: of each server of the group that is there already, if its policy is a soft one.
    """

    vcpus: float = 1.0
    memory: float = 1.0
    disk: float = 1.0
    group: float = 10.0
