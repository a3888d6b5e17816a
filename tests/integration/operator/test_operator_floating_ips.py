"""Floating IPs: held once, within the quota, and always where the server of their port is."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from kumulus_api import IN_USE, AddressClaim, FloatingIP, Host, Network, NetworkEndpoints, Port, Router, Server
from kumulus_api.claims import address_claim_name
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.audit import AuditLog
from kumulus_lab.testing.site import OperatorProcess, Site, condition_of

EXAMPLE = Path(__file__).parents[3] / "examples" / "floating-ip.yaml"


async def world(site: Site, hosts: tuple[str, ...] = ("f1", "f2"), **project: Any) -> int:
    """Make hosts, an external network, and a router that leads to it; give the external network's number."""
    for index, name in enumerate(hosts):
        await site.host(name, memory="64Gi", tunnel=f"192.0.2.{index + 10}")
    await site.basics(**project)
    subnet = {"name": "v4", "cidr": "203.0.113.0/24", "gateway": "203.0.113.1"}
    await site.create(Network, "public", {"external": True, "subnets": [subnet]})
    await site.condition(Network, "public", "Ready", "True")
    await router(site)
    return int((await site.get(Network, "public"))["status"]["vni"])


async def router(site: Site, name: str = "r", network: str = "net") -> None:
    """Make a router from a network to the external one."""
    spec = {"interfaces": [{"name": network, "network": {"name": network}}], "gateway": {"network": {"name": "public"}}}
    await site.create(Router, name, spec, (IN_USE,))
    await site.condition(Router, name, "Ready", "True")


async def floating(site: Site, name: str = "fip", **spec: Any) -> None:
    """Make a floating IP as the user and the admission policy would."""
    await site.create(FloatingIP, name, {"network": {"name": "public"}} | spec, (IN_USE,))


async def told(site: Site, name: str, reason: str) -> str:
    """Wait until a floating IP lacks something for a reason, and give the message."""
    return str((await site.condition(FloatingIP, name, "Ready", "False", reason))["message"])


async def bound(site: Site, name: str = "fip", reason: str = "Bound") -> dict[str, Any]:
    """Wait until a floating IP is Ready, and give its assignment."""
    await site.condition(FloatingIP, name, "Ready", "True", reason)
    assignment: dict[str, Any] = (await site.get(FloatingIP, name))["spec"]["assignment"]
    return assignment


async def leads(site: Site, name: str = "fip", **fields: Any) -> dict[str, Any]:
    """Wait until a floating IP's assignment has these values; None is "has it not"."""

    def holds(body: dict[str, Any]) -> bool:
        given = body["spec"].get("assignment") or {}
        return bool(given) and all(given.get(field) == value for field, value in fields.items())

    assignment: dict[str, Any] = (await site.until(FloatingIP, name, holds))["spec"]["assignment"]
    return assignment


async def change(site: Site, name: str = "fip", **spec: Any) -> None:
    """Change a floating IP as its user does."""
    await site.client.patch_merge(FloatingIP, name, {"spec": spec}, site.name)


async def on(site: Site, server: str, host: str) -> None:
    """Have a server be elsewhere, as the end of a migration or an evacuation writes it."""
    given = await site.assigned(Server, server)
    moved = {"spec": {"assignment": given | {"host": host, "epoch": given["epoch"] + 1}}}
    await site.client.patch_merge(Server, server, moved, site.name)


async def test_an_address_is_held_and_leads_nowhere(site: Site) -> None:
    """A floating IP without a port is Ready with an address of its own, which it keeps."""
    public = await world(site)
    await floating(site)
    given = await bound(site, reason="Unbound")
    assert given.keys() == {"floatingIPID", "address", "mac", "network", "networkNamespace", "vni", "forwardings"}
    claim = await site.client.get(AddressClaim, address_claim_name(public, given["address"]))
    assert claim is not None
    assert claim["spec"]["claimRef"] == {
        "kind": "FloatingIP",
        "namespace": site.name,
        "name": "fip",
        "instance": given["floatingIPID"],
    }
    await floating(site, "given", address="203.0.113.77")
    assert (await bound(site, "given", "Unbound"))["address"] == "203.0.113.77"


