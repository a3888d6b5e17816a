"""ServerAction CreateImage: a server's disk of one moment, from which servers start on any host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kumulus_api import Image, Server, ServerAction
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.agreement import agreed
from kumulus_lab.testing.cloud import Breach, Cloud, Object, condition, ready
from kumulus_lab.testing.killing import Victim, back, kill
from kumulus_lab.testing.left import holdings
from kumulus_runtime.errors import Forbidden

WRITES = """#!/bin/sh
if [ -e /disk/mark ]; then echo "found $(cat /disk/mark)"; exit; fi
echo "before-the-copy" >/disk/mark; sync
(n=0; while :; do n=$((n+1)); dd if=/dev/urandom of=/disk/load bs=64k count=32 conv=fsync 2>/dev/null
  echo $n >/disk/count; [ $((n % 10)) = 0 ] && echo "wrote-$n"; done) &
"""
AGENT = """#!/bin/sh
if [ -e /disk/mark ]; then echo "found $(cat /disk/mark)"; exit; fi
echo "before-the-copy" >/disk/mark; sync
insmod /lib/modules/virtio_console.ko
name=$(grep -l org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name)
port=${name%/name}; exec 4<>/dev/${port##*/}
(while read -r line <&4; do case "$line" in
  *guest-sync*) id=${line##*\\"id\\":}; id=$(echo "$id" | tr -cd 0-9); echo "{\\"return\\": $id}" >&4 ;;
  *fsfreeze-freeze*) sync; fsfreeze --freeze /disk; echo frozen; echo '{"return": 1}' >&4 ;;
  *fsfreeze-thaw*) fsfreeze --unfreeze /disk; echo thawed; echo '{"return": 1}' >&4 ;;
  *) echo '{"error": {"class": "CommandNotFound", "desc": "no"}}' >&4 ;;
esac; done) &
echo agent-runs
"""
COPY_SECONDS = 120


@asynccontextmanager
async def hosts_as_before(lab: LabSettings) -> AsyncIterator[None]:
    """At the end no host holds a file of instances or images that it did not hold before."""
    before = {name for name in (await holdings(lab)).files if "/pki/" not in name}
    yield
    left: set[str] = set()
    for _ in range(30):
        left = {name for name in (await holdings(lab)).files if "/pki/" not in name} - before
        if not left:
            return
        await asyncio.sleep(1)
    raise Breach(f"left on hosts: {sorted(left)}")


async def made(cloud: Cloud, project: str, script: str, host: str = "h1") -> Object:
    """Make the server `a` with a script."""
    await cloud.make_network(project)
    placement = {"host": host}
    await cloud.make_server(project, "a", userData={"inline": script}, placement=placement, stopTimeoutSeconds=1)
    return await cloud.server_ready(project, "a")


async def copy(cloud: Cloud, project: str, name: str = "golden") -> Object:
    """Make an image of the server `a`; give the action when it has ended."""
    return await cloud.act(project, "a", "CreateImage", COPY_SECONDS, createImage={"name": name})


async def starts(cloud: Cloud, project: str, lab: LabSettings, host: str, name: str = "b") -> Object:
    """Have a server made of the image start on a host, and say what the other had written before."""
    wanted = {"image": {"name": "golden"}, "userData": {"inline": WRITES}, "placement": {"host": host}}
    await cloud.make_server(project, name, **wanted)
    server = await cloud.server_ready(project, name, 90)
    await console.says(console.path(lab, server), "found before-the-copy", 90)
    return server


async def test_a_guest_that_writes_is_copied_and_starts_elsewhere(cloud: Cloud, lab: LabSettings) -> None:
    """A guest goes on writing while it is copied, another boots elsewhere with the data, deletion leaves nothing."""
    async with hosts_as_before(lab), cloud.project() as project:
        server = await made(cloud, project, WRITES)
        log = console.path(lab, server)
        await console.says(log, "wrote-10$")
        done = await copy(cloud, project)
        assert done["status"]["phase"] == "Succeeded", done["status"]
        wrote = log.read_text(errors="replace").count("wrote-")
        await console.says(log, f"wrote-{(wrote + 3) * 10}$")
        image = await cloud.until(Image, "golden", ready, namespace=project)
        assert image["status"]["importHost"] == "h1"
        assert image["status"]["digest"].startswith("sha256:")
        assert image["status"]["virtualSize"] == 1 << 30
        assert "ownerReferences" not in image["metadata"]
        await starts(cloud, project, lab, "h2")
        # The image goes, the server that lies on it stays, also when it leaves its host.
        await cloud.delete(Image, "golden", project)
        await cloud.act(project, "b", "Reboot", reboot={"type": "Hard"})
        await cloud.delete(Server, "a", project)
        moved = await cloud.act(project, "b", "LiveMigrate", COPY_SECONDS, liveMigrate={"host": "h1"})
        assert moved["status"]["phase"] == "Succeeded", moved["status"]
        await agreed(cloud, lab, seconds=30)


@pytest.mark.parametrize("state", ["Stopped", "Paused", "Suspended"])
async def test_a_guest_at_rest_is_copied_and_stays_so(cloud: Cloud, project: str, lab: LabSettings, state: str) -> None:
    """A server that is off, paused or suspended is copied as it is, and is the same afterwards."""
    server = await made(cloud, project, WRITES)
    await console.says(console.path(lab, server), "wrote-10$")
    await cloud.power(project, "a", state)
    done = await copy(cloud, project)
    assert done["status"]["phase"] == "Succeeded", done["status"]
    await cloud.tells(project, "a", state)
    await agreed(cloud, lab, seconds=30)
    await starts(cloud, project, lab, "h2")


async def test_file_systems_stand_still_for_the_copy(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """Where a guest's agent answers, the file systems are frozen for the moment of the copy, and go on."""
    server = await made(cloud, project, AGENT)
    log = console.path(lab, server)
    await console.says(log, "agent-runs")
    done = await copy(cloud, project)
    assert done["status"]["phase"] == "Succeeded", done["status"]
    assert "frozen" in done["status"]["message"]
    said = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    assert said.index("frozen") < said.index("thawed")
    await starts(cloud, project, lab, "h2")


