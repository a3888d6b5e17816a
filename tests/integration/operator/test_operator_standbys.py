"""The two hosts of a gateway: which they are, when they change, and that the data path's decision is taken over."""

from __future__ import annotations

from typing import Any

from kumulus_api import FloatingIP, Host, Network, Port, Router
from kumulus_lab.testing.site import Site, condition_of


async def mapped(site: Site, name: str, **fields: Any) -> None:
    """Have a host reach the physical network of this test."""
    body = await site.get(Host, name)
    network = {"name": f"p{site.name}", "interface": "eth1", "mtu": 1500, "reaches": ["Flat"], "obstacles": []}
    status = body["status"] | {"physicalNetworks": [network]} | fields
    await site.client.apply_status(Host, {"metadata": {"name": name}, "status": status}, manager="kumulus-agent")


async def hosts(site: Site, *names: str) -> None:
    """Make hosts that reach the physical network."""
    for name in names:
        await site.host(name, tunnel=f"192.0.2.{40 + int(name[-1])}")
        await mapped(site, name)


async def outside(site: Site) -> None:
    """Make the external network, and a router that leads there."""
    subnet = {"name": "v4", "cidr": "203.0.113.0/24", "gateway": "203.0.113.1"}
    provider = {"physicalNetwork": f"p{site.name}"}
    await site.create(
        Network, "public", {"type": "Provider", "external": True, "provider": provider, "subnets": [subnet]}
    )
    interface = {"name": "net", "network": {"name": "net"}}
    await site.create(Router, "r", {"interfaces": [interface], "gateway": {"network": {"name": "public"}}})


def pair_of(body: dict[str, Any]) -> tuple[str, str | None, int]:
    """The hosts of a router's gateway, and the first one's priority."""
    gateway = (body["spec"].get("assignment") or {}).get("gateway") or {}
    takeover = gateway.get("takeover") or {}
    return gateway.get("host", ""), (takeover.get("standby") or {}).get("host"), takeover.get("priority", 0)


async def paired(site: Site, host: str, standby: str | None) -> dict[str, Any]:
    """Wait until a gateway has these hosts; give the router."""
    return await site.until(Router, "r", lambda body: pair_of(body)[:2] == (host, standby))


async def test_a_gateway_has_a_standby_on_another_host(site: Site) -> None:
    """It is a Ready host that reaches the network and has what it needs; it comes as soon as there is one."""
    await hosts(site, "g1")
    await site.basics()
    await outside(site)
    await paired(site, "g1", None)
    await site.host("g2")
    await mapped(site, "g2", missingPackages=["keepalived"])
    await site.host("g3")
    body = await paired(site, "g1", None)
    await mapped(site, "g2", missingPackages=[])
    paired_body = await paired(site, "g1", "g2")
    assert (
        body["spec"]["assignment"]["gateway"]["addresses"]
        == (paired_body["spec"]["assignment"]["gateway"]["addresses"])
    )
    told = "joins 1 subnet, leads out on host g1, host g2 takes over"
    await site.until(Router, "r", lambda body: (condition_of(body, "Ready") or {}).get("message") == told)


async def test_a_lost_standby_is_replaced_and_the_gateway_stays(site: Site) -> None:
    """By one write, which lets the gateway's host win against what the lost one may believe."""
    await hosts(site, "g1", "g2")
    await site.basics()
    await outside(site)
    before = await paired(site, "g1", "g2")
    await hosts(site, "g3")
    site.silence("g2")
    after = await paired(site, "g1", "g3")
    assert pair_of(after)[2] == pair_of(before)[2] + 2
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1


async def test_a_silent_gateway_stays_until_its_standby_has_taken_over(site: Site) -> None:
    """A host whose agent is gone goes on leading out; what the standby tells of is made the decision."""
    await hosts(site, "g1")
    await site.basics()
    overlay = {"name": "v4", "cidr": "198.51.100.0/24", "gateway": "198.51.100.1"}
    await site.create(Network, "lake", {"external": True, "subnets": [overlay]})
    await site.create(Router, "alone", {"gateway": {"network": {"name": "lake"}}})
    await site.until(Router, "alone", lambda body: pair_of(body) == ("g1", None, 0))
    await outside(site)
    await paired(site, "g1", None)
    await hosts(site, "g2")
    before = await paired(site, "g1", "g2")
    await hosts(site, "g3")
    site.silence("g1")
    # A gateway without a standby moves by the API.
    await site.until(Router, "alone", lambda body: pair_of(body)[0] in ("g2", "g3"))
    body = await site.client.patch_merge(Router, "r", {"spec": {"description": "look again"}}, site.name)
    generation = body["metadata"]["generation"]
    seen = await site.until(
        Router, "r", lambda body: (body.get("status") or {}).get("observedGeneration", 0) >= generation
    )
    assert pair_of(seen) == pair_of(before)
    await mapped(site, "g2", takenOver=[before["spec"]["assignment"]["routerID"]])
    after = await paired(site, "g2", "g3")
    assert pair_of(after)[2] == pair_of(before)[2] + 1
    assert after["spec"]["assignment"]["gateway"]["tunnelAddress"] == "192.0.2.42"


async def test_a_takeover_of_hosts_that_live_changes_their_places(site: Site) -> None:
    """The former gateway's host, which is back, becomes the standby by one write."""
    await hosts(site, "g1", "g2")
    await site.basics()
    await outside(site)
    before = await paired(site, "g1", "g2")
    await mapped(site, "g2", takenOver=[before["spec"]["assignment"]["routerID"]])
    after = await paired(site, "g2", "g1")
    assert pair_of(after)[2] == pair_of(before)[2] + 1
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1


async def test_a_host_in_maintenance_leaves_the_gateway_to_its_standby(site: Site) -> None:
    """The standby leads out, another host becomes the standby, and port forwardings go along."""
    await hosts(site, "g1", "g2", "g3")
    await site.basics()
    await outside(site)
    await paired(site, "g1", "g2")
    await site.create(Port, "web", {"network": {"name": "net"}})
    forwarding = {"protocol": "TCP", "externalPort": 80, "port": {"name": "web"}, "internalPort": 8080}
    await site.create(FloatingIP, "f", {"network": {"name": "public"}, "portForwardings": [forwarding]})

    def at(host: str, standby: str) -> Any:
        given = {"host": host, "standby": standby}
        return lambda body: given.items() <= (body["spec"].get("assignment") or {}).items()

    await site.until(FloatingIP, "f", at("g1", "g2"))
    await site.client.patch_merge(Host, "g1", {"spec": {"maintenance": True}})
    await paired(site, "g2", "g3")
    await site.until(FloatingIP, "f", at("g2", "g3"))
