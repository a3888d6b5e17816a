"""Peering with the cluster: real namespaces stand in for hosts, pods and servers, with what kube-proxy would do."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest

from kumulus_agent.failover.keepalived import Keepalived
from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import within
from kumulus_agent.networks.plan import Here
from kumulus_agent.routers.here import RoutersHere
from kumulus_agent.routers.members import GatewayMembers
from kumulus_agent.routers.paths import RouterPaths
from kumulus_agent.services.host_service import HostServices
from kumulus_agent.tracing.walk import Walk
from kumulus_agent.tracing.world import LiveWorld
from kumulus_api.network_trace import HopKind, LegOutcome, LegStart, TracedPacket, TraceLeg
from kumulus_lab.testing.peered import (
    KEY,
    PORT,
    SERVED_BY,
    SERVICE,
    SUBNET,
    TO_HOST,
    TO_SERVER,
    PeeredCloud,
    PeeredHost,
    peered_cloud,
)

LET_IN = {"etherType": "IPv4", "remoteCIDR": SUBNET}


@pytest.fixture
async def cloud(hosts) -> AsyncIterator[PeeredCloud]:
    """Two hosts, each with a pod and a server."""
    async with peered_cloud(hosts) as made:
        yield made


async def test_pods_reach_servers_on_either_host(cloud):
    """From each host its pod reaches the servers of both, which see the address that the host's pods have there."""
    cloud.rules(LET_IN)
    cloud.peer(from_pods=True)
    for node in cloud.nodes:
        for number in range(2):
            await cloud.until(node.pod, f"10.128.0.{11 + number}", [f"server-{number}", cloud.source(node)])
            assert await node.pod.reaches(cloud.servers[number].port.addresses[0])


async def test_groups_judge_what_comes_from_pods(cloud):
    """Without a rule pods reach no server; one that names a group of which they are members lets them in."""
    cloud.peer(from_pods=True)
    one, two = cloud.nodes
    await _joined(cloud)
    for node in cloud.nodes:
        for number in range(2):
            assert await cloud.ask(node.pod, f"10.128.0.{11 + number}", seconds=0.5) is None
    cloud.rules({"etherType": "IPv4", "remoteGroup": {"name": "visitors"}})
    cloud.peer(from_pods=True, groups=("visitors",))
    for node in (one, two):
        for number in range(2):
            await cloud.until(node.pod, f"10.128.0.{11 + number}", [f"server-{number}", cloud.source(node)])


async def test_servers_reach_services_and_nothing_of_the_host(cloud):
    """A server on either host is answered by a Service, and by no address of host, node or pod behind it."""
    cloud.peer(to_services=True)
    for server in cloud.servers:
        assert await _until_answered(cloud, server, SERVICE) == "pod-0"
        assert await _until_answered(cloud, server, TO_HOST) == "host-0"
        for node in cloud.nodes:
            for address in (node.host.address, node.pod_address, f"10.251.{node.number}.1", "169.254.192.0"):
                for way in (SERVED_BY, "10.128.0.240"):
                    await server.run("ip", "route", "replace", f"{address}/32", "via", way)
                    assert await cloud.ask(server, address, seconds=0.3) is None, address
        # Of a Service only what it offers, and of its range only Services.
        assert await cloud.ask(server, SERVICE, PORT, seconds=0.3) is None
        assert await cloud.ask(server, "10.96.9.9", 80, seconds=0.3) is None


async def test_a_trace_goes_with_a_server_to_where_the_cluster_begins(cloud, tmp_path):
    """What a server sends to a Service is traced to the network's own way there; without peering it has none."""
    node, packet = cloud.nodes[0], TracedPacket(source="10.128.0.11", destination=SERVICE, protocol=6, first=40000)
    here = Here(node.host.name, node.host.address, 1450)
    paths = RouterPaths(node.host.datapath, f"{node.host.name}-kr")
    members = GatewayMembers(Keepalived(HostServices(tmp_path / "services", init_pid=None), tmp_path), paths, here)
    routers = RoutersHere(cloud.api, paths, node.networks, here, members)  # type: ignore[arg-type]
    world = LiveWorld(node.host.namespace, node.networks, routers)
    leg = TraceLeg(number=1, start=LegStart.PORT, port="server-0", packet=packet, first=packet)
    for peered, outcome, what in (
        (False, LegOutcome.SOUGHT, HopKind.NETWORK),
        (True, LegOutcome.TUNNELLED, HopKind.EXTERNAL),
    ):
        cloud.peer(to_services=peered)
        if peered:
            await _until_answered(cloud, cloud.servers[0], SERVICE)
        found = await Walk(world, cloud.ports["server-0"].namespace, leg).run()
        assert (found.outcome, found.hops[-1].what) == (outcome, what), found
    assert "peering" in found.hops[-1].message


