"""A real guest with a volume whose class changes, and the operator and the agent that bring it there."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import pytest
from lxml import etree

from kumulus_agent.compute.domain_spec import Disk, DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.volume_copies import files_of
from kumulus_agent.images.thaws import Thaws
from kumulus_agent.volumes.controller import VolumeController
from kumulus_agent.volumes.copying import arrived, settle_guest
from kumulus_agent.volumes.drivers.shared import MARKER
from kumulus_agent.volumes.drivers.testing import BLOCK, left_over, read_volume
from kumulus_agent.volumes.guests import VolumeGuests
from kumulus_agent.volumes.place import Place, read_place
from kumulus_agent.volumes.shelves import Shelves
from kumulus_agent.volumes.snapshots import Taker
from kumulus_api import Server, Volume, VolumeClass
from kumulus_api.hardware import Hardware
from kumulus_operator.seen import Seen
from kumulus_operator.volumes.retyping import retyping
from kumulus_runtime.store import Store

BLOCKS = 512
SIZE = BLOCKS * BLOCK
VOLUME_ID = "11111111-1111-4111-8111-111111111111"


class Api:
    """The API server, as far as one Volume needs it; and the Events."""

    def __init__(self, body: dict[str, Any], store: Store) -> None:
        self.body, self.store, self.posted = body, store, list[str]()
        self.version = 1

    def changed(self) -> None:
        """Have the watch show the Volume."""
        self.version += 1
        self.body["metadata"]["resourceVersion"] = str(self.version)
        self.store.apply("MODIFIED", deepcopy(self.body))

    async def get(self, *_: object) -> dict[str, Any]:
        """Give the Volume."""
        return deepcopy(self.body)

    async def apply_status(self, _kind: object, body: dict[str, Any], *, manager: str) -> dict[str, Any]:
        """Take what the agent tells."""
        del manager
        self.body["status"] = body["status"]
        self.changed()
        return deepcopy(self.body)

    def post(self, _about: object, reason: str, _message: str) -> None:
        """Take an Event."""
        self.posted.append(reason)


class Guest:
    """A guest with a volume of class slow, which lies in a folder of the host; class fast is on a share."""

    def __init__(self, hypervisor: Hypervisor, daemon: Any, spec: DomainSpec, folder: Path) -> None:
        self.hypervisor, self.daemon, self.spec = hypervisor, daemon, spec
        self.state, self.share = folder / "state", folder / "share"
        for made in (self.state, self.share):
            made.mkdir(parents=True)
        (self.share / MARKER).write_text("fast\n")
        metadata = {"name": "data", "namespace": "team", "uid": "u", "generation": 1, "resourceVersion": "1"}
        given = {"volumeID": VOLUME_ID, "host": "h1", "size": str(SIZE), "volumeClass": "slow", "attachedTo": "web"}
        self.body: dict[str, Any] = {
            "apiVersion": "kumulus.dev/v1alpha1",
            "kind": "Volume",
            "metadata": metadata,
            "spec": {"size": str(SIZE), "volumeClass": {"name": "slow"}, "assignment": given},
            "status": {"sizeBytes": SIZE, "usedBytes": 1},
        }
        self.cloud, self.store = Seen(), Store()
        shared = {"driver": "Shared", "shared": {"folder": str(self.share)}}
        for name, of_class in (("slow", {"driver": "Local"}), ("fast", shared)):
            self.cloud.views[VolumeClass].put(
                {"metadata": {"name": name, "uid": name, "generation": 1, "resourceVersion": "1"}, "spec": of_class}
            )
        self.server: dict[str, Any] = server_of(spec)
        self.store.apply("ADDED", self.server)
        self.api = Api(self.body, self.store)
        self.content = [0] * BLOCKS
        self.turn = 0
        self.begin_anew()

    def begin_anew(self) -> None:
        """Be an agent that remembers nothing."""
        self.shelves = Shelves()
        guests = VolumeGuests(self.hypervisor, self.state / "instances", Thaws(self.hypervisor))
        taker, api = Taker(self.state, self.shelves, guests), cast(Any, self.api)
        self.agent = VolumeController("h1", api, self.store, api, taker, no_image)

    @property
    def place(self) -> Place:
        """Where it lies by its assignment."""
        found = read_place(self.body)
        assert found is not None
        return found

    @property
    def arrived(self) -> bool:
        """Whether it lies in the class that is asked for, and nowhere else."""
        given = self.body["spec"]["assignment"]
        at_home = given["volumeClass"] == self.body["spec"]["volumeClass"]["name"]
        return at_home and not given.get("moving") and not given.get("left")

    def folder_of(self, volume_class: str) -> Path:
        """Give where a class keeps the volume."""
        return (self.share if volume_class == "fast" else self.state) / "volumes"

    async def start(self) -> None:
        """Run it with its volume, of which half the blocks are written."""
        await self.hypervisor.define_and_start(domain_xml(self.spec))
        await self.plug()
        for _ in range(4):
            self.write(blocks=64)

    async def plug(self, *, readonly: bool = False) -> None:
        """Plug the volume in where it lies, as a start does."""
        await settle_guest(self.hypervisor, self.spec.instance_id)
        place = await arrived(self.shelves, self.state, self.place)
        found = await self.shelves.driver(self.state, place.folder, place.volume_class).look(VOLUME_ID)
        assert found is not None
        disk = Disk(str(found.path), found.format, "", VOLUME_ID[:20], readonly=readonly)
        await self.hypervisor.attach(self.spec.instance_id, disk, Hardware())

    @property
    def name(self) -> str:
        """Of the domain."""
        return f"k-{self.spec.instance_id}"

    def xml(self, *more: str) -> str:
        """Give its definition."""
        return str(self.daemon.inside("virsh", "dumpxml", *more, self.name))

    @property
    def file(self) -> Path:
        """The file of the volume that the guest has."""
        return next(Path(file) for file in files_of(self.xml()) if VOLUME_ID in file)

    def write(self, blocks: int = 1) -> None:
        """Write as the guest does, and flush: by QEMU, through the device."""
        self.turn += 1
        value, first = self.turn % 250 + 1, (self.turn * 37) % (BLOCKS - blocks)
        disks = etree.fromstring(self.xml().encode()).iterfind("devices/disk")
        alias = next(disk.find("alias").get("name") for disk in disks if VOLUME_ID in disk.find("source").get("file"))
        device = f"/machine/peripheral/{alias}/virtio-backend"
        for command in (f"write -P {value} {first * BLOCK} {blocks * BLOCK}", "flush"):
            self.daemon.inside("virsh", "qemu-monitor-command", "--hmp", self.name, f'qemu-io -d {device} "{command}"')
        self.content[first : first + blocks] = [value] * blocks

    def decide(self) -> None:
        """Do what the operator does."""
        self.cloud.views[Volume].put(self.body)
        self.cloud.views[Server].put(self.server)
        place, refusal = retyping(self.cloud, Volume.model_validate(self.body))  # type: ignore[arg-type]
        assert refusal is None
        if place is not None:
            self.body["spec"]["assignment"] = place.dump()

    async def act(self) -> None:
        """Do what the agent does, and tell."""
        self.api.changed()
        self.wait = await self.agent.reconcile(("team", "data"))

    def runs(self) -> bool:
        """Whether it does not stand still."""
        return "running" in self.daemon.inside("virsh", "domstate", self.name)

    async def go_on(self) -> None:
        """Let it go on if it stands still, as the agent does that comes next."""
        if not self.runs():
            await settle_guest(self.hypervisor, self.spec.instance_id)
            await self.hypervisor.resume(self.spec.instance_id)

    async def until(self, done: Callable[[], bool], *, writing: bool = True) -> None:
        """Decide and act, with a guest that goes on writing, until something is so."""
        for _ in range(400):
            self.decide()
            if done():
                return
            if writing:
                await self.go_on()
                self.write()
            await self.act()
        pytest.fail(f"it does not come: {self.body}")

    async def go_to(self, volume_class: str, *, writing: bool = True) -> None:
        """Have it in a class."""
        self.body["spec"]["volumeClass"] = {"name": volume_class}
        await self.until(lambda: self.arrived, writing=writing)

    def copy(self) -> Any:
        """Look at the copy that is being made."""
        return etree.fromstring(self.xml().encode()).find("devices/disk/mirror")

    async def read(self, scratch: Path) -> None:
        """Check every block where the volume lies; the guest is off."""
        place = await arrived(Shelves(), self.state, self.place)
        root = self.folder_of(place.volume_class)
        assert read_volume(root, VOLUME_ID, scratch) == self.content

    def only_in(self, volume_class: str) -> None:
        """Check that nothing of it is anywhere else."""
        (other,) = {"slow", "fast"} - {volume_class}
        assert not (self.folder_of(other) / VOLUME_ID).exists()
        for root in (self.folder_of("slow"), self.folder_of("fast")):
            assert not root.exists() or left_over(root) == []


async def no_image(_image: object) -> Any:
    """Have no image."""
    raise LookupError


def server_of(spec: DomainSpec, **more: Any) -> dict[str, Any]:
    """Give the Server, as far as its volumes need it."""
    volume = {"name": "data", "volume": "data", "volumeID": VOLUME_ID, "size": str(SIZE)}
    image = {"name": "i", "namespace": "team", "url": "http://h/i", "format": "raw", "digest": "sha256:" + "0" * 64}
    assignment = {
        "instanceID": spec.instance_id,
        "host": "h1",
        "epoch": 1,
        "resources": {"vcpus": 1, "memory": "64Mi", "rootDisk": "1Gi"},
        "image": image | {"virtualSize": 1},
        "ports": [],
        "volumes": [volume],
    }
    return {
        "apiVersion": "kumulus.dev/v1alpha1",
        "kind": "Server",
        "metadata": {"name": "web", "namespace": "team", "uid": "s", "generation": 1, "resourceVersion": "1"},
        "spec": {
            "flavor": {"name": "f"},
            "image": {"name": "i"},
            "volumes": [{"name": "data", "volume": {"name": "data"}}],
            "assignment": assignment,
        }
        | more,
    }
