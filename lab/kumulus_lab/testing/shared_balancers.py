"""Load balancers that two hosts share, beside the routers of a cloud of hosts that are namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from kumulus_agent.failover.keepalived import Keepalived
from kumulus_agent.load_balancers.certificates import CertificatesMissing
from kumulus_agent.load_balancers.haproxy import HAProxies
from kumulus_agent.load_balancers.here import LoadBalancersHere
from kumulus_agent.load_balancers.members import BalancerMembers
from kumulus_agent.load_balancers.place import Places
from kumulus_agent.network.errors import CommandFailed
from kumulus_agent.network.namespace import within
from kumulus_agent.services.host_service import HostServices
from kumulus_lab.testing.namespaces import Machine
from kumulus_lab.testing.routed import Guest, RoutedCloud
from kumulus_lab.testing.routing_nodes import Node
from kumulus_lab.testing.tasks import end

VIP, VIP6 = IPv4Address("10.0.1.30"), IPv6Address("fd00:1::30")
OWN, OWN6 = IPv4Address("10.0.1.31"), IPv6Address("fd00:1::31")
MAC, OWN_MAC = "02:00:00:01:00:30", "02:00:00:01:00:31"
PORT, MEMBER_PORT = 80, 8080
BALANCER_ID = "00000000-0000-4000-8000-0000000000b1"
OWN_ID = "00000000-0000-4000-8000-0000000000b2"
_CHECK = {"type": "TCP", "intervalSeconds": 1, "timeoutSeconds": 1, "rise": 1, "fall": 1}


async def _no_certificates(_namespace: str, _name: str) -> dict[str, str]:
    raise CertificatesMissing("there are none")


@dataclass
class BalancingNode:
    """What of a host's agent knows of load balancers."""

    node: Node
    directory: Path
    balancers: Any = None
    keepalived: Any = None
    services: Any = None
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        """What the names of its load balancers' namespaces begin with."""
        return f"{self.node.host.name}-kl"

    def start(self) -> None:
        """Begin, beside the routers' part that has just begun."""
        node, host = self.node, self.node.host
        self.services = HostServices(host.directory / "services", init_pid=None)
        self.keepalived = Keepalived(
            HostServices(host.directory / "lb-vrrp-services", init_pid=None), self.directory / "vrrp"
        )
        self.balancers = LoadBalancersHere(
            node.api,  # type: ignore[arg-type]
            Places(host.datapath, self.prefix),
            HAProxies(self.services, self.directory / "lb"),
            node.networks,
            BalancerMembers(self.keepalived, node.routers, host.name),
            certificates=_no_certificates,
        )
        node.routers.others, node.routers.others_known = lambda: self.balancers.pairs, self.balancers.known
        self.tasks = [
            asyncio.create_task(self.balancers.follow()),
            asyncio.create_task(self.balancers.queue.run(self.balancers.reconcile, 2)),
        ]

    async def stop(self) -> None:
        """End it; what it made stays."""
        self.balancers.queue.stop()
        await end(self.tasks)
        await self.balancers.close()

    async def inside(self, *argv: str) -> str:
        """Run a command in its load balancer's namespace."""
        return await Machine(self.balancers._places._name(BALANCER_ID)).run(*argv)  # noqa: SLF001 - a test

    async def serves(self) -> bool:
        """Whether this host has the address."""
        path = self.balancers._places.path(BALANCER_ID)  # noqa: SLF001 - a test
        try:
            return _mounted(path) and f"inet {VIP}/" in await self.inside("ip", "address", "show")
        except CommandFailed:
            if _mounted(path):
                raise
            return False  # it has just been removed

    async def checked(self) -> dict[str, str]:
        """The members' states as HAProxy on this host has them."""
        found = await self.balancers._proxies.members(BALANCER_ID)  # noqa: SLF001 - a test
        return {name: state.value for (_, name), state in found.items()}


