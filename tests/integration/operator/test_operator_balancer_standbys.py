"""The two hosts of a load balancer: how one takes over by itself, and that the data path's decision is followed."""

from __future__ import annotations

import asyncio
from typing import Any

from kumulus_api import IN_USE, AddressClaim, Host, LoadBalancer, Network, NetworkEndpoints, Port, Router
from kumulus_api.claims import address_claim_name
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.audit import AuditLog
from kumulus_lab.testing.site import AGENT, Site
from kumulus_runtime.conditions import set_condition

LISTENER = {"name": "web", "protocol": "TCP", "port": 80, "pool": {}}


async def hosts(site: Site, *names: str) -> None:
    """Make hosts that are reached at addresses of their own."""
    for name in names:
        await site.host(name, memory="64Gi", tunnel=f"192.0.2.{60 + int(name[-1])}")


async def says(site: Site, host: str, **fields: Any) -> None:
    """Have a host's agent say something."""
    status = (await site.get(Host, host))["status"] | fields
    await site.client.apply_status(Host, {"metadata": {"name": host}, "status": status}, manager=AGENT)


async def balancer(site: Site, network: str = "net") -> None:
    """Make a load balancer as the user and the admission policy would."""
    await site.create(LoadBalancer, "lb", {"network": {"name": network}, "listeners": [LISTENER]}, (IN_USE,))


def shared(body: dict[str, Any]) -> tuple[str, str | None, int]:
    """The hosts of a load balancer, and the first one's priority: 0 if the operator moves it."""
    given = body["spec"].get("assignment") or {}
    return given.get("host", ""), given.get("standby"), (given.get("takeover") or {}).get("priority", 0)


async def until(site: Site, *wanted: Any) -> dict[str, Any]:
    """Wait until it has these hosts and priority; give it."""
    return await site.until(LoadBalancer, "lb", lambda body: shared(body)[: len(wanted)] == wanted)


def on(body: dict[str, Any]) -> str | None:
    """The host that a router leads out on."""
    host: str | None = ((body["spec"].get("assignment") or {}).get("gateway") or {}).get("host")
    return host


async def stands(site: Site, status: str, reason: str) -> str:
    """Wait until it is told whether another host takes over, and give the message."""
    return str((await site.condition(LoadBalancer, "lb", "Standby", status, reason))["message"])


async def test_the_standby_has_a_port_of_its_own(site: Site) -> None:
    """It has an address and a MAC that are among the network's endpoints, and other hosts hear where the VIP may be.

    It comes with a second host that has keepalived, and goes with it.
    """
    await hosts(site, "s1")
    await site.basics()
    await balancer(site)
    await until(site, "s1", None, 0)
    assert "no other Ready host" in await stands(site, "False", "NoStandby")
    await hosts(site, "s2")
    given = (await until(site, "s1", "s2", 100))["spec"]["assignment"]
    assert await stands(site, "True", "TakesOver") == "host s2 takes over"
    takeover = given["takeover"]
    assert (takeover["tunnelAddress"], takeover["standbyTunnelAddress"]) == ("192.0.2.61", "192.0.2.62")
    port = await site.get(Port, "lb-own")
    own = [item.partition("/")[0] for item in takeover["addresses"]]
    assert port["metadata"]["ownerReferences"][0]["kind"] == "LoadBalancer"
    assert port["spec"]["assignment"] == {"portID": takeover["portID"], "mac": takeover["mac"], "addresses": own}
    assert takeover["mac"] != given["mac"]
    claim = await site.client.get(AddressClaim, address_claim_name(given["vni"], own[0]))
    assert claim is not None

    def told(body: dict[str, Any]) -> bool:
        found = {item["port"]: item for item in body["spec"].get("endpoints", [])}
        return found.get("lb-own", {}).get("host") == "s2" and "standbyTunnelAddress" in found["lb-vip"]

    body = await site.until(NetworkEndpoints, "net-0", told)
    vip, standby = sorted(body["spec"]["endpoints"], key=lambda item: item["port"] == "lb-own")
    assert (vip["tunnelAddress"], vip["standbyTunnelAddress"]) == ("192.0.2.61", "192.0.2.62")
    assert (standby["mac"], standby["addresses"], standby["groups"]) == (takeover["mac"], own, ["default"])
    await says(site, "s2", missingPackages=["keepalived"])
    await until(site, "s1", "s2", 0)
    assert "do not both have keepalived" in await stands(site, "False", "KeepalivedMissing")
    await says(site, "s2", missingPackages=[])
    again = (await until(site, "s1", "s2", 100))["spec"]["assignment"]
    assert again == given


