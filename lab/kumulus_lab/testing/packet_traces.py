"""Traces over the hosts of a cloud of namespaces: led by the operator's plan, answered by what agents have of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kumulus_agent.tracing.controller import reported
from kumulus_agent.tracing.walk import Walk
from kumulus_agent.tracing.world import LiveWorld
from kumulus_api import NetworkTrace
from kumulus_api.network_trace import HopKind, TracedPacket, TraceHop, TraceLeg, TraceReport, TraceVerdict
from kumulus_lab.testing.routed import RoutedCloud
from kumulus_lab.testing.routing_nodes import Node
from kumulus_operator.traces.answer import answer_to
from kumulus_operator.traces.plan import asking, go_on, told_by
from kumulus_operator.traces.world import Asked, Ended, Owner, World

__all__ = ["There", "follow", "told"]
PASSED, DROPPED, UNKNOWN = TraceVerdict.PASSED, TraceVerdict.DROPPED, TraceVerdict.UNKNOWN


@dataclass(repr=False)
class There:
    """What became of a packet, and of its answer.

    Attributes:
        verdict: of the packet.
        hops: of the packet.
        answer: the verdict of the answer; None where the packet has not passed.
        back: the answer's hops.
    """

    verdict: TraceVerdict
    hops: list[TraceHop] = field(default_factory=list)
    answer: TraceVerdict | None = None
    back: list[TraceHop] = field(default_factory=list)

    @property
    def last(self) -> TraceHop:
        """What decides."""
        return (self.back or self.hops)[-1]

    @property
    def answered(self) -> bool:
        """Whether whoever asked hears something."""
        return self.verdict is PASSED and self.answer is PASSED

    def kinds(self, *, back: bool = True) -> list[HopKind]:
        """What the packet or its answer has met."""
        return [hop.what for hop in (self.back if back else self.hops)]

    def __repr__(self) -> str:
        lines = [f"{h.host} {h.what} {h.name} {h.verdict} {h.message} | {h.remedy}" for h in self.hops]
        lines += [f"  back: {h.host} {h.what} {h.name} {h.verdict} {h.message} | {h.remedy}" for h in self.back]
        return "\n".join(["", *lines])


async def follow(
    cloud: RoutedCloud, asked: Asked, *, project: str = "red", owners: dict[str, Owner] | None = None, **places: Any
) -> There:
    """Lead a trace from its first leg to the end of its answer.

    Args:
        cloud: the hosts.
        asked: the first leg, and who is asked.
        project: of the trace.
        owners: who has addresses outside, besides floating addresses and routers.
        places: for `LiveWorld`, by host.
    """
    trace, hops, passed = _made(project), list[TraceHop](), list[TraceHop]()
    world = _world(cloud, owners or {})
    told = There(UNKNOWN)
    for _ in range(32):
        trace = _status(trace, asked, hops, passed)
        report = await _report(cloud, asked, project, places)
        following = go_on(trace, report, world)
        hops = [*hops, *told_by(report, following)]
        if isinstance(following, Ended):
            hops = [*hops, *following.hops]
        if isinstance(following, Ended) and not asked.leg.answer:
            told = There(following.verdict, hops)
            if following.verdict is not PASSED:
                return told
            passed = hops
            following, hops = answer_to(trace, report, world)
            if isinstance(following, Ended):
                hops = [*hops, *following.hops]
        if isinstance(following, Ended):
            told.answer, told.back = following.verdict, hops
            return told
        asked = following
    raise AssertionError(told)


async def told(cloud: RoutedCloud, source: str, target: str, port: int = 0, protocol: int = 6, **given: Any) -> There:
    """Trace a packet that a guest sends, and its answer."""
    guest = cloud.guests[source]
    own = guest.address6 if ":" in target else guest.address
    first, second = (40000, port)
    if protocol == 1:
        protocol, first, second = (58, 128, 0) if ":" in target else (1, 8, 0)
    packet = TracedPacket(source=str(own), destination=target, protocol=protocol, first=first, second=second)
    leg = TraceLeg(number=1, start="Port", port=source, packet=packet, first=packet)
    return await follow(cloud, Asked(guest.node.host.name, leg), **given)


async def _report(cloud: RoutedCloud, asked: Asked, project: str, places: dict[str, Any]) -> TraceReport:
    node: Node = next(item for item in cloud.nodes if item.host.name == asked.host)
    shared = places.get(asked.host[-1])
    world = LiveWorld(node.host.namespace, node.networks, node.routers, *([shared] if shared else []))
    own = [item for item in asked.leg.connections if item.host == asked.host]
    leg = asked.leg.model_copy(update={"connections": own})
    result = await Walk(world, project, leg).run()
    # As the API server has it.
    return TraceReport.model_validate_json(
        reported(result, asked.leg.number, asked.host).model_dump_json(by_alias=True)
    )


def _made(project: str) -> NetworkTrace:
    spec = {"source": {"port": {"name": "a"}}, "destination": {"address": "192.0.2.1"}}
    return NetworkTrace.model_validate({"metadata": {"name": "t", "namespace": project, "generation": 1}, "spec": spec})


def _status(trace: NetworkTrace, asked: Asked, hops: list[TraceHop], passed: list[TraceHop]) -> NetworkTrace:
    status = asking(trace, asked, hops, datetime.now(UTC), passed)
    return NetworkTrace.model_validate({"metadata": trace.metadata, "spec": trace.spec.dump(), "status": status})


def _world(cloud: RoutedCloud, owners: dict[str, Owner]) -> World:
    def nothing(_name: Any) -> None:
        return None

    def owner(vni: int, address: str) -> Owner | None:
        return (owners | _owners(cloud)).get(address) if vni == cloud.external.vni else None

    tunnels = {node.host.address: node.host.name for node in cloud.nodes}

    def users(_vni: int, _address: str) -> list[str]:
        return [node.host.name for node in cloud.nodes]

    return World(nothing, nothing, nothing, nothing, nothing, tunnels.get, owner, users=users)


def _owners(cloud: RoutedCloud) -> dict[str, Owner]:
    """Give who has addresses outside, as objects say it."""
    found = {}
    for (kind, namespace, _), body in cloud.api.objects.items():
        given = (body.get("spec") or {}).get("assignment") or {}
        if kind == "FloatingIP":
            found[given["address"]] = Owner(namespace, given["host"], given.get("standby"))
        elif kind == "Router" and given.get("gateway"):
            gateway = given["gateway"]
            standby = ((gateway.get("takeover") or {}).get("standby") or {}).get("host")
            for address in gateway["addresses"]:
                found[address.partition("/")[0]] = Owner(namespace, gateway["host"], standby)
    return found
