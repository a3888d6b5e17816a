"""Writing the status of Servers and Ports, each only if it says something new."""

from __future__ import annotations

from dataclasses import dataclass, field

from kumulus_agent import metrics
from kumulus_agent.servers.desired import Desired, DesiredPort
from kumulus_agent.servers.notices import Notice
from kumulus_agent.servers.status import Found, port_status, same, server_status
from kumulus_api import FINALIZER, GROUP, VERSION, Port, Server
from kumulus_runtime.api_client import KubeClient, NotFound
from kumulus_runtime.conditions import get_condition
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.store import Store

MANAGER = "kumulus-agent"
_PortKey = tuple[str, str, str]
"""Namespace and name of a Port, and the Server's uid: a Server that is made anew comes with a new Port."""


@dataclass(frozen=True)
class Reporter:
    """Writes what was found.

    Attributes:
        client: to reach the API server.
        store: what the watch has shown; takes what was written, so that nothing is written twice.
        host: this host's name.
        events: where Events go.
    """

    client: KubeClient
    store: Store
    host: str
    events: EventRecorder
    _wired: dict[_PortKey, bool] = field(default_factory=dict)

    def told(self, desired: Desired) -> str:
        """Give the reason of the Ready condition as it was written last; empty if it never was."""
        status = (self.store.get(Server, desired.key[1], desired.key[0]) or {}).get("status") or {}
        ready = get_condition(status.get("conditions") or [], "Ready") or {}
        return str(ready.get("reason", ""))

    def announce(self, desired: Desired, notice: Notice) -> None:
        """Write an Event about a Server; nothing waits for it."""
        namespace, name = desired.key
        metadata = {"name": name, "namespace": namespace, "uid": desired.uid}
        about = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Server", "metadata": metadata}
        message = f"on host {self.host}: {notice.message}"
        self.events.post(about, notice.reason, message, warning=notice.warning, again=notice.again)

    async def server(self, desired: Desired, found: Found) -> None:
        """Write a Server's status."""
        namespace, name = desired.key
        old = ((self.store.get(Server, name, namespace) or {}).get("status")) or {}
        status = server_status(desired, old, found)
        if same(status, old):
            return
        metadata = {"name": name, "namespace": namespace, "uid": desired.uid}
        try:
            body = await self.client.apply_status(Server, {"metadata": metadata, "status": status}, manager=MANAGER)
        except NotFound:
            return
        metrics.STATUS_WRITES.labels(kind="Server").inc()
        self.store.apply("MODIFIED", body)

    async def ports(self, desired: Desired, *, wired: bool, new: bool) -> bool:
        """Write the status of a Server's Ports; give whether all could be told.

        Args:
            desired: the instance.
            wired: whether they are connected.
            new: they were made for this start, so they have no status that would have to be read first.
        """
        for port in desired.ports:
            key = _port_key(desired, port)
            if key not in self._wired and not new:
                await self._read(key)
            if self._wired.get(key, False) is not wired:
                await self._write(key, port, wired=wired)
        return all(self._wired.get(_port_key(desired, port), False) is wired for port in desired.ports)

    async def ports_released(self, desired: Desired) -> None:
        """Say that the interfaces of a removed instance are gone, where the Port is the user's own and stays."""
        namespace = desired.key[0]
        for port in desired.ports:
            body = await self.client.get(Port, port.port, namespace)
            metadata = (body or {}).get("metadata") or {}
            if FINALIZER not in (metadata.get("finalizers") or []):
                self._wired.pop(_port_key(desired, port), None)
                continue
            if metadata.get("deletionTimestamp"):
                await self.client.remove_finalizer(Port, port.port, FINALIZER, namespace, uid=metadata["uid"])
            else:
                await self._write(_port_key(desired, port), port, wired=False)
            self._wired.pop(_port_key(desired, port), None)

    async def _read(self, key: _PortKey) -> None:
        status = ((await self.client.get(Port, key[1], key[0])) or {}).get("status") or {}
        if status.get("host") == self.host:
            self._wired[key] = bool(status.get("wired"))

    async def _write(self, key: _PortKey, port: DesiredPort, *, wired: bool) -> None:
        body = {
            "metadata": {"name": key[1], "namespace": key[0]},
            "status": port_status(port, self.host, wired=wired),
        }
        try:
            await self.client.apply_status(Port, body, manager=MANAGER)
        except NotFound:
            return
        metrics.STATUS_WRITES.labels(kind="Port").inc()
        self._wired[key] = wired


def _port_key(desired: Desired, port: DesiredPort) -> _PortKey:
    return desired.key[0], port.port, desired.uid
