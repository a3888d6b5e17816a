"""Hosts whose agents carry networks and routers, with namespaces as guests and one as the world outside."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import Any

from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import within
from kumulus_agent.network.state import PortDesired
from kumulus_agent.servers.desired import DesiredPort, NetworkKey
from kumulus_lab.testing.namespaces import cable
from kumulus_lab.testing.routing_nodes import Node
from kumulus_lab.testing.speakers import Speaker
from kumulus_lab.testing.watched_objects import WatchedObjects

OUTSIDE, OUTSIDE6 = IPv4Address("203.0.113.1"), IPv6Address("2001:db8:77::1")
EXTERNAL = NetworkKey("public", "internet", 0x7E)


@dataclass
class Guest(Speaker):
    """A namespace that stands in for a server."""

    port: DesiredPort
    node: Node
    gateway: IPv4Address

    @property
    def address(self) -> IPv4Address:
        """Its address."""
        return IPv4Address(self.port.addresses[0])

    @property
    def address6(self) -> IPv6Address:
        """Its IPv6 address."""
        return IPv6Address(self.port.addresses[1])


@dataclass
class RoutedCloud:
    """Networks, routers, floating addresses and guests, as an operator would decide and agents make them."""

    api: WatchedObjects
    nodes: list[Node]
    outside: Speaker
    guests: dict[str, Guest] = field(default_factory=dict)
    networks: dict[str, tuple[NetworkKey, str]] = field(default_factory=dict)
    external: NetworkKey = EXTERNAL
    """Where routers lead that are made from now on."""
    priority: int = 100
    """Of the gateways' hosts that are assigned from now on."""
    firewalls: tuple[dict[str, Any], ...] = ()
    """As they are assigned, of routers that are made from now on: those are centralised."""
    outer: list[tuple[NetworkKey, Any]] = field(default_factory=list)
    """Endpoints of routers and floating addresses in an external overlay."""

    def node(self, host: str) -> Node:
        """The host whose name ends so."""
        return next(node for node in self.nodes if node.host.name.endswith(f"-{host}"))

    def network(self, name: str, vni: int, cidr: str, *, dhcp: bool = False) -> NetworkKey:
        """Make a network with a subnet."""
        key, gateway = NetworkKey("red", name, vni), str(ip_interface(cidr).network[1])
        self.networks[name] = (key, cidr)
        self.api.put(
            "Network", name, {"subnets": [{"name": "v4", "cidr": cidr, "gateway": gateway, "enableDHCP": dhcp}]}
        )
        self._endpoints(name)
        return key

    def external_subnets(self, *more: dict[str, Any]) -> None:
        """Give the external network its IPv4 subnet, and perhaps others."""
        four = {"name": "v4", "cidr": "203.0.113.0/24", "gateway": str(OUTSIDE), "enableDHCP": False}
        where = {"type": "Provider", "provider": {"physicalNetwork": "physnet1"}}
        self.api.put("Network", EXTERNAL.name, where | {"subnets": [four, *more]}, EXTERNAL.namespace)

    def _endpoints(self, network: str) -> None:
        key, _ = self.networks[network]
        endpoints = [
            {
                "port": name,
                "mac": guest.port.mac,
                "addresses": list(guest.port.addresses),
                "host": guest.node.host.name,
                "tunnelAddress": guest.node.host.address,
                "hostname": name,
                "groups": [group for _, group in guest.port.groups],
            }
            for name, guest in sorted(self.guests.items())
            if guest.port.network == key
        ]
        endpoints += [endpoint for where, endpoint in self.outer if where == key]
        self.api.put(
            "NetworkEndpoints", f"{key.name}-1", {"network": {"name": key.name}, "vni": key.vni, "endpoints": endpoints}
        )

    async def boot(
        self, name: str, host: str, network: str, *addresses: str, groups: tuple[str, ...] = (), project: str = "red"
    ) -> Guest:
        """Start a guest with a port of an IPv4 address, and perhaps of IPv6 addresses in a network of 64 bits.

        Without groups of its project it takes and makes every connection.
        """
        address, *more = addresses
        node, (key, cidr), number = self.node(host), self.networks[network], len(self.guests) + 1
        port = DesiredPort(
            "eth0",
            name,
            key,
            f"02:00:00:{key.vni & 255:02x}:00:{number:02x}",
            addresses,
            f"kt{number:011x}",
            groups=tuple((project, group) for group in groups),
            namespace=project,
        )
        node.networks.hold(name, name, [port])
        await node.networks.ensure([key])
        desired = PortDesired(port.tap, port.mac, tuple(map(ip_address, addresses)), name)
        machine = await node.host.boot(desired, key.vni)
        gateway = next(iter(ip_interface(cidr).network.hosts()))
        guest = self.guests[name] = Guest(machine.namespace, port, node, IPv4Address(str(gateway)))
        length = cidr.partition("/")[2]
        await guest.run("ip", "address", "add", f"{address}/{length}", "dev", "eth0")
        await guest.run("ip", "route", "add", "default", "via", str(gateway))
        for other in more:
            await guest.run("ip", "address", "add", f"{other}/64", "dev", "eth0", "nodad")
        self._endpoints(network)
        return guest

    async def halt(self, name: str) -> None:
        """End a guest, and its port with it."""
        guest = self.guests.pop(name)
        await guest.node.datapath.unplug(guest.port.tap)
        await guest.node.networks.release(name)
        await run(("ip", "netns", "delete", guest.namespace))
        self._endpoints(guest.port.network.name)

    def router(  # noqa: PLR0913 - what an operator may decide
        self,
        name: str,
        *networks: str,
        gateway: str | None = None,
        address: str = "203.0.113.2",
        snat: bool = True,
        routes: tuple[tuple[str, str], ...] = (),
        hosts: tuple[int, ...] = (),
        address6: str | None = None,
        routed: tuple[str, ...] = (),
        snat6: bool = False,
    ) -> str:
        """Make a router between networks; `gateway` leads outside: "a", or "a/b" where b may take over.

        With `address6` it does so by IPv6, too, and networks `routed` go out as they are.
        """
        router_id = f"00000000-0000-4000-8000-{sum(name.encode()):012d}"
        interfaces = []
        for number, network in enumerate(networks):
            key, cidr = self.networks[network]
            subnet = ip_interface(cidr).network
            own = subnet[hosts[number] if hosts else 1]
            interfaces.append(
                {
                    "name": network,
                    "network": key.name,
                    "networkNamespace": key.namespace,
                    "vni": key.vni,
                    "mac": f"0e:{sum(name.encode()) & 255:02x}:00:00:00:{number + 1:02x}",
                    "addresses": [f"{own}/{subnet.prefixlen}"],
                }
            )
        assignment: dict[str, Any] = {"routerID": router_id, "interfaces": interfaces}
        if self.firewalls:
            assignment |= {"centralised": True, "firewalls": list(self.firewalls)}
        assignment["routes"] = [{"destination": to, "nextHop": hop} for to, hop in routes]
        if gateway is not None:
            leading, _, waiting = gateway.partition("/")
            host = self.node(leading).host
            assignment["gateway"] = {
                "network": self.external.name,
                "networkNamespace": self.external.namespace,
                "vni": self.external.vni,
                "mac": gateway_mac(name),
                "addresses": [f"{address}/24", *([f"{address6}/64"] if address6 else [])],
                "nextHops": [str(OUTSIDE), *([str(OUTSIDE6)] if address6 else [])],
                "enableSNAT": snat,
                "enableSNATIPv6": snat6,
                "routed": list(routed),
                "host": host.name,
                "tunnelAddress": host.address,
            }
            if waiting:
                other = self.node(waiting).host
                spare = {"host": other.name, "tunnelAddress": other.address}
                assignment["gateway"]["takeover"] = {"priority": self.priority, "standby": spare}
        self.api.put("Router", name, {"assignment": assignment})
        return router_id

    def floating(
        self,
        name: str,
        address: str,
        router_id: str,
        host: str,
        *,
        fixed: str | None = None,
        forwardings: tuple[tuple[str, int, str, int], ...] = (),
    ) -> None:
        """Make a floating address, translated on a host: "a", or "a/b" where b may take over."""
        leading, _, waiting = host.partition("/")
        assignment = {
            "floatingIPID": "00000000-0000-4000-8000-0000000000ff",
            "address": address,
            "mac": f"0e:00:00:00:01:{ip_address(address).packed[-1]:02x}",
            "network": self.external.name,
            "networkNamespace": self.external.namespace,
            "vni": self.external.vni,
            "routerID": router_id,
            "host": self.node(leading).host.name,
            "standby": self.node(waiting).host.name if waiting else None,
            "fixedAddress": fixed,
            "forwardings": [
                {"protocol": protocol, "externalPort": port, "address": to, "internalPort": to_port}
                for protocol, port, to, to_port in forwardings
            ],
        }
        self.api.put("FloatingIP", name, {"assignment": assignment})

    def told(self, host: str, mac: str, address: str) -> None:
        """Tell of a router's or floating address in an external overlay, as an operator does."""
        node = self.node(host).host
        endpoint = {
            "port": "router." + address.replace(":", "-"),
            "mac": mac,
            "addresses": [address],
            "host": node.name,
        }
        endpoint |= {"tunnelAddress": node.address, "hostname": "ip-" + address.replace(".", "-").replace(":", "-")}
        self.outer.append((self.external, endpoint))
        self._endpoints(self.external.name)

    async def sources_outside(self, guest: Guest) -> set[bytes]:
        """Give the addresses, packed, that the outside sees while a guest asks it by IPv4 and is answered."""
        with captured(self.outside.namespace, "switch") as frames:
            if not await guest.reaches(OUTSIDE):
                raise AssertionError(f"{guest.namespace} does not reach {OUTSIDE}")
            seen = {frame[26:30] for frame in frames(0.1) if frame[12:14] == b"\x08\x00" and frame[23] == 1}
        return seen - {OUTSIDE.packed}

    async def settled(self) -> None:
        """Wait until the agents have nothing left to do, and the kernel has told bridges of their ports' carriers."""
        async with asyncio.timeout(20):
            quiet = 0
            while quiet < 3:
                await asyncio.sleep(0.02)
                quiet = 0 if any(node.busy for node in self.nodes) else quiet + 1
        await eventually(self._linked)

    async def _linked(self) -> bool:
        return all([await node.linked() for node in self.nodes])


