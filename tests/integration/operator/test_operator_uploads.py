"""Images that users send, as the operator has them: a host waits for the bytes within the quota, another if it goes."""

from __future__ import annotations

from typing import Any

from kumulus_api import FINALIZER, Host, Image, Server
from kumulus_lab.testing.site import AGENT, Site, condition_of
from kumulus_runtime.conditions import set_condition

DIGEST = "sha256:" + "7" * 64


async def sent(site: Site, name: str, size: str = "") -> None:
    """Make an Image for an upload, as the chart's policy makes it."""
    upload = {"size": size} if size else {}
    await site.create(Image, name, {"source": {"upload": upload}, "format": "raw"}, (FINALIZER,))


async def says(site: Site, name: str, reason: str) -> dict[str, Any]:
    """Wait for a reason; give the Image."""
    return await site.until(Image, name, lambda body: (condition_of(body, "Ready") or {}).get("reason") == reason)


async def keeps(site: Site, host: str, *images: str) -> None:
    """Write what the agent of a host writes of what it keeps."""
    kept = [{"namespace": site.name, "name": image, "digest": DIGEST} for image in images]
    await site.client.patch_merge(Host, host, {"status": {"images": kept}}, subresource="status")


async def whole(site: Site, image: dict[str, Any]) -> None:
    """Write what the agent writes when the bytes are there."""
    metadata = {name: image["metadata"][name] for name in ("name", "namespace", "uid")}
    conditions = set_condition([], "Ready", True, "Imported", "", 1)
    facts = {"digest": DIGEST, "size": 1 << 30, "virtualSize": 1 << 30}
    await site.client.apply_status(
        Image, {"metadata": metadata, "status": {"conditions": conditions} | facts}, manager=AGENT
    )


async def goes(site: Site, name: str) -> None:
    """Delete an Image, and do what its host does then."""
    await site.client.delete(Image, name, site.name)
    await site.client.remove_finalizer(Image, name, FINALIZER, site.name)
    await site.gone(Image, name)


async def test_a_host_waits_for_the_bytes(site: Site) -> None:
    """The condition has the command; servers start from what was sent, and get it from the host that holds it."""
    await site.host("up1")
    await site.basics()
    await sent(site, "golden")
    image = await says(site, "golden", "WaitingForUpload")
    command = f"kubectl kumulus image upload FILE --name golden --namespace {site.name}"
    assert command in (condition_of(image, "Ready") or {})["message"]
    assert image["status"]["importHost"]
    await whole(site, image)
    await site.server("web", image={"name": "golden"})
    given = (await site.assigned(Server, "web"))["image"]
    assert (given["url"], given["digest"]) == (f"kumulus-image:///{site.name}/golden", DIGEST)
    await goes(site, "golden")


async def test_uploads_never_exceed_the_quota(site: Site) -> None:
    """No host is named for what has no room; a deleted image makes room; without a size nothing is admitted."""
    await site.host("up2")
    await site.basics(quota={"imageGigabytes": 2})
    await sent(site, "a", "1536Mi")
    await says(site, "a", "WaitingForUpload")
    await site.quota_shown("imageGigabytes", "2/2")
    await sent(site, "b", "512Mi")  # with the image of 1 KiB that every project here has it is too much
    await sent(site, "c")
    waiting = await says(site, "b", "QuotaExceeded")
    assert "importHost" not in waiting["status"]
    unsaid = await says(site, "c", "QuotaExceeded")
    assert "spec.source.upload.size is needed" in (condition_of(unsaid, "Ready") or {})["message"]
    await goes(site, "a")
    await says(site, "b", "WaitingForUpload")
    await site.quota_shown("imageGigabytes", "1/2")
    await goes(site, "b")
    for name in ("c", "tiny"):
        await site.client.delete(Image, name, site.name)
        await site.gone(Image, name)  # no host has anything of it: the operator lets it go
    await site.quota_shown("imageGigabytes", "0/2")


async def test_another_host_waits_when_one_is_silent(site: Site) -> None:
    """Before all bytes have come another host is named for one that goes silent; afterwards the loss is told."""
    await site.host("up3")
    await site.host("up4")
    await site.basics()
    await sent(site, "golden")
    first = (await says(site, "golden", "WaitingForUpload"))["status"]["importHost"]
    site.silence(first)
    moved = await site.until(Image, "golden", lambda body: body["status"]["importHost"] != first)
    second = moved["status"]["importHost"]
    assert f"host {second} waits" in (condition_of(moved, "Ready") or {})["message"]
    await whole(site, moved)
    site.silence(second)
    await site.client.patch_merge(Host, second, {"spec": {"decommissioned": True}})
    lost = await says(site, "golden", "HostLost")
    assert lost["status"]["importHost"] == second
    await site.client.delete(Image, "golden", site.name)
    await site.gone(Image, "golden")


async def test_an_upload_outlives_the_host_that_took_it(site: Site) -> None:
    """Two hosts keep what was sent; with one left the image stays Ready, and its deletion waits for that one."""
    await site.host("up5")
    await site.host("up6")
    await site.basics()
    await sent(site, "golden")
    image = await says(site, "golden", "WaitingForUpload")
    first = image["status"]["importHost"]
    assert sorted(image["spec"]["assignment"]["hosts"]) == ["up5", "up6"]
    await whole(site, image)
    for host in ("up5", "up6"):
        await keeps(site, host, "golden")
    await site.until(Image, "golden", lambda body: (condition_of(body, "Replicated") or {}).get("status") == "True")
    second = ({"up5", "up6"} - {first}).pop()
    site.silence(first)
    await site.client.patch_merge(Host, first, {"spec": {"decommissioned": True}})
    left = await site.until(Image, "golden", lambda body: body["status"]["replicas"] == [second])
    assert (condition_of(left, "Ready") or {})["status"] == "True"
    site.silence(second)
    await site.client.patch_merge(Host, second, {"spec": {"decommissioned": True}})
    await says(site, "golden", "HostLost")
    await site.host(second)
    found = await says(site, "golden", "Imported")
    assert (condition_of(found, "Ready") or {})["status"] == "True"
    await site.client.delete(Image, "golden", site.name)
    await site.until(Image, "golden", lambda body: body["status"]["replicas"] == [second])
    await keeps(site, second)
    await site.gone(Image, "golden")
