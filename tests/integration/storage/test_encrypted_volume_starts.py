"""What a server is started with whose volume is encrypted, on real files: the right key, or a reason why not."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kumulus_agent.servers.desired import Desired, read_desired
from kumulus_agent.servers.errors import StepFailed
from kumulus_agent.servers.start import Actuators
from kumulus_agent.servers.volume_disks import hide_keys, volume_disk
from kumulus_agent.settings import AgentSettings
from kumulus_agent.volumes.drivers.keys import KeyMissing, KeyNeeded, is_encrypted
from kumulus_agent.volumes.drivers.local import local_driver
from kumulus_agent.volumes.drivers.testing import ENCRYPTED_KEY
from kumulus_agent.volumes.shelves import Shelves
from kumulus_api import Server
from kumulus_api.testing import VOLUME_ID, make_assigned

KEY = ENCRYPTED_KEY.content
HOW = {"cipher": "aes-xts-plain64", "keySize": 512, "secret": {"name": "volume-key-1"}, "made": True}

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")


class Libvirt:
    """Secrets by their id, as libvirtd keeps them."""

    def __init__(self) -> None:
        self.secrets: dict[str, bytes] = {}
        self.asked = ""

    def secretDefineXML(self, xml: str) -> Any:
        """Take one in."""
        assert 'ephemeral="yes"' in xml
        assert 'private="yes"' in xml
        return SimpleNamespace(setValue=lambda value: self.secrets.__setitem__(VOLUME_ID, value))

    def secretLookupByUUIDString(self, known: str) -> Any:
        """Find one."""
        return SimpleNamespace(undefine=lambda: self.secrets.pop(known))

    async def call(self, asked: str, function: Callable[[Any], Any]) -> Any:
        """Run a verb, as a Hypervisor does."""
        self.asked += asked
        return function(self)


class World:
    """A host with a server whose volume is encrypted, or not, and what the API and the operator say of it."""

    def __init__(self, state: Path, *, encrypted: bool = True) -> None:
        self.state = state
        self.assignment: dict[str, Any] = {"volumeID": VOLUME_ID, "host": "h1", "size": "1Mi"}
        if encrypted:
            self.assignment["encryption"] = HOW
        self.there = True
        self.key: bytes | None = KEY
        self.libvirt = Libvirt()

    async def get(self, _kind: type, name: str, _namespace: str) -> dict[str, Any] | None:
        """Give the Volume."""
        metadata = {"name": name, "namespace": "demo", "uid": name}
        return {"metadata": metadata, "spec": {"size": "1Mi", "assignment": self.assignment}} if self.there else None

    async def fetch(self, volume: tuple[str, str]) -> bytes:
        """Give the key of the Volume."""
        if self.key is None:
            raise KeyMissing(f"Secret of {volume[1]} was not found")
        return self.key

    @property
    def actuators(self) -> Actuators:
        """What a server is started with."""
        names = ("datapath", "networks", "boot_data", "processors", "host_devices", "images")
        unused: Any = dict.fromkeys(names, SimpleNamespace())
        settings, host = AgentSettings(node_name="h1", state_dir=self.state), {"virt": "qemu", "cache": "none"}
        shelves = Shelves(self.fetch)
        return Actuators(settings, client=self, hypervisor=self.libvirt, shelves=shelves, **host, **unused)  # type: ignore[arg-type]

    @property
    def desired(self) -> Desired:
        """The server."""
        body = make_assigned(Server, "web", "h1")
        body["metadata"] |= {"generation": 1, "uid": "u"}
        given = {"name": "data", "volume": "data", "volumeID": VOLUME_ID, "size": "1Mi"}
        given["encrypted"] = "encryption" in self.assignment  # type: ignore[assignment]
        body["spec"]["assignment"]["volumes"] = [given]
        body["spec"]["volumes"] = [{"name": "data", "volume": {"name": "data"}}]
        found = read_desired(body)
        assert found is not None
        return found

    async def disk(self) -> Any:
        """Have the volume as a disk."""
        return await volume_disk(self.actuators, self.desired, self.desired.volumes[0])

    async def refused(self) -> StepFailed:
        """Have the volume refused; give why."""
        with pytest.raises(StepFailed) as caught:
            await self.disk()
        assert KEY.decode() not in str(caught.value)
        return caught.value


async def test_a_disk_is_opened_by_a_secret_that_goes(tmp_path: Path) -> None:
    """The layers below are named, libvirtd knows the key under the volume's id, and forgets it when that is over."""
    world = World(tmp_path)
    first = await world.disk()
    assert await asyncio.to_thread(is_encrypted, Path(first.path))
    await local_driver(tmp_path / "volumes").with_key(ENCRYPTED_KEY).snapshot(VOLUME_ID, "s")
    disk = await world.disk()
    assert (disk.encryption.secret, disk.encryption.below) == (VOLUME_ID, (first.path,))
    assert world.libvirt.secrets == {VOLUME_ID: KEY}
    assert KEY.decode() not in repr(disk) + world.libvirt.asked
    await hide_keys(world.actuators, world.desired.volumes)
    assert world.libvirt.secrets == {}


async def test_without_its_key_nothing_is_made_or_started(tmp_path: Path) -> None:
    """Absent, or with its Volume: the reason is told, and no blank file takes the place of what may come back."""
    world = World(tmp_path)
    world.key = None
    assert (await world.refused()).detail == "EncryptionKeyMissing"
    world.key, world.there = KEY, False
    assert (await world.refused()).detail == "EncryptionKeyMissing"
    assert not (tmp_path / "volumes").exists()


async def test_another_key_is_told_to_be_the_wrong_one(tmp_path: Path) -> None:
    """What was changed in the Secret opens nothing; the volume starts again when that is undone."""
    world = World(tmp_path)
    await world.disk()
    world.key = b"what somebody has put into the Secret since"
    failure = await world.refused()
    assert (failure.detail, failure.lasting) == ("EncryptionKeyWrong", False)
    world.key = KEY
    await world.disk()


async def test_files_are_what_the_assignment_says(tmp_path: Path) -> None:
    """A file in the clear is no encrypted volume, nor the other way round; what was not encrypted is served as ever."""
    plain = World(tmp_path, encrypted=False)
    disk = await plain.disk()
    assert (disk.encryption, plain.libvirt.secrets) == (None, {})
    claimed = World(tmp_path)
    failure = await claimed.refused()
    assert (failure.detail, failure.lasting) == ("VolumeNotEncrypted", True)
    sealed = World(tmp_path / "other")
    await sealed.disk()
    unknown = World(tmp_path / "other", encrypted=False)
    assert (await unknown.refused()).detail == "VolumeKeyUnknown"
    with pytest.raises(KeyNeeded):
        await local_driver(tmp_path / "other" / "volumes").snapshot(VOLUME_ID, "in-the-clear")
