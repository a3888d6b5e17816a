"""What a flavor says of bandwidth, on the kernel's own queues."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from kumulus_agent.network import names
from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import entering, within
from kumulus_agent.network.state import NetworkDesired
from kumulus_agent.networks.held import port_desired
from kumulus_agent.servers.desired import DesiredPort, NetworkKey, flavor_rates
from kumulus_api.hardware import Bandwidth, Hardware

VNI = 0x62
LIMITED, OTHER = IPv4Address("10.0.0.11"), IPv4Address("10.0.0.12")
FLAVOR = Hardware(vif_inbound=Bandwidth(average=2000, peak=4000, burst=2000), vif_outbound=Bandwidth(average=1000))


def make_port(address: IPv4Address, hardware: Hardware | None):
    """A port of a server with that flavor."""
    number = address.packed[-1]
    key, mac = NetworkKey("red", "net", VNI), f"02:00:00:00:00:{number:02x}"
    given = DesiredPort("eth0", "p", key, mac, (str(address),), f"kt62{number:09x}", rates=flavor_rates(hardware))
    return port_desired(f"i{number}", "web", given)


@pytest.fixture
async def guests(hosts):
    """A guest whose flavor limits its bandwidth, and one without; their groups let all through."""
    host = hosts[0]
    ports = tuple(make_port(*item) for item in ((LIMITED, FLAVOR), (OTHER, None)))
    opened = tuple(_open(port) for port in ports)
    network = NetworkDesired(VNI, 1450, host.address, ports=opened)
    await host.datapath.ensure_network(network)
    made = [await host.boot(port, VNI) for port in opened]
    for guest in made:
        await guest.configure()
    assert await host.datapath.ensure_network(network) == []
    return host, made


def _open(port):
    return replace(port, groups=None)


async def queue(host, interface: str) -> dict:
    """Give what the kernel has to slow an interface down."""
    listed = await run((*entering(host.namespace), "tc", "-json", "qdisc", "show", "dev", interface, "root"))
    return json.loads(listed)[0]


async def test_the_kernel_has_what_the_flavor_says(guests):
    """Rate, burst and peak of each direction are those of the flavor, in bytes; the other port has no queue."""
    host, (limited, other) = guests
    inbound, outbound = [await queue(host, name) for name in (limited.port.tap, names.queue(limited.port.tap))]
    assert inbound["kind"] == outbound["kind"] == "tbf"
    assert inbound["options"]["rate"] == 2_000_000
    assert inbound["options"]["burst"] == pytest.approx(2_000_000, rel=0.01)
    assert outbound["options"]["rate"] == 1_000_000
    assert "minburst" in inbound["options"]
    assert "minburst" not in outbound["options"]
    buckets = (await host.datapath.observe()).buckets
    assert {name: found.peak for name, found in buckets.items()} == {
        limited.port.tap: 4_000_000,
        names.queue(limited.port.tap): 0,
    }
    assert (await queue(host, other.port.tap))["kind"] != "tbf"


async def received(source, target, seconds: float) -> list[tuple[float, int]]:
    """Send over TCP for some time; give when how many bytes had come."""
    loop = asyncio.get_running_loop()
    listener, client = (within(guest.namespace, socket.socket) for guest in (target, source))
    listener.bind((str(target.port.addresses[0]), 0))
    listener.listen()
    for end in (listener, client):
        end.setblocking(False)
    await loop.sock_connect(client, listener.getsockname())
    server, _ = await loop.sock_accept(listener)

    async def send() -> None:
        while True:
            await loop.sock_sendall(client, bytes(1 << 16))

    sending = asyncio.create_task(send())
    begun, came, total = time.monotonic(), [], 0
    async with asyncio.timeout(3 * seconds):
        while (now := time.monotonic() - begun) < seconds:
            total += len(await loop.sock_recv(server, 1 << 18))
            came.append((now, total))
    sending.cancel()
    with suppress(asyncio.CancelledError):
        await sending
    for end in (listener, client, server):
        end.close()
    return came


async def test_a_guest_is_as_fast_as_its_flavor_says(guests):
    """A burst comes at the peak's rate, what comes after at the average; what the guest sends, at its own average."""
    _, (limited, other) = guests
    inbound = await received(other, limited, 4.0)
    # At the peak's 4 MB/s the burst of 2 MB lasts a second, as 2 MB/s are added meanwhile.
    first = max(total for when, total in inbound if when <= 0.8) / 0.8
    assert 2_800_000 < first < 4_400_000
    (t1, n1), (t2, n2) = next(item for item in inbound if item[0] > 2.0), inbound[-1]
    assert (n2 - n1) / (t2 - t1) == pytest.approx(2_000_000, rel=0.12)
    outbound = await received(limited, other, 3.0)
    (t1, n1), (t2, n2) = next(item for item in outbound if item[0] > 0.5), outbound[-1]
    assert (n2 - n1) / (t2 - t1) == pytest.approx(1_000_000, rel=0.12)
