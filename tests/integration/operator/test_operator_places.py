"""Placing: what a server's creation costs, who waits for what, and what a restart finds."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from kumulus_api import (
    FINALIZER,
    AddressClaim,
    Host,
    Network,
    NetworkEndpoints,
    NetworkIDClaim,
    Project,
    Server,
    Volume,
)
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.audit import AuditLog, of_servers
from kumulus_lab.testing.site import OperatorProcess, Site, condition_of


async def test_a_server_is_placed_with_four_writes(site: Site, plane: ControlPlane) -> None:
    """A network gets a VNI; a server's creation costs claim, port and assignment besides the user's own write."""
    await site.host("h1")
    await site.basics()
    network = await site.client.get(Network, "net", site.name)
    assert 4096 <= network["status"]["vni"] <= 1048575
    await site.server("warm-up")
    await site.assigned(Server, "warm-up")
    await asyncio.sleep(0.5)
    audit = AuditLog(plane.audit_log)
    started = time.monotonic()
    await site.server("web")
    assigned = await site.assigned(Server, "web")
    elapsed = time.monotonic() - started
    await asyncio.sleep(0.5)
    found = of_servers(audit.writes(site.name, ""), network["status"]["vni"])
    writes = Counter((write.verb, write.resource) for write in found)
    assert writes == {
        ("create", "servers"): 1,
        ("create", "addressclaims"): 1,
        ("create", "ports"): 1,
        ("patch", "servers"): 1,
    }
    assert elapsed < 0.5
    print(f"apply to assignment: {elapsed * 1000:.0f} ms")
    (port,) = assigned["ports"]
    assert port["vni"] == network["status"]["vni"]
    assert port["port"] == "web-default"
    endpoints = await site.client.get(NetworkEndpoints, "net-0", site.name)
    assert {item["port"] for item in endpoints["spec"]["endpoints"]} == {"warm-up-default", "web-default"}


def _pool(first: int, last: int) -> dict[str, str]:
    return {"start": f"10.0.0.{first}", "end": f"10.0.0.{last}"}


@pytest.mark.parametrize(
    ("subnet", "reason", "said"),
    [
        ({"pools": [_pool(10, 20), _pool(20, 30)]}, "PoolsInvalid", "10.0.0.10-10.0.0.20 and 10.0.0.20-10.0.0.30"),
        ({"pools": [_pool(20, 10)]}, "PoolsInvalid", "ends before it starts"),
        ({"gateway": "10.0.0.255"}, "GatewayInvalid", "network or broadcast address of 10.0.0.0/24"),
    ],
)
async def test_a_network_with_a_fault_gets_nothing(site: Site, subnet: dict[str, Any], reason: str, said: str) -> None:
    """What no schema can see is said in the network's status; it holds no VNI until it is corrected."""
    await site.client.create(Project, {"metadata": {"name": site.name}, "spec": {}})
    await site.condition(Project, site.name, "Ready", "True")
    plain = {"name": "v4", "cidr": "10.0.0.0/24"}
    await site.create(Network, "net", {"subnets": [plain | subnet]})
    refusal = await site.condition(Network, "net", "Ready", "False", reason)
    assert said in refusal["message"]
    claims = [c for c in (await site.client.list(NetworkIDClaim))[0] if c["spec"]["claimRef"]["namespace"] == site.name]
    assert claims == []
    await site.client.patch_merge(Network, "net", {"spec": {"subnets": [plain]}}, site.name)
    await site.condition(Network, "net", "Ready", "True")


async def test_a_server_beyond_capacity_waits_for_room(site: Site) -> None:
    """The third server on a host for two says why it waits, and is placed when another goes."""
    await site.host("h2")
    await site.basics()
    await asyncio.gather(*(site.server(f"s{number}") for number in range(3)))
    name, condition = await _waiting(site, 3, "NoValidHost")
    assert "no valid host out of 1: 1 without enough memory" in condition["message"]
    placed = next(f"s{number}" for number in range(3) if f"s{number}" != name)
    await site.delete_server(placed)
    await site.assigned(Server, name)
    condition = await site.condition(Server, name, "Scheduled", "True")
    assert condition["reason"] == "Assigned"


async def _waiting(site: Site, count: int, reason: str) -> tuple[str, dict[str, Any]]:
    """Give the one of the servers that waits for a reason when all others are placed.

    Until the operator has seen that the image is imported they all wait for that.
    """

    def decided(body: dict[str, Any]) -> bool:
        condition = condition_of(body, "Scheduled")
        return "assignment" in body["spec"] or (condition is not None and condition["reason"] == reason)

    bodies = await asyncio.gather(*(site.until(Server, f"s{number}", decided) for number in range(count)))
    ((name, condition),) = [
        (body["metadata"]["name"], condition_of(body, "Scheduled") or {})
        for body in bodies
        if "assignment" not in body["spec"]
    ]
    return name, condition


