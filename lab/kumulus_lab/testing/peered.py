"""Hosts of a cluster, with pods and what stands in for kube-proxy, whose agents carry a peered network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import within
from kumulus_agent.networks.carried import CarriedNetworks
from kumulus_agent.networks.held import port_desired
from kumulus_agent.networks.plan import Here
from kumulus_agent.peering.here import PeeringsHere
from kumulus_agent.peering.links import PeeringLinks
from kumulus_agent.servers.desired import DesiredPort, NetworkKey
from kumulus_lab.testing.namespaces import Machine
from kumulus_lab.testing.tasks import end
from kumulus_lab.testing.watched_objects import WatchedObjects

KEY = NetworkKey("red", "private", 0x61)
SUBNET = "10.128.0.0/24"
SERVED_BY = "10.128.0.254"
"""The address of the network's own servers."""
PODS = "10.251.0.0/16"
SERVICES = "10.96.0.0/16"
SERVICE = "10.96.0.10"
"""A Service whose endpoint is the pod of the first host."""
TO_HOST = "10.96.0.1"
"""A Service whose endpoint is the first host itself, as the API server's is."""
TO_SERVER = "10.96.0.20"
"""A Service whose endpoint is the first server."""
PORT = 8080
PEER = 240
"""The first host's pods come from the address with this number, the second one's from the next."""


async def _nothing_mapped() -> None:
    """Look for physical networks on a host that has none."""


@dataclass
class PeeredHost:
    """A host with the parts of an agent that know of peering, and a pod."""

    host: Any
    api: WatchedObjects
    number: int
    networks: Any = None
    peerings: Any = None
    links: Any = None
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    @property
    def root(self) -> Machine:
        """The host's own namespace."""
        return Machine(self.host.name)

    @property
    def pod(self) -> Machine:
        """Its pod."""
        return Machine(f"{self.host.name}-pod")

    @property
    def pod_address(self) -> str:
        """The address of its pod."""
        return f"10.251.{self.number}.5"

    @property
    def pods_namespace(self) -> str:
        """Where its pods enter the network."""
        return f"{self.host.name}-kc{KEY.vni:06x}"

    @property
    def services_namespace(self) -> str:
        """Where the network's own servers are."""
        return f"{self.host.name}-kd{KEY.vni:06x}"

    def start(self, held: dict[str, DesiredPort] | None = None) -> None:
        """Begin as an agent does that finds what is there; `held` are the ports of the guests that run."""
        here = Here(self.host.name, self.host.address, 1450)
        self.networks = CarriedNetworks(self.api, self.host.datapath, here, _nothing_mapped)  # type: ignore[arg-type]
        name = self.host.name
        self.links = PeeringLinks(name, services=f"{name}-kd", pods=f"{name}-kc")
        self.peerings = PeeringsHere(self.api, self.host.datapath, self.networks, self.links, name)  # type: ignore[arg-type]
        for instance, port in (held or {}).items():
            self.networks.hold(instance, instance, [port])
        self.tasks = [
            asyncio.create_task(self.peerings.follow()),
            asyncio.create_task(self.networks.queue.run(self.networks.reconcile, 2)),
            asyncio.create_task(self.peerings.queue.run(self.peerings.reconcile, 1)),
        ]

    async def stop(self) -> None:
        """End the agent; all that it made stays."""
        self.networks.queue.stop()
        self.peerings.queue.stop()
        await end(self.tasks)
        await self.networks.close()

    async def join_cluster(self, others: list[PeeredHost], server: str) -> None:
        """Give the host a pod behind a bridge, routes to the pods of others, and what kube-proxy would have there."""
        root, pod = self.root, self.pod
        await run(("ip", "netns", "add", pod.namespace))
        for key in ("ip_forward=1", "conf.all.rp_filter=1", "conf.default.rp_filter=1"):
            await root.run("busybox", "sysctl", "-w", f"net.ipv4.{key}")
        await root.run("ip", "link", "set", "lo", "up")
        await root.run("ip", "link", "add", "cni0", "type", "bridge")
        await root.run("ip", "address", "add", f"10.251.{self.number}.1/24", "dev", "cni0")
        await root.run("ip", "link", "set", "cni0", "up")
        await root.run("ip", "link", "add", "pod0", "type", "veth", "peer", "name", "eth0", "netns", pod.namespace)
        await root.run("ip", "link", "set", "pod0", "master", "cni0", "up")
        await pod.run("ip", "address", "add", f"{self.pod_address}/24", "dev", "eth0")
        await pod.run("ip", "link", "set", "eth0", "up")
        await pod.run("ip", "link", "set", "lo", "up")
        await pod.run("ip", "route", "add", "default", "via", f"10.251.{self.number}.1")
        for other in others:
            if other is not self:
                await root.run("ip", "route", "add", f"10.251.{other.number}.0/24", "via", other.host.address)
        targets = {SERVICE: others[0].pod_address, TO_HOST: others[0].host.address, TO_SERVER: server}
        await self._translate(targets)

    async def _translate(self, targets: dict[str, str]) -> None:
        """Do what kube-proxy does in mode nftables, with a clusterCIDR."""
        led = "\n".join(f"ip daddr {service} tcp dport 80 dnat to {to}:{PORT}" for service, to in targets.items())
        text = f"""
            table ip kube-proxy {{
              chain translating {{ type nat hook prerouting priority dstnat;
                {led}
              }}
              chain here {{ type nat hook output priority -100;
                {led}
              }}
              chain masquerading {{ type nat hook postrouting priority srcnat;
                ct status dnat ip saddr != {PODS} masquerade
              }}
              chain invalid {{ type filter hook forward priority filter;
                ct state invalid drop
              }}
            }}"""
        await run(("ip", "netns", "exec", self.host.name, "nft", "-f", "-"), stdin=text.encode())


