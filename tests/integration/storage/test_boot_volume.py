"""The disks that a server is started with, on real files."""

import asyncio
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kumulus_agent.servers.desired import Desired, read_desired
from kumulus_agent.servers.start import Actuators, Stopwatch, _Start
from kumulus_agent.settings import AgentSettings
from kumulus_agent.storage.image_cache import CachedImage
from kumulus_agent.volumes.drivers.testing import BLOCK, read_blocks
from kumulus_api import Server
from kumulus_api.testing import VOLUME_ID, make_assigned

OTHER_ID = "00000000-0000-4000-8000-0000000000dd"
DIGEST = "sha256:" + "0" * 64

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")


def make_desired(image_format: str, *, rescued: bool = False) -> Desired:
    """Give a server with a data volume, and a volume that it boots from."""
    body = make_assigned(Server, "web", "h1")
    body["metadata"] |= {"generation": 1, "uid": "u"}
    image = {"name": "tiny", "namespace": "demo", "url": "http://images.test/tiny", "format": image_format}
    image |= {"digest": DIGEST, "virtualSize": BLOCK}
    given: dict[str, Any] = body["spec"]["assignment"]
    given["image"] = image
    given["volumes"] = [
        {"name": "data", "volume": "data", "volumeID": OTHER_ID, "size": "1Mi", "readOnly": True},
        {"name": "system", "volume": "system", "volumeID": VOLUME_ID, "size": "1Mi", "boot": True},
    ]
    if rescued:
        given["rescue"] = {"action": OTHER_ID, "image": image}
    names = ("data", "system")
    body["spec"]["volumes"] = [{"name": name, "volume": {"name": name}} for name in names]
    found = read_desired(body)
    assert found is not None
    return found


class API:
    """Volumes of the project; the one that is booted from is made of an image."""

    async def get(self, _kind: type, name: str, _namespace: str) -> dict[str, Any]:
        """Give a Volume."""
        assignment: dict[str, Any] = {"volumeID": OTHER_ID, "host": "h1", "size": "1Mi"}
        if name == "system":
            image = {"name": "tiny", "namespace": "demo", "url": "http://images.test/tiny", "format": "raw"}
            origin = {"image": image | {"digest": DIGEST, "virtualSize": BLOCK}}
            assignment |= {"volumeID": VOLUME_ID, "size": "2Mi", "origin": origin}
        metadata = {"name": name, "namespace": "demo", "uid": name}
        return {"metadata": metadata, "spec": {"size": "1Mi", "assignment": assignment}, "status": {}}


class Images:
    """A cache with one image."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked = 0

    async def ensure(self, *_: object) -> CachedImage:
        """Give it."""
        self.asked += 1
        return CachedImage(self.path, DIGEST, "raw", BLOCK, BLOCK)


def make_start(desired: Desired, tmp_path: Path) -> tuple[_Start, Images]:
    """Give a start of a server on a host with an image."""
    image = tmp_path / "image.raw"
    image.write_bytes(b"\x05" * BLOCK)
    images, unused = Images(image), SimpleNamespace()
    known: Any = dict.fromkeys(
        ("hypervisor", "datapath", "networks", "boot_data", "processors", "host_devices"), unused
    )
    settings = AgentSettings(node_name="h1", state_dir=tmp_path)
    actuators = Actuators(settings, client=API(), images=images, virt="qemu", cache="none", **known)  # type: ignore[arg-type]
    actuators.files(desired.instance_id).directory.mkdir(parents=True)
    return _Start(actuators, desired, Stopwatch(), asyncio.Event()), images


async def test_a_server_boots_from_its_volume(tmp_path: Path) -> None:
    """The volume is the first disk, a copy of its image and as large as was admitted; there is no root disk."""
    desired = make_desired("raw")
    start, images = make_start(desired, tmp_path)
    files = start.actuators.files(desired.instance_id)
    (disk,) = start._boot_disks(files, await start._root_disk(files))
    assert (disk.target, disk.serial, disk.format, disk.readonly) == ("vda", VOLUME_ID[:20], "qcow2", False)
    assert read_blocks(Path(disk.path), "qcow2", tmp_path) == [5, *([0] * 31)]
    assert not files.root_disk.exists()
    assert images.asked == 1
    data = await start._volume(desired.volumes[0], 0)
    assert (data.target, data.readonly) == ("vdb", True)


async def test_a_rescued_server_has_its_volume_as_the_second_disk(tmp_path: Path) -> None:
    """The rescue image is the first disk; the volume and the others follow in their order."""
    desired = make_desired("raw", rescued=True)
    start, _ = make_start(desired, tmp_path)
    files = start.actuators.files(desired.instance_id)
    disks = start._boot_disks(files, await start._root_disk(files))
    assert [disk.target for disk in disks] == ["vda", "vdb"]
    assert disks[1].serial == VOLUME_ID[:20]
    assert (await start._volume(desired.volumes[0], 0)).target == "vdc"


async def test_a_system_is_installed_onto_a_volume(tmp_path: Path) -> None:
    """An image that is a CD is in the drive, and the volume is the disk that it finds."""
    desired = make_desired("iso")
    start, _ = make_start(desired, tmp_path)
    files = start.actuators.files(desired.instance_id)
    root = await start._root_disk(files)
    assert root is not None
    assert root.serial == VOLUME_ID[:20]
    assert start.cd == str(tmp_path / "image.raw")
    assert not files.root_disk.exists()
