"""This host as a trace reads it: namespaces by netlink and nft, and what the agent has applied."""

from __future__ import annotations

import asyncio
import errno
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import Any

from kumulus_agent.network import namespace as namespaces
from kumulus_agent.network.command import run
from kumulus_agent.network.errors import netlink_errors
from kumulus_agent.network.groups import Flow
from kumulus_agent.network.names import router_namespace, service_mac
from kumulus_agent.network.netlink import AsyncIPRoute, NetlinkError
from kumulus_agent.network.state import NetworkDesired
from kumulus_agent.networks.carried import CarriedNetworks
from kumulus_agent.routers.here import RouterLink, RoutersHere
from kumulus_agent.routers.pair import NETWORK
from kumulus_agent.servers.desired import NetworkKey
from kumulus_agent.tracing.asking import ask
from kumulus_agent.tracing.nft import Ruleset
from kumulus_agent.tracing.state import Address, Bridges, Entry, Link, NetworkHere, PortHere, RouterView, Way

_UP, _LOWER_UP = 0x1, 0x10000
_FAILED = 0x20
"""State of a neighbour that has not answered."""
_HOSTS = NetworkKey("", "the hosts' own network", NETWORK)
_LOCAL, _UNICAST = 2, 1
"""Types of routes."""
_FROM_ELSEWHERE = (errno.EXDEV, errno.EINVAL)
"""What the kernel answers where a source cannot come from (`rp_filter`)."""


def balancer_namespace(instance: str) -> str:
    """Name the namespace of a load balancer."""
    return router_namespace(instance, "kl-")


