"""Classes, growth, snapshots and copies of volumes: what the operator decides; the agent's word is the test's."""

from __future__ import annotations

from typing import Any

from kumulus_api import FINALIZER, Host, Project, Server, Volume, VolumeClass, VolumeSnapshot
from kumulus_lab.testing.site import AGENT, Site

Object = dict[str, Any]
DATA = [{"name": "data", "volume": {"name": "data"}}]
GIB = 1 << 30


async def told(site: Site, kind: type, name: str, **status: Any) -> None:
    """Tell what an agent tells."""
    body = {"metadata": {"name": name, "namespace": site.name}, "status": status}
    await site.client.apply_status(kind, body, manager=AGENT)


async def used(site: Site, **spec: Any) -> Object:
    """Have a volume of one GiB that a server has and its agent has made; give its assignment."""
    await site.create(Volume, "data", {"size": "1Gi"} | spec, (FINALIZER,))
    await site.server("web", volumes=DATA)
    place = await site.assigned(Volume, "data")
    await told(site, Volume, "data", usedBytes=4096, sizeBytes=GIB)
    return place


async def test_a_volume_grows_within_quota(site: Site) -> None:
    """What is asked is assigned when the quota allows it, and told to be so when the agent has done it."""
    await site.host("w1", memory="16Gi")
    await site.basics(quota={"gigabytes": 3})
    assert (await used(site))["size"] == "1Gi"
    await site.client.patch_merge(Volume, "data", {"spec": {"size": "4Gi"}}, site.name)
    refused = await site.condition(Volume, "data", "Resized", "False", "QuotaExceeded")
    assert "1Gi of 3Gi are in use, 3Gi more is asked for" in refused["message"]
    assert (await site.get(Volume, "data"))["spec"]["assignment"]["size"] == "1Gi"
    await site.condition(Volume, "data", "Ready", "True", "InUse")
    await site.client.patch_merge(Project, site.name, {"spec": {"quota": {"gigabytes": 4}}})
    await site.until(Volume, "data", lambda body: body["spec"]["assignment"]["size"] == "4Gi")
    await site.condition(Volume, "data", "Resized", "False", "Growing")
    await told(site, Volume, "data", usedBytes=4096, sizeBytes=4 * GIB)
    await site.condition(Volume, "data", "Resized", "True")
    await site.quota_shown("gigabytes", "4/4")


async def test_a_snapshot_and_what_is_made_of_it(site: Site) -> None:
    """The volume's host takes it, it counts; a copy lies there too; a deleted volume waits for its snapshot."""
    await site.host("w2", memory="16Gi")
    await site.basics(quota={"snapshots": 1})
    await site.create(VolumeSnapshot, "early", {"volume": {"name": "data"}}, (FINALIZER,))
    await site.condition(VolumeSnapshot, "early", "Ready", "False", "VolumeNotFound")
    place = await used(site)
    given = await site.assigned(VolumeSnapshot, "early")
    assert (given["volumeID"], given["host"]) == (place["volumeID"], place["host"])
    await site.condition(VolumeSnapshot, "early", "Ready", "False", "Taking")
    await site.create(VolumeSnapshot, "more", {"volume": {"name": "data"}}, (FINALIZER,))
    await site.condition(VolumeSnapshot, "more", "Ready", "False", "QuotaExceeded")

    source = {"snapshot": {"name": "early"}}
    await site.create(Volume, "copy", {"size": "2Gi", "source": source}, (FINALIZER,))
    await site.condition(Volume, "copy", "Ready", "False", "SourceNotReady")
    await told(site, VolumeSnapshot, "early", restoreSize=GIB, consistency="Crash")
    await site.condition(VolumeSnapshot, "early", "Ready", "True", "Available")
    there = await site.assigned(Volume, "copy")
    assert there["host"] == place["host"]
    assert there["origin"] == {"volumeID": place["volumeID"], "snapshotID": given["snapshotID"], "taken": False}
    await site.condition(Volume, "copy", "Ready", "False", "Making")
    await told(site, Volume, "copy", usedBytes=4096, sizeBytes=2 * GIB)
    await site.condition(Volume, "copy", "Ready", "True", "Available")

    await site.client.delete(Volume, "data", site.name)
    await site.condition(Volume, "data", "Ready", "False", "HasSnapshots")
    await site.client.delete(VolumeSnapshot, "more", site.name)
    await site.gone(VolumeSnapshot, "more")
    await site.client.delete(VolumeSnapshot, "early", site.name)
    await site.client.remove_finalizer(VolumeSnapshot, "early", FINALIZER, site.name)  # as the agent does
    await site.gone(VolumeSnapshot, "early")
    await site.condition(Volume, "data", "Ready", "True", "InUse")
    await site.quota_shown("snapshots", "0/1")


async def test_a_shared_volume_serves_any_host(site: Site) -> None:
    """Its class gives the folder; the next server may be on another host, which works on it from then on."""
    await site.host("w3", memory="1Gi")
    await site.basics()
    shared = {"driver": "Shared", "shared": {"folder": "/srv/fast"}, "public": False, "projects": [site.name]}
    await site.client.apply(VolumeClass, {"metadata": {"name": "fast"}, "spec": shared}, manager="test")
    try:
        place = await used(site, volumeClass={"name": "fast"})
        assert (place["folder"], place["volumeClass"], place["host"]) == ("/srv/fast", "fast", "w3")
        await site.host("w4", memory="16Gi")
        await site.delete_server("web")
        await site.condition(Volume, "data", "Ready", "True", "Available")
        await site.client.patch_merge(Host, "w3", {"spec": {"schedulable": False}})
        await site.server("next", volumes=DATA)
        assert (await site.assigned(Server, "next"))["host"] == "w4"
        moved = (await site.get(Volume, "data"))["spec"]["assignment"]
        assert (moved["host"], moved["volumeID"], moved["folder"]) == ("w4", place["volumeID"], "/srv/fast")
        assert (await site.assigned(Server, "next"))["volumes"][0]["shared"] is True
    finally:
        await site.client.delete(VolumeClass, "fast")


async def test_a_server_boots_from_a_volume(site: Site) -> None:
    """The volume is marked in the assignment, whatever size the image has and the flavor's root disk."""
    await site.host("w5", memory="16Gi")
    await site.basics()
    source = {"image": {"name": "tiny"}}
    await site.create(Volume, "data", {"size": "1Gi", "source": source}, (FINALIZER,))
    await site.server("web", volumes=DATA, bootVolume="data")
    assigned = await site.assigned(Server, "web")
    assert assigned["volumes"][0]["boot"] is True
    place = (await site.get(Volume, "data"))["spec"]["assignment"]
    assert place["origin"]["image"]["name"] == "tiny"