async def test_a_name_is_taken_once(cloud: Cloud, project: str) -> None:
    """An image that is there is never touched by a CreateImage; nobody but the operator says that a host holds one."""
    await made(cloud, project, WRITES)
    assert (await copy(cloud, project))["status"]["phase"] == "Succeeded"
    before = await cloud.client.get(Image, "golden", project)
    refused = await copy(cloud, project)
    assert (refused["status"]["phase"], refused["status"]["reason"]) == ("Failed", "ImageExists")
    after = await cloud.client.get(Image, "golden", project)
    assert before is not None
    assert after is not None
    assert (after["metadata"]["uid"], after["status"]) == (before["metadata"]["uid"], before["status"])
    with pytest.raises(Forbidden, match="CreateImage"):
        await cloud.make(Image, "mine", {"source": before["spec"]["source"], "format": "qcow2"}, project)


@pytest.mark.disturbs
async def test_a_holder_that_is_away_is_waited_for(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """While the agents are away a server waits for its image or has it; the copy survives the kill of all of them."""
    await made(cloud, project, WRITES)
    before = await cloud.restarts()
    act = asyncio.create_task(copy(cloud, project))
    await cloud.until(Image, "golden", lambda image: "importHost" in (image.get("status") or {}), namespace=project)
    kill(lab, Victim.AGENT)
    done = await act
    assert done["status"]["phase"] == "Succeeded", done["status"]
    await back(cloud, lab, before, Victim.AGENT)
    await starts(cloud, project, lab, "h2")
    found = await holdings(lab)
    assert not [name for name in found.files if name.endswith(".part")]


@pytest.mark.disturbs
async def test_an_action_that_is_given_up_leaves_no_image(cloud: Cloud, lab: LabSettings) -> None:
    """An action that is deleted while the agent is away has made no image, and nothing of it stays on a host."""
    async with hosts_as_before(lab), cloud.project() as project:
        await made(cloud, project, WRITES)
        before = await cloud.restarts()
        spec = {"server": {"name": "a"}, "type": "CreateImage", "createImage": {"name": "golden"}}
        await cloud.make(ServerAction, "copy", spec, project)
        await cloud.until(ServerAction, "copy", lambda act: "host" in (act.get("status") or {}), namespace=project)
        kill(lab, Victim.AGENT)
        await cloud.client.delete(ServerAction, "copy", project)
        await back(cloud, lab, before, Victim.AGENT)
        image = await cloud.client.get(Image, "golden", project)
        if image is None or not ready(image):
            await cloud.gone(Image, "golden", project, 60)
        server = await cloud.client.get(Server, "a", project)
        assert server is not None
        assert condition(server, "Ready")["status"] == "True"
