"""Deletions that are held while something depends on them, and deletions that harm nothing."""

from __future__ import annotations

import asyncio

from kumulus_api import FINALIZER, IN_USE, Flavor, Image, KeyPair, Network, Port, Project, Server, Volume
from kumulus_api.testing import make_object
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.audit import AuditLog
from kumulus_lab.testing.site import Site
from kumulus_runtime.resources import NAMESPACE


async def test_a_network_in_use_is_held(site: Site) -> None:
    """A network that is deleted says what uses it, goes on serving that, takes nothing new, and goes with the last."""
    await site.host("d1", memory="64Gi")
    await site.basics()
    await site.network("lan", "10.1.0.0/24", finalizers=(IN_USE,))
    interface = [{"name": "eth0", "network": {"name": "lan"}}]
    for name in ("a", "b"):
        await site.server(name, networks=interface)
        await site.assigned(Server, name)
    await site.port("mine", "lan")
    await site.assigned(Port, "mine")
    await site.client.delete(Network, "lan", site.name)
    held = await site.condition(Network, "lan", "Ready", "False", "InUse")
    assert held["message"] == (
        "deletion: 2 servers (a, b), 1 port (mine) still use it; transient: the network goes when they are deleted"
    )
    await site.server("late", networks=interface)
    await site.refused("late", "NetworkNotFound")
    await site.delete_server("a")
    await site.client.remove_finalizer(Port, "mine", FINALIZER, site.name)
    await site.client.delete(Port, "mine", site.name)
    await site.until(Network, "lan", lambda body: "1 server (b) still uses it" in str(body["status"]))
    await site.delete_server("b")
    await site.gone(Network, "lan")


async def test_an_unused_network_goes_at_once(site: Site) -> None:
    """A network that nothing uses is deleted without a word."""
    await site.basics()
    await site.network("lan", "10.1.0.0/24", finalizers=(IN_USE,))
    await site.client.delete(Network, "lan", site.name)
    await site.gone(Network, "lan")


async def test_a_project_with_content_is_held(site: Site) -> None:
    """A project that is deleted says what is in it, takes no new server, and goes when it is empty."""
    await site.host("d2", memory="64Gi")
    await site.basics()
    await site.client.patch_merge(Project, site.name, {"metadata": {"finalizers": [IN_USE]}})
    await site.create(Volume, "data", {"size": "1Gi"}, (FINALIZER,))
    await site.server("web")
    await site.assigned(Server, "web")
    await site.client.delete(Project, site.name)
    held = await site.condition(Project, site.name, "Ready", "False", "NotEmpty")
    assert held["message"] == (
        "deletion: 1 server (web), 1 volume (data), 1 image (tiny), 1 network (net) are in it; "
        "transient: the project goes when they are deleted"
    )
    await site.server("late")
    assert "belongs to no Project" in await site.refused("late", "NotInProject")
    namespace = await site.client.get(NAMESPACE, site.name)
    assert namespace is not None
    assert "deletionTimestamp" not in namespace["metadata"]
    for name in ("web", "late"):
        await site.delete_server(name)
    for kind, name in ((Volume, "data"), (Image, "tiny"), (Network, "net")):
        await site.client.delete(kind, name, site.name)
        await site.gone(kind, name)
    await site.gone(Project, site.name)


async def test_a_project_that_never_had_its_namespace_goes_at_once(site: Site) -> None:
    """What lies in a foreign namespace of the same name is not the project's content and does not hold it."""
    await site.client.create(NAMESPACE, {"metadata": {"name": site.name}})
    await site.create(KeyPair, "alice", make_object(KeyPair)["spec"])
    await site.create(Image, "tiny", make_object(Image)["spec"])
    await site.client.create(Project, {"metadata": {"name": site.name, "finalizers": [IN_USE]}, "spec": {}})
    await site.condition(Project, site.name, "Ready", "False", "NamespaceForeign")
    await site.client.delete(Project, site.name)
    await site.gone(Project, site.name)


async def test_what_a_server_was_made_from_may_go(site: Site, plane: ControlPlane) -> None:
    """Deleting flavor, image and key pair changes nothing of the servers that were made with them."""
    await site.host("d3", memory="64Gi")
    await site.basics()
    await site.create(KeyPair, "alice", make_object(KeyPair)["spec"])
    await site.server("web", keyPair={"name": "alice"})
    await site.assigned(Server, "web")
    await site.report("web", "d3")
    before = await site.get(Server, "web")
    audit = AuditLog(plane.audit_log)
    await site.client.delete(Flavor, "small")
    await site.client.delete(Image, "tiny", site.name)
    await site.client.delete(KeyPair, "alice", site.name)
    assert "flavor small was not found" in await _refused_next(site)
    await asyncio.sleep(1)
    assert await site.get(Server, "web") == before
    written = {write.name for write in audit.writes(site.name) if write.resource in ("servers", "ports")}
    assert all(name.startswith("next-") for name in written)


async def _refused_next(site: Site) -> str:
    """Make servers until one is refused, as servers and flavors are watched apart; give what it is told."""
    for name in (f"next-{number}" for number in range(20)):
        await site.server(name, keyPair={"name": "alice"})
        body = await site.until(Server, name, lambda body: body["spec"].get("assignment") or body.get("status"))
        if not body["spec"].get("assignment"):
            return await site.refused(name, "FlavorNotFound")
    raise AssertionError("twenty servers were placed with a flavor that is gone")
