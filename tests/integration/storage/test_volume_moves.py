"""A volume goes to another class and back on real files: whole in one place, whatever its host's power does."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from kumulus_agent.volumes.drivers.arrivals import arriving, begin_arrival, end_arrival
from kumulus_agent.volumes.drivers.files import Files
from kumulus_agent.volumes.drivers.local import local_driver
from kumulus_agent.volumes.drivers.protocol import DataGone, SnapshotOrigin, VolumeDriver
from kumulus_agent.volumes.drivers.shared import MARKER, shared_driver
from kumulus_agent.volumes.drivers.testing import BLOCK, DyingFiles, PowerCut, left_over, read_volume, write_block
from kumulus_agent.volumes.moving import FormerLayers, move, moved
from kumulus_agent.volumes.place import read_place
from kumulus_agent.volumes.shelves import Shelves
from kumulus_api import Volume, VolumeClass
from kumulus_operator.seen import Seen
from kumulus_operator.volumes.retyping import retyping

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")

VOLUME_ID = "11111111-1111-4111-8111-111111111111"
CONTENT = [3, 0, 5, 0]


class Dying(Shelves):
    """Drivers of a host whose files may lose their power."""

    # None for files that live.
    def __init__(self, files: Files | None = None) -> None:
        super().__init__()
        self._files = files

    def driver(self, state_dir: Path, folder: Path | None, volume_class: str) -> VolumeDriver:
        """See `Shelves`."""
        if folder is None:
            return local_driver(state_dir / "volumes", self._files)
        return shared_driver(folder, volume_class, self._files)


class Moving:
    """A volume of class slow, in a folder of the host, and a class fast, on a share."""

    def __init__(self, tmp_path: Path, *, several: bool = False) -> None:
        self.state, self.share = tmp_path / "state", tmp_path / "share"
        for folder in (self.state, self.share):
            folder.mkdir(parents=True)
        (self.share / MARKER).write_text("fast\n")
        metadata = {"name": "data", "namespace": "demo", "uid": "u", "generation": 1, "resourceVersion": "1"}
        given = {"volumeID": VOLUME_ID, "host": "h1", "size": str(4 * BLOCK), "volumeClass": "slow"}
        self.body = {
            "metadata": metadata,
            "spec": {"size": str(4 * BLOCK), "volumeClass": {"name": "slow"}, "assignment": given},
            "status": {"sizeBytes": 4 * BLOCK, "usedBytes": 1},
        }
        self.cloud = Seen()
        shared = {"driver": "Shared", "shared": {"folder": str(self.share)}, "multiAttach": several}
        for name, spec in (("slow", {"driver": "Local"}), ("fast", shared)):
            self.cloud.views[VolumeClass].put(
                {"metadata": {"name": name, "uid": name, "generation": 1, "resourceVersion": "1"}, "spec": spec}
            )

    @property
    def root(self) -> Path:
        """Where it lies by its assignment."""
        folder = self.body["spec"]["assignment"].get("folder")
        return (Path(folder) if folder else self.state) / "volumes"

    @property
    def there(self) -> bool:
        """Whether it lies in the class that is asked for, and nowhere else."""
        given = self.body["spec"]["assignment"]
        at_home = given["volumeClass"] == self.body["spec"]["volumeClass"]["name"]
        return at_home and not given.get("moving") and not given.get("left")

    async def make(self) -> None:
        """Write the volume."""
        found = await Dying().driver(self.state, None, "slow").make(VOLUME_ID, 4 * BLOCK)
        # In two layers, of which none is left behind.
        await Dying().driver(self.state, None, "slow").snapshot(VOLUME_ID, "s")
        await Dying().driver(self.state, None, "slow").remove_snapshot(VOLUME_ID, "s")
        found = await Dying().driver(self.state, None, "slow").look(VOLUME_ID) or found
        for block, value in enumerate(CONTENT):
            if value:
                write_block(found.path, found.format, block, value)

    def decide(self) -> None:
        """Do what the operator does."""
        self.cloud.views[Volume].put(self.body)
        place, refusal = retyping(self.cloud, Volume.model_validate(self.body))  # type: ignore[arg-type]
        assert refusal is None
        if place is not None:
            self.body["spec"]["assignment"] = place.dump()

    async def act(self, files: Files | None = None) -> None:
        """Do what the agent does, as far as its power lasts."""
        place, shelves = read_place(self.body), Dying(files)
        assert place is not None
        await move(shelves, self.state, place)
        self.body["status"] |= await moved(shelves, self.state, place)

    async def go_to(self, volume_class: str, tmp_path: Path, files: DyingFiles | None = None) -> None:
        """Have it in a class; it reads as it was written after each step, in the place that is assigned."""
        self.body["spec"]["volumeClass"] = {"name": volume_class}
        for _ in range(12):
            self.decide()
            if self.there:
                return
            with suppress(PowerCut):
                await self.act(files if files is not None and not files.died else None)
            assert read_volume(self.root, VOLUME_ID, tmp_path) == CONTENT
        pytest.fail(f"it has not come to {volume_class}: {self.body}")


@pytest.mark.parametrize("several", [False, True])
async def test_a_volume_goes_to_a_share_and_back(tmp_path: Path, *, several: bool) -> None:
    """Every block reads as it was written, in one raw file where several write, and where it was nothing is left."""
    moving = Moving(tmp_path, several=several)
    await moving.make()
    await moving.go_to("fast", tmp_path)
    assert moving.root == moving.share / "volumes"
    found = await Dying().driver(moving.state, moving.share, "fast").look(VOLUME_ID)
    assert found is not None
    assert found.format == ("raw" if several else "qcow2")
    assert left_over(moving.state / "volumes") == []
    assert not (moving.state / "volumes" / VOLUME_ID).exists()
    await moving.go_to("slow", tmp_path)
    assert moving.root == moving.state / "volumes"
    assert not (moving.share / "volumes" / VOLUME_ID).exists()


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("how", ["before", "amid", "after"])
async def test_power_may_go_at_any_moment_of_a_move(tmp_path: Path, how: str, *, several: bool) -> None:
    """The host loses its power at each act on files in turn: the volume is whole where it is assigned, then arrives."""
    for last in range(1, 40):
        folder = tmp_path / str(last)
        moving, files = Moving(folder, several=several), DyingFiles(last, how)
        await moving.make()
        await moving.go_to("fast", folder, files)
        assert left_over(moving.share / "volumes") == []
        assert not (moving.state / "volumes" / VOLUME_ID).exists()
        if not files.died:
            assert last > 3
            return
    pytest.fail("it acts for ever")


async def test_nothing_is_removed_unless_it_is_whole_elsewhere(tmp_path: Path) -> None:
    """A former place is not cleared while the volume is not where it shall be, whatever the assignment says."""
    moving = Moving(tmp_path)
    await moving.make()
    given = moving.body["spec"]["assignment"]
    left = {"request": VOLUME_ID, "volumeClass": "slow"}
    moving.body["spec"]["assignment"] = given | {"volumeClass": "fast", "folder": str(moving.share), "left": left}
    with pytest.raises(DataGone):
        await moving.act()
    assert read_volume(moving.state / "volumes", VOLUME_ID, tmp_path) == CONTENT


async def test_it_does_not_return_onto_what_copies_lie_on(tmp_path: Path) -> None:
    """Copies keep the layers on which they lie; the volume stays whole where it is, and comes back without them."""
    moving = Moving(tmp_path)
    await moving.make()
    slow = Dying().driver(moving.state, None, "slow")
    await slow.snapshot(VOLUME_ID, "s")
    await slow.make("copy", 4 * BLOCK, SnapshotOrigin(VOLUME_ID, "s"))
    await slow.remove_snapshot(VOLUME_ID, "s")
    await moving.go_to("fast", tmp_path)
    assert read_volume(moving.state / "volumes", "copy", tmp_path) == CONTENT
    with pytest.raises(FormerLayers):
        await moving.go_to("slow", tmp_path)
    assert read_volume(moving.root, VOLUME_ID, tmp_path) == CONTENT
    assert moving.root == moving.share / "volumes"
    await slow.remove("copy")
    await moving.go_to("slow", tmp_path)
    assert moving.root == moving.state / "volumes"


async def test_who_thinks_better_of_it_finds_nothing_there(tmp_path: Path) -> None:
    """What a copy has left half done, in use or not, goes when it is not wanted any more; nothing else does."""
    moving = Moving(tmp_path)
    await moving.make()
    moving.body["spec"]["volumeClass"] = {"name": "fast"}
    moving.decide()
    layer = await begin_arrival(moving.share / "volumes", VOLUME_ID, 4 * BLOCK)
    assert await Dying().driver(moving.state, moving.share, "fast").look(VOLUME_ID) is None
    await moving.go_to("slow", tmp_path)
    assert not layer.exists()
    assert not layer.parent.exists()
    assert read_volume(moving.root, VOLUME_ID, tmp_path) == CONTENT


@pytest.mark.parametrize("how", ["before", "amid", "after"])
async def test_power_may_go_at_any_moment_of_an_arrival(tmp_path: Path, how: str) -> None:
    """A copy in use is there wholly, as arriving or as the volume, or not at all; what is half made is cleared."""
    for last in range(1, 20):
        root, files = tmp_path / str(last) / "volumes", DyingFiles(last, how)
        driver = local_driver(root)
        with suppress(PowerCut):
            await begin_arrival(root, VOLUME_ID, BLOCK, files)
        layer = arriving(root, VOLUME_ID)
        assert await driver.look(VOLUME_ID) is None
        if layer is not None:
            assert layer.exists()
            with suppress(PowerCut):
                await end_arrival(root, VOLUME_ID, None if files.died else files)
            found = await driver.look(VOLUME_ID)
            assert (found is None) == (arriving(root, VOLUME_ID) is not None)
            await end_arrival(root, VOLUME_ID)
            found = await driver.look(VOLUME_ID)
            assert found is not None
            assert found.path == layer
        await driver.remove(VOLUME_ID)
        assert not root.exists() or left_over(root) == []
        if not files.died:
            assert last > 3
            return
    pytest.fail("it acts for ever")


async def test_other_volumes_leave_an_arrival_alone(tmp_path: Path) -> None:
    """What is done to volumes beside it, which removes what nothing needs, keeps a copy that is being made."""
    driver, root = local_driver(tmp_path), tmp_path
    layer = await begin_arrival(root, VOLUME_ID, BLOCK)
    await driver.make("other", BLOCK)
    await driver.snapshot("other", "s")
    await driver.remove_snapshot("other", "s")
    await driver.merge("other")
    await driver.remove("other")
    assert arriving(root, VOLUME_ID) == layer
    with pytest.raises(DataGone):
        await begin_arrival(root, VOLUME_ID, BLOCK)
