"""`kubectl kumulus image upload`: a file of the user's machine becomes an image from which servers start anywhere."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from kumulus_api import Image, ImageUpload
from kumulus_lab.guests import tiny
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Breach, Cloud, condition, ready
from kumulus_lab.testing.killing import Victim, back, kill
from kumulus_lab.testing.left import nothing_left_of_images
from kumulus_lab.testing.plugin import Plugin

MIB = 1 << 20
LARGE = 384 * MIB
GOLDEN = "golden"
UPLOAD_SECONDS = 180


@pytest.fixture
def plugin(lab: LabSettings) -> Plugin:
    """The plugin with an administrator's rights."""
    return Plugin(lab, lab.kubeconfig)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file that takes some seconds, of which no two blocks are the same."""
    path, block = tmp_path / "large.raw", os.urandom(MIB - 8)
    with path.open("wb") as file:
        for number in range(LARGE // MIB):
            file.write(number.to_bytes(8, "big") + block)
    return path


def digest_of(image: dict[str, object]) -> str:
    """Give the hexadecimal part of an Image's digest."""
    status = image["status"]
    assert isinstance(status, dict)
    return str(status["digest"]).removeprefix("sha256:")


async def line_with(process: asyncio.subprocess.Process, word: str) -> str:
    """Read what a command prints up to a line with a word."""
    assert process.stdout is not None
    said = []
    async with asyncio.timeout(UPLOAD_SECONDS):
        while line := (await process.stdout.readline()).decode():
            said.append(line)
            if word in line:
                return line
    raise Breach(f"nothing with {word!r} was printed: {said}")


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    """Give what a command has ended with."""
    async with asyncio.timeout(UPLOAD_SECONDS):
        out, error = await process.communicate()
    return process.returncode or 0, out.decode(), error.decode()


@pytest.mark.tenant
async def test_a_server_boots_from_what_was_sent(cloud: Cloud, lab: LabSettings, plugin: Plugin) -> None:
    """The tiny image, sent by the plugin, boots on a host that it was not sent to, and is not sent again."""
    disk = await asyncio.to_thread(tiny.build, lab.cache)
    async with cloud.project() as project:
        status, out, error = await plugin.run("image", "upload", str(disk), "--name", GOLDEN, "-n", project)
        assert status == 0, error
        image = await cloud.until(Image, GOLDEN, ready, namespace=project)
        assert f"sha256:{digest_of(image)}" in out
        assert (image["spec"]["format"], image["status"]["size"]) == ("qcow2", disk.stat().st_size)
        assert (await cloud.client.list(ImageUpload, project))[0] == []
        await cloud.make_network(project)
        other = next(host.name for host in lab.host_specs if host.name != image["status"]["importHost"])
        wanted = {"image": {"name": GOLDEN}, "placement": {"host": other}}
        await cloud.make_server(project, "a", **wanted)
        server = await cloud.server_ready(project, "a", 120)
        await console.says(console.path(lab, server), "kumulus-guest: ready")
        status, _, error = await plugin.run("image", "upload", str(disk), "--name", GOLDEN, "-n", project)
        assert (status, "is whole" in error) == (1, True)
        await cloud.delete(Image, GOLDEN, project)


@pytest.mark.tenant
async def test_an_interrupted_upload_goes_on(cloud: Cloud, lab: LabSettings, plugin: Plugin, large: Path) -> None:
    """Ctrl-C in the middle leaves what came, the Image says so, and the same command sends the rest alone."""
    async with nothing_left_of_images(lab, "/upload-") as digests, cloud.project() as project:
        command = ("image", "upload", str(large), "-n", project)
        process = await plugin.start(*command)
        await line_with(process, "(20 %)")
        process.send_signal(signal.SIGINT)
        status, out, _ = await ended(process)
        assert (status, "interrupted at" in out) == (130, True)
        waits = await cloud.until(
            Image, "large", lambda body: condition(body, "Ready")["reason"] == "WaitingForUpload", namespace=project
        )
        assert "go on with: kubectl kumulus image upload" in condition(waits, "Ready")["message"]
        status, out, error = await ended(await plugin.start(*command))
        assert status == 0, error
        assert "bytes already" in out
        assert "(10 %)" not in out
        image = await cloud.until(Image, "large", ready, namespace=project)
        digests.add(digest_of(image))
        assert image["status"]["size"] == LARGE
        await cloud.delete(Image, "large", project)


@pytest.mark.disturbs
async def test_an_upload_outlives_the_agents(cloud: Cloud, lab: LabSettings, plugin: Plugin, large: Path) -> None:
    """If the agents are killed in the middle, the command waits for them and goes on by itself."""
    async with nothing_left_of_images(lab, "/upload-") as digests, cloud.project() as project:
        before = await cloud.restarts()
        process = await plugin.start("image", "upload", str(large), "-n", project)
        await line_with(process, "(20 %)")
        kill(lab, Victim.AGENT)
        status, out, error = await ended(process)
        assert (status, error) == (0, "")
        assert "goes on in" in out
        await back(cloud, lab, before, Victim.AGENT)
        digests.add(digest_of(await cloud.until(Image, "large", ready, namespace=project)))
        await cloud.delete(Image, "large", project)


@pytest.mark.tenant
async def test_what_is_no_image_is_refused_and_gone(
    cloud: Cloud, lab: LabSettings, plugin: Plugin, tmp_path: Path
) -> None:
    """A qcow2 with a backing file is refused after it was sent, the Image says why, and nothing of it stays."""
    disk = tmp_path / "bad.qcow2"
    make = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", str(disk), "1M"]
    process = await asyncio.create_subprocess_exec(*make)
    assert await process.wait() == 0
    async with nothing_left_of_images(lab, "/upload-"), cloud.project() as project:
        status, _, error = await plugin.run("image", "upload", str(disk), "-n", project)
        assert (status, "UnsafeImage" in error) == (1, True), error
        image = await cloud.client.get(Image, "bad", project)
        assert image is not None
        assert condition(image, "Ready")["reason"] == "UnsafeImage"


@pytest.mark.tenant
async def test_strangers_and_readers_send_nothing(cloud: Cloud, lab: LabSettings) -> None:
    """Who may not update the Image is refused before a byte is sent; a member may."""
    roles = [{"role": role, "subjects": [{"kind": "User", "name": f"sender-{role}"}]} for role in ("member", "reader")]
    disk = await asyncio.to_thread(tiny.build, lab.cache)
    async with cloud.project(roles=roles) as project:
        await cloud.make(Image, GOLDEN, {"source": {"upload": {}}, "format": "qcow2"}, project)
        for user in ("sender-reader", "sender-stranger"):
            other = Plugin.of_user(lab, user)
            status, _, error = await other.run("image", "upload", str(disk), "--name", GOLDEN, "-n", project)
            assert (status, "orbidden" in error) == (1, True), error
        member = Plugin.of_user(lab, "sender-member")
        status, _, error = await member.run("image", "upload", str(disk), "--name", GOLDEN, "-n", project)
        assert status == 0, error
        await cloud.delete(Image, GOLDEN, project)
