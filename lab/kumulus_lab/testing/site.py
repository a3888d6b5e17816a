"""The operator's process and what a test gives it to decide on; the agents' part is played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kumulus_api import (
    FINALIZER,
    BackupPolicy,
    FirewallGroup,
    Flavor,
    FloatingIP,
    Host,
    Image,
    Kind,
    LoadBalancer,
    Network,
    NetworkTrace,
    Port,
    Project,
    Router,
    Server,
    Volume,
    VolumeBackup,
    VolumeSnapshot,
    VPNConnection,
)
from kumulus_lab.testing.cloud import Cloud
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.conditions import get_condition, set_condition
from kumulus_runtime.errors import NotFound
from kumulus_runtime.lease import Heartbeat

Object = dict[str, Any]

AGENT = "kumulus-agent"
"""The field manager of agents."""

_SECONDS = 60.0
"""How long anything may take on a busy machine."""


class OperatorProcess:
    """The operator as a process of its own.

    Args:
        kubeconfig: whose rights it has.
        log: where its standard error goes.
        settings: its settings by their names in `OperatorSettings`.
    """

    def __init__(self, kubeconfig: Path, log: Path, **settings: str) -> None:
        self.log = log
        self.metrics_port = _free_port()
        names = {f"KUMULUS_{name.upper()}": value for name, value in settings.items()}
        fixed = {
            "KUBECONFIG": str(kubeconfig),
            "KUMULUS_METRICS_PORT": str(self.metrics_port),
            "KUMULUS_BOOT_DATA_PORT": "0",
        }
        self._environment = {**os.environ, **fixed, **names}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the running process.

        Raises:
            RuntimeError: it was not started.
        """
        if self._process is None:
            raise RuntimeError("the operator was not started")
        return self._process.pid

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "kumulus_operator.main"]
            self._process = subprocess.Popen(command, env=self._environment, stderr=log)

    def wait(self) -> int:
        """Wait until it has ended by itself; give the exit code."""
        return self._process.wait() if self._process is not None else 0

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal and wait until it has ended; give the exit code."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(_SECONDS)


