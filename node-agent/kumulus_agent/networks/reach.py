"""Which physical networks a host reaches, and why not the others (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kumulus_agent.network.errors import NetworkError
from kumulus_agent.network.state import HostInterface, Uplink
from kumulus_api.provider import Obstacle, PhysicalNetwork, Provider, ReachReason, SegmentType


class NetworkUnreached(NetworkError):
    """This host does not reach the physical network; `reason` is CamelCase for a condition."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def mappings_of(spec: Mapping[str, Any], settings: Mapping[str, str]) -> dict[str, str]:
    """Give the interface of each physical network.

    Args:
        spec: the Host's, whose own mappings stand in place of all others.
        settings: those of all hosts.
    """
    own = spec.get("bridgeMappings")
    return dict(settings if own is None else own)


def reached(
    mappings: Mapping[str, str], found: Mapping[str, HostInterface], *, vlans: bool
) -> tuple[PhysicalNetwork, ...]:
    """Say of each mapped physical network what it carries on this host.

    Args:
        mappings: physical network to interface.
        found: the interfaces that are there.
        vlans: whether the kernel has 8021q.
    """
    return tuple(
        _reached(name, interface, found.get(interface), vlans=vlans) for name, interface in sorted(mappings.items())
    )


def _reached(name: str, interface: str, found: HostInterface | None, *, vlans: bool) -> PhysicalNetwork:
    judged = {kind: _obstacle(interface, kind, found, vlans=vlans) for kind in SegmentType}
    return PhysicalNetwork(
        name=name,
        interface=interface,
        mtu=found.mtu if found is not None else None,
        reaches=[kind for kind, why in judged.items() if why is None],
        obstacles=[why for why in judged.values() if why is not None],
    )


def _obstacle(interface: str, kind: SegmentType, found: HostInterface | None, *, vlans: bool) -> Obstacle | None:
    if found is None:
        return Obstacle(type=kind, reason=ReachReason.INTERFACE_ABSENT, message=f"there is no interface {interface}")
    if kind is SegmentType.FLAT:
        if not found.used:
            return None
        message = f"the host itself uses {interface}: {found.used}; give guests an interface of their own"
        return Obstacle(type=kind, reason=ReachReason.INTERFACE_IN_USE, message=message)
    if not vlans:
        message = "the kernel lacks the module 8021q"
        return Obstacle(type=kind, reason=ReachReason.VLAN_UNSUPPORTED, message=message)
    if not found.up:
        message = f"interface {interface} is down, and what lies upon it with it: bring it up"
        return Obstacle(type=kind, reason=ReachReason.INTERFACE_DOWN, message=message)
    return None


def uplink_of(provider: Provider, networks: tuple[PhysicalNetwork, ...]) -> Uplink | NetworkUnreached:
    """Give how a provider network leaves this host, or why it does not."""
    network = next((item for item in networks if item.name == provider.physical_network), None)
    if network is None:
        return _unreached(provider, "NotMapped", "no interface of this host is mapped to it")
    obstacle = next((item for item in network.obstacles if item.type is provider.type), None)
    if obstacle is not None:
        return _unreached(provider, obstacle.reason.value, obstacle.message)
    if network.mtu is not None and network.mtu < provider.mtu:
        told = f"interface {network.interface} carries {network.mtu} bytes, a packet of the network has {provider.mtu}"
        return _unreached(provider, "MTUTooSmall", told)
    return Uplink(network.interface, provider.segmentation_id)


def overlay_obstacle(mtu: int | None, carried: int) -> NetworkUnreached | None:
    """Say why an overlay network is not carried by this host, or None.

    Args:
        mtu: that the network asks for, if it does.
        carried: bytes of a guest's packet that this host's underlay carries.
    """
    if mtu is None or mtu <= carried:
        return None
    text = (
        f"the network's packets have {mtu} bytes, in this host's tunnels are {carried} at most: give it a smaller mtu"
    )
    return NetworkUnreached(f"{text}; transient: goes on when it has one", "MTUTooLarge")


def _unreached(provider: Provider, reason: str, message: str) -> NetworkUnreached:
    text = f"physical network {provider.shown} is not reached from this host: {message}; transient: goes on when it is"
    return NetworkUnreached(text, reason)
