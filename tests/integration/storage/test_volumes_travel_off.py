"""Volumes of a server that migrates while it is off go through a real tunnel: whole, or not at all, with a reason."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kumulus_agent.migration.certificate_request import make_request
from kumulus_agent.migration.channels import Channel, Hello, Sockets
from kumulus_agent.migration.credentials import Contexts
from kumulus_agent.migration.listener import Listener, Serve
from kumulus_agent.migration.plan import State, View
from kumulus_agent.migration.source import NotCarriedOver, Source
from kumulus_agent.migration.target import Target
from kumulus_agent.migration.tunnel import Peer, Tunnel
from kumulus_agent.servers.desired import Desired, read_desired
from kumulus_agent.servers.instance_files import instance_files
from kumulus_agent.volumes.drivers.protocol import SnapshotOrigin
from kumulus_agent.volumes.drivers.testing import BLOCK, left_over, read_volume, write_block
from kumulus_agent.volumes.shelves import Shelves
from kumulus_operator.migration.authority import make_authority, sign

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")

INSTANCE = "00000000-0000-4000-8000-000000000001"
ID = "11111111-1111-4111-8111-11111111111{}".format
AUTHORITY = make_authority(datetime.now(UTC))


def contexts(folder: Path, node: str) -> Contexts:
    """Have a host's certificate."""
    made = make_request(node)
    file = folder / f"{node}.pem"
    file.write_text(made["key"] + sign({**AUTHORITY, "request": made["request"], "node": node}, datetime.now(UTC)))
    out = []
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(protocol)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=AUTHORITY["authority"])
        context.load_cert_chain(file)
        out.append(context)
    return Contexts(*out)


