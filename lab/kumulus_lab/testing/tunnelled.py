"""Hosts whose agents hold tunnels, and another site with a real strongSwan of its own."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from kumulus_agent.network.command import run
from kumulus_agent.network.errors import CommandFailed
from kumulus_agent.services.host_service import HostServices, ServiceSpec
from kumulus_agent.vpn.charon import Charons
from kumulus_agent.vpn.here import KeyMissing, VPNsHere
from kumulus_lab.testing.routed import RoutedCloud
from kumulus_lab.testing.routing_nodes import Node
from kumulus_lab.testing.speakers import Speaker
from kumulus_lab.testing.tasks import end

PEER, DESK, SITE = IPv4Address("203.0.113.200"), IPv4Address("10.20.0.5"), "10.20.0.0/24"
_UNIT = "kumulus-site"
_PLUGINS = "random nonce openssl kdf kernel-libipsec kernel-netlink socket-default vici"


@dataclass
class Site:
    """The other end: a gateway with charon, and a machine in the network behind it."""

    gateway: Speaker
    desk: Speaker
    services: HostServices
    directory: Path

    @property
    def _uri(self) -> str:
        return f"unix://{self.directory / 'vici'}"

    async def start(self) -> None:
        """Begin to listen."""
        lines = (
            f"charon-systemd {{\n load = {_PLUGINS}\n install_virtual_ip = no",
            " plugins {\n  vici {",
            f"   socket = {self._uri}",
            "  }\n }\n}\n",
        )
        file = self.directory / "strongswan.conf"
        file.write_text("\n".join(lines))
        argv = ("env", f"STRONGSWAN_CONF={file}", "charon-systemd")
        await self.services.ensure(ServiceSpec(_UNIT, argv, f"/run/netns/{self.gateway.namespace}"))
        async with asyncio.timeout(10):
            while not (self.directory / "vici").exists():  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.05)

    async def expect(  # noqa: PLR0913 - the words of swanctl.conf
        self,
        key: str,
        *,
        router: str = "203.0.113.2",
        networks: str = "10.0.1.0/24",
        version: int = 2,
        ike: str = "aes256-sha256-modp2048",
        esp: str = "aes256-sha256-modp2048",
        begin: bool = False,
    ) -> None:
        """Take a connection of a router with this key, or begin one."""
        text = f"""
            connections {{ office {{
                version = {version}
                local_addrs = {PEER}
                remote_addrs = {router}
                proposals = {ike}
                unique = replace
                local {{
                    auth = psk
                    id = {PEER}
                }}
                remote {{
                    auth = psk
                    id = {router}
                }}
                children {{ net {{
                    local_ts = {SITE}
                    remote_ts = {networks}
                    esp_proposals = {esp}
                    start_action = {"start" if begin else "none"}
                }} }}
            }} }}
            secrets {{ ike-office {{
                id = {router}
                secret = "{key}"
            }} }}
        """
        file = self.directory / "swanctl.conf"
        file.write_text(text)
        await run(("swanctl", "--load-all", "--clear", "--file", str(file), "--uri", self._uri))

    async def hang_up(self) -> None:
        """End what is established."""
        with contextlib.suppress(CommandFailed):
            await run(("swanctl", "--terminate", "--ike", "office", "--uri", self._uri))

    async def renew(self, what: str) -> None:
        """Have new keys agreed on: of the `ike` connection `office`, or of the `child` `net`."""
        await run(("swanctl", "--rekey", f"--{what}", "office" if what == "ike" else "net", "--uri", self._uri))

    async def established(self) -> int:
        """How many connections it has."""
        return (await run(("swanctl", "--list-sas", "--uri", self._uri))).count(b"ESTABLISHED")

    async def absent(self) -> None:
        """End it."""
        await self.services.absent(_UNIT)


@dataclass
class TunnelledCloud:
    """A cloud whose agents hold tunnels, and a site."""

    routed: RoutedCloud
    site: Site
    directory: Path
    vpns: dict[str, VPNsHere] = field(default_factory=dict)
    charons: dict[str, Charons] = field(default_factory=dict)
    keys: dict[tuple[str, str], bytes] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    def services(self, node: Node) -> HostServices:
        """What a host's tunnels run by."""
        return HostServices(self.directory / node.host.name[-1] / "services", init_pid=None)

    def begin(self, node: Node) -> VPNsHere:
        """Begin as a host's agent does; its routers are begun already."""
        name = node.host.name
        charons = self.charons[name] = Charons(self.services(node), self.directory / name[-1] / "vpn")

        async def key(namespace: str, name: str) -> bytes:
            found = self.keys.get((namespace, name))
            if found is None:
                raise KeyMissing("the operator does not give it")
            return found

        client: Any = self.routed.api
        made = VPNsHere(client, node.routers, charons, name, key=key, lacking=lambda: self.lacking)
        self.vpns[name] = made
        self.tasks += [asyncio.create_task(made.follow()), asyncio.create_task(made.queue.run(made.reconcile, 2))]
        return made

    async def stop(self) -> None:
        """End the agents' parts in tunnels; these go on."""
        for made in self.vpns.values():
            made.queue.stop()
            await made.close()
        await end(self.tasks)
        self.tasks.clear()

    def connect(
        self, router_id: str, host: str, key: bytes, *, name: str = "office", router: str = "r", **terms: Any
    ) -> None:
        """Make a VPNConnection as an operator decides it; a key that is another has another version."""
        leading, _, waiting = host.partition("/")
        version = f"{sum(key)}x{len(key)}"
        self.keys["red", name] = key
        assignment = {
            "routerID": router_id,
            "host": self.routed.node(leading).host.name,
            "standby": self.routed.node(waiting).host.name if waiting else None,
            "localAddress": "203.0.113.2",
            "localID": "203.0.113.2",
            "peerAddress": str(PEER),
            "peerID": str(PEER),
            "localSubnets": ["10.0.1.0/24"],
            "peerCIDRs": [SITE],
            "pskVersion": version,
        } | terms
        self.routed.api.put("VPNConnection", name, {"assignment": assignment})
        self.tunnelled(router, assignment["peerCIDRs"])

    def tunnelled(self, router: str, networks: list[str]) -> None:
        """Have a router's assignment name networks behind peers."""
        spec = self.routed.api.objects["Router", "red", router]["spec"]
        self.routed.api.put("Router", router, {"assignment": spec["assignment"] | {"tunnelled": networks}})

    def told(self, name: str = "office") -> tuple[str, str]:
        """Status and reason of the condition Established."""
        body = self.routed.api.objects.get(("VPNConnection", "red", name), {})
        found = [item for item in body.get("status", {}).get("conditions", []) if item["type"] == "Established"]
        return (found[0]["status"], found[0]["reason"]) if found else ("", "")

    async def until(self, status: str, reason: str, seconds: float = 15.0, *, name: str = "office") -> None:
        """Wait until that is told."""
        try:
            async with asyncio.timeout(seconds):
                while self.told(name) != (status, reason):  # noqa: ASYNC110 - as kernels and daemons, it tells nobody
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{self.told(name)} is told, not {(status, reason)}") from None


