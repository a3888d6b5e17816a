"""Provider networks: a segment has one Network, and servers go where the physical network is."""

from __future__ import annotations

from typing import Any

from kumulus_api import Host, Network, NetworkIDClaim, Server, ServerAction
from kumulus_api.provider import Provider, segment_claim_name
from kumulus_lab.testing.site import Site
from kumulus_runtime.conditions import set_condition


def lan(physical: str, cidr: str = "10.5.0.0/24", **provider: Any) -> dict[str, Any]:
    """Give the spec of a provider network."""
    where = {"physicalNetwork": physical} | provider
    return {"type": "Provider", "provider": where, "subnets": [{"name": "v4", "cidr": cidr}]}


async def reach(site: Site, host: str, physical: str, **fields: Any) -> None:
    """Say of a host how it is connected to a physical network, as its agent does."""
    body = await site.get(Host, host)
    mapped = {"name": physical, "interface": "eth1", "mtu": 1500, "reaches": ["Flat"], "obstacles": []} | fields
    status = body["status"] | {"physicalNetworks": [mapped]}
    await site.client.apply_status(Host, {"metadata": {"name": host}, "status": status}, manager="kumulus-agent")


async def test_a_segment_has_one_network(site: Site) -> None:
    """The second Network of a segment says who has it, and gets it when that is deleted; other VLANs are free."""
    physical = f"p{site.name}"
    await site.basics()
    await site.create(Network, "first", lan(physical))
    ready = await site.condition(Network, "first", "Ready", "True")
    assert f"physical network {physical} (Flat)" in str(ready)
    await site.create(Network, "tagged", lan(physical, type="VLAN", segmentationID=100))
    await site.condition(Network, "tagged", "Ready", "True")
    await site.create(Network, "second", lan(physical))
    refused = await site.condition(Network, "second", "Ready", "False", "SegmentInUse")
    assert "is held by network first; transient" in str(refused)
    claim = await site.client.get(NetworkIDClaim, segment_claim_name(Provider(physicalNetwork=physical)))
    assert claim is not None
    assert claim["spec"]["claimRef"]["name"] == "first"
    await site.client.delete(Network, "first", site.name)
    await site.condition(Network, "second", "Ready", "True")


async def test_a_server_waits_for_a_host_that_reaches_its_network(site: Site) -> None:
    """It says what no host has, and is placed as soon as a host tells that it has it."""
    physical = f"p{site.name}"
    await site.host("far", memory="64Gi")
    await site.host("near", memory="8Gi")
    await site.basics()
    await site.create(Network, "lan", lan(physical))
    await site.server("web", networks=[{"name": "eth0", "network": {"name": "lan"}}])
    message = await site.refused("web", "NoValidHost")
    assert f"without physical network {physical} (Flat: NotMapped)" in message
    assert f"a host reaches physical network {physical} (Flat)" in message
    obstacle = {"type": "Flat", "reason": "InterfaceInUse", "message": "has 192.0.2.1"}
    await reach(site, "near", physical, reaches=[], obstacles=[obstacle])
    await site.until(Server, "web", lambda body: "InterfaceInUse" in str(body.get("status")))
    await reach(site, "near", physical)
    given = await site.assigned(Server, "web")
    assert given["host"] == "near"
    assert given["ports"][0]["mtu"] == 1500


async def test_a_server_migrates_where_its_network_is(site: Site) -> None:
    """No host takes a server over that does not reach the physical network that the server is on."""
    physical = f"p{site.name}"
    await site.host("one", memory="8Gi")
    await site.host("big", memory="64Gi")
    await site.basics()
    await reach(site, "one", physical)
    await site.create(Network, "lan", lan(physical))
    await site.server("web", networks=[{"name": "eth0", "network": {"name": "lan"}}])
    assert (await site.assigned(Server, "web"))["host"] == "one"
    body = await site.get(Server, "web")
    conditions = set_condition([], "Ready", True, "Running", "", body["metadata"]["generation"])
    conditions = set_condition(conditions, "LiveMigratable", True, "Migratable", "", body["metadata"]["generation"])
    status = {"powerState": "Running", "conditions": conditions}
    own = {"name": "web", "namespace": site.name, "uid": body["metadata"]["uid"]}
    await site.client.apply_status(Server, {"metadata": own, "status": status}, manager="kumulus-agent")
    await site.create(ServerAction, "move", {"server": {"name": "web"}, "type": "LiveMigrate"})
    told = await site.until(ServerAction, "move", lambda item: bool((item.get("status") or {}).get("message")))
    assert f"without physical network {physical}" in told["status"]["message"]


async def test_an_interface_is_attached_where_its_network_is(site: Site) -> None:
    """A running server gets an interface on a provider network when its host reaches that."""
    physical = f"p{site.name}"
    await site.host("here", memory="8Gi")
    await site.basics()
    await site.server("web", networks=[{"name": "eth0", "network": {"name": "net"}}])
    await site.assigned(Server, "web")
    await site.create(Network, "lan", lan(physical))
    await site.condition(Network, "lan", "Ready", "True")
    interfaces = [{"name": "eth0", "network": {"name": "net"}}, {"name": "eth1", "network": {"name": "lan"}}]
    await site.client.patch_merge(Server, "web", {"spec": {"networks": interfaces}}, site.name)
    told = await site.condition(Server, "web", "DevicesApplied", "False", "NoValidHost")
    assert f"without physical network {physical}" in str(told)
    await reach(site, "here", physical)
    body = await site.until(Server, "web", lambda item: len(item["spec"]["assignment"]["ports"]) == 2)
    assert body["spec"]["assignment"]["ports"][1]["network"] == "lan"
