"""Two hosts and their guests: network namespaces of this machine whose names begin with ktest-."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from kumulus_agent.network.command import run
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.network.state import PortDesired
from kumulus_agent.services.host_service import HostServices
from kumulus_lab.testing.namespaces import Machine, cable
from kumulus_lab.testing.routed import RoutedCloud, routed_cloud

TOOLS = ("ip", "nft", "nsenter", "conntrack", "dnsmasq", "keepalived", "busybox", "dhclient", "charon-systemd")
MTU = 1450


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what is missing where these tests cannot run."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0:
        missing.append("root")
    for item in items:
        if missing and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"network namespaces need {', '.join(missing)}"))


async def ip(*arguments: str) -> bytes:
    """Run the tool of iproute2."""
    return await run(("ip", *arguments))


@dataclass
class SimulatedHost:
    """A host: its namespace, tunnel address, datapath, and host services."""

    name: str
    address: str
    datapath: Datapath
    services: HostServices
    directory: Path

    @property
    def namespace(self) -> str:
        """The namespace of its bridges."""
        return f"{self.name}-dp"

    async def boot(self, port: PortDesired, vni: int) -> Guest:
        """Let a namespace stand in for a virtual machine: a veth of the tap's name, and eth0 in the guest."""
        guest = Guest(f"{self.name}-{port.tap}", port)
        await ip("netns", "add", guest.namespace)
        veth = ("link", "add", port.tap, "mtu", str(MTU), "type", "veth")
        peer = ("peer", "name", "eth0", "address", port.mac, "mtu", str(MTU), "netns", guest.namespace)
        await ip("-netns", self.name, *veth, *peer)
        await self.datapath.plug(port.tap, vni)
        await ip("-netns", guest.namespace, "link", "set", "lo", "up")
        await ip("-netns", guest.namespace, "link", "set", "eth0", "up")
        return guest


@dataclass
class Guest(Machine):
    """A namespace that stands in for a virtual machine."""

    port: PortDesired

    async def configure(self, address: IPv4Address | IPv6Address | None = None) -> None:
        """Give eth0 the address, by default the port's."""
        given = address or self.port.addresses[0]
        bits = ("24",) if isinstance(given, IPv4Address) else ("64", "nodad")
        prefix, *flags = bits
        await ip("-netns", self.namespace, "address", "add", f"{given}/{prefix}", "dev", "eth0", *flags)

    async def settled(self) -> None:
        """Wait until the kernel has seen that nobody else has the addresses of eth0 (RFC 4862), and uses them."""
        async with asyncio.timeout(10):
            while True:
                if not await self.run("ip", "-6", "address", "show", "dev", "eth0", "tentative"):
                    return
                await asyncio.sleep(0.05)


@pytest.fixture
def prefix() -> str:
    """A prefix of namespace names that no other test run has."""
    return f"ktest-{uuid.uuid4().hex[:6]}"


@pytest.fixture
async def hosts(prefix: str, tmp_path: Path) -> AsyncIterator[tuple[SimulatedHost, SimulatedHost]]:
    """Two hosts with a cable between them."""
    # dnsmasq reads its files as an unprivileged user.
    temporary = Path(tempfile.gettempdir())
    for folder in (tmp_path, *tmp_path.parents):
        if temporary in folder.parents:
            folder.chmod(0o755)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_remove_namespaces, prefix)
        names = (f"{prefix}-a", f"{prefix}-b")
        for name in names:
            await ip("netns", "add", name)
        cable = ("type", "veth", "peer", "name", "under", "netns", names[1])
        await ip("-netns", names[0], "link", "add", "under", *cable)
        hosts = [await _host(stack, name, f"192.0.2.{number}", tmp_path / name) for number, name in enumerate(names, 1)]
        yield hosts[0], hosts[1]


@pytest.fixture
async def three_hosts(prefix: str, tmp_path: Path) -> AsyncIterator[tuple[SimulatedHost, ...]]:
    """Three hosts on a switch."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_remove_namespaces, prefix)
        switch = Machine(f"{prefix}-under")
        await ip("netns", "add", switch.namespace)
        await switch.run("ip", "link", "add", "switch", "type", "bridge", "mcast_snooping", "0")
        await switch.run("ip", "link", "set", "switch", "up")
        names = [f"{prefix}-{letter}" for letter in "abc"]
        for number, name in enumerate(names):
            await ip("netns", "add", name)
            await cable(switch, number, name, "under", f"to-{name[-1]}")
        hosts = [await _host(stack, name, f"192.0.2.{number}", tmp_path / name) for number, name in enumerate(names, 1)]
        yield tuple(hosts)


async def _host(stack: AsyncExitStack, name: str, address: str, directory: Path) -> SimulatedHost:
    """Make a host of a namespace that has a cable."""
    await ip("-netns", name, "address", "add", f"{address}/24", "dev", "under")
    await ip("-netns", name, "link", "set", "under", "up")
    services = HostServices(directory / "services", init_pid=None)
    datapath = Datapath(
        services,
        directory / "dns",
        namespace=f"{name}-dp",
        host_namespace=name,
        service_prefix=f"{name}-kd",
    )
    stack.push_async_callback(_stop_services, services)
    stack.push_async_callback(datapath.close)
    await datapath.start()
    return SimulatedHost(name, address, datapath, services, directory)


@pytest.fixture
async def cloud(prefix: str, hosts) -> AsyncIterator[RoutedCloud]:
    """Two networks, `red1` and `red2`, on the hosts; no guests and no routers."""
    async with routed_cloud(prefix, hosts) as made:
        for number in (1, 2):
            made.network(f"red{number}", 0x100 + number, f"10.0.{number}.0/24")
        yield made


@pytest.fixture
async def outside(prefix: str, hosts) -> Machine:
    """A machine with 10.0.0.1 on a switch to which each host's interface `phys` is cabled; `phys` is up and plain."""
    switch = Machine(f"{prefix}-out")
    await run(("ip", "netns", "add", switch.namespace))
    await switch.run("ip", "link", "add", "switch", "type", "bridge", "mcast_snooping", "0")
    for number, host in enumerate(hosts):
        await cable(switch, number, host.name)
        await run(("ip", "-netns", host.name, "link", "set", "phys", "up", "alias", "patch panel 7"))
    await switch.run("ip", "address", "add", "10.0.0.1/24", "dev", "switch")
    await switch.run("ip", "link", "set", "switch", "up")
    return switch


async def _stop_services(services: HostServices) -> None:
    for unit in services.observe():
        await services.absent(unit)


async def _remove_namespaces(prefix: str) -> None:
    names = [path.name for path in await asyncio.to_thread(lambda: list(Path("/run/netns").glob(f"{prefix}-*")))]
    for name in names:
        await ip("netns", "delete", name)