class Site:
    """A project, its objects, and the agents of its hosts.

    Args:
        client: the administrator's.
        name: of the project.
    """

    def __init__(self, client: KubeClient, name: str) -> None:
        self.client = client
        self.name = name
        self.cloud = Cloud(client)
        self._beats: dict[str, asyncio.Task[None]] = {}

    async def host(self, name: str, memory: str = "2Gi", vcpus: int = 8, tunnel: str = "192.0.2.1") -> None:
        """Make a Ready host that renews its Lease."""
        heartbeat = Heartbeat(self.client, name, interval=1.0)
        await heartbeat.beat()
        self._beats[name] = asyncio.create_task(heartbeat.run())
        await self.client.apply(Host, {"metadata": {"name": name}, "spec": {}}, manager=AGENT)
        status = {
            "tunnelAddress": tunnel,
            "inventory": {"vcpus": vcpus, "memory": memory, "disk": "100Gi"},
            "conditions": set_condition([], "Ready", True, "SelfTestPassed", "", 1),
        }
        await self.client.apply_status(Host, {"metadata": {"name": name}, "status": status}, manager=AGENT)

    def silence(self, host: str) -> None:
        """Have a host renew its Lease no more, as if it had died."""
        self._beats[host].cancel()

    async def basics(self, cidr: str = "10.0.0.0/24", **project: Any) -> None:
        """Make a project, a flavor of 1 vCPU and 1 GiB, a network and an imported image."""
        await self.client.create(Project, {"metadata": {"name": self.name}, "spec": project})
        await self.until(Project, self.name, holds=lambda body: _is(body, "Ready", "True"))
        spec = {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"}
        await self.client.apply(Flavor, {"metadata": {"name": "small"}, "spec": spec}, manager="test")
        await self.network("net", cidr)
        await self.create(Image, "tiny", {"source": {"url": "http://images.test/tiny"}, "format": "qcow2"})
        # An agent writes after it was named; here there may be no host that could be.
        await self.until(Image, "tiny", lambda body: "status" in body)
        status = {
            "digest": "sha256:" + "0" * 64,
            "size": 1024,
            "virtualSize": 1024,
            "conditions": set_condition([], "Ready", True, "Imported", "", 1),
        }
        body = {"metadata": {"name": "tiny", "namespace": self.name}, "status": status}
        await self.client.apply_status(Image, body, manager=AGENT)

    async def network(self, name: str, cidr: str = "10.0.0.0/24", finalizers: tuple[str, ...] = (), **of: Any) -> None:
        """Make a network of one subnet with a gateway, and wait until it is Ready; `of` adds fields of the subnet."""
        gateway = cidr.partition("/")[0].rsplit(".", 1)[0] + ".1"
        subnet = {"name": "v4", "cidr": cidr, "gateway": gateway} | of
        await self.create(Network, name, {"subnets": [subnet]}, finalizers)
        await self.condition(Network, name, "Ready", "True")

    async def create(self, kind: type[Kind], name: str, spec: Object, finalizers: tuple[str, ...] = ()) -> None:
        """Create a namespaced object."""
        metadata = {"name": name, "namespace": self.name, "finalizers": list(finalizers)}
        await self.client.create(kind, {"metadata": metadata, "spec": spec})

    async def server(self, name: str, **spec: Any) -> None:
        """Create a server as the user and the admission policy would."""
        wanted = {"flavor": {"name": "small"}, "image": {"name": "tiny"}} | spec
        await self.create(Server, name, wanted, (FINALIZER,))

    async def port(self, name: str, network: str = "net", **spec: Any) -> None:
        """Create a port as the user and the admission policy would."""
        await self.create(Port, name, {"network": {"name": network}} | spec, (FINALIZER,))

    async def get(self, kind: type[Kind], name: str) -> Object:
        """Give an object of the project.

        Raises:
            NotFound: it is not there.
        """
        body = await self.client.get(kind, name, self.name)
        if body is None:
            raise NotFound(404, "NotFound", f"{kind.__name__} {self.name}/{name} is not there")
        return body

    async def until(self, kind: type[Kind], name: str, holds: Callable[[Object], bool]) -> Object:
        """Watch an object until `holds` says yes, and give it."""
        namespace = self.name if kind.definition.namespaced else None
        return await self.cloud.until(kind, name, holds, namespace=namespace, seconds=_SECONDS)

    async def quota_shown(self, resource: str, text: str) -> None:
        """Wait until the project shows so much of a quota, as `used/limit`; before the first count it shows none."""

        def holds(body: Object) -> bool:
            return bool(body.get("status", {}).get("quota", {}).get(resource) == text)

        await self.until(Project, self.name, holds)

    async def condition(self, kind: type[Kind], name: str, of: str, status: str, reason: str = "") -> Object:
        """Wait until an object's condition has a status (and a reason), and give the condition."""
        body = await self.until(kind, name, lambda body: _is(body, of, status, reason))
        return condition_of(body, of) or {}

    async def refused(self, name: str, reason: str) -> str:
        """Wait until a server waits for a reason, and give the message."""
        return str((await self.condition(Server, name, "Scheduled", "False", reason))["message"])

    async def assigned(self, kind: type[Kind], name: str) -> Object:
        """Wait until an object has its assignment, and give that.

        A server that waited says in its status just after it was assigned that it waits no more; that belongs to it.
        """

        def holds(body: Object) -> bool:
            return bool(body["spec"].get("assignment")) and not _is(body, "Scheduled", "False")

        body = await self.until(kind, name, holds)
        assignment: Object = body["spec"]["assignment"]
        return assignment

    async def assignment(self, name: str) -> Object | None:
        """Give a server's assignment as it is now."""
        body = await self.client.get(Server, name, self.name)
        return body["spec"].get("assignment") if body else None

    async def gone(self, kind: type[Kind], name: str) -> None:
        """Watch until an object is gone."""
        namespace = self.name if kind.definition.namespaced else None
        await self.cloud.gone(kind, name, namespace, _SECONDS)

    async def delete_server(self, name: str) -> None:
        """Delete a server; then do the agent's and the garbage collector's part."""
        assigned = await self.assignment(name)
        await self.client.delete(Server, name, self.name)
        with contextlib.suppress(NotFound):
            await self.client.remove_finalizer(Server, name, FINALIZER, self.name)
        for port in (assigned or {}).get("ports", []):
            body = await self.client.get(Port, port["port"], self.name)
            if body is not None and body["metadata"].get("ownerReferences"):
                await self.client.delete(Port, port["port"], self.name)

    async def report(self, name: str, host: str, *, wired: bool = True) -> None:
        """Write what an agent writes of a server that runs, and of its ports."""
        assigned = await self.assigned(Server, name)
        now = set_condition([], "Ready", True, "Running", "", 1)
        body = {"metadata": {"name": name, "namespace": self.name}}
        status: Object = {"powerState": "Running", "conditions": now}
        await self.client.apply_status(Server, body | {"status": status}, manager=AGENT)
        for port in assigned["ports"]:
            at = {"metadata": {"name": port["port"], "namespace": self.name}}
            status = {"wired": wired, "host": host, "conditions": set_condition([], "Ready", True, "Wired", "", 1)}
            await self.client.apply_status(Port, at | {"status": status}, manager=AGENT)

    async def close(self) -> None:
        """Stop the heartbeats; remove what would be in the next test's way."""
        for beat in self._beats.values():
            beat.cancel()
        await asyncio.gather(*self._beats.values(), return_exceptions=True)
        for server in (await self.client.list(Server, self.name))[0]:
            await self.delete_server(server["metadata"]["name"])
        edges: tuple[type[Kind], ...] = (NetworkTrace, LoadBalancer, FloatingIP, FirewallGroup, VPNConnection, Router)
        kinds: tuple[type[Kind], ...] = (*edges, BackupPolicy, VolumeBackup, VolumeSnapshot, Volume, Image)
        for kind in kinds:
            for body in (await self.client.list(kind, self.name))[0]:
                await self.client.delete(kind, body["metadata"]["name"], self.name)
        for host in (await self.client.list(Host))[0]:
            await self.client.delete(Host, host["metadata"]["name"])


def condition_of(body: Object, of: str) -> Object | None:
    """Give a condition of an object, or None."""
    return get_condition((body.get("status") or {}).get("conditions") or [], of)


def _is(body: Object, of: str, status: str, reason: str = "") -> bool:
    found = condition_of(body, of)
    return found is not None and found["status"] == status and reason in ("", found["reason"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
