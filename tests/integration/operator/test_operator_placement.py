"""Placement by zone, traits and groups: what is asked for holds under load, and what waits is placed by an event."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from kumulus_api import Flavor, Host, HostAggregate, Project, Server, ServerGroup
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.audit import AuditLog
from kumulus_lab.testing.site import Site, condition_of


def _decided(body: dict[str, Any]) -> bool:
    # Whatever else it waits for, such as a ServerGroup that was not seen yet, comes by itself.
    waits = condition_of(body, "Scheduled")
    return "assignment" in body["spec"] or (waits is not None and waits["reason"] == "NoValidHost")


async def _hosts_of(site: Site, names: list[str]) -> list[str]:
    """Wait until it is known of each server whether it is placed, and give the hosts of those that are."""
    bodies = await asyncio.gather(*(site.until(Server, name, _decided) for name in names))
    return [body["spec"]["assignment"]["host"] for body in bodies if "assignment" in body["spec"]]


async def test_zone_and_traits_choose_the_host(site: Site) -> None:
    """A server waits for a host of its zone with its traits, says so, and goes there when there is one."""
    for name in ("a1", "a2"):
        await site.host(name)
    await site.basics()
    flavor = {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"}
    specs = {"trait:CUSTOM_GOLD": "required", "aggregate_instance_extra_specs:ssd": "<or> true <or> yes"}
    await site.client.apply(Flavor, {"metadata": {"name": "gold"}, "spec": flavor | {"extraSpecs": specs}}, manager="t")
    await site.server("web", flavor={"name": "gold"}, placement={"zone": "north"})
    message = await site.refused("web", "NoValidHost")
    assert message == (
        "placement: no valid host out of 2: 2 outside zone north; "
        "transient: placed as soon as a HostAggregate puts a host into zone north"
    )
    aggregate = {"hostSelector": {"names": ["a2"]}, "zone": "north", "metadata": {"ssd": "yes"}}
    await site.client.create(HostAggregate, {"metadata": {"name": "north"}, "spec": aggregate})
    try:
        await site.until(
            Server, "web", lambda body: "without trait CUSTOM_GOLD" in str(condition_of(body, "Scheduled"))
        )
        members = await site.until(HostAggregate, "north", lambda body: "status" in body)
        assert members["status"]["hosts"] == ["a2"]
        await site.client.patch_merge(Host, "a2", {"spec": {"traits": ["CUSTOM_GOLD"]}})
        assert (await site.assigned(Server, "web"))["host"] == "a2"
        await site.client.patch_merge(Host, "a1", {"metadata": {"labels": {"rack": "r"}}})
        south = {"hostSelector": {"matchLabels": {"rack": "r"}}, "zone": "south"}
        await site.client.create(HostAggregate, {"metadata": {"name": "south"}, "spec": south})
        await site.server("south", placement={"zone": "south"})
        assert (await site.assigned(Server, "south"))["host"] == "a1"
        await site.client.patch_merge(Host, "a2", {"metadata": {"labels": {"rack": "r"}}})
        await site.condition(HostAggregate, "south", "Ready", "False", "ZoneConflict")
        await site.server("nowhere", placement={"zone": "north"})
        assert "1 in several zones at once (north, south)" in await site.refused("nowhere", "NoValidHost")
    finally:
        for name in ("north", "south"):
            await site.client.delete(HostAggregate, name)


async def test_the_machine_asked_for_chooses_the_host_and_is_carried_along(site: Site) -> None:
    """A server waits for a host that can give its machine, and its assignment says what that is made of."""
    for name in ("m1", "m2"):
        await site.host(name)
    await site.basics()
    size = {"vcpus": 2, "memory": "1Gi", "rootDisk": "1Gi"}
    for name, specs in (("tpm", {"hw:tpm_version": "2.0"}), ("apart", {"hw:cpu_policy": "dedicated"})):
        flavor = {"metadata": {"name": name}, "spec": size | {"extraSpecs": specs}}
        await site.client.apply(Flavor, flavor, manager="t")
    await site.server("web", flavor={"name": "tpm"})
    message = await site.refused("web", "NoValidHost")
    assert "2 without trait COMPUTE_SECURITY_TPM_2_0, COMPUTE_SECURITY_TPM_TIS" in message
    await site.server("alone", flavor={"name": "apart"})
    assert "2 without enough dedicated CPUs" in await site.refused("alone", "NoValidHost")
    traits = ["COMPUTE_SECURITY_TPM_2_0", "COMPUTE_SECURITY_TPM_TIS"]
    await site.client.patch_merge(Host, "m2", {"spec": {"traits": traits}})
    given = await site.assigned(Server, "web")
    assert (given["host"], given["hardware"]) == ("m2", {"tpm": {"version": "2.0", "model": "tpm-tis"}})
    inventory = {"vcpus": 4, "dedicatedVcpus": 3, "memory": "2Gi", "disk": "100Gi"}
    await site.client.request(
        "PATCH",
        "/apis/kumulus.dev/v1alpha1/hosts/m1/status",
        {"status": {"inventory": inventory}},
        "application/merge-patch+json",
    )
    assert (await site.assigned(Server, "alone"))["host"] == "m1"
    await site.server("late", flavor={"name": "apart"})
    assert "2 without enough dedicated CPUs" in await site.refused("late", "NoValidHost")
    used = await site.until(Project, site.name, lambda body: body["status"].get("usage", {}).get("vcpus") == 4)
    assert used["status"]["usage"]["servers"] == 2


async def test_devices_that_a_host_cannot_give_make_it_no_candidate(site: Site) -> None:
    """A server that asks for devices waits with the hosts' reasons, goes where one is found, and takes it."""
    for name in ("d1", "d2"):
        await site.host(name)
    await site.basics()
    size = {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"}
    specs = {"resources:CUSTOM_GPU": "1", "trait:CUSTOM_BIG": "required"}
    flavor = {"metadata": {"name": "gpu"}, "spec": size | {"extraSpecs": specs}}
    await site.client.apply(Flavor, flavor, manager="t")
    await site.server("web", flavor={"name": "gpu"})
    assert "2 without trait CUSTOM_BIG" in await site.refused("web", "NoValidHost")
    entry = {"vendor": "10de", "resourceClass": "CUSTOM_GPU", "traits": ["CUSTOM_BIG"]}
    for name in ("d1", "d2"):
        await site.client.patch_merge(Host, name, {"spec": {"devices": {"pci": [entry]}, "traits": ["CUSTOM_BIG"]}})
    withheld = {"device": "0000:01:00.0", "resourceClass": "CUSTOM_GPU", "reason": "NoIOMMUGroup", "message": "m"}
    await _tell_devices(site, "d1", {"withheld": [withheld], "withheldTotal": 1})
    told = "1 without enough CUSTOM_GPU (devices withheld: NoIOMMUGroup)"
    await site.until(Server, "web", lambda body: told in str(condition_of(body, "Scheduled")))
    await _tell_devices(site, "d2", {"offered": [{"resourceClass": "CUSTOM_GPU", "total": 1}]})
    given = await site.assigned(Server, "web")
    assert (given["host"], given["resources"]["custom"]) == ("d2", {"CUSTOM_GPU": 1})
    await site.server("late", flavor={"name": "gpu"})
    assert "1 without enough CUSTOM_GPU," in await site.refused("late", "NoValidHost")


async def _tell_devices(site: Site, host: str, devices: dict[str, Any]) -> None:
    """Say what an agent has found."""
    path = f"/apis/kumulus.dev/v1alpha1/hosts/{host}/status"
    await site.client.request("PATCH", path, {"status": {"devices": devices}}, "application/merge-patch+json")


async def test_hard_anti_affinity_is_never_broken(site: Site) -> None:
    """Of 60 servers of a group made at once each of 20 hosts gets one; a place that is left goes to one that waits."""
    hosts = [f"g{number}" for number in range(20)]
    await asyncio.gather(*(site.host(name, memory="16Gi", vcpus=16) for name in hosts))
    await site.basics()
    names = [f"s{number}" for number in range(60)]
    await asyncio.gather(*(site.server(name, placement={"group": {"name": "apart"}}) for name in names))
    message = await site.refused("s0", "ServerGroupNotFound")
    assert message == "reference: server group apart was not found; transient: goes on when it is made"
    await site.create(ServerGroup, "apart", {"policy": "AntiAffinity"})
    await asyncio.gather(
        *(
            site.until(
                Server,
                name,
                lambda body: (
                    "assignment" in body["spec"]
                    or (condition_of(body, "Scheduled") or {}).get("reason") == "NoValidHost"
                ),
            )
            for name in names
        )
    )
    placed = {name: given["host"] for name in names if (given := await site.assignment(name)) is not None}
    assert Counter(placed.values()) == Counter(hosts)
    left = min(placed)
    freed = placed.pop(left)
    waiting = sorted(set(names) - set(placed) - {left})
    assert "20 with a server of group apart (AntiAffinity)" in await site.refused(waiting[0], "NoValidHost")
    tasks = [asyncio.create_task(site.assigned(Server, name)) for name in waiting]
    await site.delete_server(left)
    done, pending = await asyncio.wait(tasks, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    assert [task.result()["host"] for task in done] == [freed]


async def test_affinity_keeps_a_group_on_one_host(site: Site) -> None:
    """Servers of an affinity group that are made at once share a host; those for which it has no room wait."""
    for name in ("f1", "f2", "f3"):
        await site.host(name, memory="4Gi")
    await site.basics()
    await site.create(ServerGroup, "close", {"policy": "Affinity"})
    names = [f"s{number}" for number in range(6)]
    await asyncio.gather(*(site.server(name, placement={"group": {"name": "close"}}) for name in names))
    hosts = await _hosts_of(site, names)
    assert len(hosts) == 4
    assert len(set(hosts)) == 1


async def test_a_project_shows_what_it_uses(site: Site, plane: ControlPlane) -> None:
    """Used and limit stand in the Project's status, written at most once a second for a burst of servers."""
    await site.host("u1", memory="64Gi", vcpus=32)
    await site.basics(quota={"servers": 30, "memory": "40Gi"})
    # Its group `default` and an image of 1 KiB are there from the beginning.
    others = {
        "volumes": "0/-",
        "gigabytes": "0/-",
        "snapshots": "0/-",
        "images": "1/-",
        "imageGigabytes": "1/-",
        "securityGroups": "1/-",
        "securityGroupRules": "4/-",
    }
    others |= {"routers": "0/-", "floatingIPs": "0/-", "loadBalancers": "0/-", "dnsZones": "0/-"}
    others |= {"firewallGroups": "0/-", "vpnConnections": "0/-", "backups": "0/-", "backupGigabytes": "0/-"}
    empty = others | {"servers": "0/30", "vcpus": "0/-", "memory": "0/40Gi", "ports": "0/-"}
    await site.until(Project, site.name, lambda body: body["status"].get("quota") == empty)
    audit, started = AuditLog(plane.audit_log), asyncio.get_running_loop().time()
    names = [f"s{number}" for number in range(20)]
    await asyncio.gather(*(site.server(name) for name in names))
    await asyncio.gather(*(site.assigned(Server, name) for name in names))
    full = others | {"servers": "20/30", "vcpus": "20/-", "memory": "20Gi/40Gi", "ports": "20/-"}
    await site.until(Project, site.name, lambda body: body["status"].get("quota") == full)
    shown = plane.kubectl("get", "projects", site.name, "--no-headers")
    assert shown.stdout.split()[:5] == [site.name, "True", "NamespaceReady", "20/30", "20/-"]
    seconds = asyncio.get_running_loop().time() - started
    writes = [write for write in audit.writes() if write.resource == "projects" and write.name == site.name]
    assert 1 <= len(writes) <= seconds + 1
    await site.delete_server("s0")
    await site.quota_shown("servers", "19/30")