async def test_it_leads_to_a_server_and_follows_it(site: Site) -> None:
    """It is translated on the host of its port's server, wherever that goes, by one write for each move."""
    await world(site)
    await site.server("web")
    host = (await site.assigned(Server, "web"))["host"]
    await floating(site, port={"name": "web-default"})
    given = await bound(site)
    assigned = await site.assigned(Port, "web-default")
    assert (given["host"], given["fixedAddress"], given["router"]) == (host, assigned["addresses"][0], "r")
    assert given["routerID"] == (await site.assigned(Router, "r"))["routerID"]
    other = "f1" if host == "f2" else "f2"
    await on(site, "web", other)
    assert await leads(site, host=other) == given | {"host": other}
    await on(site, "web", host)
    await leads(site, host=host)


async def test_a_move_is_one_write(site: Site, plane: ControlPlane) -> None:
    """Where it is translated is decided by one write for each move, which the status follows by one."""
    await world(site)
    await site.server("web")
    host = (await site.assigned(Server, "web"))["host"]
    await site.report("web", host)
    audit = AuditLog(plane.audit_log)

    def written() -> list[str]:
        return [write.subresource for write in audit.writes(site.name) if write.resource == "floatingips"]

    await floating(site, port={"name": "web-default"})
    await bound(site)
    await asyncio.sleep(1)
    assert written() == ["", "", "status"]  # the first is the test's own
    audit = AuditLog(plane.audit_log)
    other = "f1" if host == "f2" else "f2"
    await on(site, "web", other)
    await leads(site, host=other)
    await asyncio.sleep(1)
    assert written() == ["", "status"]


async def test_it_is_moved_between_servers_live(site: Site) -> None:
    """Another port in its spec is where it leads next; without one it leads nowhere, and keeps its address."""
    await world(site)
    for name in ("a", "b"):
        await site.server(name)
        await site.assigned(Server, name)
    await floating(site, port={"name": "a-default"})
    before = await bound(site)
    fixed = (await site.assigned(Port, "b-default"))["addresses"][0]
    await change(site, port={"name": "b-default"})
    after = await leads(site, fixedAddress=fixed)
    assert (after["address"], after["mac"]) == (before["address"], before["mac"])
    await change(site, port=None)
    await leads(site, fixedAddress=None, host=None, router=None)
    await bound(site, reason="Unbound")


async def test_it_lets_go_of_a_port_that_goes(site: Site) -> None:
    """When the server and its port are deleted it leads nowhere and says so; a new one of that name has it again."""
    await world(site)
    await site.server("web")
    await site.assigned(Server, "web")
    await floating(site, port={"name": "web-default"})
    await bound(site)
    await site.delete_server("web")
    assert "port web-default was not found" in await told(site, "fip", "PortUnknown")
    await leads(site, fixedAddress=None, host=None, router=None)
    await site.server("web")
    await bound(site)


async def test_a_port_without_server_has_no_host(site: Site) -> None:
    """A port of the user's waits for its server: the floating IP is led to it, and translated nowhere."""
    await world(site)
    await site.port("mine")
    await floating(site, port={"name": "mine"})
    assert "port mine is used by no server" in await told(site, "fip", "NoHost")
    assert (await leads(site, host=None))["router"] == "r"
    await site.server("web", networks=[{"name": "eth0", "port": {"name": "mine"}}])
    assert (await bound(site))["host"] == (await site.assigned(Server, "web"))["host"]


async def test_a_port_has_one_floating_ip(site: Site) -> None:
    """Of two at once one leads to the port; the other says which, and follows when that lets go."""
    await world(site)
    await site.server("web")
    await site.assigned(Server, "web")
    await asyncio.gather(*(floating(site, name, port={"name": "web-default"}) for name in ("a", "b", "c")))

    def decided(body: dict[str, Any]) -> bool:
        ready = condition_of(body, "Ready")
        return ready is not None and ready["reason"] in {"Bound", "PortInUse"}

    async def holders() -> list[str]:
        bodies = await asyncio.gather(*(site.until(FloatingIP, name, decided) for name in ("a", "b", "c")))
        return [body["metadata"]["name"] for body in bodies if "fixedAddress" in body["spec"]["assignment"]]

    (first,) = await holders()
    waiting = sorted({"a", "b", "c"} - {first})
    assert f"floating IP {first} leads to" in await told(site, waiting[0], "PortInUse")
    await site.client.delete(FloatingIP, first, site.name)
    await site.gone(FloatingIP, first)
    waits = [asyncio.create_task(bound(site, name)) for name in waiting]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    later = [await leads(site, name) for name in waiting]
    assert sum("fixedAddress" in given for given in later) == 1
    for wait in waits:
        wait.cancel()


