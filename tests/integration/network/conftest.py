"""Two hosts and their guests: network namespaces of this machine whose names begin with ktest-."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from kumulus_agent.network.command import run
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.network.state import PortDesired
from kumulus_agent.services.host_service import HostServices

TOOLS = ("ip", "nft", "nsenter", "conntrack", "dnsmasq", "busybox")
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
class Guest:
    """A namespace that stands in for a virtual machine."""

    namespace: str
    port: PortDesired

    async def configure(self, address: IPv4Address | None = None) -> None:
        """Give eth0 the address, by default the port's."""
        await ip("-netns", self.namespace, "address", "add", f"{address or self.port.addresses[0]}/24", "dev", "eth0")

    async def run(self, *argv: str, allowed: tuple[int, ...] = (0,)) -> str:
        """Run a command inside."""
        return (await run(("ip", "netns", "exec", self.namespace, *argv), allowed=allowed)).decode()

    async def reaches(self, address: IPv4Address, *options: str) -> bool:
        """Tell whether a ping is answered within two seconds."""
        argv = ("busybox", "ping", "-q", "-c", "1", "-W", "2", *options, str(address))
        return " 0% packet loss" in await self.run(*argv, allowed=(0, 1))


@pytest.fixture
def prefix() -> str:
    """A prefix of namespace names that no other test run has."""
    return f"ktest-{uuid.uuid4().hex[:6]}"


@pytest.fixture
async def hosts(prefix: str, tmp_path: Path) -> AsyncIterator[tuple[SimulatedHost, SimulatedHost]]:
    """Two hosts with a cable between them."""
    # dnsmasq reads its files as an unprivileged user.
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_remove_namespaces, prefix)
        names = (f"{prefix}-a", f"{prefix}-b")
        for name in names:
            await ip("netns", "add", name)
        cable = ("type", "veth", "peer", "name", "under", "netns", names[1])
        await ip("-netns", names[0], "link", "add", "under", *cable)
        hosts = []
        for number, name in enumerate(names, 1):
            address = f"192.0.2.{number}"
            await ip("-netns", name, "address", "add", f"{address}/24", "dev", "under")
            await ip("-netns", name, "link", "set", "under", "up")
            services = HostServices(tmp_path / name / "services", init_pid=None)
            datapath = Datapath(
                services,
                tmp_path / name / "dns",
                namespace=f"{name}-dp",
                host_namespace=name,
                service_prefix=f"{name}-kd",
            )
            stack.push_async_callback(_stop_services, services)
            stack.push_async_callback(datapath.close)
            await datapath.start()
            hosts.append(SimulatedHost(name, address, datapath, services, tmp_path / name))
        yield hosts[0], hosts[1]


async def _stop_services(services: HostServices) -> None:
    for unit in services.observe():
        await services.absent(unit)


async def _remove_namespaces(prefix: str) -> None:
    names = [path.name for path in await asyncio.to_thread(lambda: list(Path("/run/netns").glob(f"{prefix}-*")))]
    for name in names:
        await ip("netns", "delete", name)