async def test_a_silent_host_keeps_it_until_the_standby_serves(site: Site, plane: ControlPlane) -> None:
    """What a standby tells of is made the decision by one write, and the other host may come back."""
    await hosts(site, "s1", "s2")
    await site.basics()
    await balancer(site)
    before = (await until(site, "s1", "s2", 100))["spec"]["assignment"]
    conditions = set_condition([], "Serving", True, "Balancing", "", 1)
    told = {"metadata": {"name": "lb", "namespace": site.name}, "status": {"host": "s2", "conditions": conditions}}
    overlay = {"name": "v4", "cidr": "198.51.100.0/24", "gateway": "198.51.100.1"}
    await site.create(Network, "lake", {"external": True, "subnets": [overlay]})
    await site.create(Router, "alone", {"gateway": {"network": {"name": "lake"}}})
    await site.until(Router, "alone", lambda body: on(body) == "s1")
    site.silence("s1")
    # What has no standby moves.
    await site.until(Router, "alone", lambda body: on(body) == "s2")
    body = await site.client.patch_merge(LoadBalancer, "lb", {"spec": {"description": "look again"}}, site.name)
    generation = body["metadata"]["generation"]
    seen = await site.until(
        LoadBalancer, "lb", lambda body: (body.get("status") or {}).get("observedGeneration", 0) >= generation
    )
    assert shared(seen) == ("s1", "s2", 100)
    await site.client.apply_status(LoadBalancer, told, manager=AGENT)
    await site.condition(LoadBalancer, "lb", "Ready", "True", "Balancing")
    audit = AuditLog(plane.audit_log)
    await says(site, "s2", takenOver=[before["loadBalancerID"]])
    after = (await until(site, "s2", "s1", 101))["spec"]["assignment"]
    kept = {"host": 0, "standby": 0, "takeover": 0}
    assert after | kept == before | kept
    assert after["takeover"]["tunnelAddress"] == before["takeover"]["standbyTunnelAddress"]
    assert after["takeover"]["mac"] == before["takeover"]["mac"]
    await asyncio.sleep(1)
    written = [item for item in audit.writes(site.name) if item.resource == "loadbalancers" and not item.subresource]
    assert len(written) == 1


async def test_a_host_in_maintenance_leaves_it_to_the_standby(site: Site) -> None:
    """Another host becomes the standby, and the one that left does not win when it comes back."""
    await hosts(site, "s1", "s2", "s3")
    await site.basics()
    await balancer(site)
    await until(site, "s1", "s2", 100)
    await site.client.patch_merge(Host, "s1", {"spec": {"maintenance": True}})
    await until(site, "s2", "s3")
    await site.client.patch_merge(Host, "s3", {"spec": {"maintenance": True}})
    await until(site, "s2", None, 0)
    await site.client.patch_merge(Host, "s1", {"spec": {"maintenance": False}})
    await until(site, "s2", "s1")
    await stands(site, "True", "TakesOver")


async def test_without_a_further_address_the_operator_moves_it(site: Site) -> None:
    """A network that is full leaves the standby without a port, which is told, and made up for when there is room."""
    await hosts(site, "s1", "s2")
    await site.basics()
    await site.network("tiny", "10.8.0.0/24", pools=[{"start": "10.8.0.10", "end": "10.8.0.11"}])
    await site.port("takes", network="tiny")
    await site.assigned(Port, "takes")
    await balancer(site, "tiny")
    await until(site, "s1", "s2", 0)
    assert "address" in await stands(site, "False", "NoAddressForStandby")
    await site.client.delete(Port, "takes", site.name)
    await until(site, "s1", "s2", 100)
    await stands(site, "True", "TakesOver")
