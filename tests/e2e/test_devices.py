"""Volumes and NICs that come to real guests while they run, and leave them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kumulus_api import Image, Port, Server, Volume
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, Object, condition, ready

pytestmark = pytest.mark.tenant

# Says what the disk of 8 MiB holds that an earlier guest has written, writes it, and lets go of the disk again.
KEEPER = """#!/bin/sh
found() {
  for size in /sys/block/vd*/size; do
    [ "$(cat $size 2>/dev/null)" = 16384 ] && disk=/dev/$(basename "${size%/size}") && [ -b "$disk" ] && return
  done
  return 1
}
(while :; do
  until found; do sleep 1; done
  mark=$(dd if=$disk bs=512 skip=7 count=1 2>/dev/null | head -c 11)
  [ "$mark" = kept-for-us ] && echo volume-remembers || echo volume-is-blank
  printf kept-for-us | dd of=$disk bs=512 seek=7 conv=sync,fsync 2>/dev/null && echo volume-written
  while found; do sleep 1; done
  echo volume-is-away
done) >/dev/ttyS0 2>&1 &
"""
DATA = [{"name": "data", "volume": {"name": "data"}}]
ETH0 = {"name": "eth0", "network": {"name": "private"}}
ETH1 = {"name": "eth1", "network": {"name": "second"}}
OWN = {"name": "own", "port": {"name": "mine"}}


async def made(cloud: Cloud, project: str, name: str, **spec: Any) -> Object:
    """Make a server that runs, with one NIC and no volume."""
    spec = {"networks": [ETH0], "userData": {"inline": KEEPER}, "stopTimeoutSeconds": 5} | spec
    await cloud.make_server(project, name, **spec)
    return await cloud.server_ready(project, name)


async def change(cloud: Cloud, project: str, name: str, **spec: Any) -> None:
    """Change a server's spec."""
    await cloud.client.patch_merge(Server, name, {"spec": spec}, project)


def _holder(volume: Object) -> str | None:
    return volume["spec"].get("assignment", {}).get("attachedTo")


async def volume_is(cloud: Cloud, project: str, reason: str, holder: str | None = None) -> Object:
    """Wait for the reason of the volume's Ready condition and its holder; give its assignment."""
    volume = await cloud.until(
        Volume,
        "data",
        lambda v: (condition(v, "Ready")["reason"], _holder(v)) == (reason, holder),
        namespace=project,
        seconds=60,
    )
    return volume["spec"]["assignment"]


