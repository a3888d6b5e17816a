"""What an agent reports of a leg, and when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from typing import Any

from kumulus_agent.network.errors import NetworkError
from kumulus_agent.network.groups import Flow, GroupRule, SecurityGroup
from kumulus_agent.network.state import PortDesired
from kumulus_agent.tracing.controller import Traces
from kumulus_agent.tracing.told import judged

PACKET = {"source": "10.0.0.11", "destination": "10.0.0.12", "protocol": 6, "first": 49152, "second": 80}


def make_trace(leg: int, report: int | None = None, host: str = "h1") -> dict[str, Any]:
    status: dict[str, Any] = {"host": host, "leg": {"number": leg, "start": "Port", "port": "p", "packet": PACKET}}
    if report is not None:
        status["report"] = {"leg": report, "outcome": "Dropped"}
    spec = {"source": {"server": {"name": "a"}}, "destination": {"address": "10.0.0.12"}}
    return {"metadata": {"name": "t", "namespace": "red", "uid": "u"}, "spec": spec, "status": status}


class Api:
    """Shows traces to one watch, and keeps what is written."""

    def __init__(self, *events: tuple[str, dict[str, Any]]) -> None:
        self.events, self.written, self.selectors = events, [], []
        self.shown = asyncio.Event()

    async def watch(self, _kind: Any, *, field_selector: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Show the events, and nothing after."""
        self.selectors.append(field_selector)
        for event in self.events:
            yield event
        self.shown.set()
        await asyncio.Event().wait()

    async def apply_status(self, _kind: Any, body: dict[str, Any], *, manager: str) -> None:
        """Keep what is written."""
        self.written.append((body, manager))


class Broken:
    """A host whose kernel does not answer."""

    async def bridges(self):
        """Fail as nft does."""
        raise NetworkError("nft ended with 1")


async def told(*events: tuple[str, dict[str, Any]]) -> tuple[Api, list[Any]]:
    """Let an agent see events and do what follows from them."""
    api = Api(*events)
    traces = Traces(api, "h1", Broken())
    watching = asyncio.create_task(traces.follow())
    await api.shown.wait()
    await traces.reconcile(("red", "t"))
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    return api, api.written


async def test_a_leg_is_reported_once():
    """A leg that has no report gets one; one that has is left alone, as is a trace that asks no more."""
    api, written = await told(("ADDED", make_trace(2, report=1)))
    assert api.selectors == ["status.host=h1"]
    ((body, manager),) = written
    assert manager == "kumulus-agent"
    assert body["metadata"] == {"name": "t", "namespace": "red", "uid": "u"}
    assert body["status"]["report"]["leg"] == 2
    assert not (await told(("ADDED", make_trace(2, report=2))))[1]
    assert not (await told(("ADDED", make_trace(1)), ("DELETED", make_trace(1))))[1]


async def test_a_kernel_that_cannot_be_read_makes_no_verdict():
    """What could not be read is told as unknown, with the reason, and with the packet as it came."""
    _, ((body, _),) = await told(("ADDED", make_trace(1)))
    report = body["status"]["report"]
    assert report["outcome"] == "Unknown"
    assert report["hops"][-1]["verdict"] == "Unknown"
    assert "nft ended with 1" in report["hops"][-1]["message"]
    assert report["packet"] == PACKET


def test_a_stateless_group_says_what_answers_need():
    """Of a packet that a stateless group lets through a trace says that its answer needs a rule; of others not."""
    key = ("red", "web")
    flow = Flow(6, IPv4Address("10.0.0.11"), IPv4Address("10.0.0.12"), 40000, 80)
    port = PortDesired("kt1", "02:00:00:00:00:12", (flow.destination,), "i1", groups=frozenset({key}))
    for stateful in (True, False):
        groups = {key: SecurityGroup(frozenset({GroupRule("ingress", 6, (80, 80), stateful=stateful)}))}
        said = judged(port, groups, "ingress", flow, passed=True).message
        assert ("answers need an egress rule" in said) is not stateful
