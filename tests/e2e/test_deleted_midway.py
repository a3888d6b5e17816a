"""A server that is deleted at any moment of its creation is gone soon after, and leaves nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kumulus_api import AddressClaim, Image, Network, Port, Server
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.agreement import agreed
from kumulus_lab.testing.cloud import Cloud, Object, ready, refused
from kumulus_lab.testing.held_image import HeldImage
from kumulus_lab.testing.observer import Observer

CUT = (
    "add table inet cut; add chain inet cut out { type filter hook output priority 0; }; "
    "add rule inet cut out tcp dport 9809 drop"
)
"""Hosts fetch nothing from each other."""
RELEASE_SECONDS = 90
"""The quarantine of addresses and some time to sweep them."""


@dataclass(frozen=True)
class Scene:
    """What the moments are made with."""

    cloud: Cloud
    lab: LabSettings
    project: str
    far_host: str
    """A host that has to fetch the held image from another, and cannot now."""

    async def make(self, name: str, **spec: object) -> None:
        """Create the server."""
        await self.cloud.make_server(self.project, name, **spec)

    async def assigned(self, name: str) -> Object:
        """Wait until it is assigned."""
        return await self.cloud.until(Server, name, lambda s: "assignment" in s["spec"], namespace=self.project)

    async def says(self, name: str, what: str) -> None:
        """Wait until its guest says something."""
        server = await self.cloud.server_ready(self.project, name)
        await console.says(console.path(self.lab, server), what, 90)


async def at_once(scene: Scene, name: str) -> None:
    await scene.make(name)


async def while_it_waits(scene: Scene, name: str) -> None:
    await scene.make(name, image={"name": "absent"})
    await scene.cloud.until(Server, name, refused("ImageNotFound"), namespace=scene.project)


async def when_its_port_is_made(scene: Scene, name: str) -> None:
    async with Observer(scene.cloud, Port, namespace=scene.project) as ports:
        await scene.make(name)
        await ports.eventually(lambda found: any(_owner(port) == name for port in found.values()), "a port", 30)


async def when_it_is_assigned(scene: Scene, name: str) -> None:
    await scene.make(name)
    await scene.assigned(name)


async def while_its_image_comes(scene: Scene, name: str) -> None:
    await scene.make(name, image={"name": "held"}, placement={"host": scene.far_host})
    await scene.assigned(name)
    await asyncio.sleep(1)  # into the fetching itself


def after_assignment(seconds: float) -> Callable[[Scene, str], Awaitable[None]]:
    async def moment(scene: Scene, name: str) -> None:
        await scene.make(name)
        await scene.assigned(name)
        await asyncio.sleep(seconds)

    return moment


async def when_ready(scene: Scene, name: str) -> None:
    await scene.make(name)
    await scene.cloud.server_ready(scene.project, name)


async def while_its_guest_boots(scene: Scene, name: str) -> None:
    await scene.make(name)
    await scene.says(name, "kumulus-guest: boot-id")


async def when_its_guest_is_up(scene: Scene, name: str) -> None:
    await scene.make(name)
    await scene.says(name, "kumulus-guest: ready")


MOMENTS: dict[str, Callable[[Scene, str], Awaitable[None]]] = {
    "at-once": at_once,
    "waiting": while_it_waits,
    "port-made": when_its_port_is_made,
    "assigned": when_it_is_assigned,
    "image-comes": while_its_image_comes,
    "assigned-50ms": after_assignment(0.05),
    "assigned-200ms": after_assignment(0.2),
    "assigned-500ms": after_assignment(0.5),
    "ready": when_ready,
    "guest-boots": while_its_guest_boots,
    "guest-up": when_its_guest_is_up,
}


async def test_nothing_is_left_whenever_it_is_deleted(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """Servers that are deleted at ten moments of their creation are all gone, with ports, domains, files and claims."""
    await cloud.make_network(project)
    hosts, names = Hosts(lab), [host.name for host in lab.host_specs]
    async with HeldImage(f"http://{lab.gateway}:8098/tiny.qcow2", lab.gateway) as held:
        try:
            for name in names:
                await asyncio.to_thread(hosts.run, name, ["nft", CUT], check=True)
            await cloud.make(Image, "held", {"source": {"url": held.url}, "format": "qcow2"}, project)
            image = await cloud.until(Image, "held", ready, namespace=project)
            far = next(name for name in names if name != image["status"]["importHost"])
            scene = Scene(cloud, lab, project, far)
            await asyncio.gather(*(_delete_at(scene, name) for name in MOMENTS))
        finally:
            for name in names:
                await asyncio.to_thread(hosts.run, name, ["nft", "delete table inet cut"], check=False)
    async with Observer(cloud, Port, namespace=project) as ports, Observer(cloud, AddressClaim) as claims:
        await ports.eventually(lambda left: not left, "no port is left", 10)
        await agreed(cloud, lab)
        await claims.eventually(
            lambda left: all(claim["spec"]["claimRef"]["namespace"] != project for claim in left.values()),
            "no address is claimed",
            RELEASE_SECONDS,
        )
    await cloud.delete(Network, "private", project)


async def _delete_at(scene: Scene, name: str) -> None:
    try:
        await MOMENTS[name](scene, name)
        await scene.cloud.delete(Server, name, scene.project, seconds=30)
    except Exception as error:
        error.add_note(f"at the moment {name}")
        raise


def _owner(port: Object) -> str:
    return str(port["metadata"].get("ownerReferences", [{}])[0].get("name"))
