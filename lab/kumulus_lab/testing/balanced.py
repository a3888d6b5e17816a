"""Hosts whose agents carry a network with a load balancer, with namespaces as its members and clients."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from kumulus_agent.failover.keepalived import Keepalived
from kumulus_agent.load_balancers.certificates import CertificatesMissing
from kumulus_agent.load_balancers.haproxy import HAProxies
from kumulus_agent.load_balancers.here import LoadBalancersHere
from kumulus_agent.load_balancers.members import BalancerMembers
from kumulus_agent.load_balancers.place import Places
from kumulus_agent.network.namespace import within
from kumulus_agent.networks.carried import CarriedNetworks
from kumulus_agent.networks.held import port_desired
from kumulus_agent.networks.plan import Here
from kumulus_agent.servers.desired import DesiredPort, NetworkKey
from kumulus_agent.services.host_service import HostServices
from kumulus_lab.testing.namespaces import Machine
from kumulus_lab.testing.tasks import end
from kumulus_lab.testing.watched_objects import WatchedObjects

KEY = NetworkKey("red", "private", 0x51)
VIP = "10.0.0.30"
MAC = "02:00:00:51:00:30"
BALANCER_ID = "00000000-0000-4000-8000-0000000000b1"
MEMBER_PORT = 8080


async def _nothing_mapped() -> None:
    """Look for physical networks on a host that has none."""


class Alone:
    """A host that shares nothing with another."""

    async def connect_hosts(self) -> None:
        """Do nothing."""


@dataclass
class BalancingHost:
    """A host with the parts of an agent that know of load balancers."""

    host: Any
    api: WatchedObjects
    directory: Path
    networks: Any = None
    balancers: Any = None
    proxies: Any = None
    services: Any = None
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    pems: dict[str, str] = field(default_factory=dict)
    """What the operator answers when it is asked for certificates."""
    fetched: int = 0

    @property
    def prefix(self) -> str:
        """What the names of its load balancers' namespaces begin with."""
        return f"{self.host.name}-kl"

    async def _fetch(self, _namespace: str, _name: str) -> dict[str, str]:
        self.fetched += 1
        if not self.pems:
            raise CertificatesMissing("the operator cannot be asked now")
        return self.pems

    def start(self, held: dict[str, DesiredPort] | None = None) -> None:
        """Begin as an agent does that finds what is there; `held` are the ports of the guests that run."""
        here = Here(self.host.name, self.host.address, 1450)
        self.networks = CarriedNetworks(self.api, self.host.datapath, here, _nothing_mapped)  # type: ignore[arg-type]
        self.services = HostServices(self.host.directory / "services", init_pid=None)
        self.proxies = HAProxies(self.services, self.directory)
        places = Places(self.host.datapath, self.prefix)
        vrrp = HostServices(self.host.directory / "lb-vrrp-services", init_pid=None)
        self.balancers = LoadBalancersHere(
            self.api,  # type: ignore[arg-type]
            places,
            self.proxies,
            self.networks,
            BalancerMembers(Keepalived(vrrp, self.directory / "vrrp"), Alone(), self.host.name),
            certificates=self._fetch,
        )
        for instance, port in (held or {}).items():
            self.networks.hold(instance, instance, [port])
        self.tasks = [
            asyncio.create_task(self.balancers.follow()),
            asyncio.create_task(self.networks.queue.run(self.networks.reconcile, 2)),
            asyncio.create_task(self.balancers.queue.run(self.balancers.reconcile, 2)),
        ]

    async def stop(self) -> None:
        """End the agent; all that it made stays."""
        self.networks.queue.stop()
        self.balancers.queue.stop()
        await end(self.tasks)
        await self.networks.close()
        await self.balancers.close()

    def processes(self) -> dict[str, int]:
        """The numbers of the processes of its load balancers, by unit."""
        found = self.services.observe().items()
        return {unit: record.process.pid for unit, record in found if unit.startswith("kumulus-lb-")}


