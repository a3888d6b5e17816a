"""Hosts that are kept free, given up, or gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kumulus_api import FINALIZER, Host, NetworkEndpoints, Port, Server
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.audit import AuditLog
from kumulus_lab.testing.site import Object, Site


def _ports_in(endpoints: Object) -> list[str]:
    return sorted(item["port"] for item in endpoints["spec"].get("endpoints", []))


async def _two_hosts(site: Site, alive: str, dead: str) -> None:
    """Have a server that runs on each of two hosts."""
    await site.host(alive, memory="8Gi", tunnel="192.0.2.1")
    await site.host(dead, memory="8Gi", tunnel="192.0.2.2")
    await site.basics()
    for host in (alive, dead):
        await site.server(f"on-{host}", placement={"host": host})
        await site.report(f"on-{host}", host)
    both = [f"on-{alive}-default", f"on-{dead}-default"]
    await site.until(NetworkEndpoints, "net-0", lambda body: _ports_in(body) == sorted(both))


async def test_a_dead_host_that_is_given_up_is_forgotten(site: Site, plane: ControlPlane) -> None:
    """Ports of a silent host stay as they are until it is decommissioned; then other hosts forget them."""
    await _two_hosts(site, "ha", "hb")
    site.silence("hb")
    await site.condition(Server, "on-hb", "Ready", "Unknown", "HostSilent")
    port = await site.get(Port, "on-hb-default")
    assert (port["status"]["wired"], port["status"]["host"]) == (True, "hb")
    await site.client.patch_merge(Host, "hb", {"spec": {"decommissioned": True}})
    port = await site.until(Port, "on-hb-default", lambda body: not body["status"].get("wired"))
    assert "host" not in port["status"]
    await site.until(NetworkEndpoints, "net-0", lambda body: _ports_in(body) == ["on-ha-default"])
    port = await site.get(Port, "on-ha-default")
    assert (port["status"]["wired"], port["status"]["host"]) == (True, "ha")
    audit = AuditLog(plane.audit_log)
    await asyncio.sleep(2)
    told = ("ports", "servers", "networkendpoints")
    assert [str(write) for write in audit.writes(site.name) if write.resource in told] == []


async def test_a_host_whose_object_is_gone_is_forgotten_when_it_is_silent(site: Site) -> None:
    """A Host that is deleted while its agent speaks proves nothing; when it is silent as well, its ports are freed."""
    await _two_hosts(site, "hc", "hd")
    await site.client.delete(Host, "hd")
    await site.until(NetworkEndpoints, "net-0", lambda body: _ports_in(body) == ["on-hc-default"])
    assert (await site.get(Port, "on-hd-default"))["status"]["wired"] is True
    site.silence("hd")
    port = await site.until(Port, "on-hd-default", lambda body: not body["status"].get("wired"))
    assert "host" not in port["status"]
    await site.condition(Server, "on-hd", "Ready", "Unknown", "HostSilent")


async def test_a_server_of_a_host_that_was_given_up_is_revoked_and_goes(site: Site) -> None:
    """A deleted server waits for its silent host's agent; decommissioned, the host is told for good not to run it."""
    await _two_hosts(site, "he", "hf")
    instance = (await site.assigned(Server, "on-hf"))["instanceID"]
    site.silence("hf")
    await site.condition(Server, "on-hf", "Ready", "Unknown", "HostSilent")
    await site.client.delete(Server, "on-hf", site.name)
    await asyncio.sleep(1)
    assert FINALIZER in (await site.get(Server, "on-hf"))["metadata"]["finalizers"]
    await site.client.patch_merge(Host, "hf", {"spec": {"decommissioned": True}})
    await site.gone(Server, "on-hf")
    host = await site.client.get(Host, "hf")
    assert host is not None
    assert host["spec"]["revoked"] == [{"instanceID": instance, "epoch": 1}]


@pytest.mark.parametrize(
    ("spec", "why"),
    [({"schedulable": False}, "not schedulable"), ({"maintenance": True}, "in maintenance")],
)
async def test_a_host_that_is_kept_free_gets_no_server(site: Site, spec: dict[str, Any], why: str) -> None:
    """Servers stay away from a host that its administrator keeps free, and come when it is given back."""
    await site.host("hg", memory="8Gi")
    await site.basics()
    await site.server("before")
    await site.assigned(Server, "before")
    await site.client.patch_merge(Host, "hg", {"spec": spec})
    name = await _first_refused(site)
    assert f"no valid host out of 1: 1 {why}" in await site.refused(name, "NoValidHost")
    assert (await site.assignment("before") or {})["host"] == "hg"
    await site.client.patch_merge(Host, "hg", {"spec": {name: not value for name, value in spec.items()}})
    assert (await site.assigned(Server, name))["host"] == "hg"


async def _first_refused(site: Site) -> str:
    """Make servers until one is refused, and give its name: of Hosts the operator hears by another watch."""
    for name in (f"after{number}" for number in range(5)):
        await site.server(name)
        body = await site.until(Server, name, lambda body: bool(body["spec"].get("assignment") or body.get("status")))
        if "assignment" not in body["spec"]:
            return name
    raise AssertionError("all were placed")


async def test_a_decommissioned_host_gets_no_server(site: Site) -> None:
    """A host that was given up is no valid host, though its agent still speaks."""
    await site.host("hh", memory="8Gi")
    await site.basics()
    await site.client.patch_merge(Host, "hh", {"spec": {"decommissioned": True}})
    assert "1 decommissioned" in await site.refused(await _first_refused(site), "NoValidHost")
