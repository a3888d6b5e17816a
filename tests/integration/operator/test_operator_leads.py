"""Who leads: two operators beside each other, as a rolling update has them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kumulus_api import Server
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.site import OperatorProcess, Site, condition_of
from kumulus_operator.kinds import KINDS
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.resources import LEASE

ALL_WATCHED = f"kumulus_watches {len(KINDS) + 1}.0"
"""How the leader's metrics say that it watches all kinds, and its Lease."""


@pytest.fixture
async def other(plane: ControlPlane, operator: OperatorProcess, tmp_path: Path) -> AsyncIterator[OperatorProcess]:
    """A second operator; when it has ended, the first one leads and watches, as the next test finds it."""
    other = OperatorProcess(plane.kubeconfig, tmp_path / "other.log", claim_quarantine="1", host_silence="5")
    other.start()
    yield other
    assert await asyncio.to_thread(other.stop) == 0
    print(await asyncio.to_thread(other.log.read_text))
    await _leads(operator)


async def _ask(operator: OperatorProcess, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{operator.metrics_port}/{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def _ready(operator: OperatorProcess) -> str:
    """Wait for a process of whose state no object tells to be ready, and give what it says."""
    async with asyncio.timeout(60):
        while True:
            try:
                status, text = await _ask(operator, "readyz")
            except aiohttp.ClientConnectionError:
                status, text = 0, ""
            if status == 200:
                return text
            await asyncio.sleep(0.1)


async def _leads(operator: OperatorProcess) -> None:
    """Wait until a process leads and watches all kinds."""
    async with asyncio.timeout(60):
        while True:
            leads = "leadership: leading as" in await _ready(operator)
            if leads and ALL_WATCHED in (await _ask(operator, "metrics"))[1]:
                return
            await asyncio.sleep(0.1)


async def _holder(client: KubeClient, unlike: str = "") -> str:
    """Wait until somebody (else) holds the Lease, and give who."""
    async for event, lease in client.watch(LEASE, namespace="kumulus-system"):
        if event in ("ADDED", "MODIFIED") and lease["metadata"]["name"] == "kumulus-operator":
            holder = str(lease["spec"].get("holderIdentity") or "")
            if holder not in ("", unlike):
                return holder
    raise AssertionError("a watch never ends")


async def _order(leader: str, one: OperatorProcess, other: OperatorProcess) -> tuple[OperatorProcess, OperatorProcess]:
    """Give the process that leads, then the other."""
    return (one, other) if f"leading as {leader}\n" in await _ready(one) else (other, one)


async def test_a_standby_is_ready_and_takes_over(site: Site, operator: OperatorProcess, other: OperatorProcess) -> None:
    """Leader and standby are both ready and say who leads; when the leader ends, the standby goes on with its work."""
    await site.host("l1", memory="64Gi")
    await site.basics()
    leader = await _holder(site.client)
    first, second = await _order(leader, operator, other)
    assert f"leadership: standby, {leader} leads\n" in await _ready(second)
    assert (await _ask(second, "healthz"))[0] == 200
    for process, leads, watches in ((first, 1, ALL_WATCHED), (second, 0, "kumulus_watches 0.0")):
        _, metrics = await _ask(process, "metrics")
        assert f'leader_election_master_status{{name="kumulus-operator"}} {leads}.0' in metrics
        assert watches in metrics
    await asyncio.to_thread(first.stop)
    await site.server("web")
    await site.assigned(Server, "web")
    assert f"leadership: leading as {await _holder(site.client, unlike=leader)}\n" in await _ready(second)
    first.start()
    assert "leadership: standby" in await _ready(first)


async def test_a_leader_that_dies_is_succeeded_after_its_lease(
    site: Site, operator: OperatorProcess, other: OperatorProcess
) -> None:
    """A killed leader's Lease runs out; its successor waits one more duration, then places what waits."""
    await site.host("l2", memory="64Gi")
    await site.basics()
    leader = await _holder(site.client)
    first, second = await _order(leader, operator, other)
    await _ready(second)
    await asyncio.to_thread(first.stop, signal.SIGKILL)
    await site.server("web")
    await site.assigned(Server, "web")
    assert await _holder(site.client, unlike=leader)
    first.start()
    await _ready(first)


async def test_a_change_of_leader_admits_nothing_twice(
    site: Site, operator: OperatorProcess, other: OperatorProcess
) -> None:
    """Of 100 servers made at once, with the leader killed midway, exactly as many run as the quota allows."""
    await site.host("l3", memory="640Gi", vcpus=320)
    await site.basics(quota={"servers": 30})
    first, second = await _order(await _holder(site.client), operator, other)
    await _ready(second)
    names = [f"s{number}" for number in range(100)]
    making = asyncio.gather(*(site.server(name) for name in names))
    async with asyncio.timeout(60):
        async for _, body in site.client.watch(Server, namespace=site.name):
            if body.get("spec", {}).get("assignment"):
                break
    await asyncio.to_thread(first.stop, signal.SIGKILL)
    await making

    def decided(body: dict[str, Any]) -> bool:
        return bool(body["spec"].get("assignment")) or condition_of(body, "Scheduled") is not None

    await asyncio.gather(*(site.until(Server, name, decided) for name in names))
    await site.quota_shown("servers", "30/30")
    servers, _ = await site.client.list(Server, site.name)
    assert sum(bool(body["spec"].get("assignment")) for body in servers) == 30
    first.start()
    await _ready(first)