def make_desired(*volumes: str) -> Desired:
    """Give a server on h1 that goes to h2, with volumes of four blocks and no root disk to speak of."""
    given = [{"name": f"v{item[-1]}", "volume": f"v{item[-1]}", "volumeID": item, "size": "256Ki"} for item in volumes]
    resources = {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"}
    assignment = {"instanceID": INSTANCE, "host": "h1", "target": "h2", "epoch": 1, "resources": resources}
    spec = {"flavor": {"name": "f"}, "image": {"name": "i"}, "assignment": assignment | {"volumes": given}}
    metadata = {"name": "web", "namespace": "demo", "uid": "u", "generation": 1, "resourceVersion": "1"}
    found = read_desired({"metadata": metadata, "spec": spec})
    assert found is not None
    return found


class Off(Source):
    """A source whose guest is off."""

    async def _switch_off(self, desired: Desired) -> None:
        pass

    async def _stored(self, instance_id: str, epoch: int) -> str:
        return ""


class Absent(Target):
    """A target where the guest is not."""

    async def look(self, instance_id: str) -> View:
        """See `Target`."""
        return View(State.ABSENT)


class Hosts:
    """Both hosts, with their files."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.actuators = {name: self._actuators(tmp_path / name) for name in ("h1", "h2")}
        self.source = Off(self.actuators["h1"])
        self.target = Absent(self.actuators["h2"], lambda _: None)
        self.listener = Listener("127.0.0.1", 0, self.admit)
        self.desired = make_desired()

    def _actuators(self, state: Path) -> Any:
        async def nothing(*_: object) -> None:
            return None

        (state / "instances").mkdir(parents=True)
        settings = SimpleNamespace(state_dir=state, node_name=state.name)
        hypervisor = SimpleNamespace(undefine=nothing)
        files = partial(instance_files, state / "instances")
        client = SimpleNamespace(get=nothing)
        return SimpleNamespace(settings=settings, hypervisor=hypervisor, files=files, shelves=Shelves(), client=client)

    def driver(self, host: str) -> Any:
        """Give the driver of a host's own volumes."""
        return Shelves().driver(self.tmp_path / host, None, "")

    def read(self, host: str, volume_id: str) -> list[int]:
        """Read a volume."""
        return read_volume(self.tmp_path / host / "volumes", volume_id, self.tmp_path)

    async def admit(self, peer: str, hello: Hello) -> Serve:
        """Take what h1 sends."""
        assert peer == "h1"
        return lambda connection, hello: self.target._receive(connection, hello, self.desired)

    async def go(self, *volumes: str) -> None:
        """Have the server go to the other host."""
        self.desired = make_desired(*volumes)
        hello = Hello("demo", "move", "uid", INSTANCE, Channel.FILE)
        sockets = Sockets(self.tmp_path / "s")
        sockets.directory.mkdir(exist_ok=True)
        peer = Peer("h2", "127.0.0.1", self.listener.port)
        known = await asyncio.to_thread(contexts, self.tmp_path, "h1")
        async with Tunnel(peer, known, hello, sockets, str(self.tmp_path / "none")) as tunnel:
            await self.source.cold(tunnel, self.desired, 2)


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    found = Hosts(tmp_path)
    server = contexts(tmp_path, "h2").server

    async def provide() -> ssl.SSLContext:
        return server

    await found.listener.open(provide)
    yield found
    await found.listener.close()


async def test_volumes_of_one_file_arrive_whole(hosts: Hosts) -> None:
    """A layer, one that took in a deleted snapshot's, and a raw file of before read at the target as at the source."""
    driver, root = hosts.driver("h1"), hosts.tmp_path / "h1" / "volumes"
    plain, merged, raw = ID(1), ID(2), ID(3)
    for volume_id in (plain, merged):
        await driver.make(volume_id, 4 * BLOCK)
    await driver.snapshot(merged, "s")
    await driver.remove_snapshot(merged, "s")
    assert await driver.merge(merged) == 1
    (root / f"{raw}.raw").write_bytes(bytes(4 * BLOCK))
    for block, volume_id in enumerate((plain, merged, raw)):
        found = await driver.look(volume_id)
        write_block(found.path, found.format, block, 7 + block)
    await hosts.go(plain, merged, raw)
    expected = [[7, 0, 0, 0], [0, 8, 0, 0], [0, 0, 9, 0]]
    for host in ("h1", "h2"):  # the source keeps its own until the operator has switched
        assert [hosts.read(host, volume_id) for volume_id in (plain, merged, raw)] == expected
    assert left_over(hosts.tmp_path / "h2" / "volumes") == []


async def test_a_chain_stays_and_says_why(hosts: Hosts) -> None:
    """A volume with a snapshot, and a copy of one, do not go: nothing is switched off, nothing arrives."""
    driver = hosts.driver("h1")
    await driver.make(ID(1), 4 * BLOCK)
    found = await driver.look(ID(1))
    write_block(found.path, found.format, 0, 5)
    await driver.snapshot(ID(1), "s")
    await driver.make(ID(2), 4 * BLOCK, SnapshotOrigin(ID(1), "s"))
    for volume_id, name in ((ID(1), "v1"), (ID(2), "v2")):
        with pytest.raises(NotCarriedOver, match=f"{name} has snapshots or copies on this host: delete them"):
            await hosts.go(volume_id)
    assert hosts.read("h1", ID(1)) == [5, 0, 0, 0]
    assert not (hosts.tmp_path / "h2" / "volumes").exists()


async def test_what_broke_off_is_sent_again(hosts: Hosts) -> None:
    """A volume that had arrived when the way broke is taken once more, and is as it is at the source by then."""
    driver = hosts.driver("h1")
    await driver.make(ID(1), 4 * BLOCK)
    await hosts.go(ID(1))
    await hosts.driver("h2").remove(ID(1))  # as the target does before it takes a guest in
    found = await driver.look(ID(1))
    write_block(found.path, found.format, 3, 6)
    await hosts.go(ID(1))
    assert hosts.read("h2", ID(1)) == [0, 0, 0, 6]
