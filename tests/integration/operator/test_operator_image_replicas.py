"""Who keeps an image, as the operator decides it: named, replaced after the grace, given back, waited for."""

from __future__ import annotations

from typing import Any

from kumulus_api import FINALIZER, Host, Image
from kumulus_lab.testing.site import AGENT, Site, condition_of
from kumulus_runtime.conditions import set_condition

DIGEST = "sha256:" + "0" * 64
"""Of the image that each site has."""


async def told(site: Site, host: str, *images: str, digest: str = DIGEST) -> None:
    """Write what the agent of a host writes of what it keeps."""
    kept = [{"namespace": site.name, "name": image, "digest": digest} for image in images]
    await site.client.patch_merge(Host, host, {"status": {"images": kept}}, subresource="status")


def named(body: dict[str, Any]) -> list[str]:
    """Give the hosts that are to keep an image."""
    return list((body["spec"].get("assignment") or {}).get("hosts") or [])


def is_replicated(body: dict[str, Any], reason: str = "Replicated") -> bool:
    """Give whether an image says that as many hosts as are wanted have it, or why not."""
    return (condition_of(body, "Replicated") or {}).get("reason") == reason


async def kept(site: Site, *hosts: str) -> list[str]:
    """Make hosts, and have those that are named say that they keep the image; give them."""
    for host in hosts:
        await site.host(host)
    await site.basics()
    image = await site.until(Image, "tiny", lambda body: len(named(body)) == min(2, len(hosts)))
    for host in named(image):
        await told(site, host, "tiny")
    await site.until(Image, "tiny", lambda body: is_replicated(body, "Replicated" if len(hosts) > 1 else "TooFewHosts"))
    return named(image)


async def test_a_silent_host_is_replaced_and_comes_back(site: Site) -> None:
    """After the grace a third host is named, and keeps it; the image is Ready all along; what came back is too much."""
    first, second = await kept(site, "h1", "h2", "h3")
    image = await site.get(Image, "tiny")
    assert image["status"]["replicas"] == sorted([first, second])
    ready = condition_of(image, "Ready") or {}
    assert (ready["status"], ready["observedGeneration"]) == ("True", image["metadata"]["generation"])
    third = ({"h1", "h2", "h3"} - {first, second}).pop()
    site.silence(second)
    image = await site.until(Image, "tiny", lambda body: third in named(body))
    assert named(image) == [first, third, second]
    image = await site.until(Image, "tiny", lambda body: is_replicated(body, "Replicating"))
    assert (condition_of(image, "Ready") or {})["status"] == "True"
    await told(site, third, "tiny")
    await site.until(Image, "tiny", lambda body: named(body) == [first, third] and is_replicated(body))
    await site.host(second)
    image = await site.until(Image, "tiny", lambda body: body["status"]["replicas"] == ["h1", "h2", "h3"])
    assert named(image) == [first, third]
    await told(site, second)
    image = await site.until(Image, "tiny", lambda body: body["status"]["replicas"] == sorted([first, third]))
    ready = condition_of(image, "Ready") or {}
    assert (ready["status"], ready["observedGeneration"]) == ("True", image["metadata"]["generation"])


async def test_a_decommissioned_host_serves_until_it_is_replaced(site: Site) -> None:
    """Another host is named at once; the one that goes stays named until that has the bytes."""
    first, second = await kept(site, "h1", "h2", "h3")
    third = ({"h1", "h2", "h3"} - {first, second}).pop()
    await site.client.patch_merge(Host, first, {"spec": {"decommissioned": True}})
    image = await site.until(Image, "tiny", lambda body: third in named(body))
    assert named(image) == [second, third, first]
    await told(site, third, "tiny")
    await site.until(Image, "tiny", lambda body: named(body) == [second, third])


