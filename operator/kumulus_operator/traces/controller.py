"""Reconcile a NetworkTrace: ask the host that the packet is on, take its report, ask the next; let it go by its age."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kumulus_api import NetworkTrace
from kumulus_api.claims import address_claim_name
from kumulus_api.network_trace import TraceHop, TraceReport
from kumulus_operator.cloud import Cloud
from kumulus_operator.refusal import Refused
from kumulus_operator.traces.plan import (
    ANSWER,
    LIFETIME,
    Asked,
    Owner,
    World,
    asking,
    begin,
    complete,
    ended,
    failed,
    go_on,
    may_open,
    silent,
    waiting,
)
from kumulus_operator.views import Key


class TraceController:
    """Leads packets from host to host.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> float | None:
        """Bring one trace further; give the seconds after which it is to be looked at again."""
        trace = self._cloud.traces.get(*key)
        if trace is None or trace.deleting:
            return None
        now = datetime.now(UTC)
        left = (_time(trace.metadata.creation_timestamp, now) + LIFETIME - now).total_seconds()
        if left <= 0:
            name, namespace = trace.metadata.name, trace.metadata.namespace
            await self._cloud.client.delete(NetworkTrace, name, namespace, uid=trace.metadata.uid)
            return None
        if complete(trace):
            return left
        status, again = self._next(trace, now)
        if status is not None:
            await self._cloud.write_status(trace, status)
        return min(left, again)

    def _next(self, trace: NetworkTrace, now: datetime) -> tuple[dict[str, Any] | None, float]:
        """Give the status to write, and the seconds in which a host is to answer."""
        status = trace.status
        if status is None or status.host is None or status.leg is None:
            return self._begun(trace, now), ANSWER.total_seconds()
        report = status.report
        if report is not None and report.leg == status.leg.number:
            hops = [*status.hops, *_of_host(report, status.host)]
            following = go_on(trace, report, self._world(trace.key[0]))
            told = asking if isinstance(following, Asked) else ended
            return told(trace, following, hops, now), ANSWER.total_seconds()  # type: ignore[arg-type]
        patience = (_time(status.asked_at, now) + ANSWER - now).total_seconds()
        if patience > 0 and not self._cloud.host_silent(status.host):
            return None, patience
        return ended(trace, silent(status.host), status.hops, now), ANSWER.total_seconds()

    def _begun(self, trace: NetworkTrace, now: datetime) -> dict[str, Any] | None:
        """Give the status of a trace that no host was asked about yet; None if it says so already."""
        if not may_open(self._cloud.traces.in_namespace(trace.key[0])):
            return waiting(trace, now) if trace.status is None else None
        try:
            return asking(trace, begin(trace, self._world(trace.key[0])), (), now)
        except Refused as refused:
            return failed(trace, refused.refusal.reason, refused.refusal.message, now)

    def _world(self, namespace: str) -> World:
        cloud = self._cloud

        def user(port: str) -> Any:
            name = cloud.ledger.held_by(("Port", namespace, port))
            return cloud.servers.get(namespace, name) if name is not None else None

        def tunnel(address: str) -> str | None:
            hosts = (host for host in cloud.hosts if host.status is not None)
            return next((h.metadata.name for h in hosts if h.status and h.status.tunnel_address == address), None)

        return World(
            server=lambda name: cloud.servers.get(namespace, name),
            port=lambda name: cloud.ports.get(namespace, name),
            user=user,
            floating_ip=lambda name: cloud.floating_ips.get(namespace, name),
            network=lambda key: cloud.networks.get(*key),
            tunnel=tunnel,
            owner=self._owner,
        )

    def _owner(self, vni: int, address: str) -> Owner | None:
        """Give who has an address of a network; its claim names the object."""
        cloud = self._cloud
        claim = cloud.address_claims.get("", address_claim_name(vni, address))
        if claim is None or claim.spec.released_at is not None:
            return None
        by = claim.spec.claim_ref
        found: Any = None
        if by.kind == "Port":
            found = cloud.ports.get(by.namespace, by.name)
        elif by.kind == "FloatingIP":
            found = cloud.floating_ips.get(by.namespace, by.name)
        elif by.kind == "Router":
            router = cloud.routers.get(by.namespace, by.name)
            gateway = router.spec.assignment.gateway if router is not None and router.spec.assignment else None
            return Owner(by.namespace, gateway.host if gateway is not None else None)
        given = found.spec.assignment if found is not None else None
        return Owner(by.namespace, given.host if given is not None else None)


def _of_host(report: TraceReport, host: str) -> list[TraceHop]:
    """Give a host's hops as its own, whatever they say."""
    return [hop.model_copy(update={"host": host}) for hop in report.hops]


def _time(text: str | None, now: datetime) -> datetime:
    return datetime.fromisoformat(text) if text else now
