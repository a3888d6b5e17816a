"""Routers: their addresses are held like ports', each refusal has its reason, and the way out follows the hosts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kumulus_api import (
    IN_USE,
    PUBLIC_NAMESPACE,
    AddressClaim,
    Host,
    Network,
    NetworkEndpoints,
    Port,
    Project,
    Router,
)
from kumulus_api.claims import address_claim_name
from kumulus_lab.testing.site import Site, condition_of
from kumulus_runtime.conditions import set_condition
from kumulus_runtime.resources import NAMESPACE

PUBLIC = "203.0.113.0/24"


def inside(name: str = "net", network: str = "net", **fields: Any) -> dict[str, Any]:
    """Give an interface."""
    return {"name": name, "network": {"name": network}} | fields


def outside(**fields: Any) -> dict[str, Any]:
    """Give a gateway."""
    return {"network": {"name": "public"}} | fields


async def external(site: Site, name: str = "public", cidr: str = PUBLIC, **fields: Any) -> int:
    """Make an external network, and give its number."""
    gateway = cidr.partition("/")[0].rsplit(".", 1)[0] + ".1"
    subnet = {"name": "v4", "cidr": cidr, "gateway": gateway}
    await site.create(Network, name, {"external": True, "subnets": [subnet]} | fields)
    return await number(site, name)


async def number(site: Site, network: str = "net") -> int:
    """Wait until a network is Ready, and give its number."""
    await site.condition(Network, network, "Ready", "True")
    return int((await site.get(Network, network))["status"]["vni"])


async def told(site: Site, name: str, reason: str) -> str:
    """Wait until a router lacks something for a reason, and give the message."""
    return str((await site.condition(Router, name, "Ready", "False", reason))["message"])


async def routing(site: Site, name: str = "r") -> dict[str, Any]:
    """Wait until a router is Ready, and give its assignment."""
    await site.condition(Router, name, "Ready", "True", "Routing")
    assignment: dict[str, Any] = (await site.get(Router, name))["spec"]["assignment"]
    return assignment


async def change(site: Site, name: str = "r", **spec: Any) -> None:
    """Change a router as its user does."""
    await site.client.patch_merge(Router, name, {"spec": spec}, site.name)


async def claim_of(site: Site, vni: int, address: str) -> dict[str, Any] | None:
    """Give who holds an address."""
    body = await site.client.get(AddressClaim, address_claim_name(vni, address))
    return body["spec"]["claimRef"] if body is not None else None


async def test_a_router_joins_subnets_and_leads_out(site: Site) -> None:
    """It has the gateway of each subnet and a free address outside, all held by claims, and MACs that stay."""
    await site.host("g1", tunnel="192.0.2.11")
    await site.basics()
    await site.network("lan", "10.1.0.0/24")
    public = await external(site)
    route = {"destination": "198.51.100.0/24", "nextHop": "10.1.0.9"}
    await site.create(
        Router, "r", {"interfaces": [inside(), inside("lan", "lan")], "gateway": outside(), "routes": [route]}
    )
    given = await routing(site)
    assert {item["name"]: item["addresses"] for item in given["interfaces"]} == {
        "net": ["10.0.0.1/24"],
        "lan": ["10.1.0.1/24"],
    }
    way = given["gateway"]
    assert (way["host"], way["tunnelAddress"], way["enableSNAT"]) == ("g1", "192.0.2.11", True)
    assert way["nextHops"] == ["203.0.113.1"]
    assert given["routes"] == [route]
    macs = [item["mac"] for item in (*given["interfaces"], way)]
    assert len(set(macs)) == 3
    for vni, address in (
        (await number(site), "10.0.0.1"),
        (await number(site, "lan"), "10.1.0.1"),
        (public, way["addresses"][0].partition("/")[0]),
    ):
        holder = await claim_of(site, vni, address)
        assert holder == {"kind": "Router", "namespace": site.name, "name": "r", "instance": given["routerID"]}
    await change(site, gateway=outside(enableSNAT=False))
    await site.until(Router, "r", lambda body: not body["spec"]["assignment"]["gateway"]["enableSNAT"])
    later = await routing(site)
    assert [item["mac"] for item in (*later["interfaces"], later["gateway"])] == macs
    assert later["gateway"]["addresses"] == way["addresses"]


async def test_addresses_are_given_back_once(site: Site) -> None:
    """What a router loses or leaves behind is released after the quarantine, and may be had by others."""
    await site.host("g1")
    await site.basics()
    public = await external(site)
    net = await number(site)
    await site.create(Router, "r", {"interfaces": [inside()], "gateway": outside()}, (IN_USE,))
    address = (await routing(site))["gateway"]["addresses"][0].partition("/")[0]
    await change(site, gateway=None)
    await site.until(Router, "r", lambda body: "gateway" not in body["spec"]["assignment"])
    await site.gone(AddressClaim, address_claim_name(public, address))
    assert await claim_of(site, net, "10.0.0.1") is not None
    await site.client.delete(Router, "r", site.name)
    await site.gone(Router, "r")
    await site.create(Router, "next", {"interfaces": [inside()]})
    await routing(site, "next")
    holder = await claim_of(site, net, "10.0.0.1")
    assert holder is not None
    assert holder["name"] == "next"


@pytest.mark.parametrize(
    ("spec", "reason", "said"),
    [
        (
            {"interfaces": [inside(network="none")]},
            "NetworkNotReady",
            "interface net: reference: network none was not found",
        ),
        (
            {"interfaces": [{"name": "net", "network": {"name": "x", "namespace": "elsewhere"}}]},
            "NetworkNotReady",
            "interface net: reference: network elsewhere/x was not found; transient: goes on when it is made",
        ),
        ({"interfaces": [inside(subnet="v9")]}, "SubnetUnknown", "network net has no subnet v9 but v4"),
        ({"interfaces": [inside(network="bare")]}, "NoGatewayAddress", "subnet v4 has no gateway"),
        ({"interfaces": [inside(address="10.9.0.5")]}, "AddressInvalid", "10.9.0.5 lies outside 10.0.0.0/24"),
        ({"interfaces": [inside(), inside("twin")]}, "OverlappingSubnets", "10.0.0.0/24 overlaps 10.0.0.0/24"),
        ({"interfaces": [inside(), inside("b", "bare", address="10.0.0.20")]}, "OverlappingSubnets", "overlaps"),
        ({"gateway": {"network": {"name": "net"}}}, "NotExternal", "network net is not external"),
        ({"gateway": outside(address="10.0.0.7")}, "AddressInvalid", "gateway: 10.0.0.7 lies outside 203.0.113.0/24"),
        (
            {"interfaces": [inside()], "routes": [{"destination": "192.0.2.0/24", "nextHop": "10.7.0.1"}]},
            "NextHopUnreachable",
            "next hop 10.7.0.1 is in no subnet of the router",
        ),
        (
            {"interfaces": [inside()], "routes": [{"destination": "192.0.2.0/24", "nextHop": "10.0.0.1"}]},
            "NextHopUnreachable",
            "next hop 10.0.0.1 is the router itself",
        ),
        ({"gateway": outside()}, "NoGatewayHost", "of 1 hosts none can (1 in maintenance)"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
async def test_each_refusal_says_why(site: Site, spec: dict[str, Any], reason: str, said: str) -> None:
    """What cannot be had is told with a reason, what was asked, what was found and what to do."""
    await site.host("g1")
    await site.client.patch_merge(Host, "g1", {"spec": {"maintenance": True}})
    await site.basics()
    await site.create(Network, "bare", {"subnets": [{"name": "v4", "cidr": "10.0.0.0/16"}]})
    await number(site, "bare")
    await external(site)
    await site.create(Router, "r", spec)
    message = await told(site, "r", reason)
    assert said in message
    assert "transient" in message or "permanent" in message


async def test_a_gateway_address_has_one_router(site: Site) -> None:
    """Of two routers in a subnet one has the gateway's address; the other waits for it, or takes one that is free."""
    await site.basics()
    await site.port("p", addresses=["10.0.0.40"])
    await site.assigned(Port, "p")
    await site.create(Router, "a", {"interfaces": [inside()]}, (IN_USE,))
    await routing(site, "a")
    await site.create(Router, "b", {"interfaces": [inside()]})
    assert "10.0.0.1 of network net is in use" in await told(site, "b", "AddressInUse")
    await site.create(Router, "c", {"interfaces": [inside(address="10.0.0.40")]})
    assert "10.0.0.40 of network net is in use" in await told(site, "c", "AddressInUse")
    await change(site, "c", interfaces=[inside(address="10.0.0.41")])
    assert (await routing(site, "c"))["interfaces"][0]["addresses"] == ["10.0.0.41/24"]
    await site.client.delete(Router, "a", site.name)
    await routing(site, "b")


