"""Volumes on a host that loses its power at any moment, on real files: what was acknowledged is there."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kumulus_agent.volumes.drivers.layers import layer_format, read_shelf
from kumulus_agent.volumes.drivers.protocol import SnapshotOrigin, VolumeDriver
from kumulus_agent.volumes.drivers.testing import (
    BLOCK,
    DyingEncryptedFiles,
    DyingFiles,
    Made,
    PowerCut,
    left_over,
    read_snapshots,
    read_volume,
    write,
    written,
)

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")


@dataclass
class Model:
    """What is to be read: a byte for each block of every volume, and of each of its snapshots."""

    volumes: dict[str, list[int]] = field(default_factory=dict)
    snapshots: dict[str, dict[str, list[int]]] = field(default_factory=dict)


def check_model(model: Model, root: Path, scratch: Path) -> None:
    """Compare everything that is to be there with what is read."""
    for known, blocks in model.volumes.items():
        assert read_volume(root, known, scratch) == blocks
        assert read_snapshots(root, known, scratch) == model.snapshots.get(known, {})
    for layer in read_shelf(root).below:
        if layer_format(layer) == "qcow2":
            subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", root / layer], check=True)


CUTS = st.integers(0, 9)
"""At which file operation the power goes; 0 for none."""
Act = Callable[[VolumeDriver], Awaitable[Any]]
ACTS: dict[str, Act] = {
    "make": lambda driver: driver.make("new", 2 * BLOCK),
    "clone": lambda driver: driver.make("new", 3 * BLOCK, SnapshotOrigin("v", "s")),
    "grow": lambda driver: driver.grow("v", 4 * BLOCK),
    "snapshot": lambda driver: driver.snapshot("v", "t"),
    "snapshot of a raw volume": lambda driver: driver.snapshot("old", "t"),
    "revert": lambda driver: driver.revert("v", "s", "r"),
    "remove a snapshot": lambda driver: driver.remove_snapshot("v", "s"),
    "merge": lambda driver: driver.merge("merging"),
    "remove": lambda driver: driver.remove("v"),
    "remove the last copy": lambda driver: driver.remove("copy"),
}


async def cloud(made: Made) -> VolumeDriver:
    """Have a volume with a snapshot, one with layers to merge, a raw one, and the copy of one that is gone."""
    driver = await written(made, "v", [1, 2])
    await driver.snapshot("v", "s")
    await write(driver, "v", 1, 3)
    await written(made, "merging", [4, 5])
    for snapshot in ("a", "b"):
        await driver.snapshot("merging", snapshot)
        await driver.remove_snapshot("merging", snapshot)
        await write(driver, "merging", 0, 6)
    await written(made, "gone", [7])
    await driver.snapshot("gone", "s")
    await driver.make("copy", BLOCK, SnapshotOrigin("gone", "s"))
    await driver.remove("gone")
    if made.kind != "encrypted":
        (made.root / "old.raw").write_bytes(b"\x08" * BLOCK)
    return driver


def everything(root: Path, scratch: Path) -> dict[str, Any]:
    """Give all that can be read."""
    found: dict[str, Any] = {}
    for known, record in read_shelf(root).records.items():
        if record.active:
            found[known] = (read_volume(root, known, scratch), read_snapshots(root, known, scratch))
    return found


HOWS = ("before", "amid", "after")
CASES = [
    *(("local", name, how) for name in ACTS for how in HOWS),
    # What is done otherwise where volumes are encrypted; a layer of those takes seconds of a processor.
    *(("encrypted", "merge", how) for how in HOWS),
    ("encrypted", "clone", "amid"),
]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Have a folder with volumes of each kind."""
    found = {kind: Made(kind, tmp_path_factory.mktemp(kind)) for kind in ("local", "encrypted")}
    for made in found.values():
        asyncio.run(cloud(made))
    return found


@pytest.mark.parametrize(("kind", "name", "how"), CASES)
async def test_a_power_cut_at_each_step_loses_nothing(
    templates: dict[str, Made], kind: str, name: str, how: str, tmp_path: Path
) -> None:
    """After a loss of power at any file operation all reads as before the act or after it; repeated, it is done."""
    template = templates[kind]
    before = everything(template.root, tmp_path)
    complete = Made(kind, tmp_path / "complete")
    shutil.copytree(template.folder, complete.folder)
    await ACTS[name](complete.driver())
    after = everything(complete.root, tmp_path)
    for step in range(1, 40):
        made = Made(kind, tmp_path / f"cut-{step}")
        shutil.copytree(template.folder, made.folder)
        files = (DyingEncryptedFiles if kind == "encrypted" else DyingFiles)(step, how)
        with contextlib.suppress(PowerCut):
            await ACTS[name](made.driver(files))
        if not files.died:
            assert step > 1
            return
        there = everything(made.root, tmp_path)
        assert all(there.get(known) in (before.get(known), after.get(known)) for known in before | after | there)
        await ACTS[name](made.driver())
        assert everything(made.root, tmp_path) == after
        assert left_over(made.root) == []
        shutil.rmtree(made.folder)
    raise AssertionError("the act has no end")


