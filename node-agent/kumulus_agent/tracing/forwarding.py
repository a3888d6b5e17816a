"""Where a guest and a bridge send a frame (pure)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address

from kumulus_agent.network import names
from kumulus_agent.network.expressions import TABLE
from kumulus_agent.network.groups import Flow
from kumulus_agent.network.state import NetworkDesired
from kumulus_agent.tracing.nft import Frame, Ruleset
from kumulus_agent.tracing.state import Address, Bridges, NetworkHere


@dataclass(frozen=True, slots=True)
class Outlet:
    """The interface by which a bridge lets a frame out, why it is that, and the host behind it if it is a tunnel."""

    link: str
    message: str
    peer: str = ""
    why: str = ""


def next_hop(network: NetworkDesired, flow: Flow) -> Address | None:
    """Give the address that a guest asks for: the receiver's own in its network, else that of a router.

    Routes are those that the network's subnets tell of: a guest may have been given others by its user.
    """
    target = flow.destination
    if any(target in subnet.cidr for subnet in network.subnets) or target.is_link_local:
        return target
    own = [subnet for subnet in network.subnets if subnet.cidr.version == target.version]
    told = [(route.prefixlen, str(hop), hop) for subnet in own for route, hop in subnet.routes if target in route]
    if told:
        return max(told)[2]
    # Of several subnets the one that the packet comes from leads out.
    own.sort(key=lambda subnet: flow.source not in subnet.cidr)
    return next((subnet.gateway for subnet in own if subnet.gateway is not None), None)


def addresses_of(rules: Ruleset) -> dict[str, frozenset[Address]]:
    """Give, by tap, the addresses that the rules in the kernel know of its port."""
    found: dict[str, set[Address]] = {}
    for name in ("addresses", "addresses6"):
        for key, _ in rules.elements("bridge", TABLE, name):
            tap, address = key["concat"]
            found.setdefault(tap, set()).add(ip_address(address))
    return {tap: frozenset(known) for tap, known in found.items()}


def outlet(
    bridges: Bridges, network: NetworkHere, frame: Frame, taps: Collection[str], heard: Collection[str] = ()
) -> Outlet | None:
    """Say where a bridge sends a frame; None if nowhere.

    Args:
        bridges: the kernel's state.
        network: whose bridge it is.
        frame: which has come to it.
        taps: those of ports.
        heard: MACs that the packet came from which this one answers: bridge and tunnel have learned them of it.
    """
    desired, mac = network.applied, frame.destination_mac
    ports = {link.name for link in bridges.links.values() if link.master == desired.bridge} - {frame.incoming}
    known = next(
        (entry.link for entry in bridges.entries if entry.mac == mac and not entry.peer and entry.link in ports), ""
    )
    if known:
        # What was heard from another host last is there, though a port here may have the same MAC.
        told = Outlet(known, f"bridge {desired.bridge} has {mac} behind {known}")
        return told if known != desired.vxlan else _tunnel(bridges, desired, mac, heard)
    service = desired.service_link
    if service in ports and service is not None and mac == names.service_mac(desired.vni):
        return Outlet(service, f"bridge {desired.bridge} has the network's own services behind {service}")
    own = next((tap for tap in sorted(ports & set(taps)) if mac and mac in _macs(bridges.rules, tap)), "")
    if own:
        return Outlet(
            own, f"bridge {desired.bridge} floods, as it has not heard {mac} yet, and {own} is one of its ports"
        )
    if desired.vxlan in ports:
        return _tunnel(bridges, desired, mac, heard)
    out = desired.uplink_port
    if out in ports and out is not None:
        return Outlet(out, f"bridge {desired.bridge} sends it to the physical network")
    return None


def _tunnel(bridges: Bridges, desired: NetworkDesired, mac: str, heard: Collection[str]) -> Outlet | None:
    """Choose the host: that of the MAC's entry, else of the flood list the one that the API tells of."""
    device, message = desired.vxlan, f"bridge {desired.bridge} sends it to other hosts by {desired.vxlan}"
    peer = next(
        (entry.peer for entry in bridges.entries if (entry.link, entry.mac) == (device, mac) and entry.peer), ""
    )
    if peer:
        return Outlet(device, message, peer, f"{mac} is noted there")
    flood = {entry.peer for entry in bridges.entries if entry.link == device and entry.mac == _ANY}
    wanted = next((at for known, at in sorted(desired.neighbours | desired.transits) if known == mac), "")
    if wanted and mac in heard:
        return Outlet(device, message, wanted, f"it has heard {mac} from there, as the question came")
    if wanted in flood:
        return Outlet(device, message, wanted, f"no host is noted for {mac}, so all are sent it, that one too")
    return None


def _macs(rules: Ruleset, tap: str) -> set[str]:
    pairs = (key["concat"] for key, _ in rules.elements("bridge", TABLE, "macs"))
    return {mac for at, mac in pairs if at == tap}


_ANY = "00:00:00:00:00:00"
