"""Images of other projects as the operator judges them: two words, one answer, nothing that runs is touched."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kumulus_api import FINALIZER, Image, ImageAcceptance, Project, Server, ServerAction
from kumulus_lab.testing.site import AGENT, Site, condition_of
from kumulus_runtime.conditions import set_condition

DIGEST = "sha256:" + "7" * 64
Object = dict[str, Any]


@pytest.fixture
async def owner(site: Site) -> Any:
    """A second project, which shares images with the first; the first has a host and what servers need."""
    await site.host("h1", memory="64Gi", vcpus=32)
    await site.basics()
    owner = Site(site.client, f"{site.name}-owner")
    await owner.client.create(Project, {"metadata": {"name": owner.name}, "spec": {}})
    await owner.condition(Project, owner.name, "Ready", "True")
    yield owner
    for image in (await owner.client.list(Image, owner.name))[0]:
        await owner.client.delete(Image, image["metadata"]["name"], owner.name)


async def imported(site: Site, name: str = "golden", *, size: int = 1024, **spec: Any) -> Object:
    """Make an image in a project and have it imported."""
    await site.create(Image, name, {"source": {"url": f"http://images.test/{name}"}, "format": "qcow2"} | spec)
    return await told(site, name, size)


async def told(site: Site, name: str, size: int = 1024, reason: str = "Imported") -> Object:
    """Write what the agent of the import host writes."""
    image = await site.until(Image, name, lambda body: "importHost" in (body.get("status") or {}))
    status = {"digest": DIGEST, "size": size, "virtualSize": 1024}
    status |= {"conditions": set_condition([], "Ready", True, reason, "", 1)}
    metadata = {name: image["metadata"][name] for name in ("name", "namespace", "uid")}
    return await site.client.apply_status(Image, {"metadata": metadata, "status": status}, manager=AGENT)


async def removed(site: Site, name: str) -> None:
    """Delete an image, which stays until the agent that was told of it lets it go."""
    await site.client.delete(Image, name, site.name)
    assert await site.client.get(Image, name, site.name) is not None
    await site.client.remove_finalizer(Image, name, FINALIZER, site.name)
    await site.gone(Image, name)


async def seen(site: Site, name: str) -> None:
    """Wait until the operator has seen an image as it is: it repeats Ready with its generation."""

    def holds(body: Object) -> bool:
        return bool((condition_of(body, "Ready") or {}).get("observedGeneration") == body["metadata"]["generation"])

    await site.until(Image, name, holds)


async def share(owner: Site, *members: str) -> None:
    """Offer the image to projects, or take it back."""
    spec = {"visibility": "Shared", "members": list(members)}
    await owner.client.patch_merge(Image, "golden", {"spec": spec}, owner.name)


def named(owner: Site, name: str = "golden") -> Object:
    """Give the reference by which other projects name it."""
    return {"name": name, "namespace": owner.name}


async def accept(site: Site, owner: Site) -> None:
    """Accept the image."""
    await site.create(ImageAcceptance, "golden", {"image": named(owner)})


async def original(site: Site) -> Object:
    """Wait until it is known what the image `mine` is made of."""
    body = await site.until(Image, "mine", lambda body: "original" in body["spec"])
    found: Object = body["spec"]["original"]
    return found


async def closed(site: Site, action: str) -> Object:
    """Wait until an action has failed."""
    body = await site.until(ServerAction, action, lambda body: (body.get("status") or {}).get("phase") == "Failed")
    status: Object = body["status"]
    return status


async def rebuilt(site: Site, action: str, server: str, image: Object | None) -> None:
    """Ask for a Rebuild."""
    rebuild = {"rebuild": {"image": image}} if image is not None else {}
    await site.create(ServerAction, action, {"server": {"name": server}, "type": "Rebuild"} | rebuild)


async def test_two_words_let_a_server_in_and_one_lets_no_other(site: Site, owner: Site) -> None:
    """A server waits with one text until all words are given; taken back, it stays as it is and others wait."""
    await site.server("web", image=named(owner))
    absent = await site.refused("web", "ImageNotFound")
    await imported(owner)
    await accept(site, owner)
    await site.condition(ImageAcceptance, "golden", "Ready", "False", "NotShared")
    await site.server("private", image=named(owner))
    assert await site.refused("private", "ImageNotFound") == absent
    await share(owner, "third", site.name)
    assert (await site.assigned(Server, "web"))["image"]["digest"] == DIGEST
    await site.assigned(Server, "private")
    accepted = await site.until(ImageAcceptance, "golden", lambda body: "image" in (body.get("status") or {}))
    assert accepted["status"]["image"]["digest"] == DIGEST
    await owner.until(Image, "golden", lambda body: body["status"].get("acceptedBy") == [site.name])
    await site.report("web", "h1")
    before = await site.assignment("web")
    await share(owner, "third")
    await owner.until(Image, "golden", lambda body: not body["status"].get("acceptedBy"))
    gone = await site.until(ImageAcceptance, "golden", lambda body: "image" not in body["status"])
    assert (condition_of(gone, "Ready") or {})["reason"] == "NotShared"
    await site.server("late", image=named(owner))
    assert await site.refused("late", "ImageNotFound") == absent
    for action, image in (("named", named(owner)), ("same", None)):
        await rebuilt(site, action, "web", image)
        status = await closed(site, action)
        assert (status["reason"], status["message"]) == ("ImageNotFound", absent)
    await share(owner, site.name)
    await site.assigned(Server, "late")
    await owner.until(Image, "golden", lambda body: body["status"].get("acceptedBy") == [site.name])
    await site.client.delete(ImageAcceptance, "golden", site.name)
    await owner.until(Image, "golden", lambda body: not body["status"].get("acceptedBy"))
    await site.server("later", image=named(owner))
    assert await site.refused("later", "ImageNotFound") == absent
    await owner.client.delete(Image, "golden", owner.name)
    await rebuilt(site, "deleted", "web", None)
    assert (await closed(site, "deleted"))["message"] == absent
    assert await site.assignment("web") == before


async def test_a_deactivated_image_stops_who_comes_and_nobody_else(site: Site, owner: Site) -> None:
    """New servers and rebuilds say ImageDeactivated and go on when it is active again; what runs is not touched."""
    await imported(owner, visibility="Public")
    await site.server("web", image=named(owner))
    await site.assigned(Server, "web")
    await site.report("web", "h1")
    before = await site.get(Server, "web")
    await owner.client.patch_merge(Image, "golden", {"spec": {"active": False}}, owner.name)
    await seen(owner, "golden")
    await site.server("late", image=named(owner))
    message = await site.refused("late", "ImageDeactivated")
    assert message.startswith(f"image: {owner.name}/golden is deactivated; transient")
    for action, image in (("named", named(owner)), ("same", None)):
        await rebuilt(site, action, "web", image)
        assert (await closed(site, action))["reason"] == "ImageDeactivated"
    await owner.client.patch_merge(Image, "golden", {"spec": {"active": True}}, owner.name)
    await site.assigned(Server, "late")
    after = await site.get(Server, "web")
    assert (after["spec"], after["status"]) == (before["spec"], before["status"])
    await rebuilt(site, "again", "web", None)
    await site.until(ServerAction, "again", lambda body: (body.get("status") or {}).get("phase") == "Running")


async def test_a_flavor_too_small_is_refused(site: Site, owner: Site) -> None:
    """What an image needs of disk and memory is said with what the flavor has."""
    await imported(owner, visibility="Public", minMemory="2Gi")
    await imported(owner, "large", visibility="Public", minDisk="2Gi")
    await site.server("memory", image=named(owner))
    await site.server("disk", image=named(owner, "large"))
    assert "needs 2Gi of memory, flavor small has 1Gi" in await site.refused("memory", "FlavorMemoryTooSmall")
    assert "needs a disk of 2147483648 bytes" in await site.refused("disk", "FlavorDiskTooSmall")
    await owner.client.patch_merge(Image, "golden", {"spec": {"minMemory": "1Gi"}}, owner.name)
    assert (await site.assigned(Server, "memory"))["image"]["minMemory"] == "1Gi"


async def test_a_copy_of_a_shared_image_lives_on(site: Site, owner: Site) -> None:
    """A copy waits for both words, is given to who has the bytes, and serves servers when the original is gone."""
    await imported(owner)
    await site.create(Image, "mine", {"source": {"image": named(owner)}, "format": "qcow2"})
    await site.condition(Image, "mine", "Ready", "False", "ImageNotFound")
    await share(owner, site.name)
    await accept(site, owner)
    assert await original(site) == {"digest": DIGEST}
    copied = await told(site, "mine")
    assert (copied["status"]["importHost"], copied["spec"]["assignment"]["hosts"]) == ("h1", ["h1"])
    await owner.client.delete(Image, "golden", owner.name)
    await owner.gone(Image, "golden")
    await site.server("web", image={"name": "mine"})
    image = (await site.assigned(Server, "web"))["image"]
    assert (image["url"], image["digest"]) == (f"kumulus-image:///{site.name}/mine", DIGEST)


async def test_a_copy_of_what_a_host_holds_is_held(site: Site, owner: Site) -> None:
    """The holder of a server's image is told of the copy, which stays until that host lets go of it."""
    await site.server("web")
    await site.report("web", "h1")
    spec = {"server": {"name": "web"}, "type": "CreateImage", "createImage": {"name": "golden"}}
    await site.create(ServerAction, "copy", spec)
    await told(site, "golden", reason="Copied")
    await site.create(Image, "mine", {"source": {"image": {"name": "golden"}}, "format": "qcow2"}, (FINALIZER,))
    assert await original(site) == {"digest": DIGEST}
    assert (await told(site, "mine"))["status"]["importHost"] == "h1"
    await site.server("second", image={"name": "mine"})
    assert (await site.assigned(Server, "second"))["image"]["url"] == f"kumulus-image:///{site.name}/mine"
    for name in ("golden", "mine"):
        await removed(site, name)