class LiveWorld:
    """The kernel of this host, read anew for each leg.

    Args:
        datapath: name of the datapath's network namespace.
        networks: those of this host.
        routers: likewise.
        shared: gives the namespace of what holds a port that two hosts share, by its instance.
    """

    def __init__(
        self,
        datapath: str,
        networks: CarriedNetworks,
        routers: RoutersHere,
        shared: Callable[[str], str] = balancer_namespace,
    ) -> None:
        self._shared = shared
        self._datapath = datapath
        self._networks = networks
        self._routers = routers

    async def bridges(self) -> Bridges:
        """Read links, forwarding entries and rules of the datapath's namespace."""
        with netlink_errors(f"read namespace {self._datapath}"):
            async with AsyncIPRoute(fileno=namespaces.netlink_socket(self._datapath), groups=0) as ipr:
                messages = [message async for message in await ipr.get_links()]
                entries = [entry async for entry in await ipr.fdb("dump")]
        names = {message["index"]: str(message.get_attr("IFLA_IFNAME")) for message in messages}
        links = {link.name: link for link in (_link(message, names) for message in messages)}
        found = (
            Entry(names[entry["ifindex"]], entry.get_attr("NDA_LLADDR"), entry.get_attr("NDA_DST") or "")
            for entry in entries
            if entry["ifindex"] in names and entry.get_attr("NDA_LLADDR")
        )
        return Bridges(links, tuple(found), await _rules(self._datapath), self._datapath)

    async def router(self, namespace: str) -> RouterView | None:
        """Read a router's namespace; None if it is not there."""
        if not namespaces.exists(namespace):
            return None
        addresses: dict[str, set[Address]] = defaultdict(set)
        neighbours = {}
        with netlink_errors(f"read namespace {namespace}"):
            async with AsyncIPRoute(fileno=namespaces.netlink_socket(namespace), groups=0) as ipr:
                links = [message async for message in await ipr.get_links()]
                names = {message["index"]: str(message.get_attr("IFLA_IFNAME")) for message in links}
                for family in (AF_INET, AF_INET6):
                    async for message in await ipr.get_addr(family=family):
                        text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                        addresses[names[message["index"]]].add(ip_address(text))
                    async for message in await ipr.neigh("dump", family=family):
                        mac, target = message.get_attr("NDA_LLADDR"), message.get_attr("NDA_DST")
                        if mac and target and not message["state"] & _FAILED:
                            neighbours[names[message["ifindex"]], ip_address(target)] = str(mac)
        macs = {names[message["index"]]: str(message.get_attr("IFLA_ADDRESS") or "") for message in links}
        frozen = {link: frozenset(found) for link, found in addresses.items()}
        return RouterView(await _rules(namespace), frozen, macs, neighbours)

    async def route(self, namespace: str, flow: Flow, link: str) -> Way | None:
        """Ask the kernel for the way of a packet that comes by a link, or is sent there; None if there is none."""
        family = AF_INET6 if flow.destination.version == 6 else AF_INET
        asked = {"dst": str(flow.destination), "src": str(flow.source), "family": family}
        async with AsyncIPRoute(fileno=namespaces.netlink_socket(namespace), groups=0) as ipr:
            with netlink_errors(f"read the links of namespace {namespace}"):
                names = {m["index"]: str(m.get_attr("IFLA_IFNAME")) async for m in await ipr.get_links()}
            if link:
                number = next((index for index, name in names.items() if name == link), None)
                if number is None:
                    return None
                asked["iif"] = number
            try:
                (found,) = list(await ipr.route("get", **asked))
            except NetlinkError as error:
                if error.code in _FROM_ELSEWHERE:
                    return Way(
                        refused=f"the kernel takes nothing from {flow.source} by {link}: no route leads back there"
                    )
                # Unreachable or prohibited.
                return None
        if found["type"] == _LOCAL:
            return Way(local=True)
        if found["type"] != _UNICAST:
            return None
        via = found.get_attr("RTA_GATEWAY")
        return Way(names.get(found.get_attr("RTA_OIF"), ""), ip_address(via) if via else None)

    async def holds(self, port: PortHere, address: Address) -> bool | None:
        """Tell whether a port that two hosts share has an address here now; None of a port that is not shared."""
        if not port.port.shared:
            return None
        view = await self.router(self._shared(port.port.instance_id))
        return view is not None and any(address in found for found in view.addresses.values())

    async def answers(self, port: PortHere, address: Address) -> str:
        """Ask a port's guest for an address; give the MAC that has it, or "", also without a guest."""
        mac = service_mac(port.network.vni)
        try:
            return await asyncio.to_thread(ask, self._datapath, port.port.tap, mac, address)
        except OSError:
            return ""

    def ports(self) -> Mapping[str, PortHere]:
        """Give the ports that are held here, by tap."""
        keys = self._networks.ports_of_taps
        return {
            port.tap: PortHere(keys[port.tap][:2], key, port)
            for key, applied in self._networks.applied.values()
            for port in applied.ports
            if port.tap in keys
        }

    def networks(self) -> Mapping[int, NetworkHere]:
        """Give the networks that are carried here, by number, with the one by which the hosts of gateways speak."""
        found = {NETWORK: NetworkHere(_HOSTS, NetworkDesired(NETWORK, 0, ""))}
        for vni, (key, applied) in self._networks.applied.items():
            facts = self._networks.facts(vni)
            known = {ip_address(text): mac for text, mac in facts.neighbours} if facts is not None else {}
            known |= {ip_address(text): mac for text, mac in self._routers.answering(vni).items()}
            moving = frozenset(map(ip_address, self._routers.moving(vni)))
            found[vni] = NetworkHere(key, applied, known, moving)
        return found

    def router_links(self) -> Mapping[str, RouterLink]:
        """Give the links to routers, by name."""
        return self._routers.links()


async def _rules(namespace: str) -> Ruleset:
    listed = await run((*namespaces.entering(namespace), "nft", "--json", "list", "ruleset"))
    return Ruleset.read(json.loads(listed)["nftables"])


def _link(message: Any, names: Mapping[int, str]) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    flags = message["flags"]
    return Link(
        name=str(message.get_attr("IFLA_IFNAME")),
        kind=str((info.get_attr("IFLA_INFO_KIND") if info else None) or ""),
        up=bool(flags & _UP),
        carrier=bool(flags & _LOWER_UP),
        master=names.get(message.get_attr("IFLA_MASTER") or 0),
    )
