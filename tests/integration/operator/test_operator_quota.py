"""Quotas: nothing is ever admitted beyond them, and what waits is admitted by the event that makes room."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kumulus_api import FINALIZER, Project, Server, Volume
from kumulus_lab.testing.site import Site, condition_of


async def _placed(site: Site, names: list[str]) -> set[str]:
    """Wait until of each server it is known whether it is placed, and give those that are."""

    def decided(body: dict[str, Any]) -> bool:
        # Whatever else it waits for, such as an Image that was not seen yet, comes by itself.
        waits = condition_of(body, "Scheduled")
        return "assignment" in body["spec"] or (waits is not None and waits["reason"] == "QuotaExceeded")

    bodies = await asyncio.gather(*(site.until(Server, name, decided) for name in names))
    return {body["metadata"]["name"] for body in bodies if "assignment" in body["spec"]}


@pytest.mark.parametrize(
    ("quota", "said"),
    [
        ({"servers": 2}, "2 of 2 servers are in use"),
        ({"vcpus": 2}, "2 of 2 vCPUs are in use, 1 are asked for"),
        ({"memory": "2560Mi"}, "2Gi of 2560Mi memory is in use, 1Gi is asked for"),
        ({"ports": 2}, "2 of 2 ports are in use, 1 are asked for"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_servers_never_exceed_the_quota(site: Site, quota: dict[str, Any], said: str) -> None:
    """Of six servers at once as many run as the quota allows; a freed or raised quota lets the waiting ones in."""
    await site.host("q1", memory="64Gi", vcpus=32)
    await site.basics(quota=quota)
    names = [f"s{number}" for number in range(6)]
    await asyncio.gather(*(site.server(name) for name in names))
    first = await _placed(site, names)
    assert len(first) == 2
    for name in set(names) - first:
        message = await site.refused(name, "QuotaExceeded")
        assert message == (
            f"quota of project {site.name}: {said}; "
            "transient: admitted when servers of the project are deleted or its quota is raised"
        )
    await site.delete_server(min(first))
    waiting = sorted(set(names) - first)
    async with asyncio.timeout(60):
        tasks = [asyncio.create_task(site.assigned(Server, name)) for name in waiting]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(1)
    assert [await site.assignment(name) is not None for name in waiting].count(True) == 1
    await site.client.patch_merge(Project, site.name, {"spec": {"quota": dict.fromkeys(quota)}})
    await asyncio.gather(*tasks)


_ADMITTED = ("WaitingForFirstServer", "InUse")


@pytest.mark.parametrize(
    ("quota", "said"),
    [({"volumes": 2}, "2 of 2 volumes are in use"), ({"gigabytes": 5}, "4Gi of 5Gi are in use, 2Gi is asked for")],
    ids=["volumes", "gigabytes"],
)
async def test_volumes_never_exceed_the_quota(site: Site, quota: dict[str, Any], said: str) -> None:
    """Of five volumes at once as many are admitted as the quota allows; a deleted one makes room for one that waits."""
    await site.host("q2", memory="64Gi")
    await site.basics(quota=quota)
    names = [f"v{number}" for number in range(5)]
    await asyncio.gather(*(site.create(Volume, name, {"size": "2Gi"}, (FINALIZER,)) for name in names))
    bodies = await asyncio.gather(
        *(site.until(Volume, name, lambda body: condition_of(body, "Ready") is not None) for name in names)
    )
    ready = {body["metadata"]["name"]: condition_of(body, "Ready") or {} for body in bodies}
    admitted = sorted(name for name, condition in ready.items() if condition["reason"] == "WaitingForFirstServer")
    waiting = sorted(set(names) - set(admitted))
    assert len(admitted) == 2
    assert {ready[name]["message"] for name in waiting} == {
        f"quota: {said}; transient: admitted when volumes are deleted or the quota is raised"
    }
    await site.server("web", volumes=[{"name": "data", "volume": {"name": waiting[0]}}])
    assert f"volume {waiting[0]} is not admitted" in await site.refused("web", "QuotaExceeded")
    await site.client.delete(Volume, admitted[0], site.name)
    await site.gone(Volume, admitted[0])
    # The one that the server waits for is given to it at once.
    waits = [
        asyncio.create_task(
            site.until(Volume, name, lambda body: (condition_of(body, "Ready") or {})["reason"] in _ADMITTED)
        )
        for name in waiting
    ]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    await site.client.patch_merge(Project, site.name, {"spec": {"quota": dict.fromkeys(quota)}})
    await asyncio.gather(*waits)
    await site.assigned(Server, "web")