async def test_a_host_without_the_cable_leaves_it_to_the_gateway(site: Site) -> None:
    """Of a physical network, a server's host that does not reach it has the gateway's host translate for it."""
    physical = f"p{site.name}"
    for name in ("edge", "plain"):
        await site.host(name, memory="64Gi")
    body = await site.get(Host, "edge")
    mapped = {"name": physical, "interface": "eth1", "mtu": 1500, "reaches": ["Flat"], "obstacles": []}
    reaching = body["status"] | {"physicalNetworks": [mapped]}
    await site.client.apply_status(Host, {"metadata": {"name": "edge"}, "status": reaching}, manager="kumulus-agent")
    await site.basics()
    subnet = {"name": "v4", "cidr": "203.0.113.0/24", "gateway": "203.0.113.1"}
    provider = {"physicalNetwork": physical}
    await site.create(
        Network, "public", {"external": True, "type": "Provider", "provider": provider, "subnets": [subnet]}
    )
    await site.condition(Network, "public", "Ready", "True")
    await router(site)
    await site.server("web", placement={"host": "plain"})
    await site.assigned(Server, "web")
    await floating(site, port={"name": "web-default"})
    assert (await bound(site))["host"] == "edge"
    plain = await site.get(Host, "plain")
    status = plain["status"] | {"physicalNetworks": [mapped]}
    await site.client.apply_status(Host, {"metadata": {"name": "plain"}, "status": status}, manager="kumulus-agent")
    await leads(site, host="plain")


async def test_ports_are_forwarded_at_the_gateway(site: Site) -> None:
    """Each port of the address leads to a port of a server, on the gateway's host; what cannot is told, others stay."""
    await world(site)
    for name in ("a", "b"):
        await site.server(name)
        await site.assigned(Server, name)
    rules = [
        {"protocol": "TCP", "externalPort": 8080, "port": {"name": "a-default"}, "internalPort": 80},
        {"protocol": "UDP", "externalPort": 53, "port": {"name": "b-default"}, "internalPort": 5353},
    ]
    await floating(site, portForwardings=rules)
    given = await bound(site)
    addresses = [(await site.assigned(Port, f"{name}-default"))["addresses"][0] for name in ("a", "b")]
    assert given["forwardings"] == [
        {"protocol": "TCP", "externalPort": 8080, "address": addresses[0], "internalPort": 80},
        {"protocol": "UDP", "externalPort": 53, "address": addresses[1], "internalPort": 5353},
    ]
    way = (await site.assigned(Router, "r"))["gateway"]
    assert (given["host"], given.get("fixedAddress")) == (way["host"], None)
    await site.delete_server("b")
    assert "forwarding of UDP 53: port b-default was not found" in await told(site, "fip", "PortUnknown")
    await leads(site, forwardings=given["forwardings"][:1])
    await site.client.patch_merge(Host, way["host"], {"spec": {"maintenance": True}})
    other = "f1" if way["host"] == "f2" else "f2"
    await leads(site, host=other)
    await site.client.patch_merge(Host, way["host"], {"spec": {"maintenance": False}})


