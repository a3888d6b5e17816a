"""Volumes that go to another class while a real guest writes: each block as written, whatever ends in between."""

from __future__ import annotations

import asyncio
import shutil
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.compute.devices import devices_of
from kumulus_agent.compute.domain_spec import DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.errors import HypervisorUnavailable
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.volume_copies import copy_of
from kumulus_agent.volumes import copying, moves
from kumulus_agent.volumes.copying import settle_guest
from kumulus_agent.volumes.drivers.arrivals import arriving
from kumulus_agent.volumes.moves import LOOK_SECONDS

sys.path.insert(0, str(Path(__file__).parent))

from moving_guest import BLOCKS, SIZE, VOLUME_ID, Guest, server_of

MakeDomain = Callable[..., DomainSpec]

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")


class Died(Exception):
    """The agent ended."""


@pytest.fixture
async def guest(hypervisor: Hypervisor, private_libvirt: Any, make_domain: MakeDomain, tmp_path: Path) -> Guest:
    found = Guest(hypervisor, private_libvirt, make_domain(), tmp_path)
    driver = found.shelves.driver(found.state, None, "slow")
    await driver.make(VOLUME_ID, SIZE)
    # In two layers, of which none is left behind.
    await driver.snapshot(VOLUME_ID, "s")
    await driver.remove_snapshot(VOLUME_ID, "s")
    await found.start()
    return found


async def test_a_volume_goes_to_a_share_and_back_under_a_guest(guest: Guest, tmp_path: Path) -> None:
    """The guest writes all the while; it has the file in its place, stored too, and where it was nothing is left."""
    for wanted in ("fast", "slow", "fast"):
        await guest.go_to(wanted)
        assert guest.file.is_relative_to(guest.folder_of(wanted))
        assert str(guest.file) in guest.xml("--inactive")
        assert guest.copy() is None
        assert devices_of(guest.xml()).bound == frozenset()
        guest.only_in(wanted)
        assert "running" in guest.daemon.inside("virsh", "domstate", guest.name)
    await guest.hypervisor.destroy(guest.spec.instance_id)
    await guest.read(tmp_path)


STEPS = ["begin_copy", "halt", "switch_over", "end_arrival", "resume"]


