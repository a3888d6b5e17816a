"""Whoever steals the token of a host's agent has that host, and nothing of another."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kumulus_api import Host, KeyPair, Kind, NetworkEndpoints, Port, Server, Volume
from kumulus_api.testing import INSTANCE_ID
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import stolen
from kumulus_lab.testing.cloud import Cloud
from kumulus_lab.testing.stolen import SYSTEM, Loot
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import Forbidden
from kumulus_runtime.resources import LEASE, POD, SECRET, SERVICEACCOUNT, object_path

SECRET_WORDS = b"#!/bin/sh\n# the password is swordfish\n"
HOSTS = ("h1", "h2")
MERGE = "application/merge-patch+json"


@dataclass(frozen=True)
class Thief:
    """Whoever has the tokens of h1's agent; acts are dry runs, which the API server judges as it does real ones."""

    client: KubeClient
    loot: Loot
    project: str

    async def patch(self, kind: Any, name: str, patch: dict[str, Any], subresource: str = "") -> None:
        """Change an object of the project, of the system namespace if it is a Lease, or a cluster-wide one."""
        namespace = SYSTEM if kind is LEASE else self.project
        resource = kind.resource() if isinstance(kind, type) and issubclass(kind, Kind) else kind
        path = object_path(resource, namespace, name, subresource)
        await self.client.request("PATCH", path, patch, MERGE, {"dryRun": "All"})

    async def report(self, kind: Any, name: str, status: dict[str, Any]) -> None:
        """Change an object's status."""
        await self.patch(kind, name, {"status": status}, "status")

    async def post(self, path: str, body: dict[str, Any]) -> None:
        """Create something."""
        await self.client.request("POST", path, body, query={"dryRun": "All"})

    async def remove(self, kind: Any, name: str) -> None:
        """Delete an object of the project or a cluster-wide one."""
        path = object_path(kind.resource(), self.project, name)
        await self.client.request("DELETE", path, {"dryRun": ["All"]})


@pytest.fixture
async def victim(cloud: Cloud, project: str) -> str:
    """A project with servers on h1 and h2.

    On each host server-HOST runs with a volume and user data from a Secret; stopped-HOST is off, and so is its port;
    stopped-HOST also has the user's port going-HOST, whose deletion waits for that server's.
    """
    await cloud.make_network(project)
    data = {"userData": base64.b64encode(SECRET_WORDS).decode()}
    await cloud.client.create(SECRET, {"metadata": {"name": "data", "namespace": project}, "data": data})
    for host in ("h1", "h2"):
        await cloud.make(Volume, f"volume-{host}", {"size": "1Mi"}, project)
        await cloud.make_server(
            project,
            f"server-{host}",
            placement={"host": host},
            volumes=[{"name": "data", "volume": {"name": f"volume-{host}"}}],
            userData={"secret": {"name": "data"}},
        )
        await cloud.make(Port, f"going-{host}", {"network": {"name": "private"}}, project)
        await cloud.make_server(
            project,
            f"stopped-{host}",
            placement={"host": host},
            powerState="Stopped",
            networks=[
                {"name": "default", "network": {"name": "private"}},
                {"name": "going", "port": {"name": f"going-{host}"}},
            ],
        )
    for host in ("h1", "h2"):
        await cloud.server_ready(project, f"server-{host}")
        await cloud.until(Server, f"stopped-{host}", _is_off, namespace=project)
        await cloud.client.delete(Port, f"going-{host}", project)
    return project


def _is_off(body: dict[str, Any]) -> bool:
    return bool(body.get("status", {}).get("powerState") == "Stopped")


@pytest.fixture
async def thief(
    cloud: Cloud, lab: LabSettings, victim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Thief]:
    """The thief of the tokens of h1's agent."""
    loot = await stolen.steal(cloud, lab, "h1")
    monkeypatch.setenv("KUBECONFIG", str(stolen.kubeconfig(lab, loot.api, tmp_path / "stolen.conf")))
    client = await KubeClient.connect("kumulus-agent")
    yield Thief(client, loot, victim)
    await client.close()


Act = Callable[[Thief, str], Awaitable[Any]]