async def test_a_public_subnet_keeps_its_gateway(site: Site) -> None:
    """A project's router joins another's shared subnet by an address of its own, never by the subnet's gateway."""
    await site.basics()
    if await site.client.get(NAMESPACE, PUBLIC_NAMESPACE) is None:
        await site.client.create(NAMESPACE, {"metadata": {"name": PUBLIC_NAMESPACE}})
    name = f"shared-{site.name}"
    subnet = {"name": "v4", "cidr": "10.8.0.0/24", "gateway": "10.8.0.1"}
    metadata = {"name": name, "namespace": PUBLIC_NAMESPACE}
    await site.client.create(Network, {"metadata": metadata, "spec": {"subnets": [subnet]}})
    shared = {"name": "shared", "network": metadata}
    await site.create(Router, "r", {"interfaces": [shared]})
    assert "10.8.0.1 is the gateway of a subnet of another project" in await told(site, "r", "ForeignGateway")
    await change(site, interfaces=[shared | {"address": "10.8.0.9"}])
    given = (await routing(site))["interfaces"][0]
    assert (given["networkNamespace"], given["addresses"]) == (PUBLIC_NAMESPACE, ["10.8.0.9/24"])
    await site.client.delete(Network, name, PUBLIC_NAMESPACE)


async def test_a_part_that_cannot_be_had_leaves_the_others(site: Site) -> None:
    """A bad interface is told and left out; the good ones are there, and it comes when its fault is mended."""
    await site.basics()
    await site.network("lan", "10.1.0.0/24")
    await site.create(Router, "r", {"interfaces": [inside(), inside("late", "late")]})
    await told(site, "r", "NetworkNotReady")
    assert [item["name"] for item in (await site.assigned(Router, "r"))["interfaces"]] == ["net"]
    await site.network("late", "10.2.0.0/24")
    assert [item["name"] for item in (await routing(site))["interfaces"]] == ["late", "net"]