@dataclass
class Member(Machine):
    """A guest that answers each connection with its name and the client's address, and echoes what comes then."""

    name: str
    port: DesiredPort
    node: BalancingHost
    server: asyncio.Server | None = None
    asked: int = 0
    """Requests that it has answered to health checks."""
    answer: str = "200 OK"

    async def serve(self) -> None:
        """Take connections."""
        made = within(self.namespace, socket.socket)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("", MEMBER_PORT))
        self.server = await asyncio.start_server(self._talk, sock=made)

    async def close(self) -> None:
        """Take connections no more; those that there are go on."""
        if self.server is not None:
            self.server.close()
            self.server = None

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            first = await reader.readline()
            if b"HTTP/" in first:
                await self._answer(reader, writer, first)
            else:
                writer.write(f"{self.name}\n".encode())
                while line := await reader.readline():
                    writer.write(line)
                    await writer.drain()
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes) -> None:
        lines = [first]
        while (line := await reader.readline()).strip():
            lines.append(line)
        if b"/healthz" in first:
            self.asked += 1
        body = f"{self.name}\n".encode() + b"".join(lines)
        head = f"HTTP/1.1 {self.answer}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()


class Talk:
    """A connection of a client through the load balancer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.member = ""

    async def says(self, text: str) -> str:
        """Send a line, and give the line that comes back; empty if the connection has ended."""
        self._writer.write(f"{text}\n".encode())
        await self._writer.drain()
        async with asyncio.timeout(5):
            return (await self._reader.readline()).decode().strip()

    async def greeted(self) -> str:
        """Give the name of the member that answers.

        Raises:
            ConnectionResetError: none does.
        """
        name = await self.says("hello")
        if not name:
            raise ConnectionResetError("no member has answered")
        return name

    def close(self) -> None:
        """End it."""
        self._writer.close()

    async def end(self) -> None:
        """End it, and wait until the member has ended it too."""
        self._writer.write_eof()
        async with asyncio.timeout(5):
            await self._reader.read()
        self.close()


@dataclass
class BalancedCloud:
    """A network with members, a client and a load balancer, as an operator would decide and agents make them."""

    api: WatchedObjects
    nodes: list[BalancingHost]
    members: dict[str, Member] = field(default_factory=dict)
    at: int = 0
    """Which host the load balancer is on."""

    async def boot(self, name: str, number: int, node: int, group: str = "default") -> Member:
        """Start a guest with a port."""
        here = self.nodes[node]
        address = f"10.0.0.{number}"
        port = DesiredPort(
            "eth0", name, KEY, f"02:00:00:51:00:{number:02x}", (address,), f"kt{number:011x}", groups=(("red", group),)
        )
        here.networks.hold(name, name, [port])
        await here.networks.ensure([KEY])
        machine = await here.host.boot(port_desired(name, name, port), KEY.vni)
        await machine.configure()
        member = self.members[name] = Member(machine.namespace, name, port, here)
        self.endpoints()
        return member

    def endpoints(self) -> None:
        """Write where the ports are."""
        items = [
            _endpoint(
                member.port.port,
                member.port.mac,
                list(member.port.addresses),
                member.node.host,
                member.port.groups[0][1],
            )
            for member in self.members.values()
        ]
        items.append(_endpoint("lb-vip", MAC, [VIP], self.nodes[self.at].host, "default"))
        spec = {"network": {"name": KEY.name}, "vni": KEY.vni, "endpoints": items}
        self.api.put("NetworkEndpoints", "private-0", spec)

    def balance(self, *names: str, at: int | None = None, **listener: Any) -> None:
        """Have a load balancer lead to members, or be changed."""
        self.at = self.at if at is None else at
        members = [
            {"name": name, "address": str(self.members[name].port.addresses[0]), "port": MEMBER_PORT} for name in names
        ]
        said = {"name": "web", "protocol": "TCP", "port": 80, "algorithm": "RoundRobin", "members": members}
        assignment = {
            "loadBalancerID": BALANCER_ID,
            "port": "lb-vip",
            "portID": BALANCER_ID,
            "mac": MAC,
            "addresses": [f"{VIP}/24"],
            "network": KEY.name,
            "networkNamespace": KEY.namespace,
            "vni": KEY.vni,
            "host": self.nodes[self.at].host.name,
            "listeners": [said | listener],
        }
        self.api.put("LoadBalancer", "lb", {"assignment": assignment})
        self.endpoints()

    def status(self) -> dict[str, Any]:
        """What was told of the load balancer last."""
        found: dict[str, Any] = self.api.objects["LoadBalancer", "red", "lb"].get("status") or {}
        return found

    def states(self) -> dict[str, str]:
        """The members' states as they were told last."""
        return {item["name"]: item["state"] for item in self.status().get("members", [])}

    async def until_states(self, **states: str) -> None:
        """Wait until these states were told."""
        async with asyncio.timeout(20):
            while self.states() != states:  # noqa: ASYNC110 - it is told by whoever may
                await asyncio.sleep(0.02)

    async def talk(self, client: Member, source_port: int = 0, port: int = 80, seconds: float = 5.0) -> Talk:
        """Connect through the load balancer, and hear which member answers.

        Raises:
            TimeoutError, ConnectionError: nobody answers.
        """
        loop = asyncio.get_running_loop()
        made = within(client.namespace, socket.socket)
        made.setblocking(False)
        if source_port:
            made.bind(("", source_port))
        talk: Talk | None = None
        try:
            async with asyncio.timeout(seconds):
                await loop.sock_connect(made, (VIP, port))
                talk = Talk(*await asyncio.open_connection(sock=made))
                talk.member = await talk.greeted()
        except BaseException:
            if talk is not None:
                talk.close()
            made.close()
            raise
        return talk

    async def tally(self, client: Member, count: int) -> Counter[str]:
        """Connect so many times, one after the other, and count who answers."""
        answers: Counter[str] = Counter()
        for _ in range(count):
            talk = await self.talk(client)
            answers[talk.member] += 1
            talk.close()
        return answers

    async def get(self, client: Member, *, cookie: str = "", trust: str = "", name: str = "lb.test") -> str:
        """Ask by HTTP, or by HTTPS where a certificate for a name is trusted, and give the whole answer."""
        loop = asyncio.get_running_loop()
        secure: dict[str, Any] = {}
        if trust:
            secure = {"ssl": ssl.create_default_context(cadata=trust), "server_hostname": name}
        made = within(client.namespace, socket.socket)
        made.setblocking(False)
        async with asyncio.timeout(5):
            try:
                await loop.sock_connect(made, (VIP, 443 if trust else 80))
            except BaseException:
                made.close()
                raise
            # From here on the socket is the transport's, which closes it.
            reader, writer = await asyncio.open_connection(sock=made, **secure)
            try:
                more = f"Cookie: {cookie}\r\n" if cookie else ""
                writer.write(f"GET / HTTP/1.1\r\nHost: x\r\n{more}Connection: close\r\n\r\n".encode())
                text = (await reader.read()).decode()
            finally:
                writer.close()
        return text


