"""Reconcile a NetworkTrace: ask the host that the packet is on, take its report, ask the next; let it go by its age."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kumulus_api import NetworkTrace
from kumulus_api.claims import address_claim_name
from kumulus_api.network_trace import TraceHop, TraceLeg, TraceReport, TraceVerdict
from kumulus_operator.cloud import Cloud
from kumulus_operator.refusal import Refused
from kumulus_operator.traces.answer import answer_to
from kumulus_operator.traces.owners import balancer_of, leading, port_owner, routed_to, users_of
from kumulus_operator.traces.plan import (
    ANSWER,
    LIFETIME,
    asking,
    begin,
    complete,
    ended,
    failed,
    go_on,
    may_open,
    silent,
    told_by,
    waiting,
)
from kumulus_operator.traces.world import Asked, Ended, Owner, World
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
            told = _named(report, status.host)
            return self._further(trace, status.leg, told, now), ANSWER.total_seconds()
        patience = (_time(status.asked_at, now) + ANSWER - now).total_seconds()
        if patience > 0 and not self._cloud.host_silent(status.host):
            return None, patience
        hops, passed = _so_far(trace, status.leg)
        return ended(trace, silent(status.host), hops, now, passed), ANSWER.total_seconds()

    def _further(self, trace: NetworkTrace, leg: TraceLeg, report: TraceReport, now: datetime) -> dict[str, Any]:
        """Give the status that follows from a report: the next host is asked, about the answer after the packet."""
        world = self._world(trace.key[0])
        hops, passed = _so_far(trace, leg)
        following = go_on(trace, report, world)
        hops = [*hops, *told_by(report, following)]
        if isinstance(following, Ended) and not leg.answer and following.verdict is TraceVerdict.PASSED:
            passed = [*hops, *following.hops]
            following, hops = answer_to(trace, report, world)
        if isinstance(following, Asked):
            return asking(trace, following, hops, now, passed or ())
        return ended(trace, following, hops, now, passed)

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
            balancer=lambda name: balancer_of(cloud, (namespace, name)),
            users=lambda vni, address: users_of(cloud, vni, address),
        )

    def _owner(self, vni: int, address: str) -> Owner | None:
        """Give who has an address of a network, or is sent what is for it; a claim names the object."""
        cloud = self._cloud
        claim = cloud.address_claims.get("", address_claim_name(vni, address))
        if claim is None or claim.spec.released_at is not None:
            return routed_to(cloud, vni, address)
        by = claim.spec.claim_ref
        if by.kind == "Router":
            router = cloud.routers.get(by.namespace, by.name)
            gateway = router.spec.assignment.gateway if router is not None and router.spec.assignment else None
            return leading(by.namespace, gateway)
        if by.kind == "FloatingIP":
            floating = cloud.floating_ips.get(by.namespace, by.name)
            leads = floating.spec.assignment if floating is not None else None
            return Owner(by.namespace, leads.host, leads.standby) if leads is not None else Owner(by.namespace, None)
        return port_owner(cloud, (by.namespace, by.name))


def _so_far(trace: NetworkTrace, leg: TraceLeg) -> tuple[list[TraceHop], list[TraceHop] | None]:
    """Give the hops of what is followed now, and if that is an answer those of the packet."""
    status = trace.status
    hops = status.hops if status is not None else []
    if not leg.answer:
        return hops, None
    return status.answer.hops if status is not None and status.answer is not None else [], hops


def _named(report: TraceReport, host: str) -> TraceReport:
    """Give a host's report as its own, whatever that says."""
    own = {"host": host}
    hops = [hop.model_copy(update=own) for hop in report.hops]
    connections = [item.model_copy(update=own) for item in report.connections]
    return report.model_copy(update={"hops": hops, "connections": connections})


def _time(text: str | None, now: datetime) -> datetime:
    return datetime.fromisoformat(text) if text else now