@pytest.mark.parametrize("power", [False, True], ids=["agent", "host"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_whoever_ends_at_whatever_step(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, step: str, after: bool, power: bool
) -> None:
    """The agent, or its host, ends before or after each act: all that was flushed is there, and nothing else is."""
    with monkeypatch.context() as dying:
        die_at(dying, step, after=after)
        guest.body["spec"]["volumeClass"] = {"name": "fast"}
        with pytest.raises(Died):
            await guest.until(lambda: guest.arrived)
    guest.begin_anew()
    if guest.runs():
        guest.write()
    if power:
        await guest.hypervisor.destroy(guest.spec.instance_id)
        await settle_guest(guest.hypervisor, guest.spec.instance_id)
        await guest.read(tmp_path)
        await guest.hypervisor.define_and_start(domain_xml(guest.spec))
        await guest.plug()
    await guest.go_to("fast")
    guest.only_in("fast")
    await guest.hypervisor.destroy(guest.spec.instance_id)
    await guest.read(tmp_path)


def die_at(dying: pytest.MonkeyPatch, step: str, *, after: bool) -> None:
    """Have the agent end at one of the acts of a copy."""
    act = getattr(copying, step)

    def dies(*arguments: Any) -> None:
        if after:
            act(*arguments)
        raise Died

    async def dies_async(*arguments: Any) -> None:
        if after:
            await act(*arguments)
        raise Died

    dying.setattr(copying, step, dies_async if step == "end_arrival" else dies)


@pytest.mark.parametrize("moment", ["copying", "ready"])
@pytest.mark.parametrize("who", ["libvirtd", "guest"])
async def test_it_ends_amid_the_copy(guest: Guest, tmp_path: Path, *, moment: str, who: str) -> None:
    """Libvirtd or the guest ends while it is copied, or when it is: nothing is lost, and a copy that is none goes."""
    await begun(guest, slow=moment == "copying")
    if moment == "ready":
        await until_ready(guest)
    guest.write()
    if who == "libvirtd":
        guest.daemon.kill_libvirtd()
        guest.daemon.wait_ready()
        await reconnected(guest.hypervisor)
    else:
        await guest.hypervisor.destroy(guest.spec.instance_id)
        await settle_guest(guest.hypervisor, guest.spec.instance_id)
        await guest.read(tmp_path)
        await guest.hypervisor.define_and_start(domain_xml(guest.spec))
        await guest.plug()
    if moment == "copying" and who == "libvirtd":
        guest.daemon.inside("virsh", "blockjob", guest.name, str(guest.file), "--bandwidth", "0")
    await guest.go_to("fast")
    guest.only_in("fast")
    await guest.hypervisor.destroy(guest.spec.instance_id)
    await guest.read(tmp_path)


class Slow:
    """A domain whose disks are copied slowly."""

    def __init__(self, domain: Any) -> None:
        self._domain = domain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._domain, name)

    def blockCopy(self, disk: str, xml: str, parameters: Any, flags: int) -> None:
        """See libvirt."""
        del parameters
        self._domain.blockCopy(disk, xml, {"bandwidth": 64 << 10}, flags)


async def begun(guest: Guest, *, slow: bool = True) -> None:
    """Have the copy begun, and go on slowly."""
    guest.body["spec"]["volumeClass"] = {"name": "fast"}
    guest.decide()
    with pytest.MonkeyPatch.context() as patch:
        if slow:
            begin = copying.begin_copy
            patch.setattr(copying, "begin_copy", lambda domain, *more: begin(Slow(domain), *more))
        await guest.act()


async def reconnected(hypervisor: Hypervisor) -> None:
    """Wait until libvirtd answers again."""
    for _ in range(400):
        with suppress(HypervisorUnavailable):
            await hypervisor.list_instances()
            return
        await asyncio.sleep(0.05)
    pytest.fail("libvirtd does not come back")


async def until_ready(guest: Guest) -> None:
    """Wait until all is in both files."""
    for _ in range(500):
        copy = await guest.hypervisor.call(
            "look", lambda conn: copy_of(conn.lookupByUUIDString(guest.spec.instance_id), str(guest.file))
        )
        if copy is not None and copy.ready:
            return
        await asyncio.sleep(0.02)
    pytest.fail("it is never ready")


async def test_progress_is_told(guest: Guest) -> None:
    """While it is copied the percent are known, and nothing is told to be whole."""
    await begun(guest)
    await guest.act()
    told = guest.body["status"]["moving"]
    assert guest.place.moving is not None
    assert told["request"] == guest.place.moving.request
    assert 0 <= told["progress"] < 100
    assert guest.wait == LOOK_SECONDS
    assert "moved" not in guest.body["status"]
    await guest.hypervisor.switch_off(guest.spec.instance_id)
    await guest.go_to("fast", writing=False)
    assert "moving" not in guest.body["status"]
    assert guest.api.posted == ["Moving", "Moved"]


@pytest.mark.parametrize("copied", [False, True])
async def test_who_thinks_better_of_it(guest: Guest, tmp_path: Path, *, copied: bool) -> None:
    """Asked back before the guest is on the copy, the copy goes; after that the volume comes back as it went."""
    await begun(guest)
    if copied:
        guest.daemon.inside("virsh", "blockjob", guest.name, str(guest.file), "--bandwidth", "0")
        await until_ready(guest)
        await guest.act()
        guest.body["status"].pop("moved")  # the operator has not heard of it
    await guest.go_to("slow")
    assert guest.file.is_relative_to(guest.folder_of("slow"))
    guest.only_in("slow")
    await guest.hypervisor.destroy(guest.spec.instance_id)
    await guest.read(tmp_path)


async def test_a_copy_that_fails_is_begun_anew(guest: Guest, tmp_path: Path) -> None:
    """The guest goes on where it was, what was copied goes, and why is said."""
    await begun(guest)
    guest.daemon.inside("virsh", "blockjob", guest.name, str(guest.file), "--abort")
    await guest.act()
    assert guest.body["status"]["fault"]["reason"] == "CopyEnded"
    assert not (guest.folder_of("fast") / VOLUME_ID).exists()
    await guest.go_to("fast")
    await guest.hypervisor.destroy(guest.spec.instance_id)
    await guest.read(tmp_path)


async def test_it_is_given_up_for_what_cannot_wait(guest: Guest, tmp_path: Path) -> None:
    """A guest lets go of a volume that is copied, and its memory is saved; the volume waits then, or is copied off."""
    await begun(guest)
    await guest.hypervisor.save(guest.spec.instance_id)
    await guest.act()
    assert guest.body["status"]["fault"]["reason"] == "ServerSuspended"
    assert not (guest.folder_of("fast") / VOLUME_ID).exists()
    await guest.hypervisor.start(guest.spec.instance_id)
    await begun(guest)
    assert guest.copy() is not None
    await guest.hypervisor.detach(guest.spec.instance_id, (), [VOLUME_ID])
    assert guest.copy() is None
    guest.server = server_of(guest.spec, volumes=[])
    guest.store.apply("MODIFIED", guest.server)
    await guest.act()
    assert not (guest.folder_of("fast") / VOLUME_ID).exists()
    await guest.hypervisor.switch_off(guest.spec.instance_id)
    await guest.go_to("fast", writing=False)
    guest.only_in("fast")
    await guest.read(tmp_path)


async def test_a_server_that_is_off_has_its_volume_copied(guest: Guest, tmp_path: Path) -> None:
    """Nobody writes then; one that starts meanwhile does not wait for the copy."""
    await guest.hypervisor.switch_off(guest.spec.instance_id)
    guest.server = server_of(guest.spec, powerState="Stopped")
    guest.store.apply("MODIFIED", guest.server)
    await guest.go_to("fast", writing=False)
    guest.only_in("fast")
    await guest.read(tmp_path)


async def test_nothing_is_removed_that_a_guest_writes_to(guest: Guest) -> None:
    """Whatever the assignment says, a place is not cleared while a guest has its file."""
    await guest.go_to("fast")
    await guest.shelves.driver(guest.state, None, "slow").make(VOLUME_ID, SIZE)
    left = {"request": str(uuid.uuid4()), "volumeClass": "fast", "folder": str(guest.share)}
    given = guest.body["spec"]["assignment"] | {"volumeClass": "slow", "left": left}
    guest.body["spec"]["assignment"] = {name: value for name, value in given.items() if name != "folder"}
    await guest.act()
    assert guest.body["status"]["cleared"] != left["request"]
    assert guest.body["status"]["fault"]["reason"] == "VolumeElsewhere"
    assert guest.file.exists()
    assert arriving(guest.folder_of("slow"), VOLUME_ID) is None


async def test_a_copy_of_a_server_that_is_off_gives_way(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start does not wait for a copy that takes long: that ends, and is begun anew when there is time."""
    await guest.hypervisor.switch_off(guest.spec.instance_id)
    begun = asyncio.Event()

    async def copies_long(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(moves, "move", copies_long)
    guest.body["spec"]["volumeClass"] = {"name": "fast"}
    guest.decide()
    async with asyncio.TaskGroup() as group:
        group.create_task(guest.act())
        await begun.wait()
        async with asyncio.timeout(10), guest.shelves.held([VOLUME_ID]):
            assert guest.agent.moves.under_way == {}
    assert "fault" not in guest.body["status"]
    assert "moved" not in guest.body["status"]
    monkeypatch.undo()
    await guest.go_to("fast", writing=False)


async def test_a_read_only_volume_moves_too(guest: Guest, tmp_path: Path) -> None:
    """A guest that only reads has the copy in the end, and cannot write to it either."""
    await guest.hypervisor.switch_off(guest.spec.instance_id)
    await guest.hypervisor.define_and_start(domain_xml(guest.spec))
    await guest.plug(readonly=True)
    await guest.go_to("fast", writing=False)
    assert guest.file.is_relative_to(guest.folder_of("fast"))
    assert devices_of(guest.xml()).bound == frozenset({VOLUME_ID})
    guest.only_in("fast")
    await guest.hypervisor.destroy(guest.spec.instance_id)
    await guest.read(tmp_path)


async def test_a_volume_of_before_there_were_layers_moves_in_use(guest: Guest, tmp_path: Path) -> None:
    """A raw file of one is copied into a layer as it is written, and goes."""
    await guest.hypervisor.switch_off(guest.spec.instance_id)
    root = guest.folder_of("slow")
    await guest.shelves.driver(guest.state, None, "slow").remove(VOLUME_ID)
    with (root / f"{VOLUME_ID}.raw").open("wb") as file:
        file.truncate(SIZE)
    guest.content = [0] * BLOCKS
    await guest.start()
    assert guest.file == root / f"{VOLUME_ID}.raw"
    await guest.go_to("fast")
    guest.only_in("fast")
    assert not (root / f"{VOLUME_ID}.raw").exists()
    await guest.hypervisor.destroy(guest.spec.instance_id)
    await guest.read(tmp_path)
