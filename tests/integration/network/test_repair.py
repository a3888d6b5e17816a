"""What dies or is broken by others on a host comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import entering
from kumulus_agent.networks.carried import CarriedNetworks
from kumulus_agent.networks.plan import Here
from kumulus_agent.servers.desired import DesiredPort, NetworkKey
from kumulus_operator.security_groups.plan import default_group

KEY = NetworkKey("team", "blue", 0x2A)
SERVICE = "10.0.0.254"
DEFAULT = (("team", "default"),)
HERE = DesiredPort("nic0", "web-11", KEY, "02:00:00:00:00:11", ("10.0.0.11",), "kt00000000011", groups=DEFAULT)
THERE = DesiredPort("nic0", "web-12", KEY, "02:00:00:00:00:12", ("10.0.0.12",), "kt00000000012", groups=DEFAULT)


class RecordedApi:
    """An API server that shows one Network, its endpoints and the default group, and then nothing more."""

    def __init__(self, endpoints: list[dict[str, Any]]) -> None:
        metadata = {"name": KEY.name, "namespace": KEY.namespace}
        network = {"metadata": metadata, "spec": {"subnets": [{"name": "v4", "cidr": "10.0.0.0/24"}]}}
        slices = {"metadata": metadata, "spec": {"network": {"name": KEY.name}, "vni": KEY.vni, "endpoints": endpoints}}
        group = default_group(KEY.namespace)
        self._bodies = {"Network": network, "NetworkEndpoints": slices, "SecurityGroup": group}

    async def watch(self, kind: Any, **_: Any) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Show what is there; wait forever."""
        yield "ADDED", self._bodies[kind.__name__]
        yield "SYNCED", {}
        await asyncio.Event().wait()


async def nothing_mapped() -> None:
    """Look for physical networks on a host that has none."""


def endpoint(port: DesiredPort, host: str, tunnel: str) -> dict[str, Any]:
    """What the API tells of a port."""
    name = {"port": port.port, "hostname": port.port, "mac": port.mac, "addresses": list(port.addresses)}
    return name | {"host": host, "tunnelAddress": tunnel, "groups": ["default"]}