async def test_a_way_that_a_namespace_would_let_pass_ends_at_the_host(cloud):
    """The host takes nothing by the link that no Service has led elsewhere, though the namespace's rules were gone."""
    cloud.peer(to_services=True)
    server, node = cloud.servers[0], cloud.nodes[0]
    await _until_answered(cloud, server, SERVICE)
    await node.stop()  # it would put things right
    inside = ("ip", "netns", "exec", node.services_namespace)
    await run((*inside, "nft", "flush", "chain", "ip", "kumulus-peering", "forward"))
    await run((*inside, "nft", "add", "rule", "ip", "kumulus-peering", "forward", "accept"))
    await run((*inside, "ip", "route", "replace", "default", "dev", "cluster", "via", "169.254.192.0"))
    for address in (node.host.address, node.pod_address, cloud.nodes[1].host.address, "10.251.0.1", "169.254.192.0"):
        await server.run("ip", "route", "replace", f"{address}/32", "via", SERVED_BY)
        assert await cloud.ask(server, address, seconds=0.3) is None, address
    await run(("ip", "netns", "exec", node.host.name, "nft", "delete", "table", "ip", "kumulus-peering"))
    # The host's rules it was that kept them apart.
    assert await cloud.ask(server, node.pod_address, seconds=1) is not None


async def test_the_namespaces_judge_though_the_host_does_not(cloud):
    """Without the host's rules a server reaches Services and nothing else by either namespace."""
    cloud.rules(LET_IN)
    # With the servers' group what comes from pods is let in, and would be judged no more than a server is.
    cloud.peer(from_pods=True, to_services=True, groups=("servers",))
    node, server = cloud.nodes[0], cloud.servers[0]
    await cloud.until(node.pod, "10.128.0.11", ["server-0", cloud.source(node)])
    assert await _until_answered(cloud, server, SERVICE) == "pod-0"
    await node.stop()  # it would put them right
    await run(("ip", "netns", "exec", node.host.name, "nft", "delete", "table", "ip", "kumulus-peering"))
    for address in (node.host.address, node.pod_address, "169.254.192.0", "169.254.192.2"):
        for way in (SERVED_BY, cloud.source(node)):
            await server.run("ip", "route", "replace", f"{address}/32", "via", way)
            assert await cloud.ask(server, address, seconds=0.3) is None, (address, way)
            if address == node.pod_address:  # what needs no answer does not arrive either
                assert not await _arrives(server.namespace, node.pod.namespace, address), way
    assert await cloud.ask(server, SERVICE, 80) is not None
    assert await _arrives(node.pod.namespace, server.namespace, "10.128.0.11")


async def test_each_direction_is_off_by_itself(cloud):
    """What is not asked for does not pass: neither by default, nor with the other direction."""
    cloud.rules(LET_IN)
    pod, server = cloud.nodes[0].pod, cloud.servers[0]
    assert await cloud.ask(pod, "10.128.0.11", seconds=0.5) is None
    assert await cloud.ask(server, SERVICE, 80, seconds=0.5) is None
    cloud.peer(to_services=True)
    await _until_answered(cloud, server, SERVICE)
    assert await cloud.ask(pod, "10.128.0.11", seconds=0.5) is None
    cloud.peer(from_pods=True)
    await cloud.until(pod, "10.128.0.11", ["server-0", cloud.source(cloud.nodes[0])])
    await cloud.until(server, SERVICE, None, 80)


async def test_servers_begin_nothing_towards_pods(cloud):
    """A server that sends to the address by which pods come, or by its MAC to a pod or the host, is not heard."""
    cloud.rules(LET_IN)
    cloud.peer(from_pods=True)
    await _joined(cloud)
    for server in cloud.servers:
        for address in (cloud.nodes[0].pod_address, cloud.nodes[0].host.address, SERVICE):
            await server.run("ip", "route", "replace", f"{address}/32", "via", cloud.source(cloud.nodes[0]))
            for port in (PORT, 80):
                assert await cloud.ask(server, address, port, seconds=0.3) is None, address
        assert await cloud.ask(server, cloud.source(cloud.nodes[0]), seconds=0.3) is None


async def test_who_is_no_pod_does_not_come_through_a_host(cloud, outside):
    """A machine outside that sends to a host what is meant for a server is not heard; by a Service it is."""
    cloud.rules(LET_IN)
    cloud.peer(from_pods=True)
    await _joined(cloud)
    node = cloud.nodes[0]
    await node.root.run("ip", "address", "add", "10.0.0.100/24", "dev", "phys")
    for target in (SUBNET, "10.96.0.0/16"):
        await outside.run("ip", "route", "add", target, "via", "10.0.0.100")
    await cloud.until(outside, TO_SERVER, ["server-0", cloud.source(node)], 80)
    assert await cloud.ask(outside, "10.128.0.11", seconds=0.5) is None
    # A Service leads pods there too.
    await cloud.until(cloud.nodes[1].pod, TO_SERVER, ["server-0", cloud.source(cloud.nodes[1])], 80)


