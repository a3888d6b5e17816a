"""Writing the status of Servers and Ports, each only if it says something new."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kumulus_agent import metrics
from kumulus_agent.servers.desired import Desired, DesiredPort, Key
from kumulus_agent.servers.notices import Notice
from kumulus_agent.servers.port_status import is_told, port_status
from kumulus_agent.servers.status import Found, same, server_status
from kumulus_agent.servers.terms import Act, Report
from kumulus_api import FINALIZER, GROUP, VERSION, Port, Server, ServerAction
from kumulus_runtime.api_client import KubeClient, NotFound
from kumulus_runtime.conditions import get_condition
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.store import Store

MANAGER = "kumulus-agent"


@dataclass(frozen=True)
class Reporter:
    """Writes what was found.

    Attributes:
        client: to reach the API server.
        store: what the watch has shown; takes what was written, so that nothing is written twice.
        host: this host's name.
        events: where Events go.
        unlimited: says why this host cannot limit rates; empty if it can.
    """

    client: KubeClient
    store: Store
    host: str
    events: EventRecorder
    unlimited: Callable[[], str] = str

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

    async def act(self, act: Act, key: Key, report: Report) -> None:
        """Tell how an act has ended, once."""
        namespace = key[0]
        status = {"report": {"outcome": report.outcome.value, "reason": report.reason, "message": report.message}}
        body = {"metadata": {"name": act.name, "namespace": namespace, "uid": act.uid}, "status": status}
        try:
            written = await self.client.apply_status(ServerAction, body, manager=MANAGER)
        except NotFound:
            seen = self.store.get(ServerAction, act.name, namespace)
            if seen is not None:
                self.store.apply("DELETED", seen)
            return
        metrics.STATUS_WRITES.labels(kind="ServerAction").inc()
        self.store.apply("MODIFIED", written)

    async def ports(self, desired: Desired, ports: Iterable[DesiredPort], *, wired: bool, new: bool) -> None:
        """Write the status of a Server's Ports; of one not yet bound to this host, when it is seen.

        Args:
            desired: the instance.
            ports: which of them.
            wired: whether they are connected.
            new: they were made for this start, so they are there though the watch may not have shown them yet.
        """
        for port in ports:
            body = await self._port(desired, port, live=not new)
            ours = new if body is None else _host_of(body) == self.host
            if ours and not is_told(body or {}, self._status(body, wired=wired)):
                await self._write(desired, port, wired=wired)

    async def ports_released(self, desired: Desired, ports: Iterable[DesiredPort]) -> None:
        """Say that interfaces of an instance are gone, where the Port is the user's own and stays."""
        namespace = desired.key[0]
        for port in ports:
            body = await self.client.get(Port, port.port, namespace)
            metadata = (body or {}).get("metadata") or {}
            if body is None or _host_of(body) != self.host or FINALIZER not in (metadata.get("finalizers") or []):
                continue
            if metadata.get("deletionTimestamp"):
                await self.client.remove_finalizer(Port, port.port, FINALIZER, namespace, uid=metadata["uid"])
            elif (body.get("status") or {}).get("wired") is not False:
                await self._write(desired, port, wired=False)

    async def _port(self, desired: Desired, port: DesiredPort, *, live: bool) -> dict[str, Any] | None:
        """Give the Port of an interface, read live if the watch has not shown it; None if it is not there."""
        namespace = desired.key[0]
        body = self.store.get(Port, port.port, namespace)
        if body is None and live:
            body = await self.client.get(Port, port.port, namespace)
        given = ((body or {}).get("spec") or {}).get("assignment") or {}
        # One of the same name that was made anew has another MAC.
        return body if given.get("mac") == port.mac else None

    def _status(self, body: Mapping[str, Any] | None, *, wired: bool) -> dict[str, Any]:
        return port_status(body, self.host, datetime.now(UTC), wired=wired, unlimited=self.unlimited())

    async def _write(self, desired: Desired, port: DesiredPort, *, wired: bool) -> None:
        seen = self.store.get(Port, port.port, desired.key[0])
        body = {
            "metadata": {"name": port.port, "namespace": desired.key[0]},
            "status": self._status(seen, wired=wired),
        }
        try:
            written = await self.client.apply_status(Port, body, manager=MANAGER)
        except NotFound:
            return
        metrics.STATUS_WRITES.labels(kind="Port").inc()
        self.store.apply("MODIFIED", written)


def _host_of(port: Mapping[str, Any]) -> str:
    return str((port["spec"].get("assignment") or {}).get("host", ""))