async def test_a_copy_that_was_never_begun_goes_at_once(site: Site, owner: Site) -> None:
    """What waits for its original holds nothing, and its project is not kept by it."""
    await site.create(Image, "mine", {"source": {"image": named(owner)}, "format": "qcow2"}, (FINALIZER,))
    await site.condition(Image, "mine", "Ready", "False", "ImageNotFound")
    await site.client.delete(Image, "mine", site.name)
    await site.gone(Image, "mine")


async def test_images_never_exceed_the_quota(site: Site) -> None:
    """Of images at once as many are begun as the quota allows; a deleted or measured one decides on the next."""
    await site.host("h1")
    await site.basics(quota={"images": 3, "imageGigabytes": 2})
    names = [f"i{number}" for number in range(4)]
    for name in names:
        await site.create(Image, name, {"source": {"url": f"http://images.test/{name}"}, "format": "qcow2"})

    def decided(body: Object) -> bool:
        reason = (condition_of(body, "Ready") or {}).get("reason")
        return "importHost" in (body.get("status") or {}) or reason == "QuotaExceeded"

    bodies = await asyncio.gather(*(site.until(Image, name, decided) for name in names))
    begun = [body["metadata"]["name"] for body in bodies if "importHost" in body["status"]]
    waiting = sorted(set(names) - set(begun))
    assert (len(begun), len(waiting)) == (2, 2)  # the image `tiny` is the third
    said = (condition_of(await site.get(Image, waiting[0]), "Ready") or {})["message"]
    assert said.startswith(f"quota of project {site.name}: 3 of 3 images are in use; transient")
    await site.quota_shown("images", "3/3")
    await told(site, begun[0], size=3 << 30)
    await site.quota_shown("imageGigabytes", "4/2")
    await site.client.delete(Image, begun[1], site.name)
    await site.quota_shown("images", "2/3")
    bytes_said = "Gi of images are in use"
    await site.until(
        Image, waiting[0], lambda body: bytes_said in str((condition_of(body, "Ready") or {}).get("message"))
    )
    await site.server("web")
    await site.report("web", "h1")
    spec = {"server": {"name": "web"}, "type": "CreateImage", "createImage": {"name": "golden"}}
    await site.create(ServerAction, "copy", spec)
    assert (await closed(site, "copy"))["reason"] == "QuotaExceeded"
    await site.client.delete(Image, begun[0], site.name)
    for name in waiting:
        await site.until(Image, name, lambda body: "importHost" in (body.get("status") or {}))
