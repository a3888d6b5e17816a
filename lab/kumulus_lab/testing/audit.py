"""Writes as the API server's audit log counts them."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kumulus_api import GROUP, Server
from kumulus_runtime.api_client import KubeClient

_PROCESSES = ":kumulus-system:kumulus-"
_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True)
class Write:
    """A write that the API server carried out."""

    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    user: str
    code: int

    def __str__(self) -> str:
        """Give it in one line, as `patch servers/status demo/web (agent)`."""
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        return f"{self.verb} {resource} {self.namespace}/{self.name} ({self.user.rsplit(':', 1)[-1]})"


class AuditLog:
    """The log from a moment on; make one before the act.

    A request is logged when it has been answered, and a watch may show what it wrote before that.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size
        self._since = datetime.now(UTC)

    async def caught_up(self, client: KubeClient) -> None:
        """Wait until what was seen before is in the log: until a request that comes after it is.

        Raises:
            TimeoutError: it is not there after 10 s.
        """
        name = f"marker-{uuid.uuid4().hex}"
        await client.get(Server, name, "default")
        async with asyncio.timeout(10):
            while name.encode() not in self._rest():  # noqa: ASYNC110 - a file has no watch
                await asyncio.sleep(0.01)

    def writes(self, *namespaces: str) -> list[Write]:
        """Give the successful writes since the making of this object.

        Args:
            namespaces: where; empty for objects of the cluster. All, if none is named: also what is still released of
                objects that others have deleted earlier.
        """
        events = (json.loads(line) for line in self._rest().splitlines(keepends=True) if line.endswith(b"\n"))
        writes = (
            _write(event)
            for event in events
            if event["verb"] in _WRITES
            and event.get("responseStatus", {}).get("code", 500) < 300
            and datetime.fromisoformat(event["requestReceivedTimestamp"]) >= self._since
        )
        return [write for write in writes if not namespaces or write.namespace in namespaces]

    def _rest(self) -> bytes:
        with self._path.open("rb") as log:
            log.seek(self._offset)
            return log.read()


def _write(event: dict[str, Any]) -> Write:
    ref = event.get("objectRef", {})
    return Write(
        verb=event["verb"],
        group=ref.get("apiGroup", ""),
        resource=ref.get("resource", ""),
        subresource=ref.get("subresource", ""),
        namespace=ref.get("namespace", ""),
        name=ref.get("name", ""),
        user=event["user"]["username"],
        code=event["responseStatus"]["code"],
    )


def of_servers(writes: list[Write], vni: int) -> list[Write]:
    """Give those writes that a server costs: of our kinds by anybody, and of any kind by our processes.

    Events, Leases, per-Network batches and per-host heartbeats are apart, and so is the usage that a Project shows: it
    is written at most once a second, however many servers change it. Claims in other networks are apart, too: what was
    deleted earlier is released after a while.

    Args:
        writes: of all.
        vni: the identifier of the servers' network.
    """
    apart = {"events", "leases", "networkendpoints", "hosts", "projects", "networks", "networkidclaims", "tokenreviews"}
    ours = (write for write in writes if write.group == GROUP or _PROCESSES in write.user)
    return [
        write
        for write in ours
        if write.resource not in apart and (write.resource != "addressclaims" or write.name.startswith(f"vni-{vni}-"))
    ]


def summary(writes: list[Write]) -> str:
    """Give the writes by kind with their counts, most first."""
    counts = Counter(
        f"{w.verb} {w.resource}{'/' + w.subresource if w.subresource else ''} ({w.user.rsplit(':', 1)[-1]})"
        for w in writes
    )
    return ", ".join(f"{count}x {what}" for what, count in counts.most_common())
