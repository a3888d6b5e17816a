"""Every verb in every state, on real guests: legal where Nova allows it, refused with a reason elsewhere."""

from __future__ import annotations

import asyncio
import base64
import itertools
from dataclasses import dataclass
from typing import Any

import pytest

from kumulus_api import Server, ServerAction
from kumulus_api.server import ServerSpec
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.agreement import agreed
from kumulus_lab.testing.cloud import Cloud, Object, Stopwatch, condition
from kumulus_runtime.errors import Forbidden, Invalid
from kumulus_runtime.resources import SECRET

STATES = ("Running", "Stopped", "Paused", "Suspended", "Shelved", "Rescued")
QUICK = {"stopTimeoutSeconds": 1}


@dataclass(frozen=True)
class Row:
    """A verb: its parameters, and the state that it leads to by the states in which it is legal."""

    type: str
    parameters: dict[str, Any]
    leads: dict[str, str]


SAME = {state: state for state in STATES}
ROWS = (
    Row("Start", {}, {"Stopped": "Running"}),
    Row("Reboot", {"reboot": {"type": "Soft"}}, {"Running": "Running"}),
    Row("Reboot", {"reboot": {"type": "Hard"}}, dict.fromkeys(STATES[:4], "Running")),
    Row("Rebuild", {}, {"Running": "Running", "Stopped": "Stopped"}),
    Row("Rescue", {}, {"Running": "Rescued", "Stopped": "Rescued"}),
    Row("Unrescue", {}, {"Rescued": "Running"}),
    Row("ResetState", {}, SAME),
    Row("Lock", {}, SAME),
    Row("Unlock", {}, SAME),
)


async def bring(cloud: Cloud, project: str, state: str) -> Object:
    """Bring the server `a` into a state, by ways that are legal."""
    now = await cloud.client.get(Server, "a", project)
    assert now is not None
    if now["status"]["powerState"] == "Rescued" and state != "Rescued":
        await succeeds(cloud, project, Row("Unrescue", {}, {}))
    if now["spec"]["powerState"] != state and now["spec"]["powerState"] != "Running":
        await cloud.power(project, "a", "Running")
    if state == "Rescued":
        await succeeds(cloud, project, Row("Rescue", {}, {}))
    elif state == "Shelved":
        await cloud.power(project, "a", state)
        await cloud.until(Server, "a", lambda s: s["spec"]["assignment"].get("shelved"), namespace=project)
    elif state != "Running":
        await cloud.power(project, "a", state)
    return await cloud.tells(project, "a", state)


async def succeeds(cloud: Cloud, project: str, row: Row) -> None:
    """Have the server `a` do what a row says."""
    done = await cloud.act(project, "a", row.type, **row.parameters)
    assert done["status"]["phase"] == "Succeeded", done["status"]


async def made(cloud: Cloud, project: str, **spec: Any) -> Object:
    """Make the server `a`, which runs."""
    await cloud.make_network(project)
    await cloud.make_server(project, "a", **(QUICK | spec))
    return await cloud.server_ready(project, "a")


@pytest.mark.tenant
@pytest.mark.parametrize("state", STATES)
async def test_verbs(cloud: Cloud, project: str, state: str) -> None:
    """In each state the legal verbs lead where they should, and all others are refused and change nothing."""
    before = await made(cloud, project)
    at = await bring(cloud, project, state)
    refusals = await asyncio.gather(
        *(cloud.act(project, "a", row.type, **row.parameters) for row in ROWS if state not in row.leads)
    )
    for refusal in refusals:
        status = refusal["status"]
        assert (status["phase"], status["reason"]) == ("Failed", "IllegalState"), refusal["spec"]
        assert f"it is {'Active' if state == 'Running' else state}" in status["message"]
    now = await cloud.client.get(Server, "a", project)
    assert now is not None
    assert (now["status"], now["spec"]) == (at["status"], at["spec"])
    for row in ROWS:
        if state in row.leads:
            await succeeds(cloud, project, row)
            after = await cloud.tells(project, "a", row.leads[state])
            assert after["spec"]["assignment"]["instanceID"] == before["spec"]["assignment"]["instanceID"]
            assert after["status"]["addresses"] == before["status"]["addresses"]
            if row.leads[state] != state:
                await bring(cloud, project, state)


