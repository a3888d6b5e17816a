"""All that agents do for networks, in one cloud: done again it changes nothing, and deleted it leaves nothing."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.failover.keepalived import Keepalived
from kumulus_agent.load_balancers.haproxy import HAProxies
from kumulus_agent.load_balancers.here import LoadBalancersHere
from kumulus_agent.load_balancers.members import BalancerMembers
from kumulus_agent.load_balancers.place import Places
from kumulus_agent.metadata.service import MetadataService
from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import within
from kumulus_agent.networks.port_settings import PortsHere
from kumulus_agent.services.host_service import HostServices
from kumulus_agent.tracing.walk import Walk
from kumulus_agent.tracing.world import LiveWorld
from kumulus_api.network_trace import LegStart, TracedPacket, TraceLeg
from kumulus_lab.testing.routed import OUTSIDE, RoutedCloud, eventually, routed_cloud
from kumulus_lab.testing.routing_nodes import Node
from kumulus_lab.testing.rulesets import settled
from kumulus_lab.testing.watched_objects import WatchedObjects
from kumulus_runtime.store import Store

RED1, RED2, BLUE = "red1", "red2", "blue1"
FIP, SHARED = "203.0.113.10", "203.0.113.11"
VIP, VIP_MAC, BALANCER_ID = "10.0.1.30", "02:00:00:01:00:30", "00000000-0000-4000-8000-0000000000b1"
VOLATILE = ("nf_conntrack_count", "nf_conntrack_events")
"""Settings that are figures, or that the kernel makes when connections are first tracked."""


_INDEX = re.compile(r"'ifindex': \d+, ")


class Nobody:
    """Guests of whom nothing is known."""

    async def guest(self, _instance_id):
        """Give nothing."""


@dataclass
class WholeNode(Node):
    """A host with all parts of an agent that know of networks."""

    balancers: Any = None
    proxies: Any = None

    def settings(self) -> PortsHere:
        """Give what Ports say."""
        return PortsHere(Api(self.api), Store())

    def start(self, held: dict[str, Any] | None = None) -> None:
        """Begin as an agent does that finds what is there."""
        super().start(held)
        services = HostServices(self.host.directory / "balancer-services", init_pid=None)
        self.proxies = HAProxies(services, DIRECTORIES[self.host.name])
        self.balancers = LoadBalancersHere(
            self.api,
            Places(self.host.datapath, f"{self.host.name}-kl"),
            self.proxies,
            self.networks,
            BalancerMembers(
                Keepalived(self._vrrp(), DIRECTORIES[self.host.name] / "vrrp"), self.routers, self.host.name
            ),
            certificates=self._none,
        )
        self.routers.others, self.routers.others_known = lambda: self.balancers.pairs, self.balancers.known
        self.services = services
        self.tasks.append(asyncio.create_task(self.balancers.follow()))
        self.tasks.append(asyncio.create_task(self.balancers.queue.run(self.balancers.reconcile, 2)))

    def _vrrp(self) -> HostServices:
        return HostServices(self.host.directory / "balancer-vrrp-services", init_pid=None)

    async def _none(self, _namespace: str, _name: str) -> dict[str, str]:
        return {}

    async def stop(self) -> None:
        """End the agent; all that it made stays."""
        self.balancers.queue.stop()
        await super().stop()
        await self.balancers.close()

    @property
    def busy(self) -> bool:
        """Whether something is waiting or under way."""
        queue = self.balancers.queue
        return super().busy or bool(queue._dirty or queue._processing)


class Api:
    """Asked for single objects of what is watched."""

    def __init__(self, watched: WatchedObjects) -> None:
        self._watched = watched

    async def get(self, kind: Any, name: str, namespace: str) -> dict[str, Any] | None:
        """Give an object."""
        return self._watched.objects.get((kind.__name__, namespace, name))


DIRECTORIES: dict[str, Path] = {}
"""By host, where its load balancers' files are: the names of sockets are short."""


@pytest.fixture
async def cloud(prefix, hosts) -> AsyncIterator[RoutedCloud]:
    """Two hosts whose agents know all that there is of networks."""
    directory = Path(tempfile.mkdtemp(prefix="kall"))
    for number, host in enumerate(hosts):
        DIRECTORIES[host.name] = directory / f"{number}"
        host.datapath._metadata = MetadataService(Nobody())
    try:
        async with routed_cloud(prefix, hosts, WholeNode) as made:
            try:
                yield made
            finally:
                for node in made.nodes:
                    for unit in node.services.observe():
                        await node.services.absent(unit)
    finally:
        shutil.rmtree(directory)


def sysctls(name: str) -> dict[str, str]:
    """Give the settings of a namespace that can be read."""

    def read() -> dict[str, str]:
        found = {}
        for path in sorted(Path("/proc/sys/net").rglob("*")):
            if path.is_file() and path.name not in VOLATILE:
                try:
                    found[str(path)] = path.read_text()
                except OSError:
                    continue
        return found

    return within(name, read)


