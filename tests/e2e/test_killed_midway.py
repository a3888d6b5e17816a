"""Whatever of ours is killed while servers come and go: all come and go, guests are undisturbed, status is true."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from kumulus_api import Port, Server
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.agreement import agreed
from kumulus_lab.testing.cloud import Cloud, Object
from kumulus_lab.testing.killing import Victim, back, kill
from kumulus_lab.testing.observer import Observer
from kumulus_lab.testing.runs import runs

pytestmark = pytest.mark.disturbs

SECONDS = 90
"""For a server to come or go although something has to be started anew meanwhile."""


@dataclass(frozen=True)
class Scene:
    """A server that comes while another one goes."""

    cloud: Cloud
    project: str
    comes: str
    goes: str


async def at_once(scene: Scene) -> None:
    """Kill as soon as both requests are accepted."""


async def when_its_port_is_made(scene: Scene) -> None:
    async with Observer(scene.cloud, Port, namespace=scene.project) as ports:
        name = f"{scene.comes}-default"
        await ports.eventually(lambda found: (scene.project, name) in found, "its port", 30)


async def when_assigned(scene: Scene) -> None:
    await scene.cloud.until(Server, scene.comes, lambda s: "assignment" in s["spec"], namespace=scene.project)


def after_assignment(seconds: float) -> Callable[[Scene], Awaitable[None]]:
    async def moment(scene: Scene) -> None:
        await when_assigned(scene)
        await asyncio.sleep(seconds)

    return moment


async def when_ready(scene: Scene) -> None:
    await scene.cloud.server_ready(scene.project, scene.comes)


async def when_the_other_is_gone(scene: Scene) -> None:
    await scene.cloud.gone(Server, scene.goes, scene.project)


Kill = tuple[tuple[Victim, ...], Callable[[Scene], Awaitable[None]]]

KILLS: dict[str, tuple[Kill, ...]] = {
    "agent": (
        ((Victim.AGENT,), at_once),
        ((Victim.AGENT,), when_assigned),
        ((Victim.AGENT,), after_assignment(0.15)),
        ((Victim.AGENT,), after_assignment(0.4)),
        ((Victim.AGENT,), when_ready),
    ),
    "operator": (
        ((Victim.OPERATOR,), at_once),
        ((Victim.OPERATOR,), when_its_port_is_made),
    ),
    "libvirtd and DHCP": (
        ((Victim.LIBVIRTD,), after_assignment(0.1)),
        ((Victim.LIBVIRTD,), when_the_other_is_gone),
        ((Victim.DNSMASQ,), when_assigned),
    ),
    "all at once": ((tuple(Victim), after_assignment(0.25)),),
}


@pytest.mark.parametrize("whom", list(KILLS))
async def test_all_converges_whatever_is_killed(cloud: Cloud, project: str, lab: LabSettings, whom: str) -> None:
    """Servers come and go through each kill, and 5 s later status is what libvirt, netlink and the disks say."""
    await cloud.make_network(project)
    hosts = [host.name for host in lab.host_specs]
    witnesses = await asyncio.gather(*(_witness(cloud, project, lab, host) for host in hosts))
    await cloud.make_server(project, "s0")
    await cloud.server_ready(project, "s0")
    for number, (victims, moment) in enumerate(KILLS[whom]):
        scene = Scene(cloud, project, f"s{number + 1}", f"s{number}")
        try:
            await _round(scene, lab, victims, moment)
        except Exception as error:
            error.add_note(f"{' '.join(victims)} killed: {moment.__qualname__}, number {number}")
            raise
    for witness in witnesses:
        assert len(runs(lab, witness["spec"]["assignment"]["instanceID"])) == 1
        boots = re.findall("kumulus-guest: boot-id=", console.path(lab, witness).read_text(errors="replace"))
        assert len(boots) == 1
        assert await _answers(lab, witness)


async def _round(
    scene: Scene, lab: LabSettings, victims: tuple[Victim, ...], moment: Callable[[Scene], Awaitable[None]]
) -> None:
    cloud, before = scene.cloud, await scene.cloud.restarts()
    await asyncio.gather(
        cloud.make_server(scene.project, scene.comes), cloud.client.delete(Server, scene.goes, scene.project)
    )
    await moment(scene)
    kill(lab, *victims)
    await asyncio.gather(
        cloud.server_ready(scene.project, scene.comes, SECONDS),
        cloud.gone(Server, scene.goes, scene.project, SECONDS),
        back(cloud, lab, before, *victims),
    )
    await agreed(cloud, lab)


async def _witness(cloud: Cloud, project: str, lab: LabSettings, host: str) -> Object:
    beat = "#!/bin/sh\n(while :; do echo beat; sleep 1; done) >/dev/ttyS0 2>&1 &\n"
    await cloud.make_server(project, f"witness-{host}", placement={"host": host}, userData={"inline": beat})
    server = await cloud.server_ready(project, f"witness-{host}")
    await console.says(console.path(lab, server), "^beat$", 90)
    return server


async def _answers(lab: LabSettings, server: Object) -> bool:
    """Whether the guest still writes to its console."""
    log = console.path(lab, server)
    before, seen = log.read_text(errors="replace").count("beat"), 0
    async with asyncio.timeout(15):
        async for line in console.lines(log):
            seen += line == "beat"
            if seen > before:
                return True
    return False
