"""Consoles of real guests: the serial line, the screen in a browser, and who may reach them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from pathlib import Path

import aiohttp
import pytest

from kumulus_api import ConsoleSession, Network, Server
from kumulus_api.console import TOKEN_HEADER
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.browser import browser
from kumulus_lab.testing.cloud import Cloud, condition
from kumulus_lab.testing.plugin import Plugin

pytestmark = pytest.mark.tenant

BUILD = Path(__file__).parents[2] / "build"
LIT = """(() => {
    const canvas = document.querySelector('canvas');
    if (!canvas || !canvas.width) return 0;
    const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let lit = 0;
    for (let i = 0; i < data.length; i += 4) if (data[i] + data[i + 1] + data[i + 2] > 96) lit++;
    return lit;
})()"""
"""How many pixels of the screen are not dark."""
ADDRESS = re.compile(r"(?P<base>http://.+)/console\.html#(?P<namespace>[^/]+)/(?P<session>[^/]+)/(?P<token>\S+)\n")


@pytest.fixture
def plugin(lab: LabSettings) -> Plugin:
    """The plugin with an administrator's rights."""
    return Plugin(lab, lab.kubeconfig)


async def booted(cloud: Cloud, lab: LabSettings, project: str, name: str) -> None:
    """Have a server whose guest has come up."""
    if await cloud.client.get(Network, "private", project) is None:
        await cloud.make_network(project)
    await cloud.make_server(project, name)
    server = await cloud.server_ready(project, name)
    await console.says(console.path(lab, server), "kumulus-guest: ready")


async def sessions(cloud: Cloud, project: str) -> list[str]:
    """Names of a project's console sessions."""
    return [body["metadata"]["name"] for body in (await cloud.client.list(ConsoleSession, project))[0]]


async def test_a_command_on_the_serial_line_is_answered(
    cloud: Cloud, project: str, lab: LabSettings, plugin: Plugin
) -> None:
    """What is typed reaches the guest's shell and its answer comes back; the log has it too, and no session is left."""
    await booted(cloud, lab, project, "typist")
    typed = "echo is-$((6*7)); hostname\n"
    status, out, error = await plugin.run("console", "typist", "-n", project, stdin=typed)
    assert (status, error.count("\n")) == (0, 1), error
    assert "is-42\r\ntypist" in out
    status, log, _ = await plugin.run("console-log", "typist", "-n", project, "--tail", "3")
    assert status == 0
    assert "is-42" in log
    assert await sessions(cloud, project) == []


async def test_a_second_session_takes_the_line_over(
    cloud: Cloud, project: str, lab: LabSettings, plugin: Plugin
) -> None:
    """Who opens a serial console gets it, and who had it before is told; a stopped server ends it with a word."""
    await booted(cloud, lab, project, "shared")
    async with asyncio.timeout(120):
        first = await plugin.start("console", "shared", "-n", project)
        assert b"Connected" in await first.stderr.readline()  # type: ignore[union-attr]
        second = await plugin.start("console", "shared", "-n", project)
        assert b"Connected" in await second.stderr.readline()  # type: ignore[union-attr]
        assert b"another session has taken the console over" in (await first.communicate())[1]
        assert first.returncode == 1
        second.stdin.write(b"echo still-$((40+2))\n")  # type: ignore[union-attr]
        await second.stdout.readuntil(b"still-42")  # type: ignore[union-attr]
        await cloud.client.patch_merge(Server, "shared", {"spec": {"powerState": "Stopped"}}, project)
        assert b"the guest has closed its console" in (await second.communicate())[1]
    await cloud.until(Server, "shared", lambda s: s["status"].get("powerState") == "Stopped", namespace=project)
    status, _, error = await plugin.run("console", "shared", "-n", project)
    assert status == 1
    assert "start it first" in error


async def test_the_screen_is_shown_in_a_browser_once(
    cloud: Cloud, project: str, lab: LabSettings, plugin: Plugin
) -> None:
    """The printed address opens noVNC with the guest's screen, keys reach the guest, and a second look is refused."""
    await booted(cloud, lab, project, "screen")
    status, out, error = await plugin.run("vnc", "screen", "-n", project)
    assert status == 0, error
    address = ADDRESS.fullmatch(out)
    assert address, out
    async with browser() as page:
        await page.open(out.strip())
        await page.until(f"{LIT} > 500")
        assert "noVNC" in await page.value("document.title")
        picture = await page.screenshot(BUILD / "vnc-screen.png")
        assert len(picture) > 5000
        await page.value("document.querySelector('canvas').focus()")
        # Of keys that need no Shift, as each is pressed alone.
        await page.type("\npoweroff -f\n")
        await cloud.until(
            Server, "screen", lambda body: condition(body, "Ready")["reason"] == "StoppedByGuest", namespace=project
        )
    async with browser() as page:
        await page.open(out.strip())
        said = await page.until("/cannot/.test(document.body.innerText) && document.body.innerText")
        assert "cannot be opened: " in said
        await page.screenshot(BUILD / "vnc-refused.png")