async def lines(name: str, *argv: str) -> list[str]:
    """Give what a command says in a namespace, in order."""
    return sorted((await run(("ip", "netns", "exec", name, *argv))).decode().splitlines())


def _kept(line: str) -> bool:
    """Whether an entry is there on purpose: what was learned ages, and groups of addresses are the kernel's own."""
    return not line.startswith(("33:33:", "01:00:5e:")) and any(
        word in line for word in ("dst", "sticky", "permanent", "extern_learn")
    )


async def shown(node: WholeNode) -> dict[str, Any]:
    """Give all that is on a host; what ages, counts, or was learned by itself is left out."""
    vrrp = (
        HostServices(node.host.directory / name, init_pid=None) for name in ("vrrp-services", "balancer-vrrp-services")
    )
    services = (node.host.services, node.services, *vrrp)
    found: dict[str, Any] = {
        "processes": sorted(str(record) for item in services for record in item.observe().values()),
    }
    for directory in (node.host.directory, DIRECTORIES[node.host.name]):
        found[f"files of {directory.name}"] = {
            str(path.relative_to(directory)): path.read_bytes()
            for path in sorted(directory.rglob("*"))
            if path.is_file() and path.name != "leases"
        }
    listed = json.loads(await run(("ip", "-json", "netns", "list")) or b"[]")
    for name in sorted(item["name"] for item in listed if item["name"].startswith(node.host.name)):
        if "-kt" in name:  # a guest
            continue
        links = json.loads(await run(("ip", "-netns", name, "-json", "-details", "link", "show")))
        kept = ("ifname", "address", "mtu", "master", "ifindex", "qdisc", "ifalias", "linkinfo")
        found[name] = {
            "links": sorted(str({key: _steady(link.get(key)) for key in kept}) for link in links),
            "addresses": await lines(name, "ip", "-oneline", "address", "show", "scope", "global"),
            "routes": [
                line
                for family in ("-4", "-6")
                for line in await lines(name, "ip", family, "route", "show", "table", "all")
                if "fe80" not in line and "ff00" not in line
            ],
            "policy": [line for f in ("-4", "-6") for line in await lines(name, "ip", f, "rule", "show")],
            "neighbours": await lines(name, "ip", "neighbour", "show", "nud", "permanent"),
            "entries": [line for line in await lines(name, "bridge", "fdb", "show") if _kept(line)],
            "queues": await lines(name, "tc", "qdisc", "show"),
            "settings": await asyncio.to_thread(sysctls, name),
            "rules": settled(
                (await run(("ip", "netns", "exec", name, "nft", "--handle", "--stateless", "list", "ruleset"))).decode()
            ),
        }
    return found


def _steady(value: Any) -> Any:
    """Leave out the timers of bridges."""
    if isinstance(value, dict):
        return {key: _steady(item) for key, item in value.items() if "timer" not in key and key != "fdb_n_learned"}
    return value


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Say where two such states are not the same."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            text
            for key in sorted({*one, *other})
            for text in differences(one.get(key), other.get(key), f"{path}/{key}")
        ]
    if isinstance(one, list) and isinstance(other, list):
        return [
            f"{path}: {sign} {line}"
            for sign, a, b in (("-", one, other), ("+", other, one))
            for line in a
            if line not in b
        ]
    if isinstance(one, str) and isinstance(other, str) and "\n" in one + other:
        return differences(one.splitlines(), other.splitlines(), path)
    return [] if one == other else [f"{path}: {str(one)[:200]} became {str(other)[:200]}"]


def written(cloud: RoutedCloud, name: str, number: int, address: str, **spec: Any) -> None:
    """Write the Port of a guest that boots as that number, as its user has written it."""
    mac = f"02:00:00:01:00:{number:02x}"
    given = {"portID": "11111111-2222-4333-8444-555555555555", "mac": mac, "addresses": [address]}
    cloud.api.put("Port", name, {"network": {"name": RED1}, "assignment": given, **spec})


def balance(cloud: RoutedCloud) -> None:
    """Have a load balancer on host a lead to two guests."""
    node = cloud.node("a").host
    members = [{"name": name, "address": str(cloud.guests[name].address), "port": 8080} for name in ("web", "far")]
    assignment = {
        "loadBalancerID": BALANCER_ID,
        "port": "lb-vip",
        "portID": BALANCER_ID,
        "mac": VIP_MAC,
        "addresses": [f"{VIP}/24"],
        "network": RED1,
        "networkNamespace": "red",
        "vni": 0x101,
        "host": node.name,
        "listeners": [
            {"name": "web", "protocol": "TCP", "port": 80, "algorithm": "RoundRobin", "members": members},
        ],
    }
    cloud.api.put("LoadBalancer", "lb", {"assignment": assignment})


