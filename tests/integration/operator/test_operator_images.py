"""CreateImage as the operator does it: the Image comes first, waits for its host, and goes if nothing comes of it."""

from __future__ import annotations

from typing import Any

from kumulus_api import FINALIZER, Host, Image, Server, ServerAction
from kumulus_lab.testing.site import AGENT, Site, condition_of
from kumulus_runtime.conditions import set_condition

DIGEST = "sha256:" + "7" * 64


async def running(site: Site) -> None:
    """Have the server `web` run on h1."""
    await site.host("h1")
    await site.basics()
    await site.server("web")
    await site.report("web", "h1")


async def asked(site: Site, action: str, image: str = "golden") -> None:
    """Ask for an image of it."""
    await site.create(
        ServerAction, action, {"server": {"name": "web"}, "type": "CreateImage", "createImage": {"name": image}}
    )


async def opened(site: Site, action: str) -> dict[str, Any]:
    """Wait until the action is open, and give the image."""
    await site.until(ServerAction, action, lambda body: (body.get("status") or {}).get("phase") == "Running")
    return await site.get(Image, "golden")


async def told(site: Site, image: dict[str, Any], ready: bool, reason: str, **facts: Any) -> None:
    """Write what the agent of h1 writes of an image."""
    conditions = set_condition([], "Ready", ready, reason, "", 1)
    metadata = {name: image["metadata"][name] for name in ("name", "namespace", "uid")}
    body = {"metadata": metadata, "status": {"conditions": conditions} | facts}
    await site.client.apply_status(Image, body, manager=AGENT)


async def ended(site: Site, action: str, outcome: str, reason: str) -> dict[str, Any]:
    """Report as the agent does and wait until the action is closed."""
    report = {"outcome": outcome, "reason": reason, "message": ""}
    body = {"metadata": {"name": action, "namespace": site.name}, "status": {"report": report}}
    await site.client.apply_status(ServerAction, body, manager=AGENT)
    return await site.until(ServerAction, action, lambda found: found["status"]["phase"] == outcome)


async def lets_go(site: Site) -> None:
    """Do what the holder does with a deleted image."""
    await site.until(Image, "golden", lambda body: "deletionTimestamp" in body["metadata"])
    await site.client.remove_finalizer(Image, "golden", FINALIZER, site.name)
    await site.gone(Image, "golden")


async def test_an_image_is_made_filled_and_used(site: Site) -> None:
    """The Image names server, host and action; once its host tells it, servers start from it; its name is taken."""
    await running(site)
    await asked(site, "copy")
    image = await opened(site, "copy")
    action, server = await site.get(ServerAction, "copy"), await site.get(Server, "web")
    assert image["spec"]["source"]["server"] == {
        "name": "web",
        "instanceID": server["spec"]["assignment"]["instanceID"],
        "action": action["metadata"]["uid"],
        "host": "h1",
    }
    assert image["status"]["importHost"] == "h1"
    assert FINALIZER in image["metadata"]["finalizers"]
    await told(site, image, True, "Copied", digest=DIGEST, size=1024, virtualSize=1024)
    await ended(site, "copy", "Succeeded", "Completed")
    await site.server("second", image={"name": "golden"})
    given = (await site.assigned(Server, "second"))["image"]
    assert (given["url"], given["digest"]) == (f"kumulus-image:///{site.name}/golden", DIGEST)
    await asked(site, "again")
    refused = await site.until(ServerAction, "again", lambda body: (body.get("status") or {}).get("phase") == "Failed")
    assert refused["status"]["reason"] == "ImageExists"
    assert (await site.get(Image, "golden"))["metadata"]["uid"] == image["metadata"]["uid"]
    await site.client.delete(Image, "golden", site.name)
    await lets_go(site)


async def test_an_image_that_came_to_nothing_goes(site: Site) -> None:
    """When the host says that it holds nothing the Image is deleted, and its name is free again."""
    await running(site)
    await asked(site, "copy")
    image = await opened(site, "copy")
    await ended(site, "copy", "Failed", "HostDiskFull")
    await told(site, image, False, "NotHeld")
    await lets_go(site)
    await asked(site, "again")
    assert (await opened(site, "again"))["metadata"]["uid"] != image["metadata"]["uid"]
    await site.client.delete(Image, "golden", site.name)
    await lets_go(site)


async def test_the_image_of_a_lost_host_says_so(site: Site) -> None:
    """An image whose only holder never returns is not Ready any more, and can be deleted by its user."""
    await running(site)
    await asked(site, "copy")
    image = await opened(site, "copy")
    await told(site, image, True, "Copied", digest=DIGEST, size=1024, virtualSize=1024)
    await ended(site, "copy", "Succeeded", "Completed")
    site.silence("h1")
    await site.client.patch_merge(Host, "h1", {"spec": {"decommissioned": True}})
    lost = await site.until(
        Image, "golden", lambda body: (condition_of(body, "Ready") or {}).get("reason") == "HostLost"
    )
    assert "host h1" in (condition_of(lost, "Ready") or {})["message"]
    await site.client.delete(Image, "golden", site.name)
    await site.gone(Image, "golden")


async def test_snapshots_never_exceed_the_quota(site: Site) -> None:
    """Of images asked for at once as many are begun as the quota allows; a deleted one makes room for another."""
    servers = ["a", "b", "c", "d"]
    await site.host("h1", memory="64Gi")
    await site.basics(quota={"snapshots": 2})
    for server in servers:
        await site.server(server)
        await site.report(server, "h1")
    for server in servers:
        spec = {"server": {"name": server}, "type": "CreateImage", "createImage": {"name": f"of-{server}"}}
        await site.create(ServerAction, f"copy-{server}", spec)
    phases = ("Running", "Failed")
    bodies = [
        await site.until(ServerAction, f"copy-{server}", lambda body: (body.get("status") or {}).get("phase") in phases)
        for server in servers
    ]
    failed = [body["status"] for body in bodies if body["status"]["phase"] == "Failed"]
    said = "quota: 2 of 2 snapshots are in use"
    remedy = "transient: ask again when snapshots are deleted or the quota is raised"
    assert [(status["reason"], status["message"]) for status in failed] == 2 * [("QuotaExceeded", f"{said}; {remedy}")]
    await site.quota_shown("snapshots", "2/2")
    begun = [body["spec"]["server"]["name"] for body in bodies if body["status"]["phase"] == "Running"]
    images = {body["metadata"]["name"] for body in (await site.client.list(Image, site.name))[0]}
    assert {f"of-{server}" for server in begun} == {name for name in images if name.startswith("of-")}
    await site.client.delete(Image, f"of-{begun[0]}", site.name)
    await site.client.remove_finalizer(Image, f"of-{begun[0]}", FINALIZER, site.name)
    await site.quota_shown("snapshots", "1/2")
    again = next(body["spec"]["server"]["name"] for body in bodies if body["status"]["phase"] == "Failed")
    spec = {"server": {"name": again}, "type": "CreateImage", "createImage": {"name": f"of-{again}"}}
    await site.create(ServerAction, "again", spec)
    await site.until(ServerAction, "again", lambda body: (body.get("status") or {}).get("phase") == "Running")
    await site.quota_shown("snapshots", "2/2")
