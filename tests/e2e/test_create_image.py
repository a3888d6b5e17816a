"""ServerAction CreateImage: a server's disk of one moment, from which servers start on any host."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kumulus_api import Image, ServerAction
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.agreement import agreed
from kumulus_lab.testing.cloud import Cloud, Object, condition, ready
from kumulus_lab.testing.killing import Victim, back, kill
from kumulus_lab.testing.left import nothing_left_of_images
from kumulus_lab.testing.observer import Observer
from kumulus_runtime.errors import Forbidden

# Writes without end, and answers as a guest agent does. Its words stand after the prompt of the shell on the console.
WRITES = """#!/bin/sh
if [ -e /disk/mark ]; then echo "found $(cat /disk/mark)"; exit; fi
echo "before-the-copy" >/disk/mark; sync
insmod /lib/modules/virtio_console.ko
until name=$(grep -l org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name); do usleep 50000; done 2>/dev/null
port=${name%/name}; exec 4<>/dev/${port##*/}
(while read -r line <&4; do case "$line" in
  *guest-sync*) id=${line##*\\"id\\":}; echo "{\\"return\\": ${id%%\\}*}}" >&4 ;;
  *fsfreeze-freeze*) sync; fsfreeze --freeze /disk; echo "stands still"; echo '{"return": 1}' >&4 ;;
  *fsfreeze-thaw*) fsfreeze --unfreeze /disk; echo "goes on"; echo '{"return": 1}' >&4 ;;
  *) echo '{"error": {"class": "CommandNotFound", "desc": "no"}}' >&4 ;;
esac; done) &
(n=0; while usleep 100000; do n=$((n+1)); dd if=/dev/urandom of=/disk/load bs=64k count=8 conv=fsync 2>/dev/null
  echo "wrote-$n"; done) &
"""
COPY_SECONDS = 120
GOLDEN = "golden"


async def made(cloud: Cloud, project: str, lab: LabSettings) -> Path:
    """Make the server `a` on the host h1; give its console log when it writes."""
    await cloud.make_network(project)
    wanted = {"userData": {"inline": WRITES}, "placement": {"host": "h1"}, "stopTimeoutSeconds": 1}
    await cloud.make_server(project, "a", **wanted)
    log = console.path(lab, await cloud.server_ready(project, "a", 90))
    await console.says(log, "wrote-3$", 90)
    return log


async def copied(cloud: Cloud, project: str, digests: set[str], name: str = GOLDEN) -> tuple[Object, Object]:
    """Make an image of the server `a`; give the action when it has succeeded, and the image."""
    done = await cloud.act(project, "a", "CreateImage", COPY_SECONDS, createImage={"name": name})
    assert done["status"]["phase"] == "Succeeded", done["status"]
    image = await cloud.until(Image, name, ready, namespace=project)
    digests.add(image["status"]["digest"].removeprefix("sha256:"))
    return done, image


async def starts(cloud: Cloud, project: str, lab: LabSettings, host: str) -> None:
    """Have the server `b` made of the image start on a host, and say what the other had written before."""
    wanted = {"image": {"name": GOLDEN}, "userData": {"inline": WRITES}, "placement": {"host": host}}
    await cloud.make_server(project, "b", **wanted)
    server = await cloud.server_ready(project, "b", 90)
    await console.says(console.path(lab, server), "found before-the-copy", 90)


async def test_a_guest_that_runs_is_copied_and_starts_elsewhere(cloud: Cloud, lab: LabSettings) -> None:
    """A guest that writes is frozen for a moment only; its copy boots elsewhere, outlives its Image, leaves nothing."""
    async with nothing_left_of_images(lab, "/snapshot-") as digests, cloud.project() as project:
        log = await made(cloud, project, lab)
        done, image = await copied(cloud, project, digests)
        assert "frozen" in done["status"]["message"]
        said = log.read_text(errors="replace")
        assert said.index("stands still") < said.index("goes on")
        await goes_on(log)
        status = image["status"]
        assert (status["importHost"], status["virtualSize"]) == ("h1", 1 << 30)
        assert "ownerReferences" not in image["metadata"]
        async with asyncio.TaskGroup() as group:
            group.create_task(starts(cloud, project, lab, "h2"))
            group.create_task(taken_once(cloud, project, image))
        # The image goes, the server that lies on it stays, also when it leaves its host.
        await cloud.delete(Image, GOLDEN, project)
        moved = await cloud.act(project, "b", "LiveMigrate", COPY_SECONDS, liveMigrate={"host": "h1"})
        assert moved["status"]["phase"] == "Succeeded", moved["status"]
        # From the disk alone, so that what it lies on is seen to have come along and stayed.
        booted = await cloud.act(project, "b", "Reboot", reboot={"type": "Hard"})
        assert booted["status"]["phase"] == "Succeeded", booted["status"]
        await cloud.server_ready(project, "b")
        await agreed(cloud, lab, seconds=30)


async def goes_on(log: Path) -> None:
    """The server `a` goes on writing."""
    said = await asyncio.to_thread(log.read_text, errors="replace")
    await console.says(log, f"wrote-{said.count('wrote-') + 3}$")


async def taken_once(cloud: Cloud, project: str, before: Object) -> None:
    """An image that is there is never touched by a CreateImage; only the operator says that a host holds one."""
    refused = await cloud.act(project, "a", "CreateImage", createImage={"name": GOLDEN})
    assert (refused["status"]["phase"], refused["status"]["reason"]) == ("Failed", "ImageExists")
    after = await cloud.client.get(Image, GOLDEN, project)
    assert after is not None
    for image in (before, after):  # who keeps it may become more meanwhile
        image["of"] = image["metadata"]["uid"], image["status"]["digest"], condition(image, "Ready")["status"]
    assert after["of"] == before["of"]
    with pytest.raises(Forbidden, match="CreateImage"):
        await cloud.make(Image, "mine", {"source": before["spec"]["source"], "format": "qcow2"}, project)


@pytest.mark.disturbs
async def test_copies_at_rest_and_under_kill(cloud: Cloud, lab: LabSettings) -> None:
    """A copy outlives the kill of the agents, and its guest goes on; what is paused or suspended stays so."""
    async with nothing_left_of_images(lab, "/snapshot-") as digests, cloud.project() as project:
        log = await made(cloud, project, lab)
        before = await cloud.restarts()
        async with asyncio.TaskGroup() as group:
            group.create_task(copied(cloud, project, digests))
            await cloud.until(Image, GOLDEN, lambda image: "status" in image, namespace=project)
            kill(lab, Victim.AGENT)
        await back(cloud, lab, before, Victim.AGENT)
        await goes_on(log)
        async with asyncio.TaskGroup() as group:
            group.create_task(starts(cloud, project, lab, "h1"))
            group.create_task(given_up(cloud, project))
        for state in ("Paused", "Suspended"):
            await cloud.power(project, "a", state)
            await copied(cloud, project, digests, state.lower())
            await cloud.tells(project, "a", state)
            await cloud.power(project, "a", "Running")
        await agreed(cloud, lab, seconds=30)


async def given_up(cloud: Cloud, project: str) -> None:
    """An image whose action is deleted while it is being copied goes, unless it was whole before."""
    action = await cloud.ask(project, "a", "CreateImage", createImage={"name": "never"})
    await cloud.until(ServerAction, action, lambda act: "host" in (act.get("status") or {}), namespace=project)
    await cloud.client.delete(ServerAction, action, project)
    never = (project, "never")
    async with Observer(cloud, Image, namespace=project) as images:
        await images.eventually(lambda found: never not in found or ready(found[never]), "the image goes", 60)
