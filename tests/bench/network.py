"""1,000 ports on 50 networks of one host: real namespaces, nftables, bridges, VXLAN and DHCP servers.

Method: a host is a namespace with the agent's own datapath in it; its networks, groups, routers and ports are shown to
the agent's own watches, and each of its ports has a tap as QEMU leaves it in the datapath. An agent begins: it prepares
the datapath, holds all ports, and then each of 1,000 servers is looked at and plugged, by as many workers as an agent
has, while queues apply networks and routers. It has converged when all taps are plugged, no queue has anything left,
and a comparison of every network with the kernel finds no difference. The same is timed once more with an agent that
finds all that there. Then a rule of a group changes, time and again, and is timed until the kernel has it in all
networks of its project. Programs that were run are counted besides. Other sizes: `python
tests/bench/network.py NETWORKS PORTS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import netload
import structlog

from kumulus_agent.failover.keepalived import Keepalived
from kumulus_agent.metadata.service import MetadataService
from kumulus_agent.network import names
from kumulus_agent.network.command import run
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.network.groups import Chain
from kumulus_agent.network.rules import FirewallChange
from kumulus_agent.networks.carried import CarriedNetworks
from kumulus_agent.networks.plan import Here
from kumulus_agent.networks.port_settings import PortsHere
from kumulus_agent.networks.wiring import AT_ONCE
from kumulus_agent.routers.here import RoutersHere
from kumulus_agent.routers.members import GatewayMembers
from kumulus_agent.routers.paths import RouterPaths
from kumulus_agent.servers.desired import DesiredPort, NetworkKey
from kumulus_agent.services.host_service import HostServices
from kumulus_agent.settings import AgentSettings
from kumulus_lab.testing.tasks import end
from kumulus_lab.testing.watched_objects import WatchedObjects
from kumulus_runtime.garbage import keep_waste_small
from kumulus_runtime.store import Store
from kumulus_runtime.workqueue import WorkQueue

NETWORKS = 50
PORTS = 1_000
PROJECTS = 10
RULE_CHANGES = 20
FIRST_VNI = 0x100
_ELSEWHERE = 10
"""Hosts that carry each network besides, with a port each."""
_MTU = 1450
_UNDERLAY = "192.0.2.1"
_TIMEOUT = 600.0
_WORKERS = int(AgentSettings.model_fields["workers"].default)


@dataclass(frozen=True)
class Size:
    """How many networks there are, and ports of this host on them."""

    networks: int = NETWORKS
    ports: int = PORTS


@dataclass
class Figures:
    """What was measured: of the throughput the share that is left with rules."""

    converge_seconds: float = 0.0
    adopt_seconds: float = 0.0
    rule_change_ms: list[float] = field(default_factory=list)
    throughput_share: list[float] = field(default_factory=list)


class Counts:
    """What the agent runs: programs, by name."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("subprocess.Popen", "os.posix_spawn"):
            argv = [str(part) for part in arguments[1]]
            words = [word for word in argv if not word.startswith(("-", "nsenter"))]
            self.found[" ".join(words[:2]) if words[0] == "nft" else words[0].rpartition("/")[2]] += 1

    @contextlib.contextmanager
    def told(self, what: str) -> Iterator[None]:
        """Tell on standard error how many of what there were meanwhile, and the seconds and CPU seconds."""
        self.found.clear()
        started, used = time.monotonic(), time.process_time()
        yield
        took = f"{time.monotonic() - started:.1f} s, {time.process_time() - used:.1f} s of own CPU"
        print(f"network: {what}: {took}; {dict(self.found.most_common())}", file=sys.stderr)


class Nobody:
    """Guests of whom nothing is known: none of them asks."""

    async def guest(self, _instance_id: str) -> None:
        """Give nothing."""

    async def keep_password(self, _instance_id: str, _text: str) -> Any:
        """Is never called."""
        raise NotImplementedError