def quota_of(project: dict[str, Any]) -> dict[str, str]:
    """What a Project shows of its quota; nothing at first."""
    return (project.get("status") or {}).get("quota") or {}


async def test_the_way_out_is_spread_and_kept(site: Site) -> None:
    """Routers spread over the hosts that may lead out; a new host takes none that is served."""
    for name in ("g1", "g2"):
        await site.host(name)
    await site.basics(quota={"routers": 4})
    await external(site)
    names = [f"r{index}" for index in range(4)]
    await asyncio.gather(*(site.create(Router, name, {"gateway": outside()}) for name in names))
    before = {name: (await routing(site, name))["gateway"]["host"] for name in names}
    assert sorted(before.values()) == ["g1", "g1", "g2", "g2"]
    await site.host("g3")
    await site.create(Router, "more", {"gateway": outside()})
    assert "4 of 4 routers are in use" in await told(site, "more", "QuotaExceeded")
    await site.until(Project, site.name, lambda body: quota_of(body).get("routers") == "4/4")
    await site.client.patch_merge(Project, site.name, {"spec": {"quota": {"routers": None}}})
    assert (await routing(site, "more"))["gateway"]["host"] == "g3"
    assert {name: (await routing(site, name))["gateway"]["host"] for name in names} == before


@pytest.mark.parametrize("how", ["silent", "maintenance", "decommissioned", "not ready", "deleted"])
async def test_the_way_out_leaves_a_host_that_cannot(site: Site, how: str) -> None:
    """The gateway moves to a host that can, with its address and MAC; only where it is reached is another."""
    await site.host("g1", tunnel="192.0.2.21")
    await site.basics()
    await external(site)
    await site.create(Router, "r", {"interfaces": [inside()], "gateway": outside()})
    before = (await routing(site))["gateway"]
    assert before["host"] == "g1"
    await site.host("g2", tunnel="192.0.2.22")
    if how == "silent":
        site.silence("g1")
    elif how in ("maintenance", "decommissioned"):
        await site.client.patch_merge(Host, "g1", {"spec": {how: True}})
    elif how == "deleted":
        await site.client.delete(Host, "g1")
    else:
        body = await site.get(Host, "g1")
        status = body["status"] | {"conditions": set_condition([], "Ready", False, "SelfTestFailed", "", 1)}
        await site.client.apply_status(Host, {"metadata": {"name": "g1"}, "status": status}, manager="kumulus-agent")
    moved = await site.until(Router, "r", lambda body: body["spec"]["assignment"]["gateway"]["host"] == "g2")
    after = moved["spec"]["assignment"]["gateway"]
    assert after == before | {"host": "g2", "tunnelAddress": "192.0.2.22"}


async def test_the_only_host_keeps_the_way_out(site: Site) -> None:
    """Where no other host can, the gateway stays where it is and the router says so, until one can."""
    await site.host("g1")
    await site.basics()
    await external(site)
    await site.create(Router, "r", {"gateway": outside()})
    await routing(site)
    await site.client.patch_merge(Host, "g1", {"spec": {"maintenance": True}})
    message = await told(site, "r", "NoGatewayHost")
    assert "host g1, which is in maintenance, keeps it meanwhile" in message
    assert (await site.get(Router, "r"))["spec"]["assignment"]["gateway"]["host"] == "g1"
    await site.host("g2")
    assert (await routing(site))["gateway"]["host"] == "g2"