async def test_each_refusal_says_why(site: Site) -> None:
    """What cannot be had is told with a reason, and had when the reason goes."""
    await world(site)
    await site.network("island", "10.9.0.0/24")
    tiny = {"name": "v4", "cidr": "198.51.100.0/29", "pools": [{"start": "198.51.100.2", "end": "198.51.100.2"}]}
    await site.create(Network, "tiny", {"external": True, "subnets": [tiny]})
    await site.condition(Network, "tiny", "Ready", "True")
    await floating(site, "lost", network={"name": "none"})
    assert "network none was not found" in await told(site, "lost", "NetworkNotReady")
    await floating(site, "foreign", network={"name": "public", "namespace": "elsewhere"})
    assert "network elsewhere/public was not found" in await told(site, "foreign", "NetworkNotReady")
    await floating(site, "inner", network={"name": "net"})
    assert "network: net is not external" in await told(site, "inner", "NotExternal")
    await floating(site, "outside", address="192.0.2.7")
    assert "192.0.2.7 lies outside 203.0.113.0/24" in await told(site, "outside", "AddressInvalid")
    await floating(site, "one", address="203.0.113.50")
    await bound(site, "one", "Unbound")
    await floating(site, "two", address="203.0.113.50")
    assert "203.0.113.50 of network public is in use" in await told(site, "two", "AddressInUse")
    await floating(site, "last", network={"name": "tiny"})
    await bound(site, "last", "Unbound")
    await floating(site, "late", network={"name": "tiny"})
    assert "all addresses of 198.51.100.0/29 are in use" in await told(site, "late", "AddressesExhausted")
    await site.server("web", networks=[{"name": "eth0", "network": {"name": "island"}}])
    await site.assigned(Server, "web")
    await floating(site, "cut", port={"name": "web-eth0"})
    assert "no Router of project" in await told(site, "cut", "NoRouter")
    await floating(site, "wrong", port={"name": "web-eth0"}, fixedAddress="10.9.0.250")
    assert "port web-eth0 has no address 10.9.0.250 but" in await told(site, "wrong", "AddressInvalid")
    await site.client.delete(FloatingIP, "one", site.name)
    await site.client.delete(FloatingIP, "last", site.name)
    await bound(site, "two", "Unbound")
    await bound(site, "late", "Unbound")
    await site.client.patch_merge(Network, "net", {"spec": {"external": True}}, site.name)
    await bound(site, "inner", "Unbound")
    await router(site, "second", "island")
    await bound(site, "cut")


async def test_a_router_that_is_needed_cannot_lose_its_ways(site: Site) -> None:
    """Interface, gateway and router stay while a floating IP leads through them, and go when it lets go."""
    await world(site)
    await site.server("web")
    await site.assigned(Server, "web")
    await site.network("lan", "10.1.0.0/24")
    await floating(site, port={"name": "web-default"})
    await bound(site)
    before = await site.assigned(Router, "r")
    lan = {"interfaces": [{"name": "lan", "network": {"name": "lan"}}], "gateway": None}
    await site.client.patch_merge(Router, "r", {"spec": lan}, site.name)
    message = (await site.condition(Router, "r", "Ready", "False", "InUse"))["message"]
    assert "interface net: 1 floating IP (fip) still needs it" in message
    assert "(and 1 more)" in message
    body = await site.until(Router, "r", lambda body: len(body["spec"]["assignment"]["interfaces"]) == 2)
    assert body["spec"]["assignment"]["gateway"] == before["gateway"]
    assert before["interfaces"][0] in body["spec"]["assignment"]["interfaces"]
    assert (await bound(site))["router"] == "r"
    await site.client.delete(Router, "r", site.name)
    held = await site.until(Router, "r", lambda body: "deletion: 1 floating IP (fip)" in str(body["status"]))
    assert "deletionTimestamp" in held["metadata"]
    await change(site, port=None)
    await site.gone(Router, "r")
    await bound(site, reason="Unbound")


async def test_deletion_gives_the_address_back(site: Site) -> None:
    """A deleted floating IP goes at once; its address is free after the quarantine, for one other."""
    public = await world(site)
    await floating(site, address="203.0.113.9")
    await bound(site, reason="Unbound")
    await site.client.delete(FloatingIP, "fip", site.name)
    await site.gone(FloatingIP, "fip")
    await floating(site, "next", address="203.0.113.9")
    given = await bound(site, "next", "Unbound")
    claim = await site.client.get(AddressClaim, address_claim_name(public, "203.0.113.9"))
    assert claim is not None
    assert claim["spec"]["claimRef"]["instance"] == given["floatingIPID"]


async def test_an_external_overlay_knows_where_they_are(site: Site) -> None:
    """Peers in an external overlay find the address at its host, and at the next one after a move."""
    await world(site)
    await site.server("web")
    host = (await site.assigned(Server, "web"))["host"]
    await floating(site, port={"name": "web-default"})
    given = await bound(site)

    def at(where: str) -> Any:
        return lambda body: any(
            (item["port"], item["mac"], item["addresses"], item["host"])
            == (f"floating-ip.{given['floatingIPID']}", given["mac"], [given["address"]], where)
            for item in body["spec"]["endpoints"]
        )

    await site.until(NetworkEndpoints, "public-0", at(host))
    other = "f1" if host == "f2" else "f2"
    await on(site, "web", other)
    await site.until(NetworkEndpoints, "public-0", at(other))