async def everything(cloud: RoutedCloud) -> None:
    """Make two tenants' networks, a router that two hosts lead out, and all that there is besides."""
    cloud.network(RED1, 0x101, "10.0.1.0/24", dhcp=True)
    cloud.network(RED2, 0x102, "10.0.2.0/24")
    cloud.network(BLUE, 0x201, "10.0.1.0/24", dhcp=True)
    out = [{"etherType": "IPv4"}]
    cloud.api.put("SecurityGroup", "default", {"ingress": [{"remoteGroup": {"name": "default"}}], "egress": out})
    cloud.api.put("SecurityGroup", "web", {"ingress": [{"protocol": "TCP", "port": 8080}], "egress": out})
    written(
        cloud,
        "web",
        1,
        "10.0.1.11",
        qos={"ingressKbps": 50_000, "egressKbps": 20_000},
        allowedAddressPairs=[{"address": "10.0.1.99"}],
        dnsName="www",
    )
    await cloud.boot("web", "a", RED1, "10.0.1.11", groups=("web", "default"))
    await cloud.boot("near", "a", RED2, "10.0.2.12", groups=("default",))
    await cloud.boot("far", "b", RED1, "10.0.1.13", groups=("web", "default"))
    await cloud.boot("stranger", "a", BLUE, "10.0.1.11")
    router_id = cloud.router("r", RED1, RED2, gateway="a/b")
    cloud.router("s", BLUE, gateway="b", address="203.0.113.3")
    cloud.floating("f", FIP, router_id, "b", fixed="10.0.1.13")
    cloud.floating("g", SHARED, router_id, "a/b", forwardings=(("TCP", 2222, "10.0.1.11", 22),))
    balance(cloud)
    await cloud.settled()


async def traced(cloud: RoutedCloud) -> None:
    """Have packets followed."""
    for target in ("10.0.1.13", "10.0.2.12", str(OUTSIDE)):
        node = cloud.node("a")
        packet = TracedPacket(source="10.0.1.11", destination=target, protocol=6, first=40000, second=80)
        leg = TraceLeg(number=1, start=LegStart.PORT, port="web", packet=packet)
        assert (await Walk(LiveWorld(node.host.namespace, node.networks, node.routers), "red", leg).run()).hops


async def again(cloud: RoutedCloud) -> None:
    """End the agents; others begin, which find all as it is, and compare it with what it should be."""
    for node in cloud.nodes:
        held = {name: guest.port for name, guest in cloud.guests.items() if guest.node is node}
        await node.stop()
        node.host.datapath._firewall._seen = None
        node.start(held)
        await node.networks.ensure({port.network for port in held.values()})
    await cloud.settled()
    for node in cloud.nodes:
        await node.routers.sweep()
        await node.networks.sweep()
    await cloud.settled()


async def test_again_changes_nothing_and_deleted_it_leaves_nothing(cloud):
    """Routers with a shared gateway, floating addresses, load balancers, names, groups, rates, pairs, traces: both.

    Rules keep their handles, links their numbers, servers their processes; then no rule, link, route, neighbour, entry,
    setting, process or file is there that was not before, and none is missing.
    """
    before = [await shown(node) for node in cloud.nodes]
    await everything(cloud)
    guests = cloud.guests

    async def leads() -> bool:
        parts = (await shown(cloud.node("a"))).values()
        return any("203.0.113.2/" in str(part.get("addresses")) for part in parts if isinstance(part, dict))

    await eventually(leads, 20)
    assert await guests["web"].reaches(OUTSIDE)
    assert await guests["far"].reaches(OUTSIDE)
    made = [await shown(node) for node in cloud.nodes]
    kinds = {name.rpartition("-")[2][:2] for name in made[0] if name.startswith(cloud.node("a").host.name)}
    assert kinds >= {"dp", "kd", "kr", "kl"}
    assert len(made[0]["processes"]) >= 4
    assert all(word in str(made[0]) for word in ("tbf", "10.0.1.99", "www", "haproxy", "keepalived", SHARED))
    assert FIP in str(made[1])

    await traced(cloud)
    await again(cloud)
    for node, state in zip(cloud.nodes, made, strict=True):
        assert differences(state, await shown(node)) == []

    for kind, name in (
        ("LoadBalancer", "lb"),
        ("FloatingIP", "f"),
        ("FloatingIP", "g"),
        ("Router", "r"),
        ("Router", "s"),
    ):
        cloud.api.delete(kind, name)
    await cloud.settled()
    for name in list(guests):
        await cloud.halt(name)
    await cloud.settled()
    for node, state in zip(cloud.nodes, before, strict=True):
        assert differences(without_numbers(state), without_numbers(await shown(node))) == []


def without_numbers(state: Any) -> Any:
    """Leave out the handles of rules, and the numbers of links."""
    if isinstance(state, dict):
        return {key: without_numbers(item) for key, item in state.items()}
    if isinstance(state, list):
        return [_INDEX.sub("", item) if isinstance(item, str) else item for item in state]
    if isinstance(state, str):
        return "\n".join(line.partition(" # handle")[0] for line in state.splitlines())
    return state
