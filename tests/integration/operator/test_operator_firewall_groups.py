"""Firewall groups: routers are given their rules, and floating IPs go along to the gateway's host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kumulus_api import FirewallGroup, FloatingIP, Network, Router, Server
from kumulus_lab.testing.site import Site

EXAMPLE = Path(__file__).parents[3] / "examples" / "firewall-group.yaml"
WEB = {"name": "web", "action": "Allow", "protocol": "TCP", "destinationPort": 80}


async def networks(site: Site) -> None:
    """Make two hosts, two networks, and an external one."""
    for index, name in enumerate(("f1", "f2")):
        await site.host(name, memory="64Gi", tunnel=f"192.0.2.{index + 10}")
    await site.basics()
    await site.network("lan", "10.1.0.0/24")
    subnet = {"name": "v4", "cidr": "203.0.113.0/24", "gateway": "203.0.113.1"}
    await site.create(Network, "public", {"external": True, "subnets": [subnet]})
    await site.condition(Network, "public", "Ready", "True")


async def world(site: Site) -> None:
    """Make networks, and a router between them that leads out."""
    await networks(site)
    await router(site)
    await site.condition(Router, "r", "Ready", "True")


async def router(site: Site) -> None:
    """Make the router."""
    interfaces = [{"name": name, "network": {"name": name}} for name in ("net", "lan")]
    await site.create(Router, "r", {"interfaces": interfaces, "gateway": {"network": {"name": "public"}}})


async def group(site: Site, name: str = "web", *interfaces: str, **spec: Any) -> None:
    """Make a group on interfaces of the router."""
    routers = [{"name": "r", "interfaces": list(interfaces)}]
    await site.create(FirewallGroup, name, {"routers": routers, "ingressRules": [WEB]} | spec)


async def firewalls(site: Site, **expected: list[str]) -> list[dict[str, Any]]:
    """Wait until these groups are on these interfaces of the router, and give them as they are assigned."""

    def holds(body: dict[str, Any]) -> bool:
        given = body["spec"]["assignment"]
        found = {item["group"]: item["interfaces"] for item in given.get("firewalls") or ()}
        return found == expected and bool(given.get("centralised")) is bool(expected)

    body = await site.until(Router, "r", holds)
    return list(body["spec"]["assignment"].get("firewalls") or ())


async def said(site: Site, name: str, status: str, reason: str) -> str:
    """Wait for what a group says, and give the message."""
    return str((await site.condition(FirewallGroup, name, "Ready", status, reason))["message"])


async def test_a_router_is_centralised_by_a_group_and_given_its_rules(site: Site) -> None:
    """Its assignment has the rules, changed ones too; without group it is distributed again."""
    await world(site)
    await group(site)
    (given,) = await firewalls(site, web=["lan", "net"])
    assert given["ingress"] == [
        {"name": "web", "action": "Allow", "protocol": "TCP", "sourcePorts": [], "destinationPorts": [80, 80]}
    ]
    await said(site, "web", "True", "InForce")
    (place,) = (await site.get(FirewallGroup, "web"))["status"]["places"]
    router = await site.get(Router, "r")
    assert place["host"] == router["spec"]["assignment"]["gateway"]["host"]
    await site.client.patch_merge(FirewallGroup, "web", {"spec": {"adminState": "Down"}}, site.name)
    await said(site, "web", "True", "Down")
    (given,) = await firewalls(site, web=["lan", "net"])
    assert not given.get("ingress")
    await site.client.delete(FirewallGroup, "web", site.name)
    await firewalls(site)


async def test_an_interface_has_one_group(site: Site) -> None:
    """A second group is told that it is in use, and gets the interface when the first leaves it."""
    await world(site)
    await group(site, "first", "net")
    await firewalls(site, first=["net"])
    await group(site, "second")
    await firewalls(site, first=["net"], second=["lan"])
    assert "first" in await said(site, "second", "False", "InterfaceInUse")
    await site.client.delete(FirewallGroup, "first", site.name)
    await firewalls(site, second=["lan", "net"])
    await said(site, "second", "True", "InForce")


async def test_what_is_missing_is_told_and_comes(site: Site) -> None:
    """A group waits for its router and for interfaces; a router that loses its gateway says that it routes nothing."""
    await networks(site)
    await group(site, "web", "net", "none")
    await said(site, "web", "False", "RouterNotFound")
    await router(site)
    await said(site, "web", "False", "InterfaceNotFound")
    await firewalls(site, web=["net"])
    routers = [{"name": "r", "interfaces": ["net"]}]
    await site.client.patch_merge(FirewallGroup, "web", {"spec": {"routers": routers}}, site.name)
    await said(site, "web", "True", "InForce")
    await site.client.patch_merge(Router, "r", {"spec": {"gateway": None}}, site.name)
    await said(site, "web", "False", "NoGateway")
    await site.condition(Router, "r", "Ready", "False", "NoGateway")


async def test_floating_ips_go_along(site: Site) -> None:
    """A floating IP is translated on its server's host, and on the gateway's as long as the router is centralised."""
    await world(site)
    gateway = (await site.get(Router, "r"))["spec"]["assignment"]["gateway"]["host"]
    (other,) = {"f1", "f2"} - {gateway}
    nic = {"name": "eth0", "network": {"name": "net"}}
    await site.server("web", networks=[nic], placement={"host": other})
    await site.assigned(Server, "web")
    await site.create(FloatingIP, "fip", {"network": {"name": "public"}, "port": {"name": "web-eth0"}})

    async def on(host: str) -> None:
        await site.until(FloatingIP, "fip", lambda body: (body["spec"].get("assignment") or {}).get("host") == host)

    await on(other)
    await group(site)
    await on(gateway)
    await site.client.delete(FirewallGroup, "web", site.name)
    await on(other)


async def test_the_example_is_accepted(site: Site) -> None:
    """The groups of the example are in force."""
    await site.host("f1", memory="64Gi")
    await site.basics()
    for body in yaml.safe_load_all(EXAMPLE.read_text()):
        kind = {"Network": Network, "Router": Router, "FirewallGroup": FirewallGroup}[body["kind"]]
        await site.create(kind, body["metadata"]["name"], body["spec"])
    for name in ("web", "database"):
        await said(site, name, "True", "InForce")