def self_signed(name: str, directory: Path) -> str:
    """Make a certificate for a name with its key, as PEM."""
    files = (directory / f"{name}.crt", directory / f"{name}.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "1", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run([*command, "-out", str(files[0]), "-keyout", str(files[1])], check=True, capture_output=True)
    return "".join(file.read_text() for file in files)


def _endpoint(name: str, mac: str, addresses: list[str], host: Any, group: str) -> dict[str, Any]:
    return {
        "port": name,
        "mac": mac,
        "addresses": addresses,
        "host": host.name,
        "tunnelAddress": host.address,
        "hostname": name,
        "groups": [group],
    }


@contextlib.asynccontextmanager
async def balanced_cloud(hosts: tuple[Any, ...]) -> AsyncIterator[BalancedCloud]:
    """Start the agents of hosts, three members and a client of a group that nobody lets in."""
    api = WatchedObjects()
    api.put("Network", KEY.name, {"subnets": [{"name": "v4", "cidr": "10.0.0.0/24", "enableDHCP": False}]})
    members = [{"etherType": "IPv4", "remoteGroup": {"name": "default"}}]
    api.put("SecurityGroup", "default", {"ingress": members})
    api.put("SecurityGroup", "clients", {"ingress": []})
    # The names of sockets are short.
    directory = Path(tempfile.mkdtemp(prefix="klb"))
    cloud = BalancedCloud(api, [BalancingHost(host, api, directory / f"{n}") for n, host in enumerate(hosts)])
    for node in cloud.nodes:
        node.start()
    try:
        for number, name in enumerate(("one", "two", "three"), 11):
            member = await cloud.boot(name, number, number % 2)
            await member.serve()
        await cloud.boot("client", 21, 1, "clients")
        yield cloud
    finally:
        for member in cloud.members.values():
            await member.close()
        for node in cloud.nodes:
            for unit in node.services.observe():
                if unit.startswith("kumulus-lb-"):
                    await node.services.absent(unit)
            await node.stop()
        shutil.rmtree(directory)


def addresses_of(member: Member) -> str:
    """The member's address."""
    return str(ip_address(member.port.addresses[0]))