@contextlib.asynccontextmanager
async def tunnelled_cloud(prefix: str, routed: RoutedCloud) -> AsyncIterator[TunnelledCloud]:
    """Cable a site to the outside of a cloud, and have the cloud's agents hold tunnels."""
    gateway, desk = Speaker(f"{prefix}-site"), Speaker(f"{prefix}-desk")
    for machine in (gateway, desk):
        await run(("ip", "netns", "add", machine.namespace))
        await machine.run("ip", "link", "set", "lo", "up")
    cable = ("link", "add", "site", "type", "veth", "peer", "name", "out", "netns", gateway.namespace)
    await routed.outside.run("ip", *cable)
    await routed.outside.run("ip", "link", "set", "site", "master", "switch", "up")
    await gateway.run("ip", "link", "add", "lan", "type", "veth", "peer", "name", "eth0", "netns", desk.namespace)
    for machine, link, address in (
        (gateway, "out", f"{PEER}/24"),
        (gateway, "lan", "10.20.0.1/24"),
        (desk, "eth0", f"{DESK}/24"),
    ):
        await machine.run("ip", "address", "add", address, "dev", link)
        await machine.run("ip", "link", "set", link, "up")
    await gateway.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    await desk.run("ip", "route", "add", "default", "via", "10.20.0.1")
    # The paths of sockets have an end.
    with tempfile.TemporaryDirectory(prefix="kvpn-") as short:
        directory = Path(short)
        site = Site(gateway, desk, HostServices(directory / "services", init_pid=None), directory)
        cloud = TunnelledCloud(routed, site, directory)
        try:
            await site.start()
            for node in routed.nodes:
                cloud.begin(node)
            yield cloud
        finally:
            for machine in (gateway, desk):
                machine.hang_up()
            await cloud.stop()
            for node in routed.nodes:
                services = cloud.services(node)
                for unit in services.observe():
                    await services.absent(unit)
            await site.absent()