async def test_again_changes_nothing_and_without_it_the_host_is_as_before(cloud):
    """Applied again, also by the next agent, nothing changes; what others change is put right; in the end all goes."""
    cloud.rules(LET_IN)
    node = cloud.nodes[0]
    before = await _shown(node)
    cloud.peer(from_pods=True, to_services=True)
    await cloud.until(node.pod, "10.128.0.11", ["server-0", cloud.source(node)])
    await _until_answered(cloud, cloud.servers[0], SERVICE)
    made = await _shown(node)
    await node.peerings.reconcile("all")
    assert await _shown(node) == made

    await node.stop()
    node.start({"server-0": cloud.ports["server-0"]})
    await node.peerings.known.wait()
    await node.peerings.reconcile("all")
    assert await _shown(node) == made
    await node.networks.ensure([KEY])
    await node.peerings.reconcile("all")
    assert await _shown(node) == made

    (link,) = [name for name, *_ in made["links"] if name.startswith("kq")]
    await node.root.run("ip", "route", "del", SUBNET)
    await node.root.run("ip", "link", "set", link, "down")
    await node.root.run("nft", "delete", "table", "ip", "kumulus-peering")
    await run(("ip", "netns", "exec", node.pods_namespace, "nft", "delete", "table", "ip", "kumulus-peering"))
    await node.peerings.reconcile("all")
    await node.peerings.reconcile("all")
    repaired = await _shown(node)
    assert {key: repaired[key] for key in ("routes", "namespaces")} == {
        key: made[key] for key in ("routes", "namespaces")
    }
    assert await cloud.ask(node.pod, "10.128.0.11") == ["server-0", cloud.source(node)]

    cloud.peer()
    await cloud.until(node.pod, "10.128.0.11", None)
    await cloud.until(cloud.servers[0], SERVICE, None, 80)
    await node.peerings.reconcile("all")
    assert await _shown(node) == before


async def _joined(cloud: PeeredCloud) -> None:
    """Wait until pods of both hosts have come to the network."""
    for node in cloud.nodes:
        while not await _rules(node.root):
            pass


async def _until_answered(cloud: PeeredCloud, server: object, service: str) -> str:
    """Wait until a Service answers a server; give who does."""
    answer = None
    for _ in range(100):
        answer = await cloud.ask(server, service, 80, seconds=0.3)
        if answer is not None:
            return answer[0]
    raise TimeoutError(service)


async def _arrives(source: str, target: str, address: str) -> bool:
    """Tell whether a datagram from one namespace to an address of another arrives."""
    loop = asyncio.get_running_loop()
    with within(target, _datagrams) as receiver, within(source, _datagrams) as sender:
        receiver.bind(("", PORT))
        await loop.sock_sendto(sender, b"heard", (address, PORT))
        try:
            async with asyncio.timeout(0.5):
                return await loop.sock_recv(receiver, 100) == b"heard"
        except TimeoutError:
            return False


def _datagrams() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


async def _rules(machine: object) -> str:
    return await machine.run("nft", "list", "table", "ip", "kumulus-peering", allowed=(0, 1))


async def _shown(node: PeeredHost) -> dict[str, object]:
    """Give all that a host has in its own namespace, and the rules of those of the network."""
    listed = (await run(("ip", "netns", "list"))).decode().splitlines()
    names = sorted(line.split()[0] for line in listed if line.startswith(node.host.name))
    found: dict[str, object] = {"namespaces": names}
    root = node.root
    links = json.loads(await root.run("ip", "-json", "link", "show"))
    found["links"] = [[link.get(key) for key in ("ifname", "ifindex", "mtu", "address", "ifalias")] for link in links]
    found["addresses"] = sorted((await root.run("ip", "-oneline", "-4", "address", "show")).splitlines())
    found["routes"] = sorted((await root.run("ip", "route", "show", "table", "all", "type", "unicast")).splitlines())
    for name in (node.host.name, node.services_namespace, node.pods_namespace):
        if name in names:
            found[f"rules {name}"] = (
                await run(("ip", "netns", "exec", name, "nft", "--handle", "--stateless", "list", "tables"))
            ).decode()
    if node.services_namespace in names:
        inside = ("ip", "netns", "exec", node.services_namespace)
        found["forwarding"] = (await run((*inside, "cat", "/proc/sys/net/ipv4/conf/eth0/forwarding"))).decode()
        found["inside"] = (await run((*inside, "ip", "-oneline", "-4", "address"))).decode()
    return found
