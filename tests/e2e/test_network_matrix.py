"""Who reaches whom: every way through the network, from and to every place, in both families, allowed and denied.

Five guests ask everything all the time: three of network `red`, two of `blue`, on the host of the router's gateway
(`here`) and on another one (`there`). All of them answer on two ports, of which their group lets in the first. Those of
`blue` may begin no connection at all.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from kumulus_api import FloatingIP, Network, Port, Router, SecurityGroup
from kumulus_api.quantities import service_address
from kumulus_lab import commands
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Breach, Cloud, ready

OUTSIDE = ("192.168.77.1", "fd60:77::1")
LET_IN, LEFT_OUT = 80, 81
SUBNETS = {"red": ("10.60.1.0/24", "fd60:1::/64"), "blue": ("10.60.2.0/24", "fd60:2::/64")}
GUESTS = {
    "red-here": ("red", "10.60.1.11", "fd60:1::11"),
    "red-near": ("red", "10.60.1.12", "fd60:1::12"),
    "red-there": ("red", "10.60.1.13", "fd60:1::13"),
    "blue-here": ("blue", "10.60.2.11", "fd60:2::11"),
    "blue-there": ("blue", "10.60.2.12", "fd60:2::12"),
}
METADATA = {4: "169.254.169.254", 6: "fe80::a9fe:a9fe%eth0"}

GUEST = """#!/bin/sh
ip -6 address add {address}/64 dev eth0
ip -6 route replace default via {gateway} dev eth0 metric 1
httpd -p {left_out} -h /run/www
web() {{ printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 4 nc -w 3 "$1" "$2" 2>/dev/null | grep -q HTTP; }}
dns() {{ timeout 4 nslookup "$2" "$1" 2>/dev/null | grep -q "$3"; }}
cat >/run/asked <<END
{asked}
END
(n=0; while :; do
  while read -r key how one two three; do
    ("$how" "$one" "$two" "$three" && echo "$key=yes" || echo "$key=no") >"/run/said.$key" &
  done </run/asked
  wait; n=$((n+1)); echo "probe-$n" $(cat /run/said.*); usleep 500000
done) >/dev/ttyS0 2>&1 &
"""


@dataclass(frozen=True)
class Row:
    """A row of the matrix: the guest that asks, by what way, where the other end is, and how it is asked."""

    guest: str
    way: str
    place: str
    family: str
    allowed: bool
    question: str

    @property
    def key(self) -> str:
        """What the guest calls it."""
        words = (self.way, self.place, self.family, "allowed" if self.allowed else "denied")
        return "-".join(words).replace(" ", "-").lower()


def rows(floating: Mapping[str, tuple[str, str]]) -> list[Row]:
    """Give the whole matrix.

    Args:
        floating: the floating addresses of guests, one of each family.
    """
    found = []
    for family, number in (("IPv4", 1), ("IPv6", 2)):
        for (way, place), target in {
            ("same network", "same host"): "red-near",
            ("same network", "other host"): "red-there",
            ("routed", "same host"): "blue-here",
            ("routed", "other host"): "blue-there",
        }.items():
            found += _web("red-here", way, place, family, GUESTS[target][number])
        for place, target in (("same host", "red-near"), ("other host", "red-there")):
            found += _web("red-here", "floating IP", place, family, floating[target][number - 1])
        # Those of `red` may ask, those of `blue` may not.
        for asker in ("red-here", "red-there", "blue-here", "blue-there"):
            network, place = asker.split("-")
            place = "same host" if place == "here" else "other host"
            allowed = network == "red"
            found.append(Row(asker, "external", place, family, allowed, f"web {OUTSIDE[number - 1]} {LET_IN}"))
            metadata = METADATA[4 if family == "IPv4" else 6]
            found.append(Row(asker, "metadata", place, family, allowed, f"web {metadata} 80"))
            cidr = SUBNETS[network][number - 1]
            server = service_address(cidr, _gateway(cidr))
            answer = GUESTS[asker][number]
            found.append(Row(asker, "DNS", place, family, allowed, f"dns {server} {asker} {answer}"))
    return found


def _web(guest: str, way: str, place: str, family: str, address: str) -> list[Row]:
    ports = ((True, LET_IN), (False, LEFT_OUT))
    return [Row(guest, way, place, family, allowed, f"web {address} {port}") for allowed, port in ports]


def _gateway(cidr: str) -> str:
    return str(ip_address(cidr.partition("/")[0]) + 1)


@dataclass
class Site:
    """The guests, and what they say."""

    cloud: Cloud
    project: str
    rows: list[Row]
    logs: dict[str, Path]

    async def says(self, guest: str, *, denied: str) -> None:
        """Wait until a guest says twice, of what it has begun after now, that all is as the matrix has it.

        Args:
            guest: who asks.
            denied: what becomes of rows that are denied: "no" by the rules of the matrix.

        Raises:
            Breach: it does not come to that; the message names the rows that are otherwise.
        """
        asked = [row for row in self.rows if row.guest == guest]
        wanted = {row.key: "yes" if row.allowed else denied for row in asked}
        log = self.logs[guest]
        numbers = re.findall(r"probe-(\d+) ", await asyncio.to_thread(console.said, log))
        first, seen, told = max(map(int, numbers), default=0) + 2, 0, {}
        with suppress(TimeoutError):
            async with asyncio.timeout(120):
                async for line in console.lines(log):
                    found = re.search(r"probe-(\d+) (.*\S)", line)
                    if found is None or int(found[1]) < first:
                        continue
                    told = dict(re.findall(r"(\S+)=(yes|no)", found[2]))
                    seen = seen + 1 if told == wanted else 0
                    if seen == 2:
                        return
        differ = {key: told.get(key, "nothing") for key, answer in wanted.items() if told.get(key) != answer}
        raise Breach(f"{guest} is told otherwise than wanted: {differ}")

    async def all_say(self, *, denied: str) -> None:
        """Wait for all guests that ask."""
        guests = sorted({row.guest for row in self.rows})
        answers = await asyncio.gather(*(self.says(guest, denied=denied) for guest in guests), return_exceptions=True)
        wrong = [str(answer) for answer in answers if isinstance(answer, BaseException)]
        if wrong:
            raise Breach("; ".join(wrong))


@pytest.fixture
async def servers_outside(outside: str) -> AsyncIterator[None]:
    """A web server on the machine outside, for both families."""
    commands.run(["ip", "-n", outside, "address", "add", f"{OUTSIDE[1]}/64", "dev", "eth0", "nodad"])
    argv = ("ip", "netns", "exec", outside, sys.executable, "-m", "http.server", str(LET_IN), "--bind", "::")
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*argv, stdout=quiet, stderr=quiet, cwd="/run/netns")
    yield
    process.terminate()
    await process.wait()


@pytest.fixture
async def site(
    cloud: Cloud, project: str, lab: LabSettings, outside: str, servers_outside: None
) -> AsyncIterator[Site]:
    """Two networks, a router that leads between them and out, and the guests."""
    gateway = await _networks(cloud, project, outside)
    other = next(host.name for host in lab.host_specs if host.name != gateway)
    places = {"here": gateway, "near": gateway, "there": other}
    floating: dict[str, tuple[str, str]] = {}
    for guest, (network, *addresses) in GUESTS.items():
        spec = {"network": {"name": network}, "addresses": addresses, "securityGroups": [{"name": network}]}
        await cloud.make(Port, guest, spec, project)
    for guest in ("red-near", "red-there"):
        four, six = [await _floating(cloud, project, guest, subnet) for subnet in ("v4", "v6")]
        floating[guest] = four, six
    matrix = rows(floating)
    for guest, (network, _, address) in GUESTS.items():
        asked = "\n".join(f"{row.key} {row.question}" for row in matrix if row.guest == guest)
        script = GUEST.format(
            address=address, gateway=_gateway(SUBNETS[network][1]), left_out=LEFT_OUT, asked=asked or "nothing true"
        )
        await cloud.make_server(
            project,
            guest,
            placement={"host": places[guest.split("-")[1]]},
            networks=[{"name": "eth0", "port": {"name": guest}}],
            userData={"inline": script},
        )
    logs = {guest: console.path(lab, await cloud.server_ready(project, guest, 120)) for guest in GUESTS}
    for log in logs.values():
        await console.says(log, "kumulus-guest: ready", 180)
    yield Site(cloud, project, matrix, logs)
    # Networks go when nothing leads to them.
    names = [f"{guest}-{subnet}" for guest in floating for subnet in ("v4", "v6")]
    await asyncio.gather(*(cloud.delete(FloatingIP, name, project) for name in names))
    await cloud.delete(Router, "edge", project)


async def _floating(cloud: Cloud, project: str, guest: str, subnet: str) -> str:
    """Have an address outside lead to a guest; give the address."""
    name = f"{guest}-{subnet}"
    spec = {"network": {"name": "lan"}, "subnet": subnet, "port": {"name": guest}}
    await cloud.make(FloatingIP, name, spec, project)
    told = await cloud.until(FloatingIP, name, _assigned, namespace=project)
    return str(told["spec"]["assignment"]["address"])


async def _networks(cloud: Cloud, project: str, outside: str) -> str:
    """Make groups, networks and router, to which the machine outside has a route; give the host that leads out."""
    subnet = {"name": "v4", "cidr": "192.168.77.0/24", "gateway": OUTSIDE[0]}
    subnet |= {"pools": [{"start": "192.168.77.100", "end": "192.168.77.120"}]}  # type: ignore[dict-item]
    subnet6 = {"name": "v6", "cidr": "fd60:77::/64", "gateway": OUTSIDE[1]}
    where, routed = {"physicalNetwork": "physnet1"}, [six for _, six in SUBNETS.values()]
    external: dict[str, Any] = {"type": "Provider", "provider": where, "external": True}
    external |= {"subnets": [subnet, subnet6], "routedPrefixes": routed}
    await cloud.make(Network, "lan", external, project)
    for name, (four, six) in SUBNETS.items():
        subnets = [{"name": "v4", "cidr": four, "gateway": _gateway(four)}]
        subnets.append({"name": "v6", "cidr": six, "gateway": _gateway(six), "ipv6Mode": "DHCPv6Stateful"})
        await cloud.make(Network, name, {"subnets": subnets}, project)
        await cloud.until(Network, name, ready, namespace=project)
    await cloud.make(SecurityGroup, "red", {"ingress": ingress(LET_IN)}, project)
    await cloud.make(SecurityGroup, "blue", {"ingress": ingress(LET_IN), "egress": []}, project)
    interfaces = [
        {"name": f"{name}-{subnet}", "network": {"name": name}, "subnet": subnet}
        for name in SUBNETS
        for subnet in ("v4", "v6")
    ]
    await cloud.make(Router, "edge", {"interfaces": interfaces, "gateway": {"network": {"name": "lan"}}}, project)
    router = await cloud.until(Router, "edge", ready, namespace=project)
    way = router["spec"]["assignment"]["gateway"]
    for cidr in routed:
        address = way["addresses"][1].partition("/")[0]
        commands.run(["ip", "-n", outside, "-6", "route", "add", cidr, "via", address])
    return str(way["host"])


def ingress(*ports: int) -> list[dict[str, Any]]:
    """Let connections to these ports in, in both families."""
    families = ("IPv4", "IPv6")
    return [{"etherType": family, "protocol": "TCP", "port": port} for family in families for port in ports]


def _assigned(body: dict[str, Any]) -> bool:
    return "address" in (body["spec"].get("assignment") or {})


async def test_every_way_is_open_or_shut_as_the_groups_say(site: Site) -> None:
    """What the groups let through reaches its end by every way, and nothing else does; then they let all through.

    That the same questions are answered when the rules allow them shows that it was the rules which denied them.
    """
    ways = {(row.way, row.place, row.family, row.allowed) for row in site.rows}
    assert len(ways) == 6 * 2 * 2 * 2, "each way, from both places, in each family, both verdicts"
    await site.all_say(denied="no")
    for group in ("red", "blue"):
        everywhere = {"ingress": ingress(LET_IN, LEFT_OUT), "egress": [{"etherType": "IPv4"}, {"etherType": "IPv6"}]}
        await site.cloud.client.patch_merge(SecurityGroup, group, {"spec": everywhere}, site.project)
    await site.all_say(denied="yes")