async def test_claims_are_released_after_the_quarantine(site: Site) -> None:
    """The address of a deleted server's port stays held for the quarantine and is then free."""
    await site.host("h3")
    await site.basics()
    await site.server("web")
    assigned = await site.assigned(Server, "web")
    address, vni = assigned["ports"][0]["addresses"][0], assigned["ports"][0]["vni"]
    claim = f"vni-{vni}-{address.replace('.', '-')}"
    assert await site.client.get(AddressClaim, claim) is not None
    await site.delete_server("web")
    started = time.monotonic()
    await site.gone(AddressClaim, claim)
    assert time.monotonic() - started > 0.9


async def test_a_silent_host_is_said_once(site: Site, plane: ControlPlane) -> None:
    """When a host's Lease stops, its servers become Unknown by one write; they are not moved."""
    await site.host("h4")
    await site.basics()
    await site.server("web")

    # The operator may have heard of the server before the host: then it takes back, by a write, that there is none.
    await site.assigned(Server, "web")
    audit = AuditLog(plane.audit_log)
    site.silence("h4")
    condition = await site.condition(Server, "web", "Ready", "Unknown")
    assert condition["reason"] == "HostSilent"
    await asyncio.sleep(1)
    assert [str(write) for write in audit.writes(site.name) if write.resource == "servers" and write.subresource] == [
        f"patch servers/status {site.name}/web (admin)"
    ]


async def test_an_instance_that_runs_is_adopted(site: Site) -> None:
    """A server without assignment whose instance a host reports is assigned there under that instance's id."""
    await site.host("h5")
    await site.host("h6", memory="64Gi")
    await site.basics()
    instance = {
        "instanceID": "11111111-2222-4333-8444-555555555555",
        "namespace": site.name,
        "name": "old",
        "epoch": 3,
        "running": True,
    }
    status = {"unclaimedInstances": [instance]}
    await site.client.apply_status(Host, {"metadata": {"name": "h5"}, "status": status}, manager="test-report")
    await asyncio.sleep(0.3)
    await site.server("old")
    assigned = await site.assigned(Server, "old")
    assert (assigned["host"], assigned["instanceID"], assigned["epoch"]) == ("h5", instance["instanceID"], 3)
    condition = await site.condition(Server, "old", "Scheduled", "True")
    assert condition["reason"] == "Adopted"


async def test_a_volume_has_one_holder_until_its_server_is_gone(site: Site) -> None:
    """A second server that asks for a volume waits, and gets it when the first one is gone."""
    await site.host("h7", memory="64Gi")
    await site.basics()
    await site.create(Volume, "data", {"size": "1Gi"}, (FINALIZER,))
    await site.condition(Volume, "data", "Ready", "False")
    wanted = [{"name": "data", "volume": {"name": "data"}}]
    await site.server("first", volumes=wanted)
    first = await site.assigned(Server, "first")
    await site.server("second", volumes=wanted)
    condition = await site.condition(Server, "second", "Scheduled", "False")
    assert condition["reason"] == "VolumeInUse"
    await site.delete_server("first")
    second = await site.assigned(Server, "second")
    assert second["volumes"][0]["volumeID"] == first["volumes"][0]["volumeID"]
    volume = await site.client.get(Volume, "data", site.name)
    assert volume["spec"]["assignment"]["attachedTo"] == "second"


async def test_a_restart_writes_nothing(site: Site, operator: OperatorProcess, plane: ControlPlane) -> None:
    """A restarted operator finds all as it left it: nothing but its Lease and its authority is written."""
    await site.host("h8")
    await site.basics()
    await site.server("web")
    await site.assigned(Server, "web")
    await asyncio.sleep(1)
    assert operator.stop() == 0
    audit = AuditLog(plane.audit_log)
    operator.start()
    await site.server("next")
    await site.assigned(Server, "next")
    writes = audit.writes(site.name)
    assert {write.name for write in writes if write.resource == "servers"} == {"next"}
    assert not [str(write) for write in writes if write.resource in ("networks", "images", "volumes")]
    projects = [write for write in audit.writes("") if (write.resource, write.name) == ("projects", site.name)]
    assert len(projects) <= 1, "its usage with the new server, perhaps"
