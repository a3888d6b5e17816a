"""A server that is made anew under its name, or restored from a backup: never two guests, and none is lost."""

import itertools
import re

import pytest

from kumulus_api import Host, Port, Server
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import backup, console
from kumulus_lab.testing.agreement import agreed
from kumulus_lab.testing.cloud import Cloud, Object, condition
from kumulus_lab.testing.observer import Observer
from kumulus_lab.testing.runs import runs
from kumulus_runtime.errors import AlreadyExists

TIMES = 4


async def test_deleted_and_made_anew(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A server made anew under the name of one that is being deleted is another one, and begins after its end."""
    await cloud.make_network(project)
    instances = []
    for _ in range(TIMES):
        await _make_as_soon_as_possible(cloud, project)
        server = await cloud.server_ready(project, "a")
        instances.append(server["spec"]["assignment"]["instanceID"])
        await cloud.client.delete(Server, "a", project)
    await cloud.gone(Server, "a", project)
    assert len(set(instances)) == TIMES
    found = [run for instance in instances for run in runs(lab, instance)]
    assert len(found) == TIMES, "each instance ran once"
    for earlier, later in itertools.pairwise(found):
        assert earlier.ended is not None
        assert earlier.ended <= later.started
    await agreed(cloud, lab)


async def _make_as_soon_as_possible(cloud: Cloud, project: str) -> None:
    try:
        await cloud.make_server(project, "a")
    except AlreadyExists:
        await cloud.gone(Server, "a", project)
        await cloud.make_server(project, "a")


@pytest.mark.parametrize("with_decisions", [True, False], ids=["with its assignment", "without its assignment"])
async def test_restored_from_backup(cloud: Cloud, project: str, lab: LabSettings, with_decisions: bool) -> None:
    """A server whose object was lost and restored is the guest that runs: same boot, instance, host and addresses."""
    await cloud.make_network(project)
    await cloud.make_server(project, "a")
    before = await cloud.server_ready(project, "a")
    log = console.path(lab, before)
    await console.says(log, "kumulus-guest: ready", 90)
    await backup.lose(cloud, lab, Server, "a", project)
    await _unclaimed(cloud, before)
    await _port_gone(cloud, project)

    body = backup.saved(before)
    if not with_decisions:
        del body["spec"]["assignment"]
    await backup.restore(lab, body)
    after = await cloud.server_ready(project, "a")
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["spec"]["assignment"] == before["spec"]["assignment"]
    assert after["status"]["addresses"] == before["status"]["addresses"]
    assert condition(after, "Ready")["reason"] == "Running"
    await agreed(cloud, lab, 10)
    assert _boots(lab, before) == 1
    assert len(runs(lab, before["spec"]["assignment"]["instanceID"])) == 1

    # It is a server like any other again: its deletion takes all of it.
    await cloud.delete(Server, "a", project)
    await agreed(cloud, lab, 10)


async def test_restored_beside_its_port(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A server is adopted though its port comes back too, still owned by the object that was lost."""
    await cloud.make_network(project)
    await cloud.make_server(project, "a")
    before = await cloud.server_ready(project, "a")
    ports, _ = await cloud.client.list(Port, namespace=project)
    await backup.lose(cloud, lab, Server, "a", project)
    await _port_gone(cloud, project)
    for body in (*ports, before):
        await backup.restore(lab, backup.saved(body))
    after = await cloud.server_ready(project, "a")
    assert after["spec"]["assignment"] == before["spec"]["assignment"]
    await _unclaimed_no_more(cloud)
    async with Observer(cloud, Port, namespace=project) as found:
        await found.eventually(
            lambda now: any(_owned_by(port, after) for port in now.values()), "a port owned by the new object", 30
        )
    await agreed(cloud, lab, 10)
    assert len(runs(lab, before["spec"]["assignment"]["instanceID"])) == 1


async def _unclaimed(cloud: Cloud, server: Object) -> None:
    assigned = server["spec"]["assignment"]
    await cloud.until(Host, assigned["host"], lambda h: assigned["instanceID"] in _reported(h), seconds=30)


async def _unclaimed_no_more(cloud: Cloud) -> None:
    async with Observer(cloud, Host) as hosts:
        await hosts.eventually(lambda found: not any(map(_reported, found.values())), "no instance unclaimed", 30)


async def _port_gone(cloud: Cloud, project: str) -> None:
    async with Observer(cloud, Port, namespace=project) as ports:
        await ports.eventually(lambda found: not found, "the port goes with its owner", 30)


def _owned_by(port: Object, server: Object) -> bool:
    owners = port["metadata"].get("ownerReferences", [])
    return any(owner["uid"] == server["metadata"]["uid"] for owner in owners)


def _reported(host: Object) -> list[str]:
    return [item["instanceID"] for item in host["status"].get("unclaimedInstances", [])]


def _boots(lab: LabSettings, server: Object) -> int:
    return len(re.findall("kumulus-guest: boot-id=", console.path(lab, server).read_text(errors="replace")))