async def test_a_host_in_maintenance_keeps_what_it_has_and_gets_nothing(site: Site) -> None:
    """Maintenance moves no bytes; a host in it is not named anew; when there are too few hosts it is said."""
    (only,) = await kept(site, "h1")
    await site.client.patch_merge(Host, only, {"spec": {"maintenance": True}})
    await site.host("h2")
    image = await site.until(Image, "tiny", lambda body: named(body) == ["h1", "h2"])
    assert image["status"]["replicas"] == ["h1"]
    await site.create(Image, "other", {"source": {"url": "http://images.test/other"}, "format": "raw"})
    image = await site.until(Image, "other", lambda body: "importHost" in (body.get("status") or {}))
    assert (image["status"]["importHost"], named(image)) == ("h2", ["h2"])


async def outlived(site: Site) -> dict[str, Any]:
    """Have an image of a server on two hosts, of which the one that made it is lost; give what its agent had told."""
    await site.host("h1")
    await site.host("h2")
    source = {"name": "web", "instanceID": "00000000-0000-4000-8000-00000000000a", "host": "h1"}
    source["action"] = "00000000-0000-4000-8000-00000000000b"
    await site.basics()
    await site.create(Image, "golden", {"source": {"server": source}, "format": "qcow2"}, (FINALIZER,))
    image = await site.until(Image, "golden", lambda body: "importHost" in (body.get("status") or {}))
    assert named(image) == ["h1", "h2"]
    status = {"digest": DIGEST, "size": 1, "virtualSize": 1}
    status |= {"conditions": set_condition([], "Ready", True, "Copied", "", image["metadata"]["generation"])}
    body = {"metadata": {"name": "golden", "namespace": site.name}, "status": status}
    await site.client.apply_status(Image, body, manager=AGENT)
    for host in ("h1", "h2"):
        await told(site, host, "golden")
    await site.until(Image, "golden", is_replicated)
    site.silence("h1")
    await site.client.patch_merge(Host, "h1", {"spec": {"decommissioned": True}})
    image = await site.until(Image, "golden", lambda body: named(body) == ["h2"] and is_replicated(body, "TooFewHosts"))
    assert (condition_of(image, "Ready") or {})["status"] == "True"
    return body


async def test_an_image_outlives_the_host_that_made_it(site: Site) -> None:
    """With a replica elsewhere an image of a server stays Ready though its maker never returns; it can be deleted."""
    await outlived(site)
    await site.client.delete(Image, "golden", site.name)
    await site.until(Image, "golden", lambda body: body["status"]["replicas"] == ["h2"])
    await told(site, "h2")
    await site.gone(Image, "golden")


async def test_a_backups_image_is_told_anew_by_who_has_it(site: Site) -> None:
    """An image without status whose maker is lost is not taken for one that never came: another host tells of it."""
    body = await outlived(site)
    nothing = dict.fromkeys(("importHost", "digest", "conditions", "replicas"))
    await site.client.patch_merge(Image, "golden", {"status": nothing}, site.name, subresource="status")
    image = await site.until(Image, "golden", lambda body: body["status"].get("importHost") == "h2")
    assert (condition_of(image, "Ready") or {})["reason"] == "Copying"
    await site.client.apply_status(Image, body, manager=AGENT)
    await site.until(Image, "golden", lambda body: is_replicated(body, "TooFewHosts"))
    await site.client.delete(Image, "golden", site.name)
    await told(site, "h2")
    await site.client.remove_finalizer(Image, "golden", FINALIZER, site.name)
    await site.gone(Image, "golden")


async def test_a_deleted_image_goes_though_a_host_is_away(site: Site) -> None:
    """What can be had anew waits for no host that is silent; what nobody imports goes at once."""
    await site.host("h1")
    await site.basics()
    await site.create(Image, "web", {"source": {"url": "http://images.test/web"}, "format": "raw"}, (FINALIZER,))
    await site.until(Image, "web", lambda body: named(body) == ["h1"])
    await site.client.delete(Image, "web", site.name)
    assert await site.client.get(Image, "web", site.name) is not None
    site.silence("h1")
    await site.gone(Image, "web")
    await site.client.delete(Host, "h1")
    await site.create(Image, "nobody", {"source": {"url": "http://images.test/nobody"}, "format": "raw"}, (FINALIZER,))
    await site.client.delete(Image, "nobody", site.name)
    await site.gone(Image, "nobody")
