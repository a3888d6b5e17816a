"""What volumes are promised stays within the ratio of their class: on hosts and shares, for all who ask at once."""

from __future__ import annotations

import asyncio
from typing import Any

from kumulus_api import FINALIZER, Host, Server, Volume, VolumeClass
from kumulus_lab.testing.site import AGENT, Site
from kumulus_runtime.conditions import set_condition

Object = dict[str, Any]
GIB = 1 << 30
MANY = 20


async def roomy_host(site: Site, name: str, *shares: Object) -> None:
    """Make a host with 100 GiB of disk and room for anything else."""
    await site.host(name)
    status = {
        "tunnelAddress": "192.0.2.1",
        "inventory": {"vcpus": 64, "memory": "64Gi", "disk": "100Gi"},
        "conditions": set_condition([], "Ready", True, "SelfTestPassed", "", 1),
        "shares": list(shares),
    }
    await site.client.apply_status(Host, {"metadata": {"name": name}, "status": status}, manager=AGENT)


async def has_class(site: Site, name: str, **spec: Any) -> str:
    """Have a class for this project; give its name."""
    full = f"{name}-{site.name}"
    body = {"metadata": {"name": full}, "spec": {"driver": "Local", "public": False, "projects": [site.name]} | spec}
    await site.client.apply(VolumeClass, body, manager="test")
    return full


async def many_servers(site: Site, volume_class: str) -> None:
    """Ask for many servers with a volume of 10 GiB each, all at once."""
    spec = {"size": "10Gi", "volumeClass": {"name": volume_class}}
    async with asyncio.TaskGroup() as group:
        for number in range(MANY):
            group.create_task(site.create(Volume, f"data-{number}", spec, (FINALIZER,)))
    async with asyncio.TaskGroup() as group:
        for number in range(MANY):
            attached = [{"name": "data", "volume": {"name": f"data-{number}"}}]
            group.create_task(site.server(f"s-{number}", volumes=attached))


async def settled(site: Site, placed: int) -> tuple[list[str], list[str]]:
    """Wait until each server is placed, or told why not; give both by name. More than so many are never placed."""
    while True:
        bodies = (await site.client.list(Server, site.name))[0]
        there = {item["metadata"]["name"]: item for item in bodies}
        given = [name for name, item in there.items() if "assignment" in item["spec"]]
        waits = [
            name
            for name, item in there.items()
            if any(
                condition["type"] == "Scheduled" and condition["status"] == "False"
                for condition in item.get("status", {}).get("conditions", [])
            )
            and name not in given
        ]
        assert len(given) <= placed
        if len(given) == placed and len(given) + len(waits) == len(there):
            return given, waits
        await asyncio.sleep(0.1)


async def promised(site: Site) -> int:
    """Give the GiB that volumes were promised."""
    volumes = (await site.client.list(Volume, site.name))[0]
    sizes = (item["spec"].get("assignment", {}).get("size", "0Gi") for item in volumes)
    return sum(int(size.removesuffix("Gi")) for size in sizes)


async def test_a_local_class_keeps_its_ratio(site: Site) -> None:
    """Of 20 that race those are placed that fit beside root disks; growth waits, and a larger ratio lets all in."""
    await roomy_host(site, "vr1")
    await site.basics()
    # Each takes 1 GiB for its root disk and 10/2 for its volume, of 100 of which 10 stay free.
    thin = await has_class(site, "thin", overcommit="2", reservedPercent=10)
    await many_servers(site, thin)
    async with asyncio.timeout(60):
        given, waits = await settled(site, 15)
    assert await promised(site) == 150
    told = await site.condition(Server, waits[0], "Scheduled", "False", "NoValidHost")
    assert f"10Gi of class {thin} asked for, 150Gi promised to it" in told["message"]
    assert "a disk of 100Gi at ratio 2 with 10% kept free" in told["message"]

    volume = given[0].replace("s-", "data-")
    body = {"metadata": {"name": volume, "namespace": site.name}, "status": {"usedBytes": 4096, "sizeBytes": 10 * GIB}}
    await site.client.apply_status(Volume, body, manager=AGENT)
    await site.client.patch_merge(Volume, volume, {"spec": {"size": "11Gi"}}, site.name)
    refused = await site.condition(Volume, volume, "Resized", "False", "HostFull")
    assert "1Gi of class" in refused["message"]

    await site.client.patch_merge(VolumeClass, thin, {"spec": {"overcommit": "4"}})
    async with asyncio.timeout(60):
        await settled(site, MANY)
    await site.until(Volume, volume, lambda item: item["spec"]["assignment"]["size"] == "11Gi")
    assert (await site.assigned(Server, given[0]))["volumes"][0]["volumeClass"] == thin
    # In steps: each promise would be a write.
    status = await _class_until(site, thin, lambda found: found.get("provisioned", "0Gi") > "190Gi")
    assert "capacity" not in status


async def test_a_shared_class_keeps_its_ratio(site: Site) -> None:
    """The share bounds what all servers, growth, copies and moves are promised; who goes lets another in."""
    fast = await has_class(site, "fast", driver="Shared", shared={"folder": "/srv/fast"}, overcommit="1.5")
    share = {"volumeClass": fast, "capacity": "100Gi", "free": "100Gi"}
    await roomy_host(site, "vr2")
    await site.basics()
    await many_servers(site, fast)
    async with asyncio.timeout(60):
        _, waits = await settled(site, 0)
    told = await site.condition(Server, waits[0], "Scheduled", "False", "VolumeNotReady")
    assert "no host has told how large its share is" in told["message"]
    await roomy_host(site, "vr2", share)
    async with asyncio.timeout(60):
        given, waits = await settled(site, 15)
    assert await promised(site) == 150
    told = await site.condition(Server, waits[0], "Scheduled", "False", "VolumeNotReady")
    assert "10Gi more is asked for, 150Gi are promised, 100Gi of 100Gi are free, at ratio 1.5" in told["message"]
    status = await _class_until(site, fast, lambda found: found.get("provisioned") == "150Gi")
    assert (status["capacity"], status["free"]) == ("100Gi", "100Gi")

    volume = given[0].replace("s-", "data-")
    body = {"metadata": {"name": volume, "namespace": site.name}, "status": {"usedBytes": 4096, "sizeBytes": 10 * GIB}}
    await site.client.apply_status(Volume, body, manager=AGENT)
    await site.client.patch_merge(Volume, volume, {"spec": {"size": "21Gi"}}, site.name)
    await site.condition(Volume, volume, "Resized", "False", "VolumeClassFull")
    await site.create(Volume, "copy", {"size": "10Gi", "source": {"volume": {"name": volume}}}, (FINALIZER,))
    await site.condition(Volume, "copy", "Ready", "False", "VolumeClassFull")

    await site.client.delete(Volume, "copy", site.name)
    await site.gone(Volume, "copy")
    gone = given[1].replace("s-", "data-")
    await site.delete_server(given[1])
    await site.client.delete(Volume, gone, site.name)
    await site.client.remove_finalizer(Volume, gone, FINALIZER, site.name)  # as the agent does
    async with asyncio.timeout(60):
        await settled(site, 15)
    assert await promised(site) == 150
    await site.condition(Volume, volume, "Resized", "False", "VolumeClassFull")


async def _class_until(site: Site, name: str, holds: Any) -> Object:
    async with asyncio.timeout(30):
        while True:
            body = await site.client.get(VolumeClass, name) or {}
            if holds(body.get("status", {})):
                return body["status"]
            await asyncio.sleep(0.1)