class AnyOrder(RuleBasedStateMachine):
    """Acts in any order, each cut short at any step and then repeated; a model says what is to be read."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(mkdtemp(prefix="volumes-"))
        self.made = Made("local", self.scratch / "folder")
        self.model = Model()
        self.number = 0

    def act(self, act: Act, cut: int) -> None:
        """Carry an act out, after a loss of power at the given step if it has so many."""
        if cut:
            with contextlib.suppress(PowerCut):
                asyncio.run(_run(act, self.made.driver(DyingFiles(cut, ("before", "amid", "after")[cut % 3]))))
        asyncio.run(_run(act, self.made.driver()))

    def volume(self, data: st.DataObject) -> str:
        """Choose one."""
        return data.draw(st.sampled_from(sorted(self.model.volumes)))

    def snapshot_of(self, data: st.DataObject) -> tuple[str, str]:
        """Choose a volume with snapshots, and one of them."""
        there = [(known, name) for known, names in sorted(self.model.snapshots.items()) for name in sorted(names)]
        return data.draw(st.sampled_from(there))

    def name(self) -> str:
        """Give a name that was not used."""
        self.number += 1
        return f"n{self.number}"

    @precondition(lambda self: len(self.model.volumes) < 4)
    @rule(blocks=st.integers(1, 4), cut=CUTS)
    def make(self, blocks: int, cut: int) -> None:
        """Make a blank one."""
        name = self.name()
        self.act(lambda driver: driver.make(name, blocks * BLOCK), cut)
        self.model.volumes[name], self.model.snapshots[name] = [0] * blocks, {}

    @precondition(lambda self: any(self.model.snapshots.values()) and len(self.model.volumes) < 5)
    @rule(data=st.data(), more=st.integers(0, 2), cut=CUTS)
    def clone(self, data: st.DataObject, more: int, cut: int) -> None:
        """Make a copy of a snapshot."""
        of, snapshot = self.snapshot_of(data)
        name, blocks = self.name(), self.model.snapshots[of][snapshot] + [0] * more
        self.act(lambda driver: driver.make(name, len(blocks) * BLOCK, SnapshotOrigin(of, snapshot)), cut)
        self.model.volumes[name], self.model.snapshots[name] = blocks, {}

    @precondition(lambda self: self.model.volumes)
    @rule(data=st.data(), value=st.integers(0, 255))
    def write(self, data: st.DataObject, value: int) -> None:
        """Write a block."""
        name = self.volume(data)
        block = data.draw(st.integers(0, len(self.model.volumes[name]) - 1))
        asyncio.run(write(self.made.driver(), name, block, value))
        self.model.volumes[name][block] = value

    @precondition(lambda self: self.model.volumes)
    @rule(data=st.data(), more=st.integers(0, 3), cut=CUTS)
    def grow(self, data: st.DataObject, more: int, cut: int) -> None:
        """Make one larger."""
        name = self.volume(data)
        blocks = self.model.volumes[name] + [0] * more
        self.act(lambda driver: driver.grow(name, len(blocks) * BLOCK), cut)
        self.model.volumes[name] = blocks

    @precondition(lambda self: self.model.volumes)
    @rule(data=st.data(), cut=CUTS)
    def snapshot(self, data: st.DataObject, cut: int) -> None:
        """Take a snapshot."""
        name, snapshot = self.volume(data), self.name()
        self.act(lambda driver: driver.snapshot(name, snapshot), cut)
        self.model.snapshots[name][snapshot] = list(self.model.volumes[name])

    @precondition(lambda self: any(self.model.snapshots.values()))
    @rule(data=st.data(), cut=CUTS)
    def revert(self, data: st.DataObject, cut: int) -> None:
        """Put one back."""
        (name, snapshot), request = self.snapshot_of(data), self.name()
        self.act(lambda driver: driver.revert(name, snapshot, request), cut)
        then = self.model.snapshots[name][snapshot]
        self.model.volumes[name] = then + [0] * (len(self.model.volumes[name]) - len(then))

    @precondition(lambda self: any(self.model.snapshots.values()))
    @rule(data=st.data(), cut=CUTS)
    def remove_snapshot(self, data: st.DataObject, cut: int) -> None:
        """Remove a snapshot."""
        name, snapshot = self.snapshot_of(data)
        self.act(lambda driver: driver.remove_snapshot(name, snapshot), cut)
        del self.model.snapshots[name][snapshot]

    @precondition(lambda self: self.model.volumes)
    @rule(data=st.data(), cut=CUTS)
    def merge(self, data: st.DataObject, cut: int) -> None:
        """Free what is not needed."""
        name = self.volume(data)
        self.act(lambda driver: driver.merge(name), cut)

    @precondition(lambda self: self.model.volumes)
    @rule(data=st.data(), cut=CUTS)
    def remove(self, data: st.DataObject, cut: int) -> None:
        """Remove one."""
        name = self.volume(data)
        self.act(lambda driver: driver.remove(name), cut)
        del self.model.volumes[name], self.model.snapshots[name]

    @invariant()
    def reads_as_written(self) -> None:
        """Compare all blocks of all volumes and snapshots."""
        if self.made.root.exists():
            check_model(self.model, self.made.root, self.scratch)
            assert left_over(self.made.root) == []

    def teardown(self) -> None:
        """When the last volume goes, no file stays."""
        for name in sorted(self.model.volumes, reverse=True):
            asyncio.run(_run(lambda driver, name=name: driver.remove(name), self.made.driver()))  # type: ignore[misc]
        assert not self.made.root.exists() or [item.name for item in self.made.root.iterdir()] in ([], [".lock"])
        shutil.rmtree(self.scratch)


async def _run(act: Act, driver: VolumeDriver) -> None:
    await act(driver)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=12, stateful_step_count=14)