async def until(holds: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Wait for what only the kernel or dnsmasq tells, looking again and again."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 - nothing tells when it has come true
            await asyncio.sleep(0.05)


@pytest.fixture
async def networks(hosts):
    """Both hosts' networks, as agents keep them, with a port on each."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        ends = [endpoint(port, host.name, host.address) for port, host in zip((HERE, THERE), hosts, strict=True)]
        for host, port in zip(hosts, (HERE, THERE), strict=True):
            here = Here(host.name, host.address, 1450)
            carried = CarriedNetworks(RecordedApi(ends), host.datapath, here, nothing_mapped)
            stack.push_async_callback(carried.close)
            carried.hold(f"i-{port.port}", port.port, [port])
            await carried.ensure([KEY])
            worker = asyncio.create_task(carried.queue.run(carried.reconcile, 1))
            stack.push_async_callback(_stop, carried, worker)
            found.append(carried)
        yield found


async def _stop(carried: CarriedNetworks, worker: asyncio.Task[None]) -> None:
    carried.queue.stop()
    await worker


@pytest.fixture
async def guests(hosts, networks):
    """A guest on each host, with its address."""
    del networks
    booted = []
    for host, port in zip(hosts, (HERE, THERE), strict=True):
        desired = next(iter(_ports(port)))
        guest = await host.boot(desired, KEY.vni)
        await guest.configure()
        booted.append(guest)
    return booted


def _ports(port: DesiredPort):
    from kumulus_agent.networks.held import port_desired  # noqa: PLC0415

    yield port_desired(f"i-{port.port}", port.port, port)


async def answers(guest) -> bool:
    """Whether the network's server answers DNS and gives the guest its address."""
    asked = await guest.run("busybox", "nslookup", THERE.port, SERVICE, allowed=(0, 1))
    once = ("-f", "-q", "-n", "-t", "1", "-T", "1", "-s", "/bin/true")
    leased = await guest.run("sh", "-c", f"busybox udhcpc -i eth0 {' '.join(once)} 2>&1", allowed=(0, 1))
    return THERE.addresses[0] in asked and f"lease of {HERE.addresses[0]}" in leased


def _dns(host):
    (record,) = host.services.observe().values()
    return record.process


async def test_a_killed_dns_server_answers_again(hosts, guests):
    """A DHCP and DNS server that is killed, also a second time, answers again within seconds and nothing polls."""
    host, guest = hosts[0], guests[0]
    await until(lambda: answers(guest), 20)
    for _ in range(2):
        killed = _dns(host)
        os.kill(killed.pid, signal.SIGKILL)
        await until(lambda: answers(guest), 20)
        assert _dns(host) != killed


async def test_an_adopted_dns_server_is_watched(hosts, networks, guests):
    """A server that a former agent has started comes back as well when it is killed."""
    host, guest = hosts[0], guests[0]
    host.services.exits.close()
    networks[0]._carried[KEY.vni].altered = True
    await networks[0].reconcile(KEY.vni)
    adopted = _dns(host)
    os.kill(adopted.pid, signal.SIGKILL)
    await until(lambda: answers(guest), 20)
    assert _dns(host) != adopted


async def test_a_server_that_is_ended_on_purpose_stays_away(hosts, networks):
    """The network's last port takes its server with it, and nothing starts it again."""
    ended = []
    hosts[0].services.exits.on_exit = lambda *found: ended.append(found)
    await networks[0].release(f"i-{HERE.port}")
    assert not hosts[0].services.observe()
    assert ended == []


BREAKAGES = {
    "neighbour": ("bridge", "fdb", "del", THERE.mac, "dev", "kx00002a"),
    "flood list": ("bridge", "fdb", "del", "00:00:00:00:00:00", "dev", "kx00002a"),
    "tap off the bridge": ("ip", "link", "set", HERE.tap, "nomaster"),
    "tap down": ("ip", "link", "set", HERE.tap, "down"),
    "bridge": ("ip", "link", "del", "kb00002a"),
    "vxlan": ("ip", "link", "del", "kx00002a"),
    "link to the server": ("ip", "link", "del", "kv00002a"),
    "rules": ("nft", "delete", "table", "bridge", "kumulus"),
    "all rules": ("nft", "flush", "ruleset"),
}


@pytest.mark.parametrize("what", BREAKAGES)
async def test_what_others_break_is_put_right(hosts, networks, guests, what: str):
    """Whatever is removed from the datapath by hand is found by the next comparison, and put right."""
    host, (guest, other) = hosts[0], guests
    command = BREAKAGES[what]
    if "fdb" in command:
        command = (*command, "dst", hosts[1].address)
    before = await host.datapath.observe()
    await run((*entering(host.namespace), *command))
    assert await host.datapath.observe() != before
    await networks[0].compare()

    async def repaired() -> bool:
        return await host.datapath.observe() == before

    await until(repaired, 20)
    assert await guest.reaches(other.port.addresses[0])
    await until(lambda: answers(guest), 20)


async def test_a_ports_chain_that_is_emptied_is_filled_again(hosts, networks, guests):
    """Rules that somebody deletes within a port's chain are found by the next comparison, and put right."""
    host, (guest, other) = hosts[0], guests
    before = await host.datapath.observe()
    for chain in before.firewall.chains:
        await run((*entering(host.namespace), "nft", "flush", "chain", chain.family, "kumulus", chain.name))
    assert (await host.datapath.observe()).firewall != before.firewall
    await networks[0].compare()

    async def repaired() -> bool:
        return (await host.datapath.observe()).firewall == before.firewall

    await until(repaired, 20)
    assert await guest.reaches(other.port.addresses[0])


async def test_a_comparison_of_what_is_right_does_nothing(hosts, networks):
    """A datapath that is as it should be queues nothing."""
    await until(_is_empty(networks[0]), 5)
    await networks[0].compare()
    assert len(networks[0].queue) == 0


def _is_empty(carried: CarriedNetworks):
    async def empty() -> bool:
        return len(carried.queue) == 0

    return empty
