"""`kubectl kumulus console-log`: the real plugin, called as a user calls it."""

import pytest

from kumulus_api import Server
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, refused
from kumulus_lab.testing.plugin import Plugin

pytestmark = pytest.mark.tenant

TALK = r"""#!/bin/sh
for i in 1 2 3 4 5 6 7 8 9; do echo line-$i-of-9; done
echo 'grüße 你好'
printf 'cut-\377-short\n'
"""


async def console_log(lab: LabSettings, *arguments: str) -> tuple[int, str, str]:
    """Run `kubectl kumulus console-log` and give its status, output and error output."""
    return await Plugin(lab, lab.kubeconfig).run("console-log", *arguments)


async def test_output_of_a_guest(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """The plugin prints what the guest wrote, of whatever bytes, or its last lines, also when it is off."""
    await cloud.make_network(project)
    await cloud.make_server(project, "talker", userData={"inline": TALK})
    server = await cloud.server_ready(project, "talker")
    await console.says(console.path(lab, server), "kumulus-guest: ready")

    status, everything, _ = await console_log(lab, "talker", "--namespace", project)
    assert status == 0
    for line in (
        "kumulus-guest: boot-id=",
        "kumulus-guest: hostname=talker",
        "line-1-of-9",
        "grüße 你好",
        "cut-\ufffd-short",
    ):
        assert line in everything
    status, end, _ = await console_log(lab, "talker", "-n", project, "--tail", "3")
    assert status == 0
    assert len(end.splitlines()) == 3
    assert everything.rstrip("\r\n").endswith(end.rstrip("\r\n")) or end.splitlines()[0] in everything

    await cloud.client.patch_merge(Server, "talker", {"spec": {"powerState": "Stopped"}}, project)
    await cloud.until(Server, "talker", lambda s: s["status"].get("powerState") == "Stopped", namespace=project)
    status, off, _ = await console_log(lab, "talker", "-n", project)
    assert status == 0
    assert "line-9-of-9" in off


async def test_refusals_say_what_is_missing(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """An absent server and one that is not placed are errors that name the server and the reason."""
    status, out, error = await console_log(lab, "nobody", "--namespace", project)
    assert (status, out) == (1, "")
    assert "nobody" in error
    await cloud.make_server(project, "waiting", image={"name": "absent"})
    await cloud.until(Server, "waiting", refused("ImageNotFound"), namespace=project)
    status, out, error = await console_log(lab, "waiting", "--namespace", project)
    assert (status, out) == (1, "")
    assert "ImageNotFound" in error