@dataclass
class Cloud:
    """What the API has of networks, and the ports that are on this host."""

    api: WatchedObjects
    store: Store
    ports: list[DesiredPort]

    @classmethod
    def of(cls, size: Size, host: str) -> Cloud:
        """Make projects whose groups speak of each other, networks of both families, and routers between some."""
        cloud = cls(WatchedObjects(), Store(), [])
        keys = [NetworkKey(f"p{n % PROJECTS}", f"net{n}", FIRST_VNI + n) for n in range(size.networks)]
        for project in sorted({key.namespace for key in keys}):
            cloud.groups(project, 443)
        for number, key in enumerate(keys):
            local = range(number, size.ports, size.networks)
            cloud._network(number, key, host, [cloud._port(index, key, number) for index in local])
        for number in range(0, size.networks // 5 * 2, 2):
            pair = [(at, keys[at]) for at in (number, number + PROJECTS) if at < size.networks]
            cloud._router(number, pair)
        return cloud

    def groups(self, project: str, port: int) -> None:
        """Let members of a project reach each other, and all reach a port of its web servers."""
        both = ("IPv4", "IPv6")
        out = [{"etherType": family} for family in both]
        members = [{"etherType": family, "remoteGroup": {"name": "default"}} for family in both]
        web = [{"etherType": family, "protocol": "TCP", "port": number} for family in both for number in (80, port)]
        self.api.put("SecurityGroup", "default", {"ingress": members, "egress": out}, project)
        self.api.put("SecurityGroup", "web", {"ingress": web, "egress": out}, project)

    def _port(self, index: int, key: NetworkKey, number: int) -> DesiredPort:
        instance, name = f"{index:08x}-0000-4000-8000-000000000000", f"s{index}"
        addresses = (f"10.{number}.1.{index // 50 + 10}", f"fd00:{number:x}::1:{index // 50 + 10:x}")
        port = DesiredPort(
            "nic0",
            name,
            key,
            f"02:00:00:{index >> 16:02x}:{index >> 8 & 255:02x}:{index & 255:02x}",
            addresses,
            names.tap(instance, "nic0"),
            mtu=_MTU,
            groups=((key.namespace, "default"), *(((key.namespace, "web"),) if index % 3 == 0 else ())),
            namespace=key.namespace,
        )
        assignment = {"portID": instance, "mac": port.mac, "addresses": list(addresses), "host": "bench"}
        metadata = {"name": name, "namespace": key.namespace, "resourceVersion": "1"}
        spec = {"network": {"name": key.name}, "assignment": assignment}
        self.store.apply("MODIFIED", {"kind": "Port", "metadata": metadata, "spec": spec})
        self.ports.append(port)
        return port

    def _network(self, number: int, key: NetworkKey, host: str, local: list[DesiredPort]) -> None:
        four = {"name": "v4", "cidr": f"10.{number}.0.0/16", "gateway": f"10.{number}.0.1"}
        six = {
            "name": "v6",
            "cidr": f"fd00:{number:x}::/64",
            "gateway": f"fd00:{number:x}::1",
            "ipv6Mode": "DHCPv6Stateful",
        }
        self.api.put("Network", key.name, {"subnets": [four, six]}, key.namespace)
        here = [_endpoint(port.port, port.mac, port.addresses, (host, _UNDERLAY)) for port in local]
        away = [
            _endpoint(
                f"r{other}",
                f"02:00:ff:{number:02x}:00:{other:02x}",
                (f"10.{number}.2.{other + 1}", f"fd00:{number:x}::2:{other + 1:x}"),
                (f"h{other}", f"192.0.2.{other + 10}"),
            )
            for other in range(_ELSEWHERE)
        ]
        spec = {"network": {"name": key.name}, "vni": key.vni, "endpoints": [*here, *away]}
        self.api.put("NetworkEndpoints", f"{key.name}-0", spec, key.namespace)

    def _router(self, number: int, joined: list[tuple[int, NetworkKey]]) -> None:
        interfaces = [
            {
                "name": key.name,
                "network": key.name,
                "networkNamespace": key.namespace,
                "vni": key.vni,
                "mac": f"0e:00:00:00:{number:02x}:{at:02x}",
                "addresses": [f"10.{at}.0.1/16", f"fd00:{at:x}::1/64"],
            }
            for at, key in joined
        ]
        assignment = {"routerID": f"00000000-0000-4000-8000-{number:012d}", "interfaces": interfaces}
        self.api.put("Router", f"r{number}", {"assignment": assignment}, joined[0][1].namespace)


def _endpoint(name: str, mac: str, addresses: tuple[str, ...], where: tuple[str, str]) -> dict[str, Any]:
    host, tunnel = where
    return {
        "port": name,
        "hostname": name,
        "mac": mac,
        "addresses": list(addresses),
        "host": host,
        "tunnelAddress": tunnel,
        "groups": ["default"],
    }


class Agent:
    """The parts of an agent that carry networks; what a server needs of them is asked as its controller asks."""

    def __init__(self, cloud: Cloud, host: str, directory: Path) -> None:
        self._cloud = cloud
        self.services = HostServices(directory / "services", init_pid=None)
        self.datapath = Datapath(
            self.services,
            directory / "dns",
            namespace=f"{host}-dp",
            host_namespace=host,
            service_prefix=f"{host}-kd",
            metadata=MetadataService(Nobody()),
        )
        here = Here("bench", _UNDERLAY, _MTU)
        api: Any = cloud.api
        self.networks = CarriedNetworks(api, self.datapath, here, _nothing_mapped, PortsHere(api, cloud.store))
        paths = RouterPaths(self.datapath, f"{host}-kr")
        members = GatewayMembers(Keepalived(self.services, directory / "keepalived"), paths, here)
        self.routers = RoutersHere(api, paths, self.networks, here, members)
        self._tasks: list[asyncio.Task[Any]] = []

    async def begin(self) -> None:
        """Begin, and return when all is as it should be.

        Raises:
            TimeoutError: it is not, after ten minutes.
        """
        async with asyncio.timeout(_TIMEOUT):
            await self.datapath.start()
            for port in self._cloud.ports:
                self.networks.hold(f"i-{port.port}", port.port, [port])
            servers: WorkQueue[int] = WorkQueue("servers")
            work = (
                self.routers.follow(),
                self.networks.queue.run(self.networks.reconcile, AT_ONCE),
                self.routers.queue.run(self.routers.reconcile, 2),
                servers.run(self._server, _WORKERS),
            )
            self._tasks = [asyncio.create_task(task) for task in work]
            for index in range(len(self._cloud.ports)):
                servers.add(index)
            await self.at_rest(servers)
            await self.networks.compare()
            servers.stop()
        if self.networks.queue._dirty:
            raise RuntimeError(f"networks {list(self.networks.queue._dirty)} are not as they should be")
        links = (await self.datapath.observe_links()).links
        if any(links[port.tap].master != names.bridge(port.network.vni) for port in self._cloud.ports):
            raise RuntimeError("a tap is not plugged")

    async def at_rest(self, *more: WorkQueue[int]) -> None:
        """Wait until no queue has anything left."""
        queues = (self.networks.queue, self.routers.queue, *more)
        while any(queue._dirty or queue._processing or queue._timers for queue in queues):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def _server(self, index: int) -> None:
        """Do for a server that runs what its controller does: look at its taps, carry its networks, plug."""
        port = self._cloud.ports[index]
        plugged = await self.datapath.plugged(port.tap)
        if port.network.vni not in self.networks.ready:
            await self.networks.ensure([port.network], running=True)
        if not plugged:
            await self.datapath.plug(port.tap, port.network.vni)

    def chains(self) -> frozenset[Chain]:
        """Give the kernel's chains, as the last transaction left them."""
        seen = self.datapath._firewall._seen
        return seen[1].chains if seen else frozenset()

    async def change_rule(self, port: int, networks: int) -> None:
        """Change what a project's group lets in, and return when the kernel has it in so many networks.

        Raises:
            TimeoutError: it has it not, after a minute.
        """
        before, changed, apply = self.chains(), asyncio.Event(), self.datapath._firewall.apply

        async def told(change: FirewallChange) -> None:
            await apply(change)
            changed.set()

        self.datapath._firewall.apply = told  # type: ignore[method-assign]
        try:
            async with asyncio.timeout(60):
                self._cloud.groups("p0", port)
                while let_in(self.chains() - before, port) < networks:
                    await changed.wait()
                    changed.clear()
        finally:
            self.datapath._firewall.apply = apply  # type: ignore[method-assign]

    async def end(self) -> None:
        """End as an agent does: all that it made stays."""
        for queue in (self.networks.queue, self.routers.queue):
            queue.stop()
        await end(self._tasks)
        await self.networks.close()
        await self.datapath.close()


def let_in(chains: Iterable[Chain], port: int) -> int:
    """Give how many of the chains let a port in."""
    return sum(f'"right": {port}' in json.dumps(chain.rules) for chain in chains)


async def _nothing_mapped() -> tuple[()]:
    return ()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Give a folder that dnsmasq reads as an unprivileged user."""
    with tempfile.TemporaryDirectory(prefix="kumulus-bench-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextlib.asynccontextmanager
async def prepared(size: Size) -> AsyncIterator[tuple[Cloud, str, Path]]:
    """Make a host with the taps of its guests; all of it is removed in the end."""
    host = f"kbench-{uuid.uuid4().hex[:6]}"
    cloud = Cloud.of(size, "bench")
    with folder() as directory:
        try:
            for namespace in (host, f"{host}-dp"):
                await run(("ip", "netns", "add", namespace))
            lines = ["link add under type veth peer name far", f"address add {_UNDERLAY}/24 dev under"]
            lines += ["link set under up", "link set far up"]
            await run(("ip", "-netns", host, "-batch", "-"), stdin="\n".join(lines).encode())
            lines = [f"tuntap add dev {port.tap} mode tap" for port in cloud.ports]
            await run(("ip", "-netns", f"{host}-dp", "-batch", "-"), stdin="\n".join(lines).encode())
            yield cloud, host, directory
        finally:
            services = HostServices(directory / "services", init_pid=None)
            await asyncio.gather(*(services.absent(unit) for unit in services.observe()))
            for namespace in await asyncio.to_thread(lambda: sorted(Path("/run/netns").glob(f"{host}*"))):
                await run(("ip", "netns", "delete", namespace.name))


async def rule_changes(agent: Agent, cloud: Cloud) -> list[float]:
    """Change a group of a project, and give the milliseconds from each write until all its networks have it.

    Raises:
        RuntimeError: the kernel, asked anew, has it not.
    """
    networks = sum((vni - FIRST_VNI) % PROJECTS == 0 for vni in agent.networks.ready)
    took = []
    for port in range(5000, 5000 + RULE_CHANGES):
        started = time.monotonic()
        await agent.change_rule(port, networks)
        took.append((time.monotonic() - started) * 1000)
        await agent.at_rest()
    agent.datapath._firewall._seen = None
    await agent.datapath.observe()
    if let_in(agent.chains(), 5000 + RULE_CHANGES - 1) < networks:
        raise RuntimeError(f"the kernel has not each of {networks} networks' last rule")
    return took


async def measure(size: Size) -> Figures:
    """Measure all on a host that is made for it."""
    counts, figures = Counts(), Figures()
    async with prepared(size) as (cloud, host, directory):
        for what in ("from nothing", "adopting"):
            agent = Agent(cloud, host, directory)
            started = time.monotonic()
            with counts.told(f"{size.ports} ports on {size.networks} networks, {what}"):
                await agent.begin()
            took = time.monotonic() - started
            if what == "from nothing":
                figures.converge_seconds = took
                await agent.end()
        figures.adopt_seconds = took
        with counts.told(f"{RULE_CHANGES} changes of a group of {size.networks // PROJECTS} networks"):
            figures.rule_change_ms = await rule_changes(agent, cloud)
        await agent.end()
    return figures


def figures(size: Size | None = None) -> Figures:
    """Measure on this machine."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    keep_waste_small()  # as an agent does
    found = asyncio.run(measure(size or Size()))
    found.throughput_share, speeds = asyncio.run(netload.shares())
    print("network: Gbit/s through rules:", ", ".join(f"{speed:.1f}" for speed in speeds), file=sys.stderr)
    return found


if __name__ == "__main__":
    found = figures(Size(*map(int, sys.argv[1:3])))
    print(found)
