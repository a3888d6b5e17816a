"""What users say of ports, as the operator carries it on: MACs that are unique, and what the other hosts are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kumulus_api import AddressClaim, NetworkEndpoints, Port, SecurityGroup, Server
from kumulus_lab.testing.site import Site
from kumulus_runtime.errors import ApiError

MAC, OTHER = "52:54:00:aa:bb:01", "52:54:00:aa:bb:02"


async def _free(site: Site, name: str) -> None:
    """Delete a port of the user's own."""
    await site.client.delete(Port, name, site.name)
    await site.gone(Port, name)


async def test_a_mac_is_one_port_s_in_its_network(site: Site) -> None:
    """Of the ports that ask for a MAC one gets it, the next when that is gone; other networks have their own."""
    await site.host("pf1", memory="64Gi")
    await site.basics()
    await site.network("lan", "10.1.0.0/24")
    names = ("a", "b", "c")
    for name in names:
        await site.port(name, mac=MAC)
    await site.port("elsewhere", "lan", mac=MAC)
    assert (await site.assigned(Port, "elsewhere"))["mac"] == MAC

    left = set(names)
    told = f"mac: {MAC} of network net is in use; transient: free when its port is deleted"
    while left:
        holder = await _holder(site, left)
        left.remove(holder)
        assert (await site.assigned(Port, holder))["mac"] == MAC
        for name in left:
            refusal = await site.condition(Port, name, "Ready", "False", "MACInUse")
            assert refusal["message"] == told
            assert "assignment" not in (await site.get(Port, name))["spec"]
        if left:
            await _free(site, holder)
    holders = [body["spec"]["claimRef"] for body in (await site.client.list(AddressClaim))[0]]
    claims = [holder["name"] for holder in holders if holder["namespace"] == site.name]
    assert len(claims) == len(set(claims))


async def _holder(site: Site, names: set[str]) -> str:
    """Wait until one of some ports has an assignment; give its name."""
    async for _, body in site.client.watch(Port, namespace=site.name):
        if body and body["metadata"]["name"] in names and "assignment" in body["spec"]:
            return str(body["metadata"]["name"])
    raise AssertionError("the watch has ended")


async def test_several_ports_of_one_server_on_one_network(site: Site) -> None:
    """Each interface has a port, MAC and address of its own, and gives each back once when the server goes."""
    await site.host("pf2", memory="64Gi")
    await site.basics()
    await site.port("mine", mac=OTHER)
    interfaces = [{"name": name, "network": {"name": "net"}} for name in ("a", "b")]
    await site.server("web", networks=[*interfaces, {"name": "c", "port": {"name": "mine"}}])
    ports = (await site.assigned(Server, "web"))["ports"]
    assert len({port["mac"] for port in ports}) == len({port["addresses"][0] for port in ports}) == 3
    addresses = {port["addresses"][0] for port in ports}
    await site.delete_server("web")
    for name in ("web-a", "web-b"):
        await site.gone(Port, name)
    await _free(site, "mine")
    async for kind, _ in site.client.watch(AddressClaim):
        if kind in ("SYNCED", "DELETED"):
            bodies, _version = await site.client.list(AddressClaim)
            held = [body["spec"]["address"] for body in bodies if body["spec"]["network"]["namespace"] == site.name]
            assert len(held) == len(set(held))
            if not addresses & set(held):
                break


async def test_other_hosts_are_told_what_a_port_may_use(site: Site) -> None:
    """Pairs and name of a port come with its endpoint and change with it; what only its own host needs does not."""
    await site.host("pf3", memory="64Gi")
    await site.basics()
    await site.port("mine", allowedAddressPairs=[{"address": "10.0.0.50"}], dnsName="www", qos={"egressKbps": 1000})
    await site.server("web", networks=[{"name": "eth0", "port": {"name": "mine"}}])
    await site.server("plain")

    def endpoint(body: dict[str, Any], port: str = "mine") -> dict[str, Any]:
        return next((item for item in body["spec"]["endpoints"] if item["port"] == port), {})

    def named(port: str, name: str) -> Callable[[dict[str, Any]], bool]:
        return lambda body: endpoint(body, port).get("dnsName") == name

    both = {"mine", "plain-default"}
    first = await site.until(
        NetworkEndpoints, "net-0", lambda body: {item["port"] for item in body["spec"]["endpoints"]} == both
    )
    assert (endpoint(first)["pairs"], endpoint(first)["dnsName"]) == ([{"address": "10.0.0.50"}], "www")
    assert endpoint(first)["hostname"] == "web"
    assert "qos" not in endpoint(first)
    assert "dnsName" not in endpoint(first, "plain-default")
    mac = "00:00:5e:00:01:32"
    changed = {"spec": {"allowedAddressPairs": [{"address": "10.0.0.50", "mac": mac}], "dnsName": "shop"}}
    await site.client.patch_merge(Port, "mine", changed, site.name)
    body = await site.until(NetworkEndpoints, "net-0", named("mine", "shop"))
    assert endpoint(body)["pairs"] == [{"address": "10.0.0.50", "mac": mac}]
    before = body["metadata"]["resourceVersion"]
    await site.client.patch_merge(Port, "mine", {"spec": {"qos": {"egressKbps": 2000}}}, site.name)
    await site.client.patch_merge(Port, "plain-default", {"spec": {"dnsName": "own"}}, site.name)
    body = await site.until(NetworkEndpoints, "net-0", named("plain-default", "own"))
    assert int(body["metadata"]["resourceVersion"]) > int(before)
    await site.client.patch_merge(
        Port, "mine", {"spec": {"allowedAddressPairs": [], "portSecurityEnabled": False}}, site.name
    )
    body = await site.until(NetworkEndpoints, "net-0", lambda body: endpoint(body)["pairs"] == [])
    assert endpoint(body)["dnsName"] == "shop"
    assert (endpoint(body)["groups"], endpoint(body, "plain-default")["groups"]) == ([], ["default"])


async def test_a_port_without_port_security_is_in_no_group(site: Site) -> None:
    """A group that a server names for such a port is refused by name, and applies when the port is checked again."""
    await site.host("pf4", memory="64Gi")
    await site.basics()
    await site.create(SecurityGroup, "web", {"ingress": []})
    interface = {"name": "eth0", "network": {"name": "net"}}
    await site.server("web", networks=[interface])
    await site.assigned(Server, "web")
    await site.client.patch_merge(Port, "web-eth0", {"spec": {"portSecurityEnabled": False}}, site.name)
    named = {"spec": {"networks": [interface | {"securityGroups": [{"name": "web"}]}]}}
    await site.client.patch_merge(Server, "web", named, site.name)
    told = await site.condition(Server, "web", "DevicesApplied", "False", "SecurityGroupNotReady")
    words = "securityGroups: port web-eth0 has no port security; transient: change the one or the other"
    assert told["message"] == words
    assert "securityGroups" not in (await site.assigned(Server, "web"))["ports"][0]
    await site.client.patch_merge(Port, "web-eth0", {"spec": {"portSecurityEnabled": True}}, site.name)
    await site.until(Port, "web-eth0", lambda body: body["spec"].get("securityGroups") == [{"name": "web"}])
    with pytest.raises(ApiError, match="a port without port security is in no securityGroups"):
        await site.client.patch_merge(Port, "web-eth0", {"spec": {"portSecurityEnabled": False}}, site.name)
