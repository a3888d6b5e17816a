"""Acts that are cut off: operator and agents are killed in the midst, and each act is done once all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kumulus_api import ServerAction
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.agreement import agreed
from kumulus_lab.testing.cloud import Cloud
from kumulus_lab.testing.killing import Victim, back, kill


@pytest.mark.disturbs
@pytest.mark.parametrize(
    ("type_", "parameters"),
    [("Reboot", {"reboot": {"type": "Soft"}}), ("Reboot", {"reboot": {"type": "Hard"}}), ("Rebuild", {})],
)
async def test_an_act_that_is_cut_off_is_done_once(
    cloud: Cloud, project: str, lab: LabSettings, type_: str, parameters: dict[str, Any]
) -> None:
    """All our processes die as soon as an act is open: it ends well, and the guest has booted once more, not twice."""
    await cloud.make_network(project)
    await cloud.make_server(project, "a", stopTimeoutSeconds=5)
    server = await cloud.server_ready(project, "a")
    log = console.path(lab, server)
    await console.says(log, "kumulus-guest: ready")
    before = await cloud.restarts()
    acting = asyncio.create_task(cloud.act(project, "a", type_, seconds=150, **parameters))
    try:
        async with asyncio.timeout(60):
            async for _, body in cloud.client.watch(ServerAction, namespace=project):
                if (body.get("status") or {}).get("phase") in ("Running", "Succeeded"):
                    break
        kill(lab, Victim.OPERATOR, Victim.AGENT)
        done = await acting
    finally:
        acting.cancel()
        await back(cloud, lab, before, Victim.OPERATOR, Victim.AGENT)
    assert done["status"]["phase"] == "Succeeded", done["status"]
    await cloud.tells(project, "a", "Running")
    await agreed(cloud, lab, seconds=60)
    ended = "kumulus-guest: ready"
    async with asyncio.timeout(60):
        told: list[str] = []
        async for line in console.lines(log):
            told += [word for word in ("boot-id=", ended) if word in line]
            if told.count(ended) == 2:
                break
    assert told == ["boot-id=", ended, "boot-id=", ended]
