"""The traces that ask this host: judged by what its kernel has now, and reported."""

from __future__ import annotations

from typing import Any

import structlog

from kumulus_agent.tracing.state import Result, World
from kumulus_agent.tracing.walk import Walk
from kumulus_agent.tracing.way import packet_of
from kumulus_api import NetworkTrace
from kumulus_api.network_trace import TracedConnection, TraceHop, TraceReport
from kumulus_runtime.api_client import KubeClient, NotFound
from kumulus_runtime.workqueue import WorkQueue

_log = structlog.stdlib.get_logger(__name__)
_MANAGER = "kumulus-agent"
Key = tuple[str, str]


class Traces:
    """Answers the legs of traces that are on this host, one after the other: each reads all of the kernel's rules.

    Args:
        client: to reach the API server.
        host: this host's name.
        world: what is looked at.
    """

    def __init__(self, client: KubeClient, host: str, world: World) -> None:
        self._client = client
        self._host = host
        self._world = world
        self._asked: dict[Key, dict[str, Any]] = {}
        self.queue: WorkQueue[Key] = WorkQueue("network-traces")

    async def follow(self) -> None:
        """Watch the traces that ask this host; never returns."""
        async for event, body in self._client.watch(NetworkTrace, field_selector=f"status.host={self._host}"):
            if event == "SYNCED":
                continue
            key = (body["metadata"]["namespace"], body["metadata"]["name"])
            if event == "DELETED":  # no host is asked any more, or another one
                self._asked.pop(key, None)
            else:
                self._asked[key] = body
                self.queue.add(key)

    async def reconcile(self, key: Key) -> None:
        """Follow the packet of one trace over this host, and report.

        Raises:
            ApiError: the report could not be written; call again.
        """
        body = self._asked.get(key)
        trace = NetworkTrace.model_validate(body) if body is not None else None
        status = trace.status if trace is not None else None
        if trace is None or status is None or status.leg is None or status.host != self._host:
            return
        if status.report is not None and status.report.leg == status.leg.number:
            return
        leg = status.leg.model_copy(update={"connections": self._own(status.leg.connections)})
        result = await Walk(self._world, key[0], leg).run()
        _log.info("trace", namespace=key[0], name=key[1], leg=status.leg.number, outcome=result.outcome.value)
        report = reported(result, status.leg.number, self._host).dump()
        metadata = {"name": key[1], "namespace": key[0], "uid": trace.metadata.uid}
        try:
            await self._client.apply_status(
                NetworkTrace, {"metadata": metadata, "status": {"report": report}}, manager=_MANAGER
            )
        except NotFound:
            return

    def _own(self, connections: list[TracedConnection]) -> list[TracedConnection]:
        return [item for item in connections if item.host == self._host]


def reported(result: Result, leg: int, host: str) -> TraceReport:
    """Give what is told of a leg (pure)."""
    hops = [
        TraceHop(
            host=host,
            what=hop.what,
            name=hop.name[:512],
            verdict=hop.verdict,
            message=hop.message[:1024],
            remedy=hop.remedy[:1024],
        )
        for hop in result.hops[:32]
    ]
    connections = [
        TracedConnection(
            host=host,
            place=item.place,
            zone=item.zone,
            begun=packet_of(item.begun, (item.mac, "")),
            left=packet_of(item.left),
        )
        for item in result.connections[:16]
    ]
    return TraceReport(
        leg=leg,
        outcome=result.outcome,
        hops=hops,
        tunnel_address=result.peer or None,
        vni=result.vni,
        packet=packet_of(result.flow, result.macs),
        connections=connections,
        answered_by=result.answered_by,
        port=result.port or None,
        router=result.router or None,
        sought=result.sought or None,
    )
