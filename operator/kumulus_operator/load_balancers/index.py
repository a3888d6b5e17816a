"""Who uses what of load balancers, as far as the watches have shown it."""

from __future__ import annotations

from collections import defaultdict

from kumulus_api import LoadBalancer
from kumulus_operator.views import Key, reindex


class Balancers:
    """Indexes of load balancers."""

    def __init__(self) -> None:
        self.on_host: defaultdict[str, set[Key]] = defaultdict(set)
        """Those that a host has, or is to take over."""
        self.in_network: defaultdict[Key, set[Key]] = defaultdict(set)
        """Those with an address in a network."""
        self.of_port: defaultdict[Key, set[Key]] = defaultdict(set)
        """Those that a port belongs to: one."""
        self.naming: defaultdict[Key, set[Key]] = defaultdict(set)
        """Those of which a server is a member by its name."""
        self.selecting: defaultdict[str, set[Key]] = defaultdict(set)
        """Those of a namespace whose members are found by labels."""
        self.choosing: dict[Key, frozenset[str]] = {}
        """Hosts that were just chosen: others choose before the watch shows it."""

    def see(self, former: LoadBalancer | None, new: LoadBalancer | None) -> None:
        """Take in a load balancer."""
        item = new or former
        if item is None:
            return
        reindex(self.on_host, item.key, hosts_of(former), hosts_of(new))
        reindex(self.in_network, item.key, _networks(former), _networks(new))
        reindex(self.of_port, item.key, _ports(former), _ports(new))
        reindex(self.naming, item.key, _named(former), _named(new))
        reindex(self.selecting, item.key, _selecting(former), _selecting(new))

    def counts(self) -> dict[str, int]:
        """Give how many load balancers each host has or is to take over, with those that it was just chosen for."""
        counts = {name: len(keys) for name, keys in self.on_host.items()}
        for key, names in self.choosing.items():
            for name in names:
                if key not in self.on_host.get(name, ()):
                    counts[name] = counts.get(name, 0) + 1
        return counts


def hosts_of(balancer: LoadBalancer | None) -> set[str]:
    """Give the hosts that a load balancer is assigned to."""
    given = balancer.spec.assignment if balancer is not None else None
    return {name for name in (given.host, given.standby) if name is not None} if given is not None else set()


def _networks(balancer: LoadBalancer | None) -> set[Key]:
    given = balancer.spec.assignment if balancer is not None else None
    return {(given.network_namespace, given.network)} if given is not None else set()


def _ports(balancer: LoadBalancer | None) -> set[Key]:
    given = balancer.spec.assignment if balancer is not None else None
    if balancer is None or given is None:
        return set()
    own = {given.takeover.port} if given.takeover is not None else set()
    return {(balancer.key[0], name) for name in {given.port, *own}}


def _named(balancer: LoadBalancer | None) -> set[Key]:
    if balancer is None:
        return set()
    members = (member for listener in balancer.spec.listeners for member in listener.pool.members)
    return {(balancer.key[0], member.server.name) for member in members if member.server is not None}


def _selecting(balancer: LoadBalancer | None) -> set[str]:
    if balancer is None:
        return set()
    return {balancer.key[0]} if any(item.pool.member_selector for item in balancer.spec.listeners) else set()