@dataclass
class SharedBalancer:
    """A load balancer of two hosts in the first network, with members."""

    cloud: RoutedCloud
    nodes: dict[str, BalancingNode]
    members: dict[str, asyncio.Server] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    """Who connected to members."""
    priority: int = 100
    dual: bool = False

    async def serve(self, guest: Guest) -> None:
        """Have a guest be a member: it answers with its name."""

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                if await reader.readline():
                    self.sources.append(writer.get_extra_info("peername")[0].removeprefix("::ffff:"))
                    writer.write(f"{guest.port.port}\n".encode())
                    await writer.drain()
            writer.close()

        made = within(guest.namespace, lambda: socket.socket(socket.AF_INET6))
        made.bind(("::", MEMBER_PORT))
        self.members[guest.port.port] = await asyncio.start_server(talk, sock=made)

    def balance(self, network: str, hosts: str, *, takeover: bool = True) -> None:
        """Have it on a host: "a", or "a/b" where b takes over, by itself unless that is not wanted."""
        leading, _, waiting = hosts.partition("/")
        key, _ = self.cloud.networks[network]
        host = self.cloud.node(leading).host
        other = self.cloud.node(waiting).host if waiting else None
        guests = [self.cloud.guests[name] for name in self.members]
        members = [{"name": item.port.port, "address": str(item.address), "port": MEMBER_PORT} for item in guests]
        listener = {"name": "web", "protocol": "TCP", "port": PORT, "algorithm": "RoundRobin", "members": members}
        assignment: dict[str, Any] = {
            "loadBalancerID": BALANCER_ID,
            "port": "lb-vip",
            "portID": BALANCER_ID,
            "mac": MAC,
            "addresses": [f"{VIP}/24", *([f"{VIP6}/64"] if self.dual else [])],
            "nextHops": ["10.0.1.1"],
            "network": key.name,
            "networkNamespace": key.namespace,
            "vni": key.vni,
            "host": host.name,
            "listeners": [listener | {"healthCheck": _CHECK}],
        }
        endpoints = [_endpoint("lb-vip", MAC, VIP, host)]
        if other is not None:
            assignment["standby"] = other.name
        if other is not None and takeover:
            assignment["takeover"] = {
                "priority": self.priority,
                "tunnelAddress": host.address,
                "standbyTunnelAddress": other.address,
                "port": "lb-own",
                "portID": OWN_ID,
                "mac": OWN_MAC,
                "addresses": [f"{OWN}/24", *([f"{OWN6}/64"] if self.dual else [])],
            }
            endpoints[0]["standbyTunnelAddress"] = other.address
            endpoints.append(_endpoint("lb-own", OWN_MAC, OWN, other))
        self.cloud.api.put("LoadBalancer", "lb", {"assignment": assignment})
        kept = [(where, item) for where, item in self.cloud.outer if not item["port"].startswith("lb-")]
        self.cloud.outer[:] = [*kept, *((key, endpoint) for endpoint in endpoints)]
        self.cloud._endpoints(network)  # noqa: SLF001 - one cloud

    def status(self) -> dict[str, Any]:
        """What was told of it last."""
        found: dict[str, Any] = self.cloud.api.objects["LoadBalancer", "red", "lb"].get("status") or {}
        return found

    async def answers(self, client: Machine, at: IPv4Address | IPv6Address = VIP, seconds: float = 1.0) -> str | None:
        """Give the name of the member that answers a client; None if none does in time."""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET if at.version == 4 else socket.AF_INET6
        with within(client.namespace, lambda: socket.socket(family)) as made:
            made.setblocking(False)
            try:
                async with asyncio.timeout(seconds):
                    await loop.sock_connect(made, (str(at), PORT))
                    await loop.sock_sendall(made, b"hello\n")
                    return (await loop.sock_recv(made, 100)).decode().strip() or None
            except (TimeoutError, OSError):
                return None

    async def answers_within(self, client: Machine, seconds: float, at: IPv4Address | IPv6Address = VIP) -> float:
        """Give after how long a client is answered again."""
        begun = time.monotonic()
        async with asyncio.timeout(seconds):
            while await self.answers(client, at) is None:  # noqa: ASYNC110 - what answers is elsewhere
                await asyncio.sleep(0.02)
        return time.monotonic() - begun


def _mounted(path: Path) -> bool:
    """Whether a namespace is there: its file is before."""
    return path.exists() and path.stat().st_dev == Path("/proc/self/ns/net").stat().st_dev


def _endpoint(name: str, mac: str, address: IPv4Address, host: Any) -> dict[str, Any]:
    where = {"host": host.name, "tunnelAddress": host.address}
    return {"port": name, "mac": mac, "addresses": [str(address)], "hostname": name, "groups": ["default"]} | where


@contextlib.asynccontextmanager
async def shared_balancer(cloud: RoutedCloud) -> AsyncIterator[SharedBalancer]:
    """Give the hosts of a cloud, which has just begun, what knows of load balancers."""
    rules = [{"etherType": kind} for kind in ("IPv4", "IPv6")]
    cloud.api.put("SecurityGroup", "default", {"ingress": [], "egress": rules})
    # The names of sockets are short.
    directory = Path(tempfile.mkdtemp(prefix="klb"))
    nodes = {node.host.name[-1]: BalancingNode(node, directory / node.host.name[-1]) for node in cloud.nodes}
    made = SharedBalancer(cloud, nodes)
    for node in nodes.values():
        node.start()
    try:
        yield made
    finally:
        for server in made.members.values():
            server.close()
        for node in nodes.values():
            for name in node.keepalived.names():
                await node.keepalived.absent(name)
            for unit in node.services.observe():
                if unit.startswith("kumulus-lb-"):
                    await node.services.absent(unit)
            await node.stop()
        shutil.rmtree(directory)
