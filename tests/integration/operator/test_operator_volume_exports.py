"""Volumes that serve servers on other hosts: what the operator decides; the agents' word is the test's."""

from __future__ import annotations

from typing import Any

from kumulus_api import FINALIZER, Host, Server, Volume, VolumeClass
from kumulus_lab.testing.site import AGENT, Site

DATA = [{"name": "data", "volume": {"name": "data"}}]
GIB = 1 << 30


async def told(site: Site, **status: Any) -> None:
    """Tell what the agent of the volume's host tells."""
    body = {"metadata": {"name": "data", "namespace": site.name}, "status": status}
    await site.client.apply_status(Volume, body, manager=AGENT)


async def test_a_volume_serves_a_server_on_another_host(site: Site) -> None:
    """Its own host is preferred; where that takes no servers it exports to where the server is, until that is gone."""
    await site.host("w5", memory="16Gi")
    await site.basics()
    await site.client.apply(
        VolumeClass, {"metadata": {"name": "lent"}, "spec": {"driver": "Local", "export": True}}, manager="test"
    )
    try:
        await site.create(Volume, "data", {"size": "1Gi", "volumeClass": {"name": "lent"}}, (FINALIZER,))
        await site.server("web", volumes=DATA)
        place = await site.assigned(Volume, "data")
        await told(site, usedBytes=4096, sizeBytes=GIB)
        await site.host("w6", memory="64Gi", vcpus=64)
        await site.delete_server("web")
        await site.condition(Volume, "data", "Ready", "True", "Available")

        await site.server("near", volumes=DATA)
        assert (await site.assigned(Server, "near"))["host"] == "w5"
        await site.delete_server("near")
        await site.condition(Volume, "data", "Ready", "True", "Available")

        await site.client.patch_merge(Host, "w5", {"spec": {"schedulable": False}})
        await site.server("far", volumes=DATA)
        given = await site.assigned(Server, "far")
        assert (given["host"], given["volumes"][0]["exporter"], given["volumes"][0]["shared"]) == ("w6", "w5", True)
        now = (await site.get(Volume, "data"))["spec"]["assignment"]
        assert (now["host"], now["exportedTo"], now["volumeID"]) == ("w5", ["w6"], place["volumeID"])
        await site.condition(Volume, "data", "Ready", "False", "Exporting")
        export = {"port": 9901, "hosts": ["w6"]}
        await told(site, usedBytes=4096, sizeBytes=GIB, export=export)
        await site.condition(Volume, "data", "Ready", "True", "InUse")

        # The other host hears of growth when it is done.
        await site.client.patch_merge(Host, "w5", {"spec": {"schedulable": True}})
        await site.client.patch_merge(Volume, "data", {"spec": {"size": "2Gi"}}, site.name)
        await site.until(Volume, "data", lambda body: body["spec"]["assignment"]["size"] == "2Gi")
        assert (await site.get(Server, "far"))["spec"]["assignment"]["volumes"][0]["size"] == "1Gi"
        await told(site, usedBytes=4096, sizeBytes=2 * GIB, export=export)
        await site.until(Server, "far", lambda body: body["spec"]["assignment"]["volumes"][0]["size"] == "2Gi")

        await site.delete_server("far")
        await site.until(Volume, "data", lambda body: "exportedTo" not in body["spec"]["assignment"])
        assert (await site.get(Volume, "data"))["spec"]["assignment"]["host"] == "w5"
    finally:
        await site.client.delete(VolumeClass, "lent")
