"""Volumes that projects give to each other, and images of them, as the operator decides; the agent is the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from kumulus_api import FINALIZER, Image, Project, Server, Volume, VolumeTransfer
from kumulus_lab.testing.site import AGENT, Site, condition_of
from kumulus_runtime.conditions import set_condition

Object = dict[str, Any]
DATA = [{"name": "data", "volume": {"name": "data"}}]
GIB = 1 << 30


async def told(site: Site, kind: type, name: str, **status: Any) -> None:
    """Tell what an agent tells."""
    body = {"metadata": {"name": name, "namespace": site.name}, "status": status}
    await site.client.apply_status(kind, body, manager=AGENT)


async def basics(site: Site, host: str) -> None:
    """Have a project and a host."""
    await site.host(host, memory="16Gi")
    await site.basics()


async def used(site: Site) -> Object:
    """Have a volume of one GiB that a server has; give its assignment."""
    await site.create(Volume, "data", {"size": "1Gi"}, (FINALIZER,))
    await site.server("web", volumes=DATA)
    place = await site.assigned(Volume, "data")
    await told(site, Volume, "data", usedBytes=4096, sizeBytes=GIB)
    return place


@pytest.fixture
async def other(site: Site) -> AsyncIterator[Site]:
    """Give another project, which may have one volume of two GiB."""
    other = Site(site.client, f"{site.name}-other")
    await other.client.create(Project, {"metadata": {"name": other.name}, "spec": {"quota": {"gigabytes": 2}}})
    await other.condition(Project, other.name, "Ready", "True")
    yield other
    for name in ("mine", "large"):
        if await other.client.delete(Volume, name, other.name):
            await other.client.remove_finalizer(Volume, name, FINALIZER, other.name)


async def test_a_volume_is_given_and_the_quotas_follow(site: Site, other: Site) -> None:
    """It is offered when its server is gone; the other project has it then, and the first has nothing of it."""
    await basics(site, "t1")
    place = await used(site)
    await site.create(VolumeTransfer, "offer", {"volume": {"name": "data"}, "project": other.name})
    await site.condition(VolumeTransfer, "offer", "Ready", "False", "InUse")
    source = {"transfer": {"namespace": site.name, "name": "offer"}}
    await other.create(Volume, "large", {"size": "3Gi", "source": source}, (FINALIZER,))
    await other.condition(Volume, "large", "Ready", "False", "QuotaExceeded")
    await other.create(Volume, "mine", {"size": "2Gi", "source": source}, (FINALIZER,))
    await other.condition(Volume, "mine", "Ready", "False", "SourceNotReady")
    await site.delete_server("web")
    assert await other.assigned(Volume, "mine")
    given = (await other.get(Volume, "mine"))["spec"]["assignment"]
    assert (given["volumeID"], given["host"], given["size"]) == (place["volumeID"], place["host"], "2Gi")
    await site.gone(Volume, "data")
    await site.gone(VolumeTransfer, "offer")
    await told(other, Volume, "mine", usedBytes=4096, sizeBytes=2 * GIB)
    await other.condition(Volume, "mine", "Ready", "True", "Available")
    await site.quota_shown("gigabytes", "0/-")
    await other.condition(Volume, "large", "Ready", "False", "QuotaExceeded")


async def test_an_offer_that_is_taken_back_leaves_the_volume(site: Site) -> None:
    """While it stands no server gets the volume; without it the next one does."""
    await basics(site, "t2")
    await used(site)
    await site.delete_server("web")
    await site.create(VolumeTransfer, "offer", {"volume": {"name": "data"}, "project": "nobody"})
    await site.condition(VolumeTransfer, "offer", "Ready", "True", "Offered")
    await site.server("next", volumes=DATA)
    refused = await site.refused("next", "VolumeNotReady")
    assert "transfer offer" in str(refused)
    await site.client.delete(VolumeTransfer, "offer", site.name)
    assert (await site.assigned(Server, "next"))["volumes"][0]["volume"] == "data"


async def test_an_image_of_a_volume_is_its_hosts_to_make(site: Site) -> None:
    """The operator tells the host that has the volume, once there is data, and of which volume."""
    await basics(site, "t3")
    await site.create(Image, "copy", {"source": {"volume": {"name": "data"}}, "format": "qcow2"}, (FINALIZER,))
    await site.condition(Image, "copy", "Ready", "False", "VolumeNotFound")
    place = await used(site)
    image = await site.until(Image, "copy", lambda body: "importHost" in (body.get("status") or {}))
    assert image["status"]["importHost"] == place["host"]
    assert image["spec"]["original"]["volume"]["volumeID"] == place["volumeID"]
    status = {"digest": "sha256:" + "7" * 64, "size": 1024, "virtualSize": GIB}
    conditions = set_condition([], "Ready", True, "Copied", "", image["metadata"]["generation"])
    await told(site, Image, "copy", **status, conditions=conditions)
    ready = await site.until(Image, "copy", lambda body: (condition_of(body, "Ready") or {}).get("status") == "True")
    assert ready["spec"]["original"] == image["spec"]["original"]
    await site.client.delete(Image, "copy", site.name)
    await site.client.remove_finalizer(Image, "copy", FINALIZER, site.name)
