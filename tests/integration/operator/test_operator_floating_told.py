"""Floating addresses where users look: in their servers' status, and in the zone of their network."""

from __future__ import annotations

from typing import Any

from kumulus_api import IN_USE, DNSZone, FloatingIP, Network, Port, Router, Server
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.audit import AuditLog
from kumulus_lab.testing.site import Site
from kumulus_runtime.resources import CONFIGMAP

SYSTEM = "kumulus-system"
ADDRESS = "203.0.113.9"


async def world(site: Site, **network: Any) -> None:
    """Make a host, two servers, and a router that leads to an external network."""
    await site.host("f1", memory="64Gi", tunnel="192.0.2.10")
    await site.basics()
    subnet = {"name": "v4", "cidr": "203.0.113.0/24", "gateway": "203.0.113.1"}
    await site.create(Network, "public", {"external": True, "subnets": [subnet]} | network)
    await site.condition(Network, "public", "Ready", "True")
    inside = [{"name": "net", "network": {"name": "net"}}]
    await site.create(Router, "r", {"interfaces": inside, "gateway": {"network": {"name": "public"}}}, (IN_USE,))
    await site.condition(Router, "r", "Ready", "True")
    for name in ("a", "b"):
        await site.server(name)
        await site.assigned(Server, name)


async def floating(site: Site, server: str, **spec: Any) -> None:
    """Make a floating IP that leads to a server."""
    target = {"network": {"name": "public"}, "address": ADDRESS, "port": {"name": f"{server}-default"}}
    await site.create(FloatingIP, "fip", target | spec, (IN_USE,))


async def told(site: Site, server: str, *, there: bool = True) -> list[dict[str, Any]]:
    """Wait until a server's status has floating addresses, or none any more."""
    body = await site.until(Server, server, lambda body: bool((body.get("status") or {}).get("floatingIPs")) is there)
    return (body.get("status") or {}).get("floatingIPs") or []


async def test_a_server_tells_its_floating_addresses(site: Site, plane: ControlPlane) -> None:
    """An address that leads to a server stands in its status, by one write, and goes to the other with the address."""
    await world(site)
    await site.report("a", "f1")
    audit = AuditLog(plane.audit_log)
    await floating(site, "a")
    fixed = (await site.assigned(Port, "a-default"))["addresses"][0]
    expected = {"name": "fip", "network": "public", "address": ADDRESS, "fixedAddress": fixed}
    assert await told(site, "a") == [expected]
    await audit.caught_up(site.client)
    assert len([write for write in audit.writes(site.name) if write.resource == "servers"]) == 1
    status = (await site.get(Server, "a"))["status"]
    assert status["powerState"] == "Running"
    await site.report("a", "f1")
    assert await told(site, "a") == [expected]
    await site.client.patch_merge(FloatingIP, "fip", {"spec": {"port": {"name": "b-default"}}}, site.name)
    await told(site, "b")
    await told(site, "a", there=False)
    assert (await site.get(Server, "a"))["status"]["powerState"] == "Running"
    await site.client.patch_merge(FloatingIP, "fip", {"spec": {"port": None}}, site.name)
    await told(site, "b", there=False)


async def test_names_of_floating_addresses(site: Site) -> None:
    """In the zone of the external network a server has its floating address by its name, and the address its name."""
    domain = f"{site.name}.test."
    await world(site, dnsZone={"name": "zone"})
    reverse = "113.0.203.in-addr.arpa."
    for name, of in (("zone", domain), ("reverse", reverse)):
        await site.create(DNSZone, name, {"domain": of, "email": "hostmaster@example.test", "ttl": 300})
        await site.condition(DNSZone, name, "Ready", "True", "Published")
    await floating(site, "a")
    await zone_holds(site, domain, f"a.{domain} 300 IN A {ADDRESS}")
    await zone_holds(site, reverse, f"9.{reverse} 300 IN PTR a.{domain}")
    await site.client.patch_merge(FloatingIP, "fip", {"spec": {"port": {"name": "b-default"}}}, site.name)
    await zone_holds(site, domain, f"b.{domain} 300 IN A {ADDRESS}")
    await zone_holds(site, reverse, f"9.{reverse} 300 IN PTR b.{domain}")
    await site.client.patch_merge(FloatingIP, "fip", {"spec": {"port": None}}, site.name)
    await zone_holds(site, domain)


async def zone_holds(site: Site, domain: str, *wanted: str) -> None:
    """Watch the zone files until a domain's has these records besides its own, and no others."""
    key = f"{domain.removesuffix('.')}.zone"
    events = site.client.watch(CONFIGMAP, namespace=SYSTEM, label_selector="kumulus.dev/zones=true")
    async for event, body in events:
        text = (body.get("data") or {}).get(key) if event in ("ADDED", "MODIFIED") else None
        if text is not None:
            lines = {line for line in text.splitlines() if " IN SOA " not in line and " IN NS " not in line}
            if lines == set(wanted):
                return