async def test_the_tunnel_address_follows_the_host(site: Site) -> None:
    """When the gateway's host is reached elsewhere, the assignment says so by one write."""
    await site.host("g1", tunnel="192.0.2.31")
    await site.basics()
    await external(site)
    await site.create(Router, "r", {"gateway": outside()})
    await routing(site)
    body = await site.get(Host, "g1")
    status = body["status"] | {"tunnelAddress": "192.0.2.32"}
    await site.client.apply_status(Host, {"metadata": {"name": "g1"}, "status": status}, manager="kumulus-agent")
    await site.until(Router, "r", lambda body: body["spec"]["assignment"]["gateway"]["tunnelAddress"] == "192.0.2.32")


async def test_an_external_provider_network_has_its_hosts(site: Site) -> None:
    """The gateway of a physical network is on a host that reaches it."""
    physical = f"p{site.name}"
    await site.host("far")
    await site.host("near")
    await site.basics()
    await external(site, type="Provider", provider={"physicalNetwork": physical})
    await site.create(Router, "r", {"gateway": outside()})
    assert f"2 without physical network {physical}" in await told(site, "r", "NoGatewayHost")
    body = await site.get(Host, "near")
    mapped = {"name": physical, "interface": "eth1", "mtu": 1500, "reaches": ["Flat"], "obstacles": []}
    status = body["status"] | {"physicalNetworks": [mapped]}
    await site.client.apply_status(Host, {"metadata": {"name": "near"}, "status": status}, manager="kumulus-agent")
    assert (await routing(site))["gateway"]["host"] == "near"


async def test_an_external_overlay_knows_where_routers_are(site: Site) -> None:
    """Peers in an external overlay find a router's MAC at its host, under a name that no project chooses."""
    await site.host("g1", tunnel="192.0.2.41")
    await site.basics()
    await external(site)
    await site.create(Router, "r", {"gateway": outside()})
    given = await routing(site)

    def listed(body: dict[str, Any]) -> bool:
        return any(item["mac"] == given["gateway"]["mac"] for item in body["spec"]["endpoints"])

    body = await site.until(NetworkEndpoints, "public-0", listed)
    address = given["gateway"]["addresses"][0].partition("/")[0]
    assert body["spec"]["endpoints"] == [
        {
            "port": f"router.{given['routerID']}",
            "mac": given["gateway"]["mac"],
            "addresses": [address],
            "host": "g1",
            "tunnelAddress": "192.0.2.41",
            "hostname": "ip-" + address.replace(".", "-"),
            "groups": [],
            "pairs": [],
        }
    ]


async def test_networks_and_projects_are_held_by_routers(site: Site) -> None:
    """A network that a router joins stays until the router is gone, served meanwhile; a project names its routers."""
    await site.basics()
    await site.network("lan", "10.1.0.0/24", finalizers=(IN_USE,))
    await site.create(Router, "r", {"interfaces": [inside("lan", "lan")]}, (IN_USE,))
    await routing(site)
    await site.client.delete(Network, "lan", site.name)
    held = await site.condition(Network, "lan", "Ready", "False", "InUse")
    assert "1 router (r) still uses it" in held["message"]
    assert len((await site.get(Router, "r"))["spec"]["assignment"]["interfaces"]) == 1
    await site.client.patch_merge(Project, site.name, {"metadata": {"finalizers": [IN_USE]}})
    await site.client.delete(Project, site.name)
    await site.until(Project, site.name, lambda body: "1 router (r)" in str(condition_of(body, "Ready")))
    await site.client.delete(Router, "r", site.name)
    await site.gone(Router, "r")
    await site.gone(Network, "lan")


async def test_what_was_decided_survives_a_restore(site: Site) -> None:
    """A router whose claims were lost holds its addresses again, and nothing of it changes."""
    await site.host("g1")
    await site.basics()
    public = await external(site)
    await site.create(Router, "r", {"interfaces": [inside()], "gateway": outside()})
    before = await routing(site)
    address = before["gateway"]["addresses"][0].partition("/")[0]
    net = await number(site)
    for vni, lost in ((public, address), (net, "10.0.0.1")):
        name = address_claim_name(vni, lost)
        former = await site.client.get(AddressClaim, name)
        assert former is not None
        await site.client.delete(AddressClaim, name)
        await site.cloud.until(
            AddressClaim, name, lambda body, uid=former["metadata"]["uid"]: body["metadata"]["uid"] != uid, seconds=60
        )
    assert await routing(site) == before
