"""Guests on their way between hosts: they notice nothing, never run twice, and stay where they are if it fails."""

from __future__ import annotations

import asyncio
import contextlib
import re

import pytest

from kumulus_api import Host, Port, Server, ServerAction, Volume
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Breach, Cloud, condition
from kumulus_lab.testing.migrating import Lookout, ask, copying, ended, kill_on, kill_when_still, succeeded
from kumulus_lab.testing.plugin import Plugin
from kumulus_lab.testing.sightings import look
from kumulus_lab.testing.travelling import (
    CHECKER,
    back_and_forth,
    nothing_left,
    on_host,
    other_than,
    settled_on,
    unharmed,
)

# A volume keeps a word; it is read past the cache again and again.
KEEPER = """#!/bin/sh
read_it() { echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vdb bs=512 count=1 2>/dev/null | head -n 1; }
if [ "$(read_it)" = kept-by-the-volume ]; then echo volume-kept; else
 echo kept-by-the-volume | dd of=/dev/vdb conv=fsync 2>/dev/null; echo volume-new; fi
(n=0; while :; do n=$((n+1)); echo volume-reads-$n=$(read_it); sleep 1; done) >/dev/ttyS0 2>&1 &
"""


async def test_back_and_forth_under_load(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A guest migrates back and forth while it works: its stream, data and addresses go on, and it runs once."""
    await cloud.make_network(project)
    downtimes = await back_and_forth(cloud, lab, project, 6)
    assert max(downtimes) < 5000
    found = await cloud.client.get(Server, "mover", project)
    assert found is not None
    wired = {"wired": True, "host": on_host(found)}
    await cloud.until(Port, "mover-default", lambda port: port["status"] == wired, namespace=project)


async def test_abort_leaves_the_guest_where_it_is(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A migration that is given up ends as Aborted; the guest goes on at its host, and the target has nothing of it."""
    await cloud.make_network(project)
    await cloud.make_server(project, "mover", userData={"inline": CHECKER})
    before = await cloud.server_ready(project, "mover")
    await console.says(console.path(lab, before), "sums-ok-2")
    async with Lookout(lab, before["spec"]["assignment"]["instanceID"]):
        action = await ask(cloud, project, "mover", bandwidth=1)
        await copying(cloud, project, action)
        await cloud.client.patch_merge(ServerAction, action, {"spec": {"abort": True}}, project)
        done = await ended(cloud, project, action)
        assert (done["status"]["phase"], done["status"]["reason"]) == ("Failed", "Aborted")
        host = on_host(before)
        after = await cloud.until(Server, "mover", settled_on(host), namespace=project)
        await nothing_left(lab, after, other_than(host))
        await succeeded(cloud, project, await ask(cloud, project, "mover"))
        after = await cloud.until(Server, "mover", settled_on(other_than(host)), namespace=project)
    await unharmed(lab, after)


async def test_an_action_that_is_deleted_at_once(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """However early a migration is given up, and its action deleted, the target keeps nothing of it."""
    await cloud.make_network(project)
    await cloud.make_server(project, "mover")
    await cloud.server_ready(project, "mover")
    for _ in range(4):
        action = await ask(cloud, project, "mover")
        await cloud.until(ServerAction, action, lambda a: "target" in (a.get("status") or {}), namespace=project)
        await cloud.client.patch_merge(ServerAction, action, {"spec": {"abort": True}}, project)
        await ended(cloud, project, action)
        await cloud.delete(ServerAction, action, project)
        after = await cloud.until(Server, "mover", lambda s: "target" not in s["spec"]["assignment"], namespace=project)
        # It may have been quicker, and there by now.
        await nothing_left(lab, after, other_than(on_host(after)))


# Speaks without pause, so that each switch falls into a word.
COUNTER = """#!/bin/sh
(n=0; while :; do n=$((n+1)); echo count-$n; usleep 10000; done) >/dev/ttyS0 2>&1 &
"""


async def test_the_console_log_goes_along(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """Of what a guest writes on its console nothing is lost and nothing is doubled, live and cold, there and back."""
    await cloud.make_network(project)
    await cloud.make_server(project, "mover", userData={"inline": COUNTER})
    after = await cloud.server_ready(project, "mover")
    for kind in ("LiveMigrate", "LiveMigrate", "LiveMigrate", "Migrate"):
        await console.says(console.path(lab, after), "count-")
        host = other_than(on_host(after))
        await succeeded(cloud, project, await ask(cloud, project, "mover", kind))
        after = await cloud.until(Server, "mover", settled_on(host), namespace=project)
    boot = await console.says(console.path(lab, after), r"boot-id=(\S+)")
    await console.says(console.path(lab, after), rf"boot-id=(?!{boot[1]})", 90)
    status, said, _ = await Plugin(lab, lab.kubeconfig).run("console-log", "mover", "-n", project)
    assert status == 0
    first, *rest = said.split("count-1\r\n" if "count-1\r\n" in said else "count-1\n")
    assert "boot-id" in first
    counted = [int(number) for number in re.findall(r"count-(\d+)\s", rest[0])]
    assert len(counted) > 100
    assert counted == list(range(2, len(counted) + 2))
    assert said.count("kumulus-guest: boot-id=") == 2


@pytest.mark.disturbs
@pytest.mark.parametrize("end", ["source", "target"])
@pytest.mark.parametrize("victim", ["kumulus-agent", "libvirtd"])
async def test_what_dies_in_the_middle(cloud: Cloud, project: str, lab: LabSettings, end: str, victim: str) -> None:
    """Whichever agent or libvirtd dies, the guest goes on at its source, runs once, and can migrate afterwards."""
    await cloud.make_network(project)
    await cloud.make_server(project, "mover", userData={"inline": CHECKER})
    before = await cloud.server_ready(project, "mover")
    host = on_host(before)
    await console.says(console.path(lab, before), "sums-ok-2")
    async with Lookout(lab, before["spec"]["assignment"]["instanceID"]):
        restarts = await cloud.restarts()
        action = await ask(cloud, project, "mover", bandwidth=1)
        await copying(cloud, project, action)
        await asyncio.sleep(2)  # into the copying itself
        kill_on(lab, host if end == "source" else other_than(host), victim)
        done = await ended(cloud, project, action)
        assert (done["status"]["phase"], done["status"]["reason"]) == ("Failed", "MigrationFailed")
        after = await cloud.until(Server, "mover", settled_on(host), namespace=project)
        assert after["spec"]["assignment"] == before["spec"]["assignment"]
        await nothing_left(lab, after, other_than(host))
        await succeeded(cloud, project, await ask(cloud, project, "mover"))
        after = await cloud.until(Server, "mover", settled_on(other_than(host)), namespace=project)
    await unharmed(lab, after)
    assert sum((await cloud.restarts()).values()) == sum(restarts.values()) + (victim == "kumulus-agent")


async def test_cold_migration_takes_the_disk_along(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A running server is stopped, moved and started with its disk; a stopped one is moved and stays off."""
    await cloud.make_network(project)
    script = (
        "#!/bin/sh\nif [ -e /disk/kept ]; then echo disk-kept; else echo new >/disk/kept; sync; echo disk-new; fi\n"
    )
    await cloud.make_server(project, "mover", userData={"inline": script})
    before = await cloud.server_ready(project, "mover")
    await console.says(console.path(lab, before), "kumulus-guest: ready")
    host = on_host(before)
    await succeeded(cloud, project, await ask(cloud, project, "mover", "Migrate"))
    after = await cloud.until(Server, "mover", settled_on(other_than(host)), namespace=project)
    await console.says(console.path(lab, after), "disk-kept")
    await nothing_left(lab, after, host)
    await cloud.client.patch_merge(Server, "mover", {"spec": {"powerState": "Stopped"}}, project)
    await cloud.until(Server, "mover", lambda s: s["status"].get("powerState") == "Stopped", namespace=project)
    await succeeded(cloud, project, await ask(cloud, project, "mover", "Migrate"))
    stopped = await cloud.until(
        Server, "mover", lambda s: on_host(s) == host and not s["spec"]["assignment"].get("target"), namespace=project
    )
    assert stopped["status"]["powerState"] == "Stopped"
    await cloud.client.patch_merge(Server, "mover", {"spec": {"powerState": "Running"}}, project)
    after = await cloud.until(Server, "mover", settled_on(host), namespace=project)
    said = await asyncio.to_thread(console.said, console.path(lab, after))
    assert said.count("disk-new") == 1


async def _emulated(cloud: Cloud) -> bool:
    hosts, _ = await cloud.client.list(Host)
    return all(host["status"]["virtualization"] == "qemu" for host in hosts)


async def test_what_cannot_migrate_says_why(cloud: Cloud, project: str) -> None:
    """A refused migration names a typed reason, changes nothing, and the server's condition says it beforehand."""
    await cloud.make_network(project)
    await cloud.make_server(project, "off", powerState="Stopped")
    off = await cloud.until(
        Server, "off", lambda s: (s.get("status") or {}).get("powerState") == "Stopped", namespace=project
    )
    assert condition(off, "LiveMigratable")["reason"] == "NotRunning"
    await cloud.make_server(project, "pinned", placement={"host": "h1"})
    pinned = await cloud.server_ready(project, "pinned")
    assert condition(pinned, "LiveMigratable")["reason"] == "PinnedToHost"
    await cloud.make_server(project, "free")
    free = await cloud.server_ready(project, "free")
    migratable = condition(free, "LiveMigratable")
    assert (migratable["status"], migratable["reason"]) == ("True", "Migratable")
    for name, server, parameters, reason in (
        ("off", off, {}, "IllegalState"),
        ("pinned", pinned, {}, "NoValidHost"),
        ("free", free, {"host": "nowhere"}, "NoValidHost"),
        ("free", free, {"host": on_host(free)}, "NoValidHost"),
        *([("free", free, {"postCopy": True}, "PostCopyUnsupported")] if await _emulated(cloud) else []),
    ):
        done = await ended(cloud, project, await ask(cloud, project, name, **parameters))
        assert (done["status"]["phase"], done["status"]["reason"]) == ("Failed", reason)
        found = await cloud.client.get(Server, name, project)
        assert found is not None
        assert found["spec"]["assignment"] == server["spec"]["assignment"]


@pytest.mark.parametrize("kind", ["LiveMigrate", "Migrate"])
async def test_volumes_go_along(cloud: Cloud, project: str, lab: LabSettings, kind: str) -> None:
    """What a guest has written to a volume is there after it has moved, and the volume belongs to the new host."""
    await cloud.make_network(project)
    await cloud.make(Volume, "data", {"size": "64Mi"}, project)
    await cloud.make_server(
        project, "mover", volumes=[{"name": "data", "volume": {"name": "data"}}], userData={"inline": KEEPER}
    )
    before = await cloud.server_ready(project, "mover")
    await console.says(console.path(lab, before), "volume-new")
    await console.says(console.path(lab, before), "kumulus-guest: ready")
    host = on_host(before)
    await succeeded(cloud, project, await ask(cloud, project, "mover", kind))
    after = await cloud.until(Server, "mover", settled_on(other_than(host)), namespace=project)
    log = console.path(lab, after)
    if kind == "Migrate":
        await console.says(log, "volume-kept")
    else:
        read = re.findall(r"volume-reads-(\d+)", await asyncio.to_thread(console.said, log))
        later = "|".join(str(int(read[-1]) + more) for more in range(2, 20))
        await console.says(log, f"volume-reads-({later})=kept-by-the-volume")
    found = await cloud.client.get(Volume, "data", project)
    assert found is not None
    assert found["spec"]["assignment"]["host"] == other_than(host)
    await nothing_left(lab, after, host)
    name = found["spec"]["assignment"]["volumeID"]
    seen = await look(lab)
    assert [name in seen[each].volumes for each in (host, other_than(host))] == [False, True]


async def test_maintenance_empties_a_host(cloud: Cloud, project: str) -> None:
    """In maintenance a host's guests leave for others; what holds one is told, and gone, the host is drained."""
    await cloud.make_network(project)
    await cloud.make_server(project, "held", placement={"host": "h1"})
    await cloud.make_server(project, "free")
    await cloud.server_ready(project, "held")
    free = await cloud.server_ready(project, "free")
    if on_host(free) != "h1":
        await succeeded(cloud, project, await ask(cloud, project, "free"))
        await cloud.until(Server, "free", settled_on("h1"), namespace=project)
    await cloud.client.patch_merge(Host, "h1", {"spec": {"maintenance": True}})
    try:
        await cloud.until(Server, "free", settled_on("h2"), namespace=project, seconds=120)
        blocked = await cloud.until(Host, "h1", lambda h: condition(h, "Drained")["reason"] == "Blocked", seconds=120)
        assert f"{project}/held: PinnedToHost" in condition(blocked, "Drained")["message"]
        await cloud.delete(Server, "held", project)
        await cloud.until(Host, "h1", lambda h: condition(h, "Drained")["status"] == "True", seconds=60)
    finally:
        await cloud.client.patch_merge(Host, "h1", {"spec": {"maintenance": False}})
    await cloud.until(Host, "h1", lambda h: condition(h, "Drained")["reason"] == "NotInMaintenance")


async def test_a_server_that_is_deleted_on_its_way(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """Deleting a server gives its migration up, and leaves nothing of it on either host."""
    await cloud.make_network(project)
    await cloud.make_server(project, "mover", userData={"inline": CHECKER})
    before = await cloud.server_ready(project, "mover")
    await copying(cloud, project, await ask(cloud, project, "mover", bandwidth=1))
    await cloud.delete(Server, "mover", project)
    for host in ("h1", "h2"):
        await nothing_left(lab, before, host)


async def test_a_paused_guest_stays_paused(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A paused guest migrates as it is, and goes on from where it was when it is asked to."""
    await cloud.make_network(project)
    await cloud.make_server(project, "mover", userData={"inline": CHECKER})
    before = await cloud.server_ready(project, "mover")
    host = on_host(before)
    await console.says(console.path(lab, before), "sums-ok-2")
    await cloud.client.patch_merge(Server, "mover", {"spec": {"powerState": "Paused"}}, project)
    await cloud.until(Server, "mover", lambda s: s["status"].get("powerState") == "Paused", namespace=project)
    await succeeded(cloud, project, await ask(cloud, project, "mover"))
    after = await cloud.until(Server, "mover", lambda s: on_host(s) == other_than(host), namespace=project)
    assert after["status"]["powerState"] == "Paused"
    await nothing_left(lab, after, host)
    said = await asyncio.to_thread(console.said, console.path(lab, after))
    last = int(re.findall(r"sums-ok-(\d+)", said)[-1])
    await cloud.client.patch_merge(Server, "mover", {"spec": {"powerState": "Running"}}, project)
    await cloud.until(Server, "mover", settled_on(other_than(host)), namespace=project)
    later = "|".join(str(last + more) for more in range(2, 20))
    await console.says(console.path(lab, after), f"sums-ok-({later})")


@pytest.mark.disturbs
async def test_the_operator_may_die_meanwhile(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A migration goes on without operator, and the next one makes the target the host."""
    await cloud.make_network(project)
    await cloud.make_server(project, "mover", userData={"inline": CHECKER})
    before = await cloud.server_ready(project, "mover")
    async with Lookout(lab, before["spec"]["assignment"]["instanceID"]):
        action = await ask(cloud, project, "mover", bandwidth=8)
        await copying(cloud, project, action)
        for host in lab.host_specs:
            with contextlib.suppress(Breach):  # it runs on one of them
                kill_on(lab, host.name, "kumulus-operator")
        await succeeded(cloud, project, action, 180)
        await cloud.until(Server, "mover", settled_on(other_than(on_host(before))), namespace=project)


CUT = (
    "add table inet cut; add chain inet cut out { type filter hook output priority 0; }; "
    "add rule inet cut out tcp dport 9809 drop; add rule inet cut out tcp sport 9809 drop"
)


async def test_hosts_that_lose_each_other(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """When the network between the hosts is cut in the middle the guest goes on at its source, and nothing is left."""
    await cloud.make_network(project)
    await cloud.make_server(project, "mover", userData={"inline": CHECKER})
    before = await cloud.server_ready(project, "mover")
    host, hosts = on_host(before), Hosts(lab)
    await console.says(console.path(lab, before), "sums-ok-2")
    async with Lookout(lab, before["spec"]["assignment"]["instanceID"]):
        action = await ask(cloud, project, "mover", bandwidth=1)
        await copying(cloud, project, action)
        await asyncio.sleep(2)  # into the copying itself
        hosts.run(host, ["nft", CUT], check=True)
        try:
            done = await ended(cloud, project, action)
        finally:
            hosts.run(host, ["nft", "delete table inet cut"], check=True)
        assert (done["status"]["phase"], done["status"]["reason"]) == ("Failed", "MigrationFailed")
        after = await cloud.until(Server, "mover", settled_on(host), namespace=project)
        await nothing_left(lab, after, other_than(host))
    await unharmed(lab, after)


@pytest.mark.disturbs
@pytest.mark.parametrize("end", ["source", "target"])
@pytest.mark.parametrize("victim", ["kumulus-agent", "libvirtd"])
async def test_what_dies_at_the_switch(cloud: Cloud, project: str, lab: LabSettings, end: str, victim: str) -> None:
    """When one dies while the guest stands still, it is at one of the hosts afterwards, whole and once."""
    await cloud.make_network(project)
    await cloud.make_server(project, "mover", userData={"inline": CHECKER})
    before = await cloud.server_ready(project, "mover")
    host = on_host(before)
    instance = before["spec"]["assignment"]["instanceID"]
    await console.says(console.path(lab, before), "sums-ok-2")
    victims = host if end == "source" else other_than(host)
    async with Lookout(lab, instance):
        killing = asyncio.create_task(asyncio.to_thread(kill_when_still, lab, instance, host, victims, victim))
        action = await ask(cloud, project, "mover")
        await killing
        done = await ended(cloud, project, action, 180)
        there = other_than(host) if done["status"]["phase"] == "Succeeded" else host
        after = await cloud.until(Server, "mover", settled_on(there), namespace=project, seconds=90)
        await nothing_left(lab, after, other_than(there))
        log = console.path(lab, after)
        said = await asyncio.to_thread(console.said, log)
        last = int((re.findall(r"sums-ok-(\d+)", said) or ["0"])[-1])
        later = "|".join(str(last + more) for more in range(2, 20))
        await console.says(log, f"sums-ok-({later})")
    await unharmed(lab, after)
