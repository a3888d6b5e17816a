"""What users say of ports that are here: read from the Ports that the agent watches anyway, those of its host."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

from kumulus_agent.network.state import AddressPair, PortDesired, Rates
from kumulus_api import Port
from kumulus_api.port import PortQoS
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.store import Store

PortKey = tuple[str, str, str]
"""Namespace and name of a Port, and its MAC: one of the same name that was made anew has another."""


@dataclass(frozen=True, slots=True)
class PortSettings:
    """What a Port says besides what its server's assignment has."""

    pairs: frozenset[AddressPair] = frozenset()
    secured: bool = True
    rates: Rates | None = None
    dns_name: str = ""

    def of(self, port: PortDesired) -> PortDesired:
        """Give a port with these settings."""
        groups = port.groups if self.secured else None
        rates = self.rates if self.rates is not None else port.rates
        return replace(port, pairs=self.pairs, secured=self.secured, rates=rates, dns_name=self.dns_name, groups=groups)


def read_settings(body: dict[str, Any]) -> PortSettings:
    """Read a Port as the API server sends it."""
    spec = Port.model_validate(body).spec
    pairs = frozenset(
        AddressPair(ip_network(pair.address), "" if pair.mac is None or pair.mac == _mac_of(body) else pair.mac)
        for pair in spec.allowed_address_pairs
    )
    secured = spec.port_security_enabled
    return PortSettings(pairs if secured else frozenset(), secured, _rates(spec.qos), spec.dns_name or "")


def _settings_of(body: dict[str, Any] | None, key: PortKey) -> PortSettings | None:
    return read_settings(body) if body is not None and _mac_of(body) == key[2] else None


def _rates(qos: PortQoS | None) -> Rates | None:
    return Rates(qos.ingress_kbps or 0, qos.egress_kbps or 0, qos.burst_kbits or 0) if qos is not None else None


def _mac_of(body: dict[str, Any]) -> str:
    return str((body["spec"].get("assignment") or {}).get("mac", ""))


class PortsHere:
    """The settings of ports that are here, as they were known last.

    A Port that is not watched (yet) is read once: it is about to be, or its server is migrating to this host. That one
    has left the watch changes nothing: guests that run keep what they have.

    Args:
        client: to reach the API server.
        store: what the watch has shown.
    """

    def __init__(self, client: KubeClient, store: Store) -> None:
        self._client = client
        self._store = store
        self._known: dict[PortKey, tuple[dict[str, Any] | None, PortSettings]] = {}

    async def of(self, key: PortKey) -> PortSettings:
        """Give the settings of a port.

        Raises:
            ApiError: it had to be read, and the API server did not answer.
        """
        namespace, name, _ = key
        if key not in self._known and self._store.get(Port, name, namespace) is None:
            body = await self._client.get(Port, name, namespace)
            self._known[key] = (None, _settings_of(body, key) or PortSettings())
        return self._look(key)

    def changed(self, key: PortKey) -> bool:
        """Whether the watch shows a port otherwise than it was known last; false of one that was never asked for."""
        former = self._known.get(key)
        return former is not None and self._look(key) != former[1]

    def _look(self, key: PortKey) -> PortSettings:
        body = self._store.get(Port, key[1], key[0])
        seen, settings = self._known.get(key, (None, PortSettings()))
        if body is not None and body is not seen:
            settings = _settings_of(body, key) or settings
            self._known[key] = (body, settings)
        return settings

    def forget(self, key: PortKey) -> None:
        """Let go of a port that is not here any more."""
        self._known.pop(key, None)
