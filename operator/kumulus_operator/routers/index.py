"""Who uses what of routers and floating IPs, as far as the watches have shown it."""

from __future__ import annotations

from collections import defaultdict
from ipaddress import ip_interface

from kumulus_api import FloatingIP, Router
from kumulus_api.router import AssignedGateway, AssignedInterface
from kumulus_operator.views import Key, reindex

Spot = tuple[Key, str]
"""A router, and an address that it leads to."""


class Edges:
    """Indexes of routers and floating IPs."""

    def __init__(self) -> None:
        self.routers_on: defaultdict[str, set[Key]] = defaultdict(set)
        """Routers that lead out on a host."""
        self.waiting_on: defaultdict[str, set[Key]] = defaultdict(set)
        """Routers that a host leads out when their gateway's host is heard of no more."""
        self.choosing: dict[Key, str] = {}
        """Hosts that were just chosen for routers: others choose before the watch shows it."""
        self.routers_in: defaultdict[Key, set[Key]] = defaultdict(set)
        """Routers with an address in a network."""
        self.floating_in: defaultdict[Key, set[Key]] = defaultdict(set)
        """Floating IPs with an address of a network."""
        self.floating_by: defaultdict[Key, set[Key]] = defaultdict(set)
        """Floating IPs that a router leads to a port."""
        self.floating_to: defaultdict[Key, set[Key]] = defaultdict(set)
        """Floating IPs whose spec names a port."""
        self.floating_at: defaultdict[Spot, set[Key]] = defaultdict(set)
        """Floating IPs that lead to an address as a whole."""

    def gateways_on(self, host: str) -> frozenset[Key]:
        """Give the routers that lead out on a host, or may."""
        return frozenset(self.routers_on.get(host, ())) | frozenset(self.waiting_on.get(host, ()))

    def led_out(self) -> dict[str, int]:
        """Give how many routers lead out on each host, those included for which it was just chosen."""
        counts = {name: len(keys) for name, keys in self.routers_on.items()}
        for key, name in self.choosing.items():
            if key not in self.routers_on.get(name, ()):
                counts[name] = counts.get(name, 0) + 1
        return counts

    def router(self, former: Router | None, new: Router | None) -> None:
        """Take in a router."""
        item = new or former
        if item is None:
            return
        reindex(self.routers_on, item.key, _gateway_hosts(former), _gateway_hosts(new))
        reindex(self.waiting_on, item.key, _standby_hosts(former), _standby_hosts(new))
        reindex(self.routers_in, item.key, networks_of(former), networks_of(new))

    def floating_ip(self, former: FloatingIP | None, new: FloatingIP | None) -> None:
        """Take in a floating IP."""
        item = new or former
        if item is None:
            return
        reindex(self.floating_in, item.key, _network(former), _network(new))
        reindex(self.floating_by, item.key, _router(former), _router(new))
        reindex(self.floating_to, item.key, ports_of(former), ports_of(new))
        reindex(self.floating_at, item.key, _spot(former), _spot(new))


def networks_of(router: Router | None) -> set[Key]:
    """Give the networks that a router has addresses in."""
    given = router.spec.assignment if router is not None else None
    if given is None:
        return set()
    parts: list[AssignedInterface | AssignedGateway] = [*given.interfaces]
    if given.gateway is not None:
        parts.append(given.gateway)
    return {(item.network_namespace, item.network) for item in parts}


def addresses_of(router: Router) -> set[tuple[int, str]]:
    """Give the addresses that a router was given, with the numbers of their networks."""
    given = router.spec.assignment
    if given is None:
        return set()
    parts: list[AssignedInterface | AssignedGateway] = [*given.interfaces]
    if given.gateway is not None:
        parts.append(given.gateway)
    return {(part.vni, str(ip_interface(item).ip)) for part in parts for item in part.addresses}


def ports_of(floating: FloatingIP | None) -> set[Key]:
    """Give the ports that a floating IP is to lead to."""
    if floating is None:
        return set()
    named = [item.port.name for item in floating.spec.port_forwardings]
    if floating.spec.port is not None:
        named.append(floating.spec.port.name)
    return {(floating.key[0], name) for name in named}


def _gateway_hosts(router: Router | None) -> set[str]:
    given = router.spec.assignment if router is not None else None
    return {given.gateway.host} if given is not None and given.gateway is not None else set()


def _standby_hosts(router: Router | None) -> set[str]:
    given = router.spec.assignment if router is not None else None
    takeover = given.gateway.takeover if given is not None and given.gateway is not None else None
    return {takeover.standby.host} if takeover is not None and takeover.standby is not None else set()


def _network(floating: FloatingIP | None) -> set[Key]:
    given = floating.spec.assignment if floating is not None else None
    return {(given.network_namespace, given.network)} if given is not None else set()


def _router(floating: FloatingIP | None) -> set[Key]:
    given = floating.spec.assignment if floating is not None else None
    return {(floating.key[0], given.router)} if floating is not None and given is not None and given.router else set()


def _spot(floating: FloatingIP | None) -> set[Spot]:
    given = floating.spec.assignment if floating is not None else None
    if floating is None or given is None or given.router is None or given.fixed_address is None:
        return set()
    return {((floating.key[0], given.router), given.fixed_address)}