async def test_devices_go_from_one_running_guest_to_another(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A device is in one guest at a time, goes when that has let go of it, and with its guest to another host."""
    await cloud.make_network(project)
    await cloud.make_network(project, "second", "10.20.0.0/24")
    await cloud.make(Port, "mine", {"network": {"name": "second"}, "addresses": ["10.20.0.77"]}, project)
    await cloud.make(Volume, "data", {"size": "8Mi"}, project)
    later = await made(cloud, project, "later")
    host = later["spec"]["assignment"]["host"]
    first = await made(cloud, project, "first", placement={"host": host})
    logs = [console.path(lab, server) for server in (first, later)]
    for log in logs:
        await console.says(log, "kumulus-guest: ready")

    await _comes(cloud, project, logs[0])
    await change(cloud, project, "later", volumes=DATA, networks=[ETH0, OWN])
    waits = await cloud.until(
        Server, "later", lambda s: condition(s, "DevicesApplied")["status"] == "False", namespace=project
    )
    assert condition(waits, "DevicesApplied")["reason"] in ("VolumeInUse", "PortInUse")
    assert ready(waits)
    await _leaves(cloud, project, logs[0])
    await console.says(logs[1], "volume-remembers")
    await console.says(logs[1], r"address=10\.20\.0\.77/24 dev=eth1")
    await volume_is(cloud, project, "InUse", "later")
    for name, volumes in (("first", None), ("later", 1)):
        server = await cloud.server_ready(project, name)
        assert len(server["spec"]["assignment"].get("volumes", ())) == (volumes or 0)
    await _moves(cloud, project, lab, host)


async def _comes(cloud: Cloud, project: str, log: Any) -> None:
    """A running guest finds the disk and both NICs."""
    await change(cloud, project, "first", volumes=DATA, networks=[ETH0, ETH1, OWN])
    held = await volume_is(cloud, project, "InUse", "first")
    serial = re.escape(held["volumeID"][:20])
    await console.says(log, rf"kumulus-guest: disk=vd\w bytes={8 << 20} serial={serial}$")
    await console.says(log, "volume-is-blank")
    await console.says(log, "volume-written")
    for port in ("first-eth1", "mine"):
        wired = await cloud.until(Port, port, lambda p: bool(p.get("status", {}).get("wired")), namespace=project)
        address = wired["spec"]["assignment"]["addresses"][0]
        await console.says(log, rf"address={re.escape(address)}/24 dev=eth")
        await cloud.until(
            Server,
            "first",
            lambda s, address=address: address in [item["address"] for item in s["status"]["addresses"]],
            namespace=project,
        )


async def _leaves(cloud: Cloud, project: str, log: Any) -> None:
    """A paused guest cannot let go of its disk: DetachPending says so, the Volume stays held, and it ends by itself."""
    await cloud.power(project, "first", "Paused")
    await change(cloud, project, "first", volumes=[])
    told = await cloud.until(
        Server, "first", lambda s: condition(s, "VolumesReady")["reason"] == "DetachPending", namespace=project
    )
    assert "data" in condition(told, "VolumesReady")["message"]
    await volume_is(cloud, project, "InUse", "first")
    await cloud.power(project, "first", "Running")
    await change(cloud, project, "first", networks=[ETH0])
    await console.says(log, "volume-is-away")
    for name in ("eth1", "eth2"):
        await console.says(log, f"nic-removed={name}")
    await cloud.gone(Port, "first-eth1", project)
    await cloud.until(
        Server, "first", lambda s: condition(s, "VolumesReady")["status"] == "True", namespace=project, seconds=60
    )


async def _moves(cloud: Cloud, project: str, lab: LabSettings, former: str) -> None:
    """What was attached goes to another host with the guest, leaves it there, and comes back to it as it is off."""
    done = await cloud.act(project, "later", "LiveMigrate", seconds=120)
    assert done["status"]["phase"] == "Succeeded", done["status"]
    moved = await cloud.server_ready(project, "later")
    host = moved["spec"]["assignment"]["host"]
    assert host != former
    log = console.path(lab, moved)
    await change(cloud, project, "later", volumes=[], networks=[ETH0])
    await console.says(log, "volume-is-away")
    await console.says(log, "nic-removed=eth1")
    free = await volume_is(cloud, project, "Available")
    assert (free["host"], "attachedTo" in free) == (host, False)
    await cloud.until(Port, "mine", lambda p: p["status"]["wired"] is False, namespace=project)

    await cloud.power(project, "later", "Stopped")
    await change(cloud, project, "later", volumes=DATA)
    await volume_is(cloud, project, "InUse", "later")
    await change(cloud, project, "later", volumes=[])
    await volume_is(cloud, project, "Available")
    await change(cloud, project, "later", volumes=DATA)
    await volume_is(cloud, project, "InUse", "later")
    await cloud.power(project, "later", "Running")
    await console.says(log, "volume-remembers")


async def test_what_finds_no_slot_comes_with_the_next_start(cloud: Cloud, project: str) -> None:
    """More volumes than a running guest has slots for: some come, the others are told and come by a restart."""
    names = [f"data{number}" for number in range(14)]
    for name in names:
        await cloud.make(Volume, name, {"size": "1Mi"}, project)
    await cloud.make_network(project)
    base = await cloud.client.get(Image, "tiny", "kumulus-public")
    assert base is not None
    source = {"source": base["spec"]["source"], "format": "qcow2", "properties": {"hw_machine_type": "q35"}}
    await cloud.make(Image, "express", source, project)
    await cloud.until(Image, "express", ready, namespace=project, seconds=120)
    await made(cloud, project, "full", image={"name": "express"})
    await change(cloud, project, "full", volumes=[{"name": name, "volume": {"name": name}} for name in names])
    told = await cloud.until(
        Server, "full", lambda s: condition(s, "VolumesReady")["reason"] == "NoFreeSlot", namespace=project
    )
    assert condition(told, "RestartRequired")["reason"] == "NoFreeSlot"
    assert ready(told)
    message = condition(told, "VolumesReady")["message"]
    assert "data13" in message
    assert "data0," not in message
    await cloud.act(project, "full", "Reboot", reboot={"type": "Hard"})
    whole = await cloud.until(
        Server, "full", lambda s: condition(s, "VolumesReady")["status"] == "True" and ready(s), namespace=project
    )
    assert condition(whole, "RestartRequired")["status"] == "False"
