"""All that a host does for networks, at once: done again it changes nothing, and taken away it leaves nothing."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from kumulus_agent.metadata.service import MetadataService
from kumulus_agent.network.command import run
from kumulus_agent.network.groups import GroupRule, SecurityGroup
from kumulus_agent.network.state import (
    AddressPair,
    HostRecord,
    NetworkDesired,
    PortDesired,
    Rates,
    SubnetDesired,
)

WEB, MEMBERS = ("red", "web"), ("red", "default")
ELSEWHERE = "192.0.2.2"


class Nobody:
    """Guests of whom nothing is known."""

    async def guest(self, _instance_id):
        """Give nothing."""


def make_network(host, number: int) -> NetworkDesired:
    """A network with all that one has; two of them have the same addresses, as two tenants' may."""
    four, six, more = IPv4Network("10.0.0.0/24"), IPv6Network("fd00:1::/64"), IPv6Network("fd00:2::/64")
    ports = tuple(
        PortDesired(
            f"kt{number:x}{end:010x}",
            f"02:00:00:00:0{number}:{end:02x}",
            (four[end], six[end]),
            f"i-{number}-{end}",
            f"web-{end}",
            groups=frozenset({WEB, MEMBERS}),
            pairs=frozenset({AddressPair(IPv4Network("10.0.0.99/32"))}) if end == 11 else frozenset(),
            rates=Rates(ingress=10_000, egress=20_000) if end == 12 else None,
            dns_name=f"name-{end}",
        )
        for end in (11, 12, 13)
    )
    rules = {GroupRule("ingress", 6, (80, 80)), GroupRule("ingress", 6, (80, 80), family=6), GroupRule("egress")}
    members = frozenset(address for port in ports for address in port.addresses)
    remote = {GroupRule("ingress", remote=MEMBERS), GroupRule("ingress", remote=MEMBERS, family=6)}
    return NetworkDesired(
        vni=0x50 + number,
        mtu=1450,
        underlay_address=host.address,
        peers=frozenset({ELSEWHERE}),
        neighbours=frozenset({(f"02:00:00:00:0{number}:ff", ELSEWHERE)}),
        ports=ports,
        subnets=(
            SubnetDesired(
                four, four[254], four[1], (IPv4Address("192.0.2.53"),), ((IPv4Network("10.9.0.0/16"), four[9]),)
            ),
            SubnetDesired(six, six[-1], IPv6Address("fd00:1::1"), mode="DHCPv6Stateful"),
            SubnetDesired(more, more[-1], served=False),
        ),
        records=tuple(HostRecord(f"web-{end}", four[end]) for end in (11, 12, 13)),
        domain="red.example.org",
        groups={WEB: SecurityGroup(frozenset(rules)), MEMBERS: SecurityGroup(frozenset(remote), members)},
    )


async def lines(namespace: str, *argv: str) -> list[str]:
    """Give what a command says in a namespace, in order."""
    return sorted((await run(("ip", "netns", "exec", namespace, *argv))).decode().splitlines())


async def shown(host) -> dict[str, object]:
    """Give all that is on the host: of each namespace rules, links, addresses, routes, neighbours, and entries.

    What ages, counts, or was learned by itself is left out.
    """
    found: dict[str, object] = {"processes": sorted(map(str, host.services.observe().values()))}
    found["files"] = sorted(str(path.relative_to(host.directory)) for path in host.directory.rglob("*.conf"))
    listed = json.loads(await run(("ip", "-json", "netns", "list")) or b"[]")
    for name in sorted(item["name"] for item in listed if item["name"].startswith(host.name)):
        links = json.loads(await run(("ip", "-netns", name, "-json", "-details", "link", "show")))
        kept = ("ifname", "address", "mtu", "master", "ifindex", "qdisc", "ifalias")
        found[name] = {
            "links": sorted(str({key: link.get(key) for key in kept}) for link in links),
            "addresses": await lines(name, "ip", "-oneline", "address", "show", "scope", "global"),
            # An interface's own address comes when nobody else has it (RFC 4862).
            "routes": [line for line in await lines(name, "ip", "route", "show", "table", "all") if "fe80" not in line],
            "neighbours": await lines(name, "ip", "neighbour", "show", "nud", "permanent"),
            "entries": [
                line for line in await lines(name, "bridge", "fdb", "show") if "dst" in line or "sticky" in line
            ],
            "queues": await lines(name, "tc", "qdisc", "show"),
            "rules": (
                await run(("ip", "netns", "exec", name, "nft", "--handle", "--stateless", "list", "ruleset"))
            ).decode(),
        }
    return found


async def settle(host, network: NetworkDesired) -> list[object]:
    """Have the network here, its ports plugged; give the steps that were needed."""
    steps = list(await host.datapath.ensure_network(network))
    for port in network.ports:
        if await host.datapath.plug(port.tap, network.vni):
            steps.append(port.tap)
    return [*steps, *await host.datapath.ensure_network(network)]


async def test_again_changes_nothing_and_without_it_all_is_as_before(hosts):
    """Two tenants' networks of all kinds of ports, applied twice and by the next agent, then removed: all is as it was.

    Rules keep their handles, links their numbers, servers their processes.
    """
    host, _ = hosts
    host.datapath._metadata = MetadataService(Nobody())
    before = await shown(host)
    networks = [make_network(host, number) for number in (1, 2)]
    for port in (port for network in networks for port in network.ports):
        await host.datapath.prepare_tap(port.tap, 1450)
    await asyncio.gather(*(settle(host, network) for network in networks))
    made = await shown(host)
    assert made != before
    assert len(made["processes"]) == 2

    again = await asyncio.gather(*(settle(host, network) for network in networks))
    assert again == [[], []]
    assert await shown(host) == made
    host.datapath._firewall._seen = None  # as a new agent knows nothing
    assert await asyncio.gather(*(settle(host, network) for network in networks)) == [[], []]
    assert await shown(host) == made

    fewer = [replace(network, ports=network.ports[:1]) for network in networks]
    await asyncio.gather(*(settle(host, network) for network in fewer))
    assert len(str(await shown(host))) < len(str(made))
    await asyncio.gather(*(host.datapath.remove_network(network.vni) for network in networks))
    after = await shown(host)
    assert after.keys() == before.keys()
    for part, state in before.items():
        assert _without_handles(after[part]) == _without_handles(state), part


def _without_handles(state: object) -> object:
    if isinstance(state, dict):
        return {key: value for key, value in state.items() if key != "rules"} | {
            "rules": [line.partition(" # handle")[0] for line in str(state["rules"]).splitlines()]
        }
    return state