async def test_a_token_opens_its_own_server_once(cloud: Cloud, project: str, lab: LabSettings, plugin: Plugin) -> None:
    """A token opens the console of its server, once: no second time, no other session's, none without it."""
    for name in ("a", "b"):
        await booted(cloud, lab, project, name)
    addresses = []
    for name in ("a", "b"):
        _, out, _ = await plugin.run("vnc", name, "-n", project)
        addresses.append(ADDRESS.fullmatch(out))
    first, second = addresses
    assert first
    assert second

    def place(address: re.Match[str]) -> str:
        return f"{address['base']}/v1/namespaces/{address['namespace']}/consolesessions/{address['session']}/stream"

    async with aiohttp.ClientSession() as http:

        async def refused(url: str, token: str) -> int:
            with pytest.raises(aiohttp.WSServerHandshakeError) as error:
                await http.ws_connect(url, headers={TOKEN_HEADER: token} if token else {})
            return error.value.status

        assert await refused(place(first), second["token"]) == 403
        assert await refused(place(first), "") == 401
        async with http.ws_connect(place(first), headers={TOKEN_HEADER: first["token"]}) as screen:
            assert (await screen.receive_bytes()).startswith(b"RFB 003.")
            assert await refused(place(first), first["token"]) == 403
        assert await refused(place(first), first["token"]) == 403
        async with http.ws_connect(f"{place(second)}/{second['token']}") as screen:
            assert (await screen.receive_bytes()).startswith(b"RFB 003.")
    await cloud.gone(ConsoleSession, first["session"], project)


async def test_rights_on_the_project_are_all_it_takes(cloud: Cloud, lab: LabSettings) -> None:
    """A member reaches every console of the project, a reader the log alone, and a stranger nothing at all."""
    roles = [{"role": role, "subjects": [{"kind": "User", "name": f"console-{role}"}]} for role in ("member", "reader")]
    async with cloud.project(roles=roles) as project, cloud.project() as other:
        await booted(cloud, lab, project, "ours")
        await booted(cloud, lab, other, "theirs")
        member, reader = (Plugin.of_user(lab, f"console-{role}") for role in ("member", "reader"))
        for plugin in (member, reader):
            status, out, error = await plugin.run("console-log", "ours", "-n", project)
            assert status == 0, error
            assert "kumulus-guest: ready" in out
            status, _, error = await plugin.run("console-log", "theirs", "-n", other)
            assert status == 1
            assert "orbidden" in error
        status, out, error = await member.run("console", "ours", "-n", project, stdin="echo $((6*7))-here\n")
        assert status == 0, error
        assert "42-here" in out
        for verb in ("console", "vnc"):
            status, _, error = await reader.run(verb, "ours", "-n", project)
            assert status == 1
            assert "console-reader may not open the console of server ours" in error


async def test_a_log_is_followed(cloud: Cloud, project: str, lab: LabSettings, plugin: Plugin) -> None:
    """`console-log --follow` goes on with what the guest writes later."""
    await booted(cloud, lab, project, "talker")
    follower = await plugin.start("console-log", "talker", "-n", project, "--follow")
    async with asyncio.timeout(120):
        await follower.stdout.readuntil(b"kumulus-guest: ready")  # type: ignore[union-attr]
        await plugin.run("console", "talker", "-n", project, stdin="echo later-$((6*7))\n")
        await follower.stdout.readuntil(b"later-42")  # type: ignore[union-attr]
        follower.terminate()
        await follower.communicate()


async def test_without_an_address_of_its_own_the_plugin_leads_the_browser(
    cloud: Cloud, project: str, lab: LabSettings, plugin: Plugin
) -> None:
    """`vnc --local` prints an address of this machine that opens the screen for as long as the command runs."""
    await booted(cloud, lab, project, "local")
    leading = await plugin.start("vnc", "local", "-n", project, "--local")
    try:
        async with asyncio.timeout(120):
            address = (await leading.stdout.readline()).decode().strip()  # type: ignore[union-attr]
            assert address.startswith("http://127.0.0.1:")
            async with browser() as page:
                await page.open(address)
                await page.until(f"{LIT} > 500")
    finally:
        leading.terminate()
        await leading.communicate()
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(address)


async def test_no_guest_listens_on_the_network(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """The screen of a guest has no port: QEMU is started with none."""
    await booted(cloud, lab, project, "quiet")
    server = await cloud.server_ready(project, "quiet")
    instance = server["spec"]["assignment"]["instanceID"]
    lines = [line for line in await asyncio.to_thread(_qemus) if instance.encode() in line]
    assert lines
    for words in (line.split(b"\0") for line in lines):
        assert words[words.index(b"-vnc") + 1].split(b",")[0] == b"none", json.dumps([w.decode() for w in words])


def _qemus() -> list[bytes]:
    """Give the command line of every QEMU of this machine."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes())
    return [line for line in lines if b"qemu-system" in line.split(b"\0")[0]]
