"""Quotas of firewall groups and VPN connections, and that routers are told of what is behind tunnels first."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from kumulus_api import FirewallGroup, Network, Project, Router, VPNConnection
from kumulus_lab.testing.site import OperatorProcess, Site
from kumulus_runtime.resources import SECRET

RULE = {"name": "web", "action": "Allow", "protocol": "TCP", "destinationPort": 80}


async def world(site: Site, **quota: int) -> None:
    """Make a host, a network, an external one, and a router between them."""
    await site.host("q1", tunnel="192.0.2.71")
    await site.basics(quota=quota)
    subnet = {"name": "v4", "cidr": "203.0.113.0/24", "gateway": "203.0.113.1"}
    await site.create(Network, "public", {"external": True, "subnets": [subnet]})
    interface = {"name": "net", "network": {"name": "net"}}
    await site.create(Router, "r", {"interfaces": [interface], "gateway": {"network": {"name": "public"}}})
    await site.condition(Router, "r", "Ready", "True")


async def secret(site: Site) -> None:
    """Make the Secret with the key."""
    data = {"psk": b64encode(b"as long as it should be").decode()}
    await site.client.apply(SECRET, {"metadata": {"name": "k", "namespace": site.name}, "data": data}, manager="a-user")


async def connection(site: Site, name: str, cidr: str) -> None:
    """Make a connection as a user does."""
    spec = {"router": {"name": "r"}, "peerAddress": "198.51.100.9", "peerCIDRs": [cidr], "psk": {"secret": "k"}}
    await site.create(VPNConnection, name, spec)


async def on_router(site: Site, *groups: str) -> None:
    """Wait until these groups are on the router."""

    def holds(body: dict[str, Any]) -> bool:
        return [item["group"] for item in body["spec"]["assignment"].get("firewalls") or ()] == list(groups)

    await site.until(Router, "r", holds)


async def behind(site: Site, *networks: str) -> None:
    """Wait until the router's hosts are told that these networks are behind tunnels."""
    await site.until(Router, "r", lambda body: body["spec"]["assignment"].get("tunnelled", []) == list(networks))


async def test_the_quota_of_firewall_groups_is_kept(site: Site, operator: OperatorProcess) -> None:
    """Beyond it a group is on no router and says so; the Project shows both figures; it comes when there is room.

    An operator that begins anew counts the same ones.
    """
    await world(site, firewallGroups=1)
    spec = {"routers": [{"name": "r", "interfaces": ["net"]}], "ingressRules": [RULE]}
    await site.create(FirewallGroup, "first", spec)
    await on_router(site, "first")
    await site.condition(FirewallGroup, "first", "Ready", "True", "InForce")
    await site.create(FirewallGroup, "second", {**spec, "routers": []})
    found = await site.condition(FirewallGroup, "second", "Ready", "False", "QuotaExceeded")
    assert "1 of 1 firewall groups are in use" in found["message"]
    await site.quota_shown("firewallGroups", "1/1")
    operator.stop()
    operator.start()
    await site.create(FirewallGroup, "third", spec)
    await site.condition(FirewallGroup, "third", "Ready", "False", "QuotaExceeded")
    await on_router(site, "first")
    await site.client.delete(FirewallGroup, "second", site.name)
    await site.client.delete(FirewallGroup, "first", site.name)
    await on_router(site, "third")
    await site.condition(FirewallGroup, "third", "Ready", "True", "InForce")
    await site.create(FirewallGroup, "fourth", {**spec, "routers": []})
    await site.condition(FirewallGroup, "fourth", "Ready", "False", "QuotaExceeded")
    await site.client.patch_merge(Project, site.name, {"spec": {"quota": {"firewallGroups": 2}}})
    await site.condition(FirewallGroup, "fourth", "Ready", "True", "Inactive")


async def test_the_quota_of_vpn_connections_is_kept(site: Site) -> None:
    """Beyond it a connection has no tunnel, and its networks are reached as before; it comes when there is room."""
    await world(site, vpnConnections=1)
    await secret(site)
    await connection(site, "first", "10.20.0.0/16")
    await site.assigned(VPNConnection, "first")
    await connection(site, "second", "10.30.0.0/16")
    found = await site.condition(VPNConnection, "second", "Ready", "False", "QuotaExceeded")
    assert "1 of 1 VPN connections are in use" in found["message"]
    await site.quota_shown("vpnConnections", "1/1")
    await behind(site, "10.20.0.0/16")
    await site.client.delete(VPNConnection, "first", site.name)
    await site.assigned(VPNConnection, "second")
    await behind(site, "10.30.0.0/16")
    await connection(site, "third", "10.40.0.0/16")
    await site.condition(VPNConnection, "third", "Ready", "False", "QuotaExceeded")
    await site.client.patch_merge(Project, site.name, {"spec": {"quota": {"vpnConnections": 2}}})
    await site.assigned(VPNConnection, "third")


async def test_a_router_is_told_of_networks_before_there_is_a_tunnel(site: Site) -> None:
    """A connection whose key is not there has its networks behind the tunnel already: nothing leaves in clear.

    So have those that it is changed to.
    """
    await world(site)
    await connection(site, "office", "10.20.0.0/16")
    await site.condition(VPNConnection, "office", "Ready", "False", "SecretNotFound")
    await behind(site, "10.20.0.0/16")
    assert "assignment" not in (await site.get(VPNConnection, "office"))["spec"]
    await secret(site)
    await site.assigned(VPNConnection, "office")
    await site.client.patch_merge(VPNConnection, "office", {"spec": {"peerCIDRs": ["10.21.0.0/16"]}}, site.name)
    changed = await site.until(
        VPNConnection, "office", lambda body: body["spec"]["assignment"]["peerCIDRs"] == ["10.21.0.0/16"]
    )
    assert changed
    await behind(site, "10.21.0.0/16")
    await site.client.delete(VPNConnection, "office", site.name)
    await behind(site)
