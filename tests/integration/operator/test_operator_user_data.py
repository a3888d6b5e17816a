"""Servers that wait for their user data: woken by a change, and nothing asks for it meanwhile."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

from kumulus_api import Server
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.site import Site
from kumulus_runtime.resources import CONFIGMAP, SECRET


def _secret(site: Site, name: str, size: int) -> dict[str, Any]:
    content = base64.b64encode(b"#" * size).decode()
    return {"metadata": {"name": name, "namespace": site.name}, "data": {"userData": content}}


def _reads(log: Path, start: int, namespace: str) -> list[str]:
    """Give the verbs with which Secrets of a namespace were read since a position of the audit log."""
    with log.open("rb") as lines:
        lines.seek(start)
        events = [json.loads(line) for line in lines if line.endswith(b"\n")]
    refs = [(event, event.get("objectRef", {})) for event in events if event["verb"] in ("get", "list", "watch")]
    return [
        event["verb"] for event, ref in refs if (ref.get("resource"), ref.get("namespace")) == ("secrets", namespace)
    ]


async def test_a_server_waits_for_its_secret_without_asking(site: Site, plane: ControlPlane) -> None:
    """A server without its Secret waits, asks for it only when something changed, and goes on when it is made."""
    await site.host("u1", memory="64Gi")
    await site.basics()
    await site.server("web", userData={"secret": {"name": "late"}})
    message = await site.refused("web", "UserDataNotFound")
    assert message == "userData: key userData of Secret late was not found; transient: goes on when it is made"
    await asyncio.sleep(1)
    start = plane.audit_log.stat().st_size
    await site.client.create(SECRET, _secret(site, "other", 8))
    await asyncio.sleep(3)
    assert _reads(plane.audit_log, start, site.name) == []
    await site.client.create(SECRET, _secret(site, "late", 8))
    await site.assigned(Server, "web")
    await asyncio.sleep(1)
    assert _reads(plane.audit_log, start, site.name).count("get") == 1
    start = plane.audit_log.stat().st_size
    await site.client.create(SECRET, _secret(site, "later", 8))
    await asyncio.sleep(1)
    assert _reads(plane.audit_log, start, site.name) == []


async def test_user_data_that_is_too_large_is_looked_at_when_it_changes(site: Site) -> None:
    """A server whose Secret is too large says by how much, and goes on when it is made smaller."""
    await site.host("u2", memory="64Gi")
    await site.basics()
    await site.client.create(SECRET, _secret(site, "large", 65537))
    await site.server("web", userData={"secret": {"name": "large"}})
    message = await site.refused("web", "UserDataTooLarge")
    assert "has 65537 bytes; transient: goes on when it has at most 65536" in message
    await site.client.patch_merge(SECRET, "large", {"data": _secret(site, "large", 65536)["data"]}, site.name)
    await site.assigned(Server, "web")


async def test_a_server_waits_for_a_key_of_a_config_map(site: Site) -> None:
    """A ConfigMap that lacks the key is waited for as one that is absent."""
    await site.host("u3", memory="64Gi")
    await site.basics()
    body = {"metadata": {"name": "boot", "namespace": site.name}, "data": {"other": "x"}}
    await site.client.create(CONFIGMAP, body)
    await site.server("web", userData={"configMap": {"name": "boot", "key": "cloud"}})
    await site.refused("web", "UserDataNotFound")
    await site.client.patch_merge(CONFIGMAP, "boot", {"data": {"cloud": "#cloud-config\n"}}, site.name)
    await site.assigned(Server, "web")