@dataclass
class PeeredCloud:
    """Two hosts of a cluster, and servers of a network on both."""

    api: WatchedObjects
    nodes: list[PeeredHost]
    servers: list[Any] = field(default_factory=list)
    ports: dict[str, DesiredPort] = field(default_factory=dict)
    listening: list[asyncio.Server] = field(default_factory=list)

    def peer(self, *, from_pods: bool = False, to_services: bool = False, groups: tuple[str, ...] = ()) -> None:
        """Have the network peered so, as an operator would decide it."""
        hosts = [
            {
                "host": node.host.name,
                "mac": f"02:00:00:61:01:{node.number:02x}",
                "addresses": [f"{self.source(node)}/24"],
            }
            for node in self.nodes
        ]
        assignment = {
            "fromPods": from_pods,
            "subnets": [SUBNET] if from_pods else [],
            "hosts": hosts if from_pods else [],
            "pods": [PODS] if from_pods else [],
            "securityGroups": list(groups) if from_pods else [],
            "services": [SERVICES] if to_services else [],
        }
        spec = {"subnets": [{"name": "v4", "cidr": SUBNET, "gateway": "10.128.0.1"}], "assignment": assignment}
        self.api.objects.setdefault(("Network", KEY.namespace, KEY.name), {"spec": {}, "metadata": {}})["status"] = {
            "vni": KEY.vni
        }
        self.api.put("Network", KEY.name, spec)
        self.endpoints(hosts if from_pods else [], groups)

    def source(self, node: PeeredHost) -> str:
        """Give the address that the pods of a host have in the network."""
        return f"10.128.0.{PEER + node.number}"

    def endpoints(self, hosts: list[dict[str, Any]], groups: tuple[str, ...]) -> None:
        """Write where the ports are."""
        items = [
            self._endpoint(port.port, port.mac, list(port.addresses), self.nodes[number], [port.groups[0][1]])
            for number, port in enumerate(self.ports.values())
        ]
        for node, item in zip(self.nodes, hosts, strict=False):
            items.append(
                self._endpoint(f"peering..{item['host']}", item["mac"], [self.source(node)], node, list(groups))
            )
        spec = {"network": {"name": KEY.name}, "vni": KEY.vni, "endpoints": items}
        self.api.put("NetworkEndpoints", f"{KEY.name}-0", spec)

    @staticmethod
    def _endpoint(name: str, mac: str, addresses: list[str], node: PeeredHost, groups: list[str]) -> dict[str, Any]:
        return {
            "port": name,
            "mac": mac,
            "addresses": addresses,
            "host": node.host.name,
            "tunnelAddress": node.host.address,
            "hostname": f"ip-{addresses[0].replace('.', '-')}",
            "groups": groups,
        }

    def rules(self, *ingress: dict[str, Any]) -> None:
        """Have the servers' group let this in."""
        self.api.put("SecurityGroup", "servers", {"ingress": list(ingress), "egress": [{"etherType": "IPv4"}]})

    async def boot(self, number: int) -> None:
        """Start a server on the host of that number, which says hello by TCP."""
        node = self.nodes[number]
        address = f"10.128.0.{11 + number}"
        name = f"server-{number}"
        port = DesiredPort(
            "eth0", name, KEY, f"02:00:00:61:00:{11 + number:02x}", (address,), f"kt{0x6100 + number:011x}",
            groups=(("red", "servers"),),
        )  # fmt: skip
        self.ports[name] = port
        node.networks.hold(name, name, [port])
        await node.networks.ensure([KEY])
        machine = await node.host.boot(port_desired(name, name, port), KEY.vni)
        await machine.configure()
        await machine.run("ip", "route", "add", SERVICES, "via", SERVED_BY)
        self.servers.append(machine)
        await self.listen(machine, name)

    async def listen(self, machine: Machine, says: str, port: int = PORT) -> None:
        """Have a machine take connections, and say something and who asks."""
        made = within(machine.namespace, socket.socket)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("", port))

        async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = writer.get_extra_info("peername")
            writer.write(json.dumps([says, peer[0]]).encode())
            writer.close()

        self.listening.append(await asyncio.start_server(talk, sock=made))

    async def ask(self, machine: Machine, address: str, port: int = PORT, seconds: float = 2.0) -> list[str] | None:
        """Connect from a machine; give who answers, and who he says has asked; None if nobody answers."""
        loop = asyncio.get_running_loop()
        made = within(machine.namespace, socket.socket)
        made.setblocking(False)
        try:
            async with asyncio.timeout(seconds):
                await loop.sock_connect(made, (address, port))
                data = await loop.sock_recv(made, 1000)
        except (TimeoutError, OSError):
            return None
        finally:
            made.close()
        return list(json.loads(data))

    async def until(self, machine: Machine, address: str, answer: list[str] | None, port: int = PORT) -> None:
        """Wait until a machine is answered so."""
        async with asyncio.timeout(20):
            while await self.ask(machine, address, port, seconds=0.5) != answer:  # noqa: ASYNC110 - nobody else tells
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def peered_cloud(hosts: tuple[Any, ...]) -> AsyncIterator[PeeredCloud]:
    """Start two hosts with their agents, pods and servers; nothing is peered yet."""
    api = WatchedObjects()
    cloud = PeeredCloud(api, [PeeredHost(host, api, number) for number, host in enumerate(hosts)])
    cloud.peer()
    cloud.rules()
    for node in cloud.nodes:
        node.start()
        await node.join_cluster(cloud.nodes, "10.128.0.11")
    try:
        for number, node in enumerate(cloud.nodes):
            await cloud.boot(number)
            await cloud.listen(node.pod, f"pod-{number}")
            await cloud.listen(node.root, f"host-{number}")
        cloud.peer()
        yield cloud
    finally:
        for server in cloud.listening:
            server.close()
        for node in cloud.nodes:
            await node.stop()