OWN: dict[str, Act] = {
    "host status": lambda t, h: t.report(Host, h, {"bootID": "stolen"}),
    "server status": lambda t, h: t.report(Server, f"server-{h}", {"powerState": "Stopped"}),
    "volume status": lambda t, h: t.report(Volume, f"volume-{h}", {"usedBytes": 1}),
    "port status": lambda t, h: t.report(Port, f"server-{h}-default", {"host": "h1", "wired": True}),
    "status of a port that waits": lambda t, h: t.report(Port, f"stopped-{h}-default", {"host": "h1", "wired": True}),
    "finalizer of a port that goes": lambda t, h: t.patch(Port, f"going-{h}", {"metadata": {"finalizers": None}}),
    "lease": lambda t, h: t.patch(LEASE, f"host-{h}", {"spec": {"leaseTransitions": 7}}),
}
"""What an agent does for its own host."""

NEVER: dict[str, Act] = {
    "server's finalizer": lambda t, h: t.patch(Server, f"server-{h}", {"metadata": {"finalizers": []}}),
    "server's assignment": lambda t, h: t.patch(Server, f"server-{h}", {"spec": {"assignment": {"epoch": 9}}}),
    "server's power state": lambda t, h: t.patch(Server, f"server-{h}", {"spec": {"powerState": "Stopped"}}),
    "server's labels": lambda t, h: t.patch(Server, f"server-{h}", {"metadata": {"labels": {"a": "b"}}}),
    "server": lambda t, h: t.remove(Server, f"server-{h}"),
    "volume's finalizer": lambda t, h: t.patch(Volume, f"volume-{h}", {"metadata": {"finalizers": []}}),
    "volume": lambda t, h: t.remove(Volume, f"volume-{h}"),
    "port's owners": lambda t, h: t.patch(Port, f"server-{h}-default", {"metadata": {"ownerReferences": []}}),
    "port": lambda t, h: t.remove(Port, f"server-{h}-default"),
    "host's revoked": lambda t, h: t.patch(Host, h, {"spec": {"revoked": [{"instanceID": INSTANCE_ID, "epoch": 1}]}}),
    "host": lambda t, h: t.remove(Host, h),
    "endpoints": lambda t, _: t.patch(NetworkEndpoints, "private-0", {"spec": {"endpoints": []}}),
    "a secret": lambda t, _: t.client.get(SECRET, "data", t.project),
    "all secrets": lambda t, _: t.client.list(SECRET),
    "pods": lambda t, _: t.client.list(POD, SYSTEM),
    "key pair": lambda t, _: t.post(object_path(KeyPair.resource(), t.project), {"metadata": {"name": "mine"}}),
    "the other agent's token": lambda t, _: t.post(
        object_path(SERVICEACCOUNT, SYSTEM, "kumulus-agent", "token"),
        {"spec": {"boundObjectRef": {"kind": "Node", "apiVersion": "v1", "name": "h2"}}},
    ),
    "the operator's token": lambda t, _: t.post(
        object_path(SERVICEACCOUNT, SYSTEM, "kumulus-operator", "token"), {"spec": {}}
    ),
}
"""What no agent may do, be it its own host's or another's."""


async def test_a_stolen_token_is_worth_one_host(thief: Thief, cloud: Cloud) -> None:
    """With the token of h1's agent all that h1 reports can be said, and nothing of h2 changed or read in secret."""
    assert {(what, host) for what in OWN for host in HOSTS if await _done(OWN[what], thief, host)} == {
        (what, "h1") for what in OWN
    }
    assert {(what, host) for what in NEVER for host in HOSTS if await _done(NEVER[what], thief, host)} == set()


async def _done(act: Act, thief: Thief, host: str) -> bool:
    """Whether the API server would have done it, and not forbidden it; any other answer is an error of the test."""
    try:
        await act(thief, host)
    except Forbidden:
        return False
    return True


async def test_boot_data_goes_to_the_right_host(thief: Thief, cloud: Cloud) -> None:
    """The operator gives the boot data of h1's server for h1's token; of h2's it gives nothing."""
    status, text = await stolen.ask_boot_data(cloud, thief.loot.boot_data, thief.project, "server-h1")
    assert (status, base64.b64decode(json.loads(text)["userData"])) == (200, SECRET_WORDS)
    refusals = {}
    for name in ("server-h2", "absent"):
        status, text = await stolen.ask_boot_data(cloud, thief.loot.boot_data, thief.project, name)
        assert status == 403
        refusals[name] = text.replace(name, "NAME")
    assert refusals["server-h2"] == refusals["absent"]
    status, _ = await stolen.ask_boot_data(cloud, thief.loot.api, thief.project, "server-h1")
    assert status == 401