@contextlib.asynccontextmanager
async def routed_cloud(prefix: str, hosts: tuple[Any, ...], node_type: type[Node] = Node) -> AsyncIterator[RoutedCloud]:
    """Cable the hosts' interfaces `phys` to a switch with the outside, and start their agents, of that type."""
    switch = Speaker(f"{prefix}-out")
    await run(("ip", "netns", "add", switch.namespace))
    await switch.run("ip", "link", "set", "lo", "up")
    await switch.run("ip", "link", "add", "switch", "type", "bridge", "mcast_snooping", "0")
    for number, host in enumerate(hosts):
        await cable(switch, number, host.name)
        await run(("ip", "-netns", host.name, "link", "set", "phys", "up"))
    for address in (f"{OUTSIDE}/24", f"{OUTSIDE6}/64"):
        await switch.run("ip", "address", "add", address, "dev", "switch", *(["nodad"] if ":" in address else []))
    await switch.run("ip", "link", "set", "switch", "up")
    api = WatchedObjects()
    cloud = RoutedCloud(api, [node_type(host, api) for host in hosts], switch)
    cloud.external_subnets()
    for node in cloud.nodes:
        node.start()
    try:
        yield cloud
    finally:
        for machine in (cloud.outside, *cloud.guests.values()):
            machine.hang_up()
        for node in cloud.nodes:
            await node.stop()
            for name in node.keepalived.names():
                await node.keepalived.absent(name)


def gateway_mac(router: str) -> str:
    """Give the MAC that a router has outside, on its gateway's host."""
    return f"0e:{sum(router.encode()) & 255:02x}:00:00:00:ee"


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    """Wait for what the kernel tells nobody of."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)


@contextlib.contextmanager
def captured(machine: str, link: str) -> Iterator[Callable[[float], list[bytes]]]:
    """Capture the frames that a link of a namespace sees; what is given returns those so far."""
    every = socket.htons(3)
    packets = within(machine, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, every))
    with packets:
        within(machine, lambda: packets.bind((link, 3)))

        def frames(seconds: float = 0.0) -> list[bytes]:
            found, end = [], time.monotonic() + seconds
            while True:
                packets.settimeout(max(0.001, end - time.monotonic()))
                try:
                    found.append(packets.recv(4096))
                except (TimeoutError, BlockingIOError):
                    return found

        yield frames
