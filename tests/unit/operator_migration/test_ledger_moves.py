"""The books while a server migrates: its room is counted on both hosts, exactly as long as it is on its way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kumulus_api import Server
from kumulus_api.tenancy import Quota
from kumulus_operator.ledger.ledger import Ledger
from kumulus_operator.placement.facts import Amounts, HostFacts, Wish
from kumulus_operator.refusal import Refusal

GIB = 1 << 30
KEY = ("demo", "vm")
WISH = Wish(Amounts(1, GIB, GIB))


def make_host(name: str, memory: int = 2) -> HostFacts:
    return HostFacts(name, True, True, True, False, False, True, Amounts(8, memory * GIB, 100 * GIB))


def make_server(**assignment: Any) -> Server:
    given = {
        "instanceID": "11111111-2222-4333-8444-555555555555",
        "host": "h1",
        "epoch": 1,
        "resources": {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"},
    }
    return Server.model_validate(
        {
            "metadata": {"name": "vm", "namespace": "demo", "uid": "u"},
            "spec": {"flavor": {"name": "f"}, "image": {"name": "i"}, "assignment": given | assignment},
        }
    )


@contextlib.asynccontextmanager
async def running(*hosts: HostFacts) -> AsyncIterator[Ledger]:
    ledger = Ledger(lambda _: Quota(), lambda _: True)
    for host in hosts:
        ledger.host_seen(host)
    task = asyncio.create_task(ledger.run())
    ledger.server_seen(make_server())
    try:
        yield ledger
    finally:
        task.cancel()


def used(ledger: Ledger) -> tuple[float, float]:
    return ledger.used_on("h1").memory / GIB, ledger.used_on("h2").memory / GIB


async def test_both_hosts_keep_room_until_it_has_moved() -> None:
    """Room is kept at the target from the decision on, and at the source until the flip."""
    async with running(make_host("h1"), make_host("h2")) as ledger:
        assert await ledger.move(KEY, "h1", WISH) == "h2"
        assert used(ledger) == (1, 1)
        ledger.server_seen(make_server())  # the watch lags behind the decision
        assert used(ledger) == (1, 1)
        ledger.server_seen(make_server(target="h2"))
        assert used(ledger) == (1, 1)
        ledger.server_seen(make_server(host="h2", epoch=2))
        assert used(ledger) == (0, 1)


async def test_a_cancelled_move_gives_the_room_back() -> None:
    """Without target the server counts on its host alone, whether the target was written or not."""
    async with running(make_host("h1"), make_host("h2")) as ledger:
        await ledger.move(KEY, "h1", WISH)
        ledger.stay(KEY)
        assert used(ledger) == (1, 0)
        await ledger.move(KEY, "h1", WISH)
        ledger.server_seen(make_server(target="h2"))
        ledger.server_seen(make_server())
        assert used(ledger) == (1, 0)
        ledger.server_gone(KEY)
        assert used(ledger) == (0, 0)


@pytest.mark.parametrize("hosts", [(make_host("h1"),), (make_host("h1"), make_host("h2", 0))])
async def test_its_own_host_is_no_target(hosts: tuple[HostFacts, ...]) -> None:
    """A server migrates only to another host, and only where it has room; a refusal changes no books."""
    async with running(*hosts) as ledger:
        verdict = await ledger.move(KEY, "h1", WISH)
        assert isinstance(verdict, Refusal)
        assert verdict.reason == "NoValidHost"
        assert used(ledger) == (1, 0)
