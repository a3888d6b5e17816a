"""Volumes for several servers: who has them, and what is refused; the agents' word is the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from kumulus_api import FINALIZER, Server, Volume, VolumeBackup, VolumeClass, VolumeSnapshot
from kumulus_lab.testing.site import AGENT, Site

Object = dict[str, Any]
DATA = [{"name": "data", "volume": {"name": "data"}}]
GIB = 1 << 30


@pytest.fixture
async def several(site: Site) -> AsyncIterator[str]:
    """A class whose volumes several servers may have."""
    spec = {"driver": "Shared", "shared": {"folder": "/srv/several"}, "multiAttach": True}
    await site.client.apply(VolumeClass, {"metadata": {"name": "several"}, "spec": spec}, manager="test")
    yield "several"
    await site.client.delete(VolumeClass, "several")


async def told(site: Site, **status: Any) -> None:
    """Tell what the agent of the volume's host tells."""
    body = {"metadata": {"name": "data", "namespace": site.name}, "status": status}
    await site.client.apply_status(Volume, body, manager=AGENT)


async def place(site: Site) -> Object:
    found: Object = (await site.get(Volume, "data"))["spec"]["assignment"]
    return found


async def held_by(site: Site, *servers: str) -> Object:
    """Wait until exactly these servers have the volume, the first of them as ever; give its assignment."""

    def holds(body: Object) -> bool:
        given = body["spec"].get("assignment") or {}
        first = [given["attachedTo"]] if "attachedTo" in given else []
        return bool(given) and [*first, *given.get("alsoAttachedTo", [])] == list(servers)

    found: Object = (await site.until(Volume, "data", holds))["spec"]["assignment"]
    return found


async def let_go(site: Site, server: str) -> None:
    """Take the volume away from a server, and tell, as its agent does, that it is unplugged."""
    await site.client.patch_merge(Server, server, {"spec": {"volumes": []}}, site.name)
    body = await site.get(Server, server)
    gone = [item["volumeID"] for item in body["spec"]["assignment"]["volumes"]]
    status = (body.get("status") or {}) | {"observedGeneration": body["metadata"]["generation"], "detached": gone}
    at = {"metadata": {"name": server, "namespace": site.name}, "status": status}
    await site.client.apply_status(Server, at, manager=AGENT)


async def both(site: Site, near: str, far: str, **quota: Any) -> Object:
    """Have a volume that server `a` on one host and server `b` on another have, and know; give its assignment."""
    for host in (near, far):
        await site.host(host, memory="16Gi")
    await site.basics(quota={"volumes": 1, "gigabytes": 2} | quota)
    await site.create(Volume, "data", {"size": "1Gi", "volumeClass": {"name": "several"}}, (FINALIZER,))
    await site.server("a", volumes=DATA, placement={"host": near})
    await held_by(site, "a")
    await told(site, usedBytes=4096, sizeBytes=GIB)
    await site.server("b", volumes=DATA, placement={"host": far})
    given = await held_by(site, "a", "b")
    for server in "ab":
        await site.until(Server, server, lambda body: bool((body["spec"].get("assignment") or {}).get("volumes")))
    return given


@pytest.mark.usefixtures("several")
async def test_two_servers_have_it_and_one_lets_go(site: Site) -> None:
    """Its host makes it for the first and stays; each that has it is told, counted once; who lets go is off, no other.

    A second one waits until it is made; the volume goes when the last has let go of it.
    """
    await site.host("m1", memory="16Gi")
    await site.host("m2", memory="16Gi")
    await site.basics(quota={"volumes": 1, "gigabytes": 2})
    await site.create(Volume, "data", {"size": "1Gi", "volumeClass": {"name": "several"}}, (FINALIZER,))
    await site.server("a", volumes=DATA, placement={"host": "m1"})
    given = await held_by(site, "a")
    assert (given["host"], given["multiAttach"], given["folder"]) == ("m1", True, "/srv/several")
    await site.server("b", volumes=DATA, placement={"host": "m2"})
    assert "host m1 makes it" in await site.refused("b", "VolumeNotReady")
    await told(site, usedBytes=4096, sizeBytes=GIB)
    assert (await held_by(site, "a", "b"))["host"] == "m1"
    for server, host in (("a", "m1"), ("b", "m2")):
        assigned = await site.assigned(Server, server)
        (volume,) = assigned["volumes"]
        assert (assigned["host"], volume["multiAttach"], volume["shared"]) == (host, True, True)
    said = await site.until(
        Volume, "data", lambda b: "servers a, b" in str((b.get("status") or {}).get("conditions", []))
    )
    assert said["status"]["conditions"][0]["reason"] == "InUse"
    await site.quota_shown("volumes", "1/1")
    await site.quota_shown("gigabytes", "1/2")

    await let_go(site, "b")
    await held_by(site, "a")
    assert (await site.assignment("a") or {})["volumes"][0]["name"] == "data"
    await site.client.patch_merge(Server, "b", {"spec": {"volumes": DATA}}, site.name)
    await held_by(site, "a", "b")
    await site.client.delete(Volume, "data", site.name)
    await site.delete_server("a")
    assert (await held_by(site, "b"))["host"] == "m1"
    assert (await site.get(Volume, "data"))["metadata"]["finalizers"] == [FINALIZER]
    await site.delete_server("b")
    await held_by(site)
    await site.client.remove_finalizer(Volume, "data", FINALIZER, site.name)  # as the agent does
    await site.gone(Volume, "data")


