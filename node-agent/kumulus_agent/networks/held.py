"""The ports that are held on this host: by their taps, of which Port each is, and what that says."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from kumulus_agent.network.groups import GroupKey
from kumulus_agent.network.state import PortDesired
from kumulus_agent.networks.port_settings import PortKey, PortsHere
from kumulus_agent.servers.desired import DesiredPort


@dataclass(frozen=True, slots=True)
class HeldPort:
    """A port that is held here: the name of its network, its MAC, its own name, and its security groups."""

    network: str
    mac: str
    port: str = ""
    groups: frozenset[GroupKey] | None = None


def port_desired(instance_id: str, hostname: str, port: DesiredPort) -> PortDesired:
    """Give a port of an instance as its server's assignment has it."""
    addresses = tuple(map(ip_address, port.addresses))
    return PortDesired(
        port.tap,
        port.mac,
        addresses,
        instance_id,
        hostname,
        frozenset(port.groups),
        rates=port.rates,
        shared=port.shared,
    )


class PortsOfTaps:
    """Of which Ports the taps here are.

    Args:
        settings: what Ports say; None where nobody knows.
    """

    def __init__(self, settings: PortsHere | None) -> None:
        self._settings = settings
        self._keys: dict[str, PortKey] = {}
        self._taps: dict[tuple[str, str], set[str]] = {}
        """By namespace and name of a Port: two when it goes from one server to another."""

    def hold(self, former: Iterable[str], ports: Collection[DesiredPort]) -> None:
        """Take note of an instance's ports; `former` are the taps that were held for it."""
        self.forget(set(former) - {port.tap for port in ports})
        for port in ports:
            self._keys[port.tap] = (port.namespace, port.port, port.mac)
            self._taps.setdefault((port.namespace, port.port), set()).add(port.tap)

    def forget(self, taps: Iterable[str]) -> None:
        """Let go of taps."""
        for tap in taps:
            key = self._keys.pop(tap)
            if self._settings is not None:
                self._settings.forget(key)
            self._taps[key[:2]].discard(tap)
            if not self._taps[key[:2]]:
                del self._taps[key[:2]]

    def name(self, tap: str) -> str:
        """Give the name of a tap's Port."""
        return self._keys[tap][1]

    @property
    def keys(self) -> Mapping[str, PortKey]:
        """By tap, namespace and name of its Port, and its MAC."""
        return self._keys

    def changed(self, namespace: str, name: str) -> frozenset[str]:
        """Give the taps of a Port if that says something else now."""
        taps = self._taps.get((namespace, name), set())
        settings = self._settings
        keys = {self._keys[tap] for tap in taps}
        other = {key for key in keys if settings is not None and settings.changed(key)}
        return frozenset(tap for tap in taps if self._keys[tap] in other)

    async def settled(self, ports: list[PortDesired]) -> list[PortDesired]:
        """Give ports as their Ports say that they should be.

        Raises:
            ApiError: one had to be read, and the API server did not answer.
        """
        if self._settings is None:
            return ports
        # Meanwhile one may be let go of.
        keys = [self._keys[port.tap] for port in ports]
        return [(await self._settings.of(key)).of(port) for key, port in zip(keys, ports, strict=True)]
