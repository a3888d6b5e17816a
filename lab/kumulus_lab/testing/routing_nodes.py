"""A host of routed networks: the parts of an agent that know of networks and routers, on its namespaces."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import Any

from kumulus_agent.failover.keepalived import Keepalived
from kumulus_agent.network.command import run
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.network.groups import GroupKey, SecurityGroup
from kumulus_agent.network.state import NetworkDesired
from kumulus_agent.networks.carried import CarriedNetworks
from kumulus_agent.networks.physical import PhysicalNetworks
from kumulus_agent.networks.plan import Here
from kumulus_agent.networks.port_settings import PortsHere
from kumulus_agent.routers.here import RoutersHere
from kumulus_agent.routers.members import GatewayMembers
from kumulus_agent.routers.paths import RouterPaths
from kumulus_agent.servers.desired import DesiredPort
from kumulus_agent.services.host_service import HostServices
from kumulus_lab.testing.rulesets import settled
from kumulus_lab.testing.tasks import end
from kumulus_lab.testing.watched_objects import WatchedObjects


class JudgingDatapath:
    """A host's datapath whose ports have groups, as another part of the agent gives them to networks."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self.groups: dict[GroupKey, SecurityGroup] = {}
        self.of_port: dict[str, frozenset[GroupKey]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._datapath, name)

    async def ensure_network(self, desired: NetworkDesired) -> list[Any]:
        """Make the network, its ports judged."""
        ports = tuple(replace(port, groups=self.of_port.get(port.tap, port.groups or None)) for port in desired.ports)
        groups = {**desired.groups, **self.groups}
        return await self._datapath.ensure_network(replace(desired, ports=ports, groups=groups))


@dataclass
class Node:
    """A host with the parts of an agent that know of routers."""

    host: Any
    api: WatchedObjects
    datapath: Any = None
    networks: Any = None
    routers: Any = None
    keepalived: Any = None
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        """What the names of its routers' namespaces begin with."""
        return f"{self.host.name}-kr"

    def start(self, held: dict[str, DesiredPort] | None = None) -> None:
        """Begin as an agent does that finds what is there; `held` are the ports of the guests that run."""
        self.datapath = JudgingDatapath(self.host.datapath)
        physical = PhysicalNetworks(self.host.datapath, lambda: {"physnet1": "phys"}, lambda: None)
        here = Here(self.host.name, self.host.address, 1450)
        self.networks = CarriedNetworks(
            self.api,  # type: ignore[arg-type]
            self.datapath,
            here,
            physical.look,
            self.settings(),
        )
        services = HostServices(self.host.directory / "vrrp-services", init_pid=None)
        paths = RouterPaths(self.host.datapath, self.prefix)
        self.keepalived = Keepalived(services, self.host.directory / "vrrp")
        members = GatewayMembers(self.keepalived, paths, here)
        self.routers = RoutersHere(self.api, paths, self.networks, here, members)  # type: ignore[arg-type]
        for instance, port in (held or {}).items():
            self.networks.hold(instance, instance, [port])
        self.tasks = [
            asyncio.create_task(self.routers.follow()),
            asyncio.create_task(self.networks.queue.run(self.networks.reconcile, 2)),
            asyncio.create_task(self.routers.queue.run(self.routers.reconcile, 2)),
        ]

    def settings(self) -> PortsHere | None:
        """Give what Ports say besides; None if they say nothing."""
        return None

    async def stop(self) -> None:
        """End the agent; all that it made stays."""
        self.networks.queue.stop()
        self.routers.queue.stop()
        await end(self.tasks)
        await self.networks.close()

    @property
    def busy(self) -> bool:
        """Whether something is waiting or under way."""
        queues = (self.networks.queue, self.routers.queue)
        return any(queue._dirty or queue._processing for queue in queues)  # noqa: SLF001 - a queue has no event for rest

    async def linked(self) -> bool:
        """Whether every port of a bridge forwards that has a carrier.

        Of a pair of interfaces whose ends have equal indexes, as those of a router may, the kernel tells bridges of a
        carrier up to a second later (`linkwatch`).
        """
        ports = json.loads(await run(("ip", "netns", "exec", self.host.namespace, "bridge", "-json", "link")) or b"[]")
        return all(port["state"] != "disabled" for port in ports if "LOWER_UP" in port["flags"])

    async def shown(self) -> dict[str, Any]:
        """All that is in the namespaces of bridges and routers: links, addresses, routes, neighbours, rules."""
        listed = json.loads(await run(("ip", "-json", "netns", "list")) or b"[]")
        names = [item["name"] for item in listed if item["name"].startswith((self.host.namespace, self.prefix))]
        return {name: await _shown(name) for name in sorted(names)}


async def _shown(name: str) -> dict[str, Any]:
    where = ("ip", "-netns", name, "-json")
    links = json.loads(await run((*where, "-details", "link", "show")))
    addresses = json.loads(await run((*where, "address", "show")))
    routes = await run(("ip", "-netns", name, "route", "show", "table", "all"))
    routes += await run(("ip", "-netns", name, "-6", "route", "show", "table", "all"))
    rules = await run(("ip", "-netns", name, "rule", "show"))
    rules += await run(("ip", "-netns", name, "-6", "rule", "show"))
    neighbours = await run((*where, "neighbour", "show", "nud", "permanent"))
    # Without counters: a guest that has no IPv6 tries it now and then, and that is counted.
    ruleset = await run(("ip", "netns", "exec", name, "nft", "--handle", "--stateless", "list", "ruleset"))
    kept = ("ifname", "address", "mtu", "master", "operstate", "ifindex")
    return {
        "links": sorted(str({key: link.get(key) for key in kept}) for link in links),
        "addresses": sorted(str(link["addr_info"]) for link in addresses),
        "routes": sorted(routes.decode().splitlines()),
        "rules": sorted(rules.decode().splitlines()),
        "neighbours": sorted(str(item) for item in json.loads(neighbours or b"[]")),
        "nft": settled(ruleset.decode()),
    }