@pytest.mark.usefixtures("several")
async def test_all_are_told_of_growth_also_when_its_host_is_silent(site: Site) -> None:
    """A size is told to each server when its host says that it is so; where that is silent another one is asked.

    The servers stay where they are, and have it as before.
    """
    await both(site, "m3", "m4")
    await site.client.patch_merge(Volume, "data", {"spec": {"size": "1536Mi"}}, site.name)
    await site.until(Volume, "data", lambda body: body["spec"]["assignment"]["size"] == "1536Mi")
    for server in "ab":
        assert (await site.assignment(server) or {})["volumes"][0]["size"] == "1Gi"
    await told(site, usedBytes=4096, sizeBytes=1536 << 20)
    for server in "ab":
        await site.until(Server, server, lambda b: b["spec"]["assignment"]["volumes"][0]["size"] == "1536Mi")
    assert (await place(site))["host"] == "m3"

    site.silence("m3")
    await site.client.patch_merge(Volume, "data", {"spec": {"size": "2Gi"}}, site.name)
    await site.until(Volume, "data", lambda body: body["spec"]["assignment"]["host"] == "m4")
    assert (await held_by(site, "a", "b"))["size"] == "2Gi"
    assert [(await site.assignment(name) or {})["host"] for name in "ab"] == ["m3", "m4"]


@pytest.mark.usefixtures("several")
async def test_what_needs_one_writer_is_refused(site: Site) -> None:
    """No server boots from it; it is not snapshotted, backed up, copied, nor given another class while it is held."""
    await both(site, "m5", "m6", volumes=2, gigabytes=4)
    await site.server("c", volumes=DATA, bootVolume="data")
    assert "none boots from it" in await site.refused("c", "VolumeNotBootable")
    await site.create(VolumeSnapshot, "snap", {"volume": {"name": "data"}}, (FINALIZER,))
    await site.condition(VolumeSnapshot, "snap", "Ready", "False", "MultiAttach")
    await site.create(VolumeBackup, "backup", {"source": {"volume": {"name": "data"}}}, (FINALIZER,))
    await site.condition(VolumeBackup, "backup", "Ready", "False", "MultiAttach")
    await site.create(Volume, "copy", {"size": "1Gi", "source": {"volume": {"name": "data"}}}, (FINALIZER,))
    await site.condition(Volume, "copy", "Ready", "False", "MultiAttach")
    shared = {"driver": "Shared", "shared": {"folder": "/srv/one"}}
    await site.client.apply(VolumeClass, {"metadata": {"name": "one"}, "spec": shared}, manager="test")
    try:
        await site.client.patch_merge(Volume, "data", {"spec": {"volumeClass": {"name": "one"}}}, site.name)
        refused = await site.condition(Volume, "data", "Retyped", "False", "InUse")
        assert "servers a, b have the volume" in refused["message"]
        for server in "ab":
            await site.delete_server(server)
        # Then it is copied into files of the other kind, and its snapshot waits for that.
        moving = await site.until(Volume, "data", lambda b: "moving" in b["spec"]["assignment"])
        assert "multiAttach" not in moving["spec"]["assignment"]["moving"]
        request = moving["spec"]["assignment"]["moving"]["request"]
        await told(site, usedBytes=4096, sizeBytes=GIB, moved=request)
        done = await site.until(Volume, "data", lambda b: b["spec"]["assignment"]["volumeClass"] == "one")
        assert "multiAttach" not in done["spec"]["assignment"]
        await told(site, usedBytes=4096, sizeBytes=GIB, moved=request, cleared=request)
        await site.condition(VolumeSnapshot, "snap", "Ready", "False", "Taking")
    finally:
        await site.client.delete(VolumeClass, "one")
