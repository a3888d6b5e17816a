"""More servers than there is room for: as many as fit run, the others say why they wait, and run when room appears."""

import asyncio
import re

import yaml

from kumulus_api import Flavor, Host, Server
from kumulus_lab.chart import LAB_VALUES
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import room
from kumulus_lab.testing.agreement import agreed
from kumulus_lab.testing.cloud import Cloud, Object, condition, ready
from kumulus_lab.testing.observer import Objects, Observer
from kumulus_lab.testing.sightings import look
from kumulus_operator.settings import OperatorSettings

SERVERS = 50
PER_HOST = 6
FREED = 4


async def test_fifty_servers_for_room_of_twelve(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """Of 50 servers made at once as many run as fit, never more on any host, and each that goes lets one in."""
    hosts, _ = await cloud.client.list(Host)
    others, _ = await cloud.client.list(Server)
    totals = {host["metadata"]["name"]: room.total(host, OperatorSettings(**_lab_settings())) for host in hosts}
    spec = _sixth(room.free(totals, others))
    fitting = sum(left.times(room.size(spec)) for left in room.free(totals, others).values())
    assert fitting == PER_HOST * len(hosts)
    flavor = f"{project}-large"
    await cloud.make_network(project)
    await cloud.make(Flavor, flavor, spec)

    def overfull(servers: Objects) -> str | None:
        for name, left in room.free(totals, list(servers.values())).items():
            if min(left.vcpus, left.memory, left.disk) < 0:
                return f"host {name} has given out more than it has: {left}"
        return None

    names = [f"s{index}" for index in range(SERVERS)]
    try:
        async with Observer(cloud, Server, always=overfull) as servers:
            await asyncio.gather(*(cloud.make_server(project, name, flavor={"name": flavor}) for name in names))
            seen = await servers.eventually(
                lambda all_: _counts(all_, project) == (fitting, SERVERS - fitting), "room full", 120
            )
            _check_refusals(seen, project, len(hosts))
            await _check_domains(lab, seen, project)
            first = [key[1] for key, server in seen.items() if key[0] == project and ready(server)]
            await asyncio.gather(*(cloud.client.delete(Server, name, project) for name in first[:FREED]))
            left = SERVERS - FREED - fitting
            await servers.eventually(lambda all_: _counts(all_, project) == (fitting, left), "room full again", 90)
            await agreed(cloud, lab)
            await cloud.empty(project)
    finally:
        await cloud.delete(Flavor, flavor)


def _lab_settings() -> Object:
    """The operator's settings that the lab's values change, by their names in `OperatorSettings`."""
    values = yaml.safe_load(LAB_VALUES.read_text())["operator"]["settings"]
    return {"vcpu_overcommit": values["vcpuOvercommit"]}


def _sixth(free: dict[str, room.Room]) -> Object:
    """A flavor of which six fit on each host by its disk, which takes no real space: overlays are sparse."""
    disk = min(left.disk for left in free.values()) // PER_HOST
    return {"vcpus": 1, "memory": "128Mi", "rootDisk": f"{int(disk) >> 20}Mi"}


def _counts(servers: Objects, project: str) -> tuple[int, int]:
    """How many are Ready, and how many wait for a host."""
    mine = [server for (namespace, _), server in servers.items() if namespace == project]
    waiting = [server for server in mine if condition(server, "Scheduled")["reason"] == "NoValidHost"]
    return sum(map(ready, mine)), sum("assignment" not in server["spec"] for server in waiting)


def _check_refusals(servers: Objects, project: str, hosts: int) -> None:
    for (namespace, _), server in servers.items():
        if namespace == project and not ready(server):
            message = condition(server, "Scheduled")["message"]
            counted = re.search(r"no valid host out of (\d+): (.*);", message)
            assert counted, message
            assert int(counted[1]) == hosts
            assert sum(int(count) for count in re.findall(r"(\d+) without", counted[2])) == hosts, message
            assert condition(server, "Ready")["reason"] == "Pending"


async def _check_domains(lab: LabSettings, servers: Objects, project: str) -> None:
    """Libvirt runs all of the project that are placed, and nothing that is not."""
    placed = {f"k-{s['spec']['assignment']['instanceID']}": s for s in servers.values() if "assignment" in s["spec"]}
    running = {name for seen in (await look(lab)).values() for name, active in seen.domains.items() if active}
    mine = {name for name, server in placed.items() if server["metadata"]["namespace"] == project}
    missing = [(placed[name]["metadata"]["name"], condition(placed[name], "Ready")) for name in mine - running]
    assert not missing, f"placed and not running: {missing}"
    assert running <= placed.keys()
