"""What is told of the servers' use of the host."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from kumulus_agent.compute.errors import HypervisorUnavailable
from kumulus_agent.compute.usage import DiskUsage, Usage, parse_usage
from kumulus_agent.network.limits import Dropped
from kumulus_agent.network.tap import Counters
from kumulus_agent.networks.held import HeldPort
from kumulus_agent.servers.usage_metrics import ServerUsageCollector

WEB = "11111111-1111-4111-8111-111111111111"
USAGE = Usage(1.5, 2, 1 << 27, 1 << 26, (DiskUsage("vda", 10, 20, 1, 2),))


class Host:
    """A hypervisor and a datapath that count how often they are asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None

    async def usage(self) -> dict[str, Usage]:
        """Two domains, one of them nobody's."""
        self.asked += 1
        if self.error:
            raise self.error
        return {WEB: USAGE, "stranger": USAGE}

    async def all_counters(self) -> dict[str, Counters]:
        """One tap."""
        return {"kt1": Counters(1, 2, 3, 4, 5, 6)}

    async def dropped(self) -> dict[str, Dropped]:
        """Of the one tap, and of one that nobody holds."""
        return {"kt1": Dropped(spoofed=7, ingress=8), "kt9": Dropped(spoofed=9)}


def make_collector(host: Any) -> ServerUsageCollector:
    """A collector on a host with one server of two interfaces, of which one is not plugged."""
    ports = {"kt1": HeldPort("blue", "02:00:00:00:00:01", "web-a"), "kt2": HeldPort("red", "02:00:00:00:00:02")}
    keys = {WEB: ("demo", "web")}
    return ServerUsageCollector(host, host, keys, lambda _id: ports, asyncio.get_running_loop())


def test_libvirts_numbers_are_told_in_seconds_and_bytes() -> None:
    """Nanoseconds and KiB are converted; a backing image is not counted beside its disk; what is absent is 0."""
    found = {
        "cpu.time": 2_500_000_000,
        "vcpu.current": 2,
        "balloon.current": 1024,
        "balloon.rss": 2048,
        "block.count": 2,
        "block.0.name": "vda",
        "block.0.backingIndex": 1,
        "block.0.rd.bytes": 7,
        "block.1.name": "vda",
        "block.1.backingIndex": 3,
        "block.1.rd.bytes": 9,
    }
    assert parse_usage(found) == Usage(2.5, 2, 1 << 20, 2 << 20, (DiskUsage("vda", 7, 0, 0, 0),))
    assert parse_usage({}) == Usage(0.0, 0, 0, 0, ())


async def test_a_scrape_names_servers_and_leaves_out_strangers() -> None:
    """Each server has its namespace and name as labels; a domain of nobody has no metrics."""
    registry = CollectorRegistry()
    registry.register(make_collector(Host()))
    text = (await asyncio.to_thread(generate_latest, registry)).decode()
    assert 'kumulus_server_cpu_seconds_total{namespace="demo",server="web"} 1.5' in text
    assert 'kumulus_server_disk_written_bytes_total{device="vda",namespace="demo",server="web"} 20.0' in text
    network = 'mac="02:00:00:00:00:01",namespace="demo",network="blue",server="web"'
    assert f"kumulus_server_network_sent_bytes_total{{{network}}} 4.0" in text
    assert 'network="red"' not in text
    port = 'port="web-a",project="demo"'
    assert f'kumulus_port_receive_bytes_total{{{port},server="web"}} 1.0' in text
    assert f'kumulus_port_transmit_packets_total{{{port},server="web"}} 5.0' in text
    assert f'kumulus_port_dropped_packets_total{{{port},reason="spoofed",server="web"}} 7.0' in text
    assert f'kumulus_port_dropped_packets_total{{{port},reason="ingress",server="web"}} 8.0' in text
    assert text.count("kumulus_port_dropped_packets_total{") == 2
    assert text.count("kumulus_server_vcpus{") == 1


async def test_scrapes_that_follow_closely_ask_once() -> None:
    """Nothing is asked without a scrape, and two scrapes within five seconds ask libvirt once."""
    host, registry = Host(), CollectorRegistry()
    registry.register(make_collector(host))
    assert host.asked == 0
    for _ in range(2):
        await asyncio.to_thread(generate_latest, registry)
    assert host.asked == 1


async def test_a_silent_libvirtd_costs_its_metrics_only() -> None:
    """While libvirtd does not answer a scrape succeeds without the servers' metrics."""
    host, registry = Host(), CollectorRegistry()
    host.error = HypervisorUnavailable("no connection")
    registry.register(make_collector(host))
    assert b"kumulus_server_vcpus" not in await asyncio.to_thread(generate_latest, registry)
