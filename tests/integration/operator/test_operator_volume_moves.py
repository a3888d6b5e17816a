"""Volumes whose class changes while a server has them: what the operator decides; the agent's word is the test's."""

from __future__ import annotations

from typing import Any

from kumulus_api import FINALIZER, Host, Server, ServerAction, Volume, VolumeClass
from kumulus_lab.testing.site import AGENT, Site

DATA = [{"name": "data", "volume": {"name": "data"}}]
GIB = 1 << 30


async def told(site: Site, **status: Any) -> None:
    """Tell what the agent of the volume's host tells."""
    body = {"metadata": {"name": "data", "namespace": site.name}, "status": {"usedBytes": 1, "sizeBytes": GIB} | status}
    await site.client.apply_status(Volume, body, manager=AGENT)


async def wanted(site: Site, volume_class: str) -> None:
    """Ask for a class."""
    await site.client.patch_merge(Volume, "data", {"spec": {"volumeClass": {"name": volume_class}}}, site.name)


async def begun(site: Site, volume_class: str) -> dict[str, Any]:
    """Ask for a class, and give the move that is begun."""
    await wanted(site, volume_class)
    body = await site.until(Volume, "data", lambda body: "moving" in body["spec"]["assignment"])
    return dict(body["spec"]["assignment"]["moving"])


async def test_a_class_changes_in_use(site: Site) -> None:
    """The server keeps it and stays on its host meanwhile; then it knows that any host finds the volume, and back."""
    await site.host("w5", memory="16Gi")
    await site.basics()
    shared = {"driver": "Shared", "shared": {"folder": "/var/lib/kumulus/shares/moved"}}
    for name, spec in (("here", {"driver": "Local"}), ("moved", shared)):
        await site.client.apply(VolumeClass, {"metadata": {"name": name}, "spec": spec}, manager="test")
    try:
        await site.create(Volume, "data", {"size": "1Gi", "volumeClass": {"name": "here"}}, (FINALIZER,))
        await site.server("web", volumes=DATA)
        place = await site.assigned(Volume, "data")
        await told(site)
        await site.report("web", "w5")

        moving = await begun(site, "moved")
        assert moving["folder"] == "/var/lib/kumulus/shares/moved"
        await told(site, moving={"request": moving["request"], "progress": 40})
        await site.condition(Volume, "data", "Retyped", "False", "Retyping")
        spec = {"server": {"name": "web"}, "type": "Migrate"}
        await site.create(ServerAction, "away", spec)
        action = await site.until(
            ServerAction, "away", lambda body: (body.get("status") or {}).get("phase") == "Failed"
        )
        assert action["status"]["reason"] == "VolumeMoves"

        # Thought better of: that the copy is gone is the host's word.
        await wanted(site, "here")
        await site.until(Volume, "data", lambda body: body["spec"]["assignment"]["moving"].get("cancelled") is True)
        await told(site, cleared=moving["request"])
        await site.until(Volume, "data", lambda body: "moving" not in body["spec"]["assignment"])
        await site.condition(Volume, "data", "Retyped", "True", "Retyped")

        for name, mark in (("moved", True), ("here", False)):
            moving = await begun(site, name)
            await told(site, moved=moving["request"])
            body = await site.until(Volume, "data", lambda body: "left" in body["spec"]["assignment"])
            now = body["spec"]["assignment"]
            assert (now["volumeClass"], now["attachedTo"], now["host"]) == (name, "web", place["host"])
            await site.until(
                Server,
                "web",
                lambda body, mark=mark: body["spec"]["assignment"]["volumes"][0].get("shared", False) is mark,
            )
            await told(site, moved=moving["request"], cleared=moving["request"])
            await site.until(Volume, "data", lambda body: "left" not in body["spec"]["assignment"])
            await site.condition(Volume, "data", "Retyped", "True", "Retyped")

        # Back on a host whose disk is full it does not come.
        moving = await begun(site, "moved")
        await told(site, moved=moving["request"], cleared=moving["request"])
        await site.until(Volume, "data", lambda body: body["spec"]["assignment"].get("left") is None)
        host = await site.client.get(Host, "w5")
        assert host is not None
        status = {"inventory": {**host["status"]["inventory"], "disk": "1Gi"}}
        body = {"metadata": {"name": "w5"}, "status": host["status"] | status}
        await site.client.apply_status(Host, body, manager=AGENT)
        await wanted(site, "here")
        await site.condition(Volume, "data", "Retyped", "False", "HostFull")
    finally:
        for name in ("here", "moved"):
            await site.client.delete(VolumeClass, name)
