"""The cloud as a test sees it: objects are made, watched until something holds, and removed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from kumulus_api import (
    API_VERSION,
    BackupPolicy,
    DNSRecord,
    DNSZone,
    FirewallGroup,
    Flavor,
    FloatingIP,
    Image,
    KeyPair,
    Kind,
    LoadBalancer,
    Network,
    Port,
    Project,
    Router,
    Server,
    ServerAction,
    Volume,
    VolumeBackup,
    VolumeSnapshot,
    VPNConnection,
)
from kumulus_api.server_action import ENDED
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import NotFound
from kumulus_runtime.resources import POD

Object = dict[str, Any]

IMAGE = {"name": "tiny", "namespace": "kumulus-public"}
FLAVOR = "tiny"
SYSTEM_NAMESPACE = "kumulus-system"
PROJECTS = "t-"
_WORKER = os.environ.get("PYTEST_XDIST_WORKER")
OWN_PROJECTS = f"{PROJECTS}{_WORKER}-" if _WORKER else PROJECTS
"""How the names of projects begin; of those that this process makes, where tests run side by side."""
_NAMESPACED: tuple[type[Kind], ...] = (
    Server, BackupPolicy, VolumeBackup, VolumeSnapshot, Volume, FloatingIP, LoadBalancer, FirewallGroup, VPNConnection,
    Router, Port, Network,
    Image, KeyPair, DNSRecord, DNSZone,
)  # fmt: skip


class Breach(AssertionError):
    """What was promised did not come in time, or did not hold."""


@dataclass(frozen=True)
class Cloud:
    """A running Kumulus, reached as its administrator."""

    client: KubeClient

    async def make(self, kind: type[Kind], name: str, spec: Object, namespace: str | None = None) -> Object:
        """Create an object.

        Raises:
            ApiError: the API server refuses it.
        """
        metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
        body = {"apiVersion": API_VERSION, "kind": kind.__name__, "metadata": metadata, "spec": spec}
        return await self.client.create(kind, body)

    async def make_server(self, project: str, name: str, **spec: Any) -> Object:
        """Create a server of the tiny flavor and image; `spec` overrides and adds fields (camelCase)."""
        base: Object = {"flavor": {"name": FLAVOR}, "image": dict(IMAGE)}
        return await self.make(Server, name, base | spec, project)

    async def make_network(self, project: str, name: str = "private", cidr: str = "10.10.0.0/24") -> Object:
        """Create a network of one subnet and wait until it is Ready."""
        gateway = cidr.rsplit(".", 1)[0] + ".1"
        await self.make(Network, name, {"subnets": [{"name": "v4", "cidr": cidr, "gateway": gateway}]}, project)
        return await self.until(Network, name, ready, namespace=project)

    async def until(
        self,
        kind: type[Kind],
        name: str,
        holds: Callable[[Object], bool],
        *,
        namespace: str | None = None,
        seconds: float = 60,
    ) -> Object:
        """Watch one object until `holds` says yes, and give it.

        Raises:
            Breach: it did not within `seconds`; the message shows the last state.
        """
        last: Object = {}
        try:
            async with asyncio.timeout(seconds):
                async for event, body in self.client.watch(
                    kind, namespace=namespace, field_selector=f"metadata.name={name}"
                ):
                    if event in ("SYNCED", "DELETED", "BOOKMARK"):
                        continue
                    last = body
                    if holds(body):
                        return body
        except TimeoutError:
            pass
        raise Breach(f"{kind.__name__} {namespace or ''}/{name}: not so within {seconds} s; last seen: {_brief(last)}")

    async def server_ready(self, project: str, name: str, seconds: float = 60) -> Object:
        """Wait until a server is Ready, and give it."""
        return await self.until(Server, name, ready, namespace=project, seconds=seconds)

    async def act(self, project: str, server: str, type_: str, seconds: float = 90, **parameters: Any) -> Object:
        """Have something done to a server, wait for the end of it, and give the ServerAction.

        Args:
            project: its namespace.
            server: its name.
            type_: what, as in spec.type.
            seconds: how long it may take.
            parameters: what goes with the type, in camelCase.

        Raises:
            Breach: it has not ended after `seconds`.
        """
        return await self.act_ended(project, await self.ask(project, server, type_, **parameters), seconds)

    async def ask(self, project: str, server: str, type_: str, **parameters: Any) -> str:
        """Have something done to a server, and give the ServerAction's name at once; arguments as of `act`."""
        name = f"{server}-{type_.lower()}-{uuid.uuid4().hex[:6]}"
        await self.make(ServerAction, name, {"server": {"name": server}, "type": type_} | parameters, project)
        return name

    async def act_ended(self, project: str, action: str, seconds: float = 90) -> Object:
        """Wait until a ServerAction has ended, and give it."""
        return await self.until(ServerAction, action, _ended, namespace=project, seconds=seconds)

    async def power(self, project: str, server: str, state: str, seconds: float = 90, told: str = "") -> Object:
        """Set a server's powerState and wait until its status tells it (or `told`); give the server."""
        await self.client.patch_merge(Server, server, {"spec": {"powerState": state}}, project)
        return await self.tells(project, server, told or state, seconds)

    async def tells(self, project: str, server: str, state: str, seconds: float = 90) -> Object:
        """Wait until a server's status tells a power state as of its newest spec, and give the server."""

        def holds(body: Object) -> bool:
            status = body.get("status") or {}
            newest = status.get("observedGeneration") == body["metadata"]["generation"]
            return newest and status.get("powerState") == state and condition(body, "Ready")["reason"] not in _MOVING

        return await self.until(Server, server, holds, namespace=project, seconds=seconds)

    async def delete(self, kind: type[Kind], name: str, namespace: str | None = None, seconds: float = 60) -> None:
        """Delete an object and watch it go.

        Raises:
            Breach: it is still there after `seconds`.
        """
        if await self.client.delete(kind, name, namespace):
            await self.gone(kind, name, namespace, seconds)

    async def gone(self, kind: type[Kind], name: str, namespace: str | None = None, seconds: float = 60) -> None:
        """Watch until an object is gone.

        Raises:
            Breach: it is still there after `seconds`.
        """
        seen: Object | None = None
        try:
            async with asyncio.timeout(seconds):
                async for event, body in self.client.watch(
                    kind, namespace=namespace, field_selector=f"metadata.name={name}"
                ):
                    if event == "DELETED" or (event == "SYNCED" and seen is None):
                        return
                    seen = body or seen
        except TimeoutError:
            pass
        raise Breach(f"{kind.__name__} {namespace or ''}/{name} is not gone after {seconds} s: {_brief(seen or {})}")

    async def restarts(self) -> dict[str, int]:
        """Give how often the containers of operator, agents and console proxy have been started again, by pod."""
        ours = "app.kubernetes.io/component in (operator,agent,console,dns)"
        pods, _ = await self.client.list(POD, SYSTEM_NAMESPACE, label_selector=ours)
        return {
            pod["metadata"]["name"]: sum(
                container["restartCount"] for container in pod.get("status", {}).get("containerStatuses", [])
            )
            for pod in pods
        }

    @contextlib.asynccontextmanager
    async def project(self, name: str = "", **spec: Any) -> AsyncIterator[str]:
        """Make a project, by default with a name of its own; at the end all that is in it goes, then the project."""
        name = name or f"{OWN_PROJECTS}{uuid.uuid4().hex[:8]}"
        await self.make(Project, name, spec)
        try:
            await self.until(Project, name, ready)
            yield name
        finally:
            await self.empty(name)
            with contextlib.suppress(NotFound):
                await self.delete(Project, name)

    async def empty(self, namespace: str, seconds: float = 120) -> None:
        """Delete all of ours in a namespace and watch it go, servers first."""
        for kind in _NAMESPACED:
            items, _ = await self.client.list(kind, namespace=namespace)
            names = [item["metadata"]["name"] for item in items]
            await asyncio.gather(*(self.delete(kind, name, namespace, seconds) for name in names))

    async def base(self, image_url: str) -> None:
        """Have the tiny flavor and the tiny public image."""
        wanted: tuple[tuple[type[Kind], Object], ...] = (
            (Flavor, _object("Flavor", FLAVOR, {"vcpus": 1, "memory": "128Mi", "rootDisk": "1Gi"})),
            (Image, _object("Image", "tiny", {"source": {"url": image_url}, "format": "qcow2"}, IMAGE["namespace"])),
        )
        for kind, body in wanted:
            await self.client.apply(kind, body, manager="kumulus-tests")
        await self.until(Image, "tiny", ready, namespace=IMAGE["namespace"], seconds=120)


_MOVING = ("Stopping", "Starting")


def _ended(action: Object) -> bool:
    return (action.get("status") or {}).get("phase") in ENDED


def _object(kind: str, name: str, spec: Object, namespace: str | None = None) -> Object:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def condition(body: Object, type_: str) -> Object:
    """Give a condition of an object, or an empty one."""
    found = [item for item in body.get("status", {}).get("conditions", []) if item["type"] == type_]
    return found[0] if found else {"status": "", "reason": "", "message": ""}


def ready(body: Object) -> bool:
    """Whether an object's Ready condition is True and it is not on its way out."""
    return condition(body, "Ready")["status"] == "True" and "deletionTimestamp" not in body["metadata"]


def refused(*reasons: str) -> Callable[[Object], bool]:
    """Give a predicate: the Scheduled condition is False for one of these reasons."""

    def holds(body: Object) -> bool:
        scheduled = condition(body, "Scheduled")
        return scheduled["status"] == "False" and scheduled["reason"] in reasons

    return holds


def _brief(body: Object) -> str:
    shown = {"spec.assignment": body.get("spec", {}).get("assignment"), "status": body.get("status")}
    return json.dumps(shown)[:1500]


class Stopwatch:
    """Seconds since its making, by the monotonic clock."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self._start
