"""Metrics of each server here: asked for when somebody scrapes, and then at most once in five seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.usage import Usage
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.network.limits import Dropped
from kumulus_agent.network.tap import Counters
from kumulus_agent.networks.held import HeldPort
from kumulus_agent.servers.desired import Key

_log = structlog.stdlib.get_logger(__name__)
FRESH_SECONDS = 5.0
_DEADLINE_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class ServerUsage:
    """A server's usage and the traffic of its interfaces, None for one that is not plugged."""

    key: Key
    usage: Usage
    ports: tuple[tuple[HeldPort, Counters | None], ...] = ()
    dropped: tuple[tuple[HeldPort, Dropped], ...] = ()
    """What the rules dropped, of the ports of which they dropped anything."""


def families(found: tuple[ServerUsage, ...]) -> Iterator[Metric]:
    """Give the metrics. Labels are those of the Server, so Prometheus needs `honorLabels`."""
    yield _gauge("vcpus", "Virtual CPUs.", found, lambda usage: usage.vcpus)
    yield _gauge("memory_bytes", "Memory that it was given.", found, lambda usage: usage.memory)
    yield _gauge("memory_resident_bytes", "Memory of its QEMU on the host.", found, lambda usage: usage.resident)
    cpu = CounterMetricFamily("kumulus_server_cpu_seconds", "CPU time of its QEMU.", labels=_SERVER)
    for server in found:
        cpu.add_metric(server.key, server.usage.cpu_seconds)
    yield cpu
    for name, attribute, text in _DISK:
        disks = CounterMetricFamily(f"kumulus_server_disk_{name}", text, labels=(*_SERVER, "device"))
        for server in found:
            for disk in server.usage.disks:
                disks.add_metric((*server.key, disk.device), getattr(disk, attribute))
        yield disks
    for name, attribute, text in _NETWORK:
        ports = CounterMetricFamily(f"kumulus_server_network_{name}", text, labels=(*_SERVER, "network", "mac"))
        for server in found:
            for port, counters in server.ports:
                if counters is not None:
                    ports.add_metric((*server.key, port.network, port.mac), getattr(counters, attribute))
        yield ports
    yield from _of_ports(found)


def _of_ports(found: tuple[ServerUsage, ...]) -> Iterator[Metric]:
    """Give the metrics by port: a reason that has not come up yet has no sample."""
    for name, attribute, text in _PORT:
        family = CounterMetricFamily(f"kumulus_port_{name}", text, labels=_LABELS)
        for server in found:
            for port, counters in server.ports:
                if counters is not None:
                    family.add_metric((*server.key, port.port), getattr(counters, attribute))
        yield family
    drops = CounterMetricFamily("kumulus_port_dropped_packets", _DROPS, labels=(*_LABELS, "reason"))
    for server in found:
        for port, dropped in server.dropped:
            for reason, packets in asdict(dropped).items():
                if packets:
                    drops.add_metric((*server.key, port.port, reason), packets)
    yield drops


_LABELS = ("project", "server", "port")
_PORT = (
    ("receive_bytes", "received_bytes", "Bytes sent to the guest by the port since it was plugged."),
    ("receive_packets", "received_packets", "Packets sent to the guest by the port since it was plugged."),
    ("transmit_bytes", "sent_bytes", "Bytes sent by the guest through the port since it was plugged."),
    ("transmit_packets", "sent_packets", "Packets sent by the guest through the port since it was plugged."),
)
_DROPS = (
    "Packets of the port that the rules dropped: spoofed (not the guest's to send), egress and ingress (no security "
    "group permits them), excess (one connection too many)."
)
_SERVER = ("namespace", "server")
_DISK = (
    ("read_bytes", "read_bytes", "Bytes read from the disk since the start."),
    ("written_bytes", "written_bytes", "Bytes written to the disk since the start."),
    ("reads", "reads", "Read requests to the disk since the start."),
    ("writes", "writes", "Write requests to the disk since the start."),
)
_NETWORK = (
    ("received_bytes", "received_bytes", "Bytes sent to the guest."),
    ("received_packets", "received_packets", "Packets sent to the guest."),
    ("received_dropped", "received_dropped", "Packets to the guest that it did not take."),
    ("sent_bytes", "sent_bytes", "Bytes sent by the guest."),
    ("sent_packets", "sent_packets", "Packets sent by the guest."),
    ("sent_dropped", "sent_dropped", "Packets of the guest that the host did not take."),
)


def _gauge(name: str, text: str, found: tuple[ServerUsage, ...], value: Callable[[Usage], float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"kumulus_server_{name}", text, labels=_SERVER)
    for server in found:
        family.add_metric(server.key, value(server.usage))
    return family


@dataclass(eq=False)
class ServerUsageCollector(Collector):
    """Collects in the thread of the metrics endpoint what the event loop's side asks libvirt and the kernel for.

    Attributes:
        hypervisor: for CPU, memory and disks.
        datapath: for the interfaces, which libvirt does not see where they are.
        keys: the Server of each instance.
        ports: the interfaces of each instance, by tap.
        loop: the event loop's.
    """

    hypervisor: Hypervisor
    datapath: Datapath
    keys: Mapping[str, Key]
    ports: Callable[[str], Mapping[str, HeldPort]]
    loop: asyncio.AbstractEventLoop
    _sample: tuple[ServerUsage, ...] = ()
    _taken: float = float("-inf")
    _sampling: asyncio.Lock = field(default_factory=asyncio.Lock)

    def describe(self) -> Iterator[Metric]:
        """Name nothing beforehand: registering asks nobody."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Give the metrics; none of them while libvirtd does not answer."""
        asked = asyncio.run_coroutine_threadsafe(self.sample(), self.loop)
        try:
            found = asked.result(_DEADLINE_SECONDS)
        except (HypervisorError, NetworkError, TimeoutError) as error:
            asked.cancel()
            _log.warning("servers' usage could not be read", error=str(error))
            return
        yield from families(found)

    async def sample(self) -> tuple[ServerUsage, ...]:
        """Give the usage of all servers that run here, not older than five seconds.

        Raises:
            HypervisorError: libvirtd does not answer.
            NetworkError: the kernel does not.
        """
        async with self._sampling:
            if time.monotonic() - self._taken >= FRESH_SECONDS:
                self._sample = await self._look()
                self._taken = time.monotonic()
            return self._sample

    async def _look(self) -> tuple[ServerUsage, ...]:
        usages = await self.hypervisor.usage()
        counters = await self.datapath.all_counters() if usages else {}
        dropped = await self.datapath.dropped() if usages else {}
        found = []
        for instance_id, usage in sorted(usages.items()):
            key = self.keys.get(instance_id)
            if key is not None:
                held = sorted(self.ports(instance_id).items())
                ports = tuple((port, counters.get(tap)) for tap, port in held)
                drops = tuple((port, dropped[tap]) for tap, port in held if tap in dropped)
                found.append(ServerUsage(key, usage, ports, drops))
        return tuple(found)