async def test_memory_survives_pause_and_suspend_and_not_a_reboot(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A guest that was paused or suspended goes on counting where it was; a rebooted one begins anew."""
    count = "#!/bin/sh\n(n=0; while sleep 1; do n=$((n+1)); echo count-$n; done) &\n"
    server = await made(cloud, project, userData={"inline": count})
    log = console.path(lab, server)
    await console.says(log, "count-3$")
    await cloud.power(project, "a", "Paused")
    await cloud.power(project, "a", "Running")
    await console.says(log, "count-6$")
    await cloud.power(project, "a", "Suspended")
    await agreed(cloud, lab, seconds=20)
    await cloud.power(project, "a", "Running")
    await console.says(log, "count-12$")
    lines = log.read_text(errors="replace").splitlines()
    assert sum("boot-id=" in line for line in lines) == 1, "it has booted again"
    done = await cloud.act(project, "a", "Reboot", reboot={"type": "Hard"})
    assert done["status"]["phase"] == "Succeeded"
    assert done["spec"]["requestedBy"]
    assert done["status"]["finishedAt"] >= done["status"]["startedAt"]


@pytest.mark.tenant
async def test_a_rebuilt_disk_is_new(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """What a guest wrote to its root disk is there after a reboot and gone after a Rebuild; its address stays."""
    keep = "#!/bin/sh\n[ -e /disk/kept ] && echo kept || echo blank\ntouch /disk/kept; sync\n"
    server = await made(cloud, project, userData={"inline": keep})
    log = console.path(lab, server)
    for number, (row, says) in enumerate(((ROWS[2], "blank"), (ROWS[3], "kept"), (None, "blank")), 1):
        await _says_again(log, "user-data-done", number)
        assert _said(log, ("kept", "blank"))[-1] == says
        if row is not None:
            await succeeds(cloud, project, row)


async def test_a_rescued_server_has_its_disk_beside(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A rescue boots another disk with the root disk as the second one, whose files are still there afterwards."""
    server = await made(cloud, project)
    log = console.path(lab, server)
    await _says_again(log, "kumulus-guest: ready", 1)
    await succeeds(cloud, project, ROWS[4])
    found = await console.says(log, r"disk=vdb bytes=\d+ serial=root-(\S+)")
    assert server["spec"]["assignment"]["instanceID"].startswith(found[1].strip())
    rescued = await cloud.tells(project, "a", "Rescued")
    assert condition(rescued, "Ready")["status"] == "False"
    with pytest.raises(Invalid, match="Unrescue"):
        await cloud.client.patch_merge(Server, "a", {"spec": {"powerState": "Stopped"}}, project)
    await succeeds(cloud, project, ROWS[5])
    await cloud.tells(project, "a", "Running")
    await agreed(cloud, lab, seconds=20)


@pytest.mark.tenant
async def test_a_locked_server_is_left_alone(cloud: Cloud, project: str) -> None:
    """Neither change nor deletion nor action reaches a locked server, until it is unlocked."""
    await made(cloud, project)
    await succeeds(cloud, project, ROWS[7])
    for patch in ({"powerState": "Stopped"}, {"recovery": "None"}):
        with pytest.raises(Invalid, match="locked"):
            await cloud.client.patch_merge(Server, "a", {"spec": patch}, project)
    with pytest.raises(Forbidden, match="locked"):
        await cloud.client.delete(Server, "a", project)
    refused = await cloud.act(project, "a", "Reboot")
    assert (refused["status"]["phase"], refused["status"]["reason"]) == ("Failed", "Locked")
    await succeeds(cloud, project, ROWS[8])
    await cloud.power(project, "a", "Stopped")


async def test_a_guests_own_end_is_shown_and_answered(cloud: Cloud, project: str) -> None:
    """A guest that turned itself off stays off whatever else of its spec changes, until a Start or a newer wish."""
    await cloud.make_network(project)
    script = "#!/bin/sh\n[ -e /disk/off ] && exit\ntouch /disk/off; sync; poweroff -f\n"
    await cloud.make_server(project, "a", userData={"inline": script}, **QUICK)
    stopped = await cloud.tells(project, "a", "Stopped")
    assert condition(stopped, "Ready")["reason"] == "StoppedByGuest"
    await cloud.client.patch_merge(Server, "a", {"spec": {"onGuestShutdown": "Stop", "recovery": "None"}}, project)
    still = await cloud.tells(project, "a", "Stopped")
    assert condition(still, "Ready")["reason"] == "StoppedByGuest"
    refused = await cloud.client.patch_merge(Server, "a", {"spec": {"powerState": "Paused"}}, project)
    assert refused["spec"]["powerState"] == "Paused"
    told = await cloud.until(
        Server, "a", lambda s: condition(s, "Ready")["reason"] == "IllegalState", namespace=project
    )
    assert "permanent" in condition(told, "Ready")["message"]
    await cloud.power(project, "a", "Running")


@pytest.mark.tenant
async def test_a_password_needs_a_guest_agent(cloud: Cloud, project: str) -> None:
    """A password that is not there, or no guest could take, is refused at once; so is a guest without an agent."""
    await made(cloud, project)
    words = {"password": base64.b64encode(b"word").decode(), "line": base64.b64encode(b"word\n").decode()}

    async def refusal(**secret: str) -> tuple[str, str]:
        ended = await cloud.act(project, "a", "SetPassword", setPassword={"secret": {"name": "mine"} | secret})
        return ended["status"]["phase"], ended["status"]["reason"]

    assert await refusal() == ("Failed", "SecretNotFound")
    await cloud.client.create(SECRET, {"metadata": {"name": "mine", "namespace": project}, "data": words})
    assert await refusal(key="other") == ("Failed", "SecretNotFound")
    assert await refusal(key="line") == ("Failed", "PasswordInvalid")
    assert await refusal() == ("Failed", "NoGuestAgent")
    for state in STATES[1:4]:
        await bring(cloud, project, state)
        assert await refusal() == ("Failed", "IllegalState")


@pytest.mark.tenant
async def test_actions_of_one_server_come_in_order(cloud: Cloud, project: str) -> None:
    """Of several actions at once each is begun when the one before has ended, and none is lost."""
    await made(cloud, project)
    done = await asyncio.gather(*(cloud.act(project, "a", "Reboot", reboot={"type": "Hard"}) for _ in range(4)))
    assert [item["status"]["phase"] for item in done] == ["Succeeded"] * 4
    spans = sorted((item["status"]["startedAt"], item["status"]["finishedAt"]) for item in done)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    await cloud.delete(Server, "a", project)
    for item in done:
        await cloud.gone(ServerAction, item["metadata"]["name"], project)


def _said(log: Any, words: tuple[str, ...]) -> list[str]:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return [line for line in lines if line in words]


async def _says_again(log: Any, words: str, times: int) -> None:
    """Wait until a console has said something so many times."""
    seen = 0
    async with asyncio.timeout(90):
        async for line in console.lines(log):
            seen += words in line
            if seen >= times:
                return


def test_the_table_knows_every_power_state() -> None:
    """A powerState that is added has to find its place in the table."""
    wishes = {str(item) for item in type(ServerSpec.model_fields["power_state"].default)}
    assert wishes <= set(STATES)


@pytest.mark.tenant
async def test_a_guest_is_told_its_metadata(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """What spec.metadata says the guest reads at its start; a change reaches it at the next one."""
    read = '#!/bin/sh\necho "told $(grep -o \'"role": "[a-z]*"\' /run/meta-data)"\n'
    server = await made(cloud, project, userData={"inline": read}, metadata={"role": "web"}, tags=["blue"])
    log = console.path(lab, server)
    await console.says(log, 'told "role": "web"')
    await cloud.client.patch_merge(Server, "a", {"spec": {"metadata": {"role": "db"}}}, project)
    await succeeds(cloud, project, ROWS[2])
    await console.says(log, 'told "role": "db"')


@pytest.mark.tenant
async def test_a_guest_gets_a_config_drive(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """With configDrive the guest finds OpenStack's drive by its label, with its identity on it."""
    read = (
        "#!/bin/sh\nmkdir /c; mount -t iso9660 -o ro $(findfs LABEL=config-2) /c\n"
        'echo "uuid $(sed \'s/.*"uuid": "\\([^"]*\\)".*/\\1/\' /c/openstack/latest/meta_data.json)"\n'
        "cmp /run/user-data /c/openstack/latest/user_data && echo same-user-data\n"
    )
    server = await made(cloud, project, userData={"inline": read}, configDrive=True)
    log = console.path(lab, server)
    found = await console.says(log, "uuid ([0-9a-f-]{36})")
    assert found[1] == server["spec"]["assignment"]["instanceID"]
    await console.says(log, "same-user-data")


async def test_a_crash_is_shown_at_once_and_answered_as_asked(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A guest whose QEMU dies is Crashed within a second where recovery is None, until a Start; else it runs again."""
    server = await made(cloud, project, recovery="None")
    assignment = server["spec"]["assignment"]
    kill = ("pkill", "-KILL", "-f", f"guest=k-{assignment['instanceID']}")
    await asyncio.to_thread(Hosts(lab).run, assignment["host"], kill, check=True)
    watch = Stopwatch()
    crashed = await cloud.tells(project, "a", "Crashed")
    assert watch.seconds < 5, "under load; alone it takes a fraction of a second"
    assert condition(crashed, "Ready")["reason"] == "Crashed"
    for row in (ROWS[1], ROWS[5]):
        refused = await cloud.act(project, "a", row.type, **row.parameters)
        assert refused["status"]["reason"] == "IllegalState"
    await succeeds(cloud, project, ROWS[0])
    await cloud.client.patch_merge(Server, "a", {"spec": {"recovery": "Restart"}}, project)
    await cloud.tells(project, "a", "Running")
    await agreed(cloud, lab, seconds=30)
