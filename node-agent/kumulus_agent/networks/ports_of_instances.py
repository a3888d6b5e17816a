"""The ports that count as being here, found by instance, by network and by security group without a look at all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping

from kumulus_agent.network.groups import GroupKey
from kumulus_agent.network.state import PortDesired
from kumulus_agent.servers.desired import NetworkKey

Held = Mapping[str, tuple[NetworkKey, PortDesired]]
"""Of an instance: networks and ports by tap."""


class PortsOfInstances:
    """Ports by the instances that they are held for."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self._on: dict[int, dict[tuple[str, str], PortDesired]] = defaultdict(dict)
        self._groups: Counter[GroupKey] = Counter()

    def put(self, instance_id: str, held: Held) -> None:
        """Have these be the instance's, and no others."""
        for tap, (key, port) in self._held.pop(instance_id, {}).items():
            del self._on[key.vni][instance_id, tap]
            if not self._on[key.vni]:
                del self._on[key.vni]
            self._groups.subtract(port.groups or ())
        self._groups = +self._groups
        if held:
            self._held[instance_id] = held
        for tap, (key, port) in held.items():
            self._on[key.vni][instance_id, tap] = port
            self._groups.update(port.groups or ())

    def of(self, instance_id: str) -> Held:
        """Give those of an instance."""
        return self._held.get(instance_id, {})

    def on(self, vni: int) -> list[PortDesired]:
        """Give those in a network."""
        return list(self._on.get(vni, {}).values())

    @property
    def vnis(self) -> frozenset[int]:
        """The networks that have one."""
        return frozenset(self._on)

    @property
    def groups(self) -> Collection[GroupKey]:
        """The groups that one is in."""
        return self._groups.keys()

    def networks_of(self, taps: Collection[str]) -> set[int]:
        """Give the networks of taps."""
        return {vni for vni, ports in self._on.items() if any(tap in taps for _, tap in ports)}

    def in_group(self, group: GroupKey) -> set[int]:
        """Give the networks that have a port in the group."""
        return {vni for vni, ports in self._on.items() if any(group in (p.groups or ()) for p in ports.values())}