async def test_the_example_becomes_ready(site: Site) -> None:
    """What examples/floating-ip.yaml describes is decided as it says, in a project of any name."""
    await site.host("f1", memory="64Gi")
    await site.basics()
    subnet = {"name": "v4", "cidr": "10.10.0.0/24", "gateway": "10.10.0.1"}
    await site.create(Network, "private", {"subnets": [subnet]})
    kinds = {kind.__name__: kind for kind in (Network, Router, Server, FloatingIP)}
    for body in yaml.safe_load_all(EXAMPLE.read_text()):
        kind, name = kinds[body["kind"]], body["metadata"]["name"]
        if kind is Server:
            await site.server(name, networks=body["spec"]["networks"])
        else:
            await site.create(kind, name, body["spec"])
    await site.condition(Router, "edge", "Ready", "True", "Routing")
    fixed = (await site.assigned(Port, "front-eth0"))["addresses"][0]
    assert (await bound(site, "front"))["fixedAddress"] == fixed
    assert [item["address"] for item in (await bound(site, "services"))["forwardings"]] == [fixed]


async def _decided(site: Site, names: list[str]) -> list[str]:
    """Wait until of each floating IP it is known whether it has an address, and give those that have."""

    def known(body: dict[str, Any]) -> bool:
        return bool(body["spec"].get("assignment")) or condition_of(body, "Ready") is not None

    bodies = await asyncio.gather(*(site.until(FloatingIP, name, known) for name in names))
    return [body["metadata"]["name"] for body in bodies if body["spec"].get("assignment")]


async def test_the_quota_holds_in_a_rush(site: Site) -> None:
    """Of 100 at once exactly 20 get an address; a deleted one makes room for one that waits."""
    await world(site, quota={"floatingIPs": 20})
    names = [f"fip{index}" for index in range(100)]
    await asyncio.gather(*(floating(site, name) for name in names))
    given = await _decided(site, names)
    assert len(given) == 20
    refused = next(name for name in names if name not in given)
    assert "quota: 20 of 20 floating IPs are in use" in await told(site, refused, "QuotaExceeded")
    await site.quota_shown("floatingIPs", "20/20")
    await site.client.delete(FloatingIP, given[0], site.name)
    await site.gone(FloatingIP, given[0])
    async with asyncio.timeout(60):
        async for _, body in site.client.watch(FloatingIP, namespace=site.name):
            name = (body.get("metadata") or {}).get("name")
            if name is not None and name not in given and body["spec"].get("assignment"):
                break
    listed, _ = await site.client.list(FloatingIP, site.name)
    assert sum(bool(body["spec"].get("assignment")) for body in listed) == 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_a_restart_loses_and_doubles_nothing(
    site: Site, operator: OperatorProcess, number: signal.Signals
) -> None:
    """A leader that ends midway is gone on from: within the quota, one claim for each address, nothing rewritten."""
    public = await world(site, quota={"floatingIPs": 20})
    await site.server("web")
    await site.assigned(Server, "web")
    await floating(site, "first", port={"name": "web-default"})
    before = await bound(site, "first")
    names = [f"fip{index}" for index in range(40)]
    making = asyncio.gather(*(floating(site, name) for name in names))
    async with asyncio.timeout(60):
        async for _, body in site.client.watch(FloatingIP, namespace=site.name):
            if body.get("spec", {}).get("assignment") and body["metadata"]["name"] != "first":
                break
    await asyncio.to_thread(operator.stop, number)
    await making
    operator.start()
    given = await _decided(site, names)
    assert len(given) == 19
    await site.quota_shown("floatingIPs", "20/20")
    assert (await bound(site, "first")) == before
    bodies = [await site.get(FloatingIP, name) for name in [*given, "first"]]
    addresses = [body["spec"]["assignment"]["address"] for body in bodies]
    assert len(set(addresses)) == 20
    claims = [body for body in (await site.client.list(AddressClaim))[0] if body["spec"]["vni"] == public]
    held = {body["spec"]["address"] for body in claims if body["spec"]["claimRef"]["kind"] == "FloatingIP"}
    assert held >= set(addresses)
