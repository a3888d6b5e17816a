"""The contract of the drivers of volumes, on real files: every block reads as it was written, whatever came between."""

import asyncio
import shutil
from pathlib import Path

import pytest

from kumulus_agent.storage.errors import Terminal
from kumulus_agent.volumes.drivers.files import Files
from kumulus_agent.volumes.drivers.layers import MOST_LAYERS
from kumulus_agent.volumes.drivers.protocol import (
    DataGone,
    Format,
    ImageOrigin,
    NotShared,
    OriginGone,
    SizeTooSmall,
    SnapshotMissing,
    SnapshotOrigin,
    TooManyLayers,
    Unreadable,
)
from kumulus_agent.volumes.drivers.shared import MARKER
from kumulus_agent.volumes.drivers.testing import (
    BLOCK,
    Made,
    left_over,
    read_snapshots,
    read_volume,
    write,
    write_block,
    written,
)

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")


@pytest.fixture(params=["local", "shared", "encrypted"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    return Made(request.param, tmp_path / "folder")


def content(made: Made, tmp_path: Path, volume_id: str) -> list[int]:
    return read_volume(made.root, volume_id, tmp_path)


async def test_a_volume_is_blank_grows_and_never_shrinks(made: Made, tmp_path: Path) -> None:
    """A new volume reads as zeros; it grows to what is asked for, keeps its data, and stays as large as it is."""
    driver = made.driver()
    found = await driver.make("v", 3 * BLOCK)
    assert (found.format, found.size, found.layers, found.snapshots) == ("qcow2", 3 * BLOCK, 1, {})
    luks_header = 2 << 20 if made.kind == "encrypted" else 0
    assert found.used < luks_header + (2 << 20)
    write_block(found.path, found.format, 2, 7)
    await driver.grow("v", 5 * BLOCK)
    await driver.grow("v", 2 * BLOCK)
    again = await driver.make("v", 4 * BLOCK + 1, known=True)
    assert again.size == 5 * BLOCK
    assert content(made, tmp_path, "v") == [0, 0, 7, 0, 0]
    await driver.remove("v")
    await driver.remove("v")
    assert await driver.look("v") is None
    assert left_over(made.root) == []


async def test_snapshots_stay_what_they_were(made: Made, tmp_path: Path) -> None:
    """What is written, or grows, after a snapshot changes neither it nor its copies; a revert gives it back, once."""
    driver = await written(made, "v", [1, 2, 3])
    await driver.snapshot("v", "s")
    await driver.snapshot("v", "s")
    await write(driver, "v", 0, 9)
    await driver.make("copy", 4 * BLOCK, SnapshotOrigin("v", "s"))
    await driver.grow("v", 5 * BLOCK)
    await write(driver, "v", 4, 8)
    await write(driver, "copy", 1, 5)
    assert content(made, tmp_path, "v") == [9, 2, 3, 0, 8]
    assert content(made, tmp_path, "copy") == [1, 5, 3, 0]
    assert read_snapshots(made.root, "v", tmp_path) == {"s": [1, 2, 3]}
    await driver.revert("v", "s", "first")
    assert content(made, tmp_path, "v") == [1, 2, 3, 0, 0]
    await write(driver, "v", 1, 4)
    await driver.revert("v", "s", "first")
    assert content(made, tmp_path, "v") == [1, 4, 3, 0, 0]
    await driver.revert("v", "s", "second")
    assert content(made, tmp_path, "v") == [1, 2, 3, 0, 0]
    assert left_over(made.root) == []


async def test_copies_outlive_what_they_are_of(made: Made, tmp_path: Path) -> None:
    """A volume and its snapshot can go before their copies; the last of these takes the files with it."""
    driver = await written(made, "v", [1, 2])
    await driver.snapshot("v", "s")
    await driver.make("a", 2 * BLOCK, SnapshotOrigin("v", "s"))
    await driver.snapshot("a", "t")
    await driver.make("b", 2 * BLOCK, SnapshotOrigin("a", "t"))
    for gone in ("v", "a"):
        await driver.remove(gone)
        assert await driver.look(gone) is None
    assert content(made, tmp_path, "b") == [1, 2]
    with pytest.raises(OriginGone):
        await driver.make("c", 2 * BLOCK, SnapshotOrigin("v", "s"))
    with pytest.raises(DataGone):
        await driver.make("v", BLOCK)
    assert await driver.merge("b") == 2
    assert content(made, tmp_path, "b") == [1, 2]
    assert {item.name for item in made.root.iterdir()} == {".lock", "b"}
    assert left_over(made.root) == []


async def test_a_raw_volume_of_before_takes_part(made: Made, tmp_path: Path) -> None:
    """A raw file is served as raw, becomes the lowest layer by a snapshot, and goes when nothing lies on it."""
    if made.kind == "encrypted":
        return  # what was raw is not encrypted, and stays so
    driver = made.driver()
    made.root.mkdir(parents=True)
    with (made.root / "old.raw").open("wb") as file:
        file.truncate(2 * BLOCK)
    write_block(made.root / "old.raw", "raw", 0, 3)
    found = await driver.make("old", 3 * BLOCK, known=True)
    assert (found.path.name, found.format, found.size) == ("old.raw", "raw", 3 * BLOCK)
    await driver.snapshot("old", "s")
    await write(driver, "old", 1, 4)
    await driver.make("copy", 3 * BLOCK, SnapshotOrigin("old", "s"))
    assert content(made, tmp_path, "old") == [3, 4, 0]
    await driver.remove_snapshot("old", "s")
    await driver.remove("old")
    assert (made.root / "old.raw").exists()
    assert content(made, tmp_path, "copy") == [3, 0, 0]
    await driver.remove("copy")
    assert [item.name for item in made.root.iterdir()] == [".lock"]


async def test_removed_snapshots_give_their_room_back(made: Made, tmp_path: Path) -> None:
    """However many snapshots come and go, a volume that was off lies on one file, and reads as before."""
    driver = await written(made, "v", [1, 2, 3, 4])
    for number in range(5):
        await driver.snapshot("v", f"s{number}")
        await write(driver, "v", number % 4, 10 + number)
    for number in (0, 2, 4):
        await driver.remove_snapshot("v", f"s{number}")
    expected = {"s1": [10, 2, 3, 4], "s3": [10, 11, 12, 4]}
    assert await driver.merge("v") == 3
    assert content(made, tmp_path, "v") == [14, 11, 12, 13]
    assert read_snapshots(made.root, "v", tmp_path) == expected
    for number in (1, 3):
        await driver.remove_snapshot("v", f"s{number}")
    await driver.merge("v")
    found = await driver.look("v")
    assert found is not None
    assert found.layers == 1
    assert content(made, tmp_path, "v") == [14, 11, 12, 13]
    assert left_over(made.root) == []


async def test_a_volume_is_made_of_an_image(made: Made, tmp_path: Path) -> None:
    """A copy of an image has its data and the volume's size, and needs the image no more."""
    image = tmp_path / "image.raw"
    image.write_bytes(b"\x05" * BLOCK)
    driver = made.driver()
    with pytest.raises(SizeTooSmall):
        await driver.make("v", BLOCK // 2, ImageOrigin(image, "raw"))
    await driver.make("v", 2 * BLOCK, ImageOrigin(image, "raw"))
    image.unlink()
    assert content(made, tmp_path, "v") == [5, 0]
    assert left_over(made.root) == []


async def test_a_guest_may_be_on_either_file_until_a_snapshot_ends(made: Made, tmp_path: Path) -> None:
    """A snapshot that was begun can be taken back or ended: both files read alike, and what came since is kept."""
    driver = await written(made, "v", [1, 2])
    old = await driver.look("v")
    assert old is not None
    fresh = await driver.begin_snapshot("v", "s")
    assert fresh is not None
    assert await driver.begin_snapshot("v", "s") == fresh
    await driver.cancel_snapshot("v")
    assert not fresh.exists()
    assert content(made, tmp_path, "v") == [1, 2]
    fresh = await driver.begin_snapshot("v", "s")
    assert fresh is not None
    write_block(fresh, "qcow2", 0, 6)
    found = await made.driver().make("v", BLOCK)  # the host was off meanwhile
    assert (found.path, found.pending) == (fresh, "")
    assert content(made, tmp_path, "v") == [6, 2]
    assert read_snapshots(made.root, "v", tmp_path) == {"s": [1, 2]}
    assert await driver.begin_snapshot("v", "s") is None


async def test_what_cannot_be_done_is_refused_and_changes_nothing(made: Made, tmp_path: Path) -> None:
    """Each refusal has its type, and what is there stays."""
    driver = await written(made, "v", [1])
    await driver.snapshot("v", "s")
    with pytest.raises(SnapshotMissing):
        await driver.revert("v", "t", "r")
    with pytest.raises(SizeTooSmall):
        await driver.make("c", BLOCK // 2, SnapshotOrigin("v", "s"))
    with pytest.raises(DataGone):
        await driver.make("known", BLOCK, known=True)
    with pytest.raises(DataGone):
        await driver.snapshot("absent", "s")
    with pytest.raises(DataGone):
        await driver.grow("absent", BLOCK)
    if made.kind != "encrypted":  # there it is the same, at seconds of a processor for each layer
        for number in range(MOST_LAYERS - 2):
            await driver.snapshot("v", f"more-{number}")
        with pytest.raises(TooManyLayers):
            await driver.snapshot("v", "last")
    assert content(made, tmp_path, "v") == [1]
    assert left_over(made.root) == []


async def test_nothing_goes_while_something_cannot_be_read(made: Made) -> None:
    """A record or a layer that is damaged may need anything: no layer is removed until it is mended."""
    driver = await written(made, "v", [1])
    await driver.snapshot("v", "s")
    await driver.make("copy", BLOCK, SnapshotOrigin("v", "s"))
    record = made.root / "copy" / "volume.json"
    whole = record.read_bytes()
    record.write_bytes(whole[:5])
    with pytest.raises(Unreadable):
        await driver.remove("v")
    layers = len(list((made.root / "v").glob("*.qcow2")))
    assert layers == 2
    record.write_bytes(whole)
    await driver.remove("v")
    assert [item.name for item in (made.root / "v").glob("*.qcow2")] == ["first.qcow2"]


async def test_a_folder_that_is_not_shared_is_left_alone(tmp_path: Path) -> None:
    """Where the share is not mounted, or another one is, nothing is made, told or removed."""
    made = Made("shared", tmp_path / "folder")
    driver = await written(made, "v", [1])
    marker = made.folder / MARKER
    for wrong in (lambda: marker.write_text("slow"), marker.unlink):
        wrong()
        for act in (
            driver.look("v"),
            driver.make("w", BLOCK),
            driver.snapshot("v", "s"),
            driver.remove("v"),
            driver.remove_snapshot("v", "s"),
        ):
            with pytest.raises(NotShared):
                await act
    marker.write_text("fast")
    assert content(made, tmp_path, "v") == [1]


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "a\0b", "-rf", "v" * 129])
async def test_ids_cannot_leave_their_folder(made: Made, name: str) -> None:
    """An id that is not a plain name is refused, of a volume and of a snapshot."""
    driver = await written(made, "v", [1])
    for act in (driver.look(name), driver.make(name, BLOCK), driver.remove(name), driver.snapshot("v", name)):
        with pytest.raises(Terminal):
            await act


async def test_a_file_that_arrives_becomes_a_volume(made: Made, tmp_path: Path) -> None:
    """A whole file from another host is adopted; one whose transfer broke goes with the volume."""
    driver = await written(made, "v", [1, 2])
    found = await driver.look("v")
    assert found is not None
    arrived = made.root / "w.qcow2"
    shutil.copy(found.path, arrived)
    await driver.adopt("w", arrived)
    assert content(made, tmp_path, "w") == [1, 2]
    assert not arrived.exists()
    shutil.copy(found.path, made.root / "x.qcow2")
    await driver.remove("x")
    assert left_over(made.root) == []


async def test_hosts_that_share_a_folder_do_not_take_layers_from_each_other(tmp_path: Path) -> None:
    """A copy is whole, though another host removes what it is of just as its layer is made; later it is refused."""
    made = Made("shared", tmp_path / "folder")
    one = await written(made, "v", [1, 2])
    await one.snapshot("v", "s")
    removing: list[asyncio.Task[None]] = []

    class Meeting(Files):
        async def make_layer(self, path: Path, size: int, below: tuple[str, Format] | None = None) -> None:
            removing.append(asyncio.create_task(one.remove("v")))
            await super().make_layer(path, size, below)

    await made.driver(Meeting()).make("copy", 2 * BLOCK, SnapshotOrigin("v", "s"))
    await asyncio.gather(*removing)
    assert await one.look("v") is None
    assert content(made, tmp_path, "copy") == [1, 2]
    with pytest.raises(OriginGone):
        await made.driver().make("late", 2 * BLOCK, SnapshotOrigin("v", "s"))
    await made.driver().remove("copy")
    assert left_over(made.root) == []
