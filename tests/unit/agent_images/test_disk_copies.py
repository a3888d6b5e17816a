"""Copies beside everything else: told once whole, cleared away when they fail, are given up or were cut off."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from kumulus_agent.compute.errors import InstanceNotFound, Retryable
from kumulus_agent.images import copies as module
from kumulus_agent.images import thaws
from kumulus_agent.images.copies import DiskCopies, Wish
from kumulus_agent.servers.terms import Copy
from kumulus_agent.storage.image_cache import CachedImage, ImageCache
from kumulus_agent.storage.qemu_img import qemu_img
from kumulus_api.server_action import ActionPhase

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
INSTANCE = "22222222-2222-4222-8222-222222222222"
ACTION = "00000000-0000-4000-8000-00000000000a"
OFF = Wish(("demo", "web"), INSTANCE, ACTION, "copy", "golden", offline=True)
ON = Wish(("demo", "web"), INSTANCE, ACTION, "copy", "golden", offline=False)


def failure(code: int) -> libvirt.libvirtError:
    """Give an error of QEMU's driver."""
    error = libvirt.libvirtError("asked")
    error.err = (code, libvirt.VIR_FROM_QEMU, "because", 2, None, None, None, -1, -1)
    return error


@dataclass
class Domain:
    """A guest whose backup job goes on until it is told to end.

    Attributes:
        disk: the file of its disk.
        silence: how often its agent does not answer before it does, by what it is asked.
        refused: what is answered with an error.
    """

    disk: Path
    job: int = libvirt.VIR_DOMAIN_JOB_NONE
    ended: int = libvirt.VIR_DOMAIN_JOB_NONE
    seen: list[str] = field(default_factory=list)
    silence: dict[str, float] = field(default_factory=lambda: {"time": math.inf})
    frozen: bool = False
    active: bool = True
    saved: bool = False
    refused: str = ""

    def call(self, _asked: str, function: Callable[[Any], Any]) -> Any:
        """Be the hypervisor, and its connection."""

        async def answer() -> Any:
            try:
                return function(SimpleNamespace(lookupByUUIDString=lambda _id: self))
            except libvirt.libvirtError as error:
                raise Retryable(str(error)) from error

        return answer()

    def isActive(self) -> bool:  # noqa: D102
        return self.active

    def hasManagedSaveImage(self) -> bool:  # noqa: D102
        self.seen.append("saved?")
        return self.saved

    def name(self) -> str:  # noqa: D102
        return "k-1"

    def agentSetResponseTimeout(self, seconds: int, _flags: int) -> None:  # noqa: D102
        assert seconds > 0

    def getTime(self) -> None:  # noqa: D102
        self._answer("time")

    def fsFreeze(self) -> int:  # noqa: D102
        self.seen.append("freeze")
        self.frozen = True  # also if it is slow to say so
        self._answer("freeze")
        return 1

    def fsThaw(self) -> int:  # noqa: D102
        self.seen.append("thaw")
        self._answer("thaw")
        self.frozen = False
        return 1

    def _answer(self, asked: str) -> None:
        left = self.silence.get(asked, 0)
        self.silence[asked] = left - 1
        if left > 0:
            raise failure(libvirt.VIR_ERR_AGENT_UNRESPONSIVE)
        if self.refused == asked:
            raise failure(libvirt.VIR_ERR_INTERNAL_ERROR)

    def XMLDesc(self) -> str:  # noqa: D102
        disk = f"<disk><source file='{self.disk}'/><target dev='sda'/></disk>"
        return f"<domain><devices>{disk}</devices></domain>"

    def state(self) -> tuple[int, int]:  # noqa: D102
        return libvirt.VIR_DOMAIN_RUNNING, 1

    def backupBegin(self, xml: str, _checkpoint: None, _flags: int) -> None:  # noqa: D102
        self.seen.append("begin")
        assert 'mode="push"' in xml
        assert 'name="sda"' in xml
        self._answer("begin")
        self.job = libvirt.VIR_DOMAIN_JOB_UNBOUNDED

    def abortJob(self) -> None:  # noqa: D102
        self.seen.append("abort")
        self.job, self.ended = libvirt.VIR_DOMAIN_JOB_NONE, libvirt.VIR_DOMAIN_JOB_CANCELLED

    def jobStats(self, flags: int = 0) -> dict[str, int]:  # noqa: D102
        backup = libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP
        return {"type": self.ended if flags else self.job, "operation": backup}

    def finish(self) -> None:
        """End the job well."""
        self.job, self.ended = libvirt.VIR_DOMAIN_JOB_NONE, libvirt.VIR_DOMAIN_JOB_COMPLETED


class Bench:
    """Copies of one instance's disk."""

    def __init__(self, folder: Path) -> None:
        self.instances = folder / "instances"
        self.home = self.instances / INSTANCE
        self.domain = Domain(self.home / "root.qcow2")
        self.home.mkdir(parents=True)
        self.owed = self.home / "thaw-owed"
        self.cache = ImageCache(folder / "images", 1 << 30)
        self.told: list[str] = []
        self.changed = asyncio.Event()
        self.image: dict[str, Any] | None = {
            "metadata": {"name": "golden", "namespace": "demo", "uid": "1"},
            "spec": {"source": {"server": {"action": ACTION}}},
        }
        settings = SimpleNamespace(instances_dir=self.instances, node_name="h1", max_image_bytes=1 << 40)
        self.copies = DiskCopies(settings, self, self.domain, self.cache, lambda _key: self.changed.set())  # type: ignore[arg-type]
        self.copies.tell = self.tell

    async def get(self, *_: Any) -> dict[str, Any] | None:
        """Be the API server."""
        return self.image

    async def tell(self, _body: dict[str, Any], image: CachedImage) -> bool:
        """Say whether there is an Image to tell of."""
        self.told.append(image.digest)
        return self.image is not None

    async def end(self) -> Copy:
        """Wait for the end of the copy."""
        async with asyncio.timeout(20):
            await self.changed.wait()
        found = self.copies.of(ACTION)
        assert found is not None
        return found

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what the test's own domain shows."""
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)

    def parts(self) -> list[Path]:
        """Give what is half there."""
        return list(self.home.glob("*.part"))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await qemu_img("create", "-q", "-f", "qcow2", str(made.home / "root.qcow2"), "1M")
    yield made
    await made.copies.close()
    await made.cache.close()


async def test_a_guest_that_is_off_is_copied(bench: Bench) -> None:
    """The copy is in the cache, owned by its Image and told once; a second beginning begins nothing."""
    for _ in range(2):
        bench.copies.begin(OFF)
    found = await bench.end()
    assert found.report is not None
    assert found.report.outcome is ActionPhase.SUCCEEDED, found.report.message
    image = await bench.cache.owned("demo/golden")
    assert image is not None
    assert bench.told == [image.digest]
    assert (image.virtual_size, bench.parts()) == (1 << 20, [])


async def test_a_running_guest_is_copied(bench: Bench) -> None:
    """A job is begun and waited for; meanwhile the Image is known to be on its way."""
    bench.copies.begin(ON)
    await bench.until(lambda: bool(bench.domain.seen))
    assert bench.copies.copying(("demo", "golden"))
    bench.domain.finish()
    found = await bench.end()
    assert found.report is not None
    assert found.report.outcome is ActionPhase.SUCCEEDED, found.report.message
    assert "no guest agent" in found.report.message


async def test_a_copy_is_given_up_with_its_action(bench: Bench) -> None:
    """What is not wanted any more is ended and cleared away, and can be begun anew."""
    bench.copies.begin(ON)
    await bench.until(lambda: bool(bench.domain.seen))
    bench.copies.forget("demo", "another")
    assert bench.copies.copying(("demo", "golden"))
    bench.copies.forget("demo", "copy")
    async with asyncio.timeout(20):
        await bench.changed.wait()
    assert bench.domain.seen == ["begin", "abort"]
    assert bench.copies.of(ACTION) is None
    assert bench.parts() == []


async def test_the_next_agent_sweeps_what_was_cut_off(bench: Bench) -> None:
    """Half a file is removed and the job that fills it ended, also if its guest is gone."""
    part = bench.home / f"snapshot-{ACTION}.part"
    for gone in (False, True):
        part.touch()
        bench.domain.job = libvirt.VIR_DOMAIN_JOB_UNBOUNDED
        if gone:

            async def absent(*_: Any) -> Any:
                raise InstanceNotFound("gone")

            bench.domain.call = absent  # type: ignore[method-assign]
        await bench.copies.sweep()
        assert bench.parts() == []
    assert bench.domain.seen == ["abort"]


@pytest.mark.parametrize(
    ("change", "reason"), [("room", "HostDiskFull"), ("deleted", "ImageDeleted"), ("job", "CopyFailed")]
)
async def test_what_fails_says_why_and_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, change: str, reason: str
) -> None:
    """Without room, without an Image, or with a job that broke off there is no image, and the reason is typed."""

    async def too_little(_disk: Path) -> int:
        return 5

    if change == "room":
        monkeypatch.setattr(module, "missing_room", too_little)
    if change == "deleted":
        bench.image = None
    bench.copies.begin(ON)
    if change == "job":
        await bench.until(lambda: bool(bench.domain.seen))
        bench.domain.abortJob()
    found = await bench.end()
    assert found.report is not None
    assert (found.report.outcome, found.report.reason) == (ActionPhase.FAILED, reason)
    assert bench.parts() == []
    assert await bench.cache.images() == []


@pytest.fixture
def agent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Domain:
    """Give a guest with an agent, which is asked again at once."""
    monkeypatch.setattr(thaws, "_FIRST_PAUSE", 0.01)
    bench.domain.silence = {}
    return bench.domain


@pytest.mark.parametrize("silence", [{}, {"freeze": 1, "thaw": 3}, {"thaw": 3}])
async def test_a_guest_that_is_slow_to_answer_goes_on(bench: Bench, agent: Domain, silence: dict[str, float]) -> None:
    """A guest is asked to thaw until it says that it has, and only what is known to have stood still is called so."""
    agent.silence = dict(silence)
    bench.copies.begin(ON)
    await bench.until(lambda: "thaw" in agent.seen and not bench.owed.exists())
    assert agent.seen == ["freeze", "begin", *["thaw"] * int(silence.get("thaw", 0) + 1)]
    assert not agent.frozen
    agent.finish()
    found = await bench.end()
    assert found.report is not None
    assert found.report.outcome is ActionPhase.SUCCEEDED, found.report.message
    assert ("frozen" in found.report.message) is ("freeze" not in silence)


async def test_a_guest_that_does_not_thaw_ends_the_action_and_is_asked_on(
    bench: Bench, agent: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No action stays open for an agent that says nothing; the guest goes on as soon as it answers, whoever waits."""
    monkeypatch.setattr(module, "_THAW_SECONDS", 0.1)
    agent.silence = {"thaw": math.inf}
    bench.copies.begin(ON)
    found = await bench.end()
    assert found.report is not None
    assert (found.report.outcome, found.report.reason) == (ActionPhase.FAILED, "GuestFrozen")
    assert "abort" in agent.seen
    assert (bench.parts(), bench.owed.exists()) == ([], True)
    bench.copies.forget("demo", "copy")
    agent.silence = {}
    await bench.until(lambda: not bench.owed.exists())
    assert not agent.frozen


async def test_a_guest_of_a_copy_that_was_refused_goes_on(bench: Bench, agent: Domain) -> None:
    """What was frozen for a job that never began is thawed, too."""
    agent.refused, agent.silence = "begin", {"thaw": 2}
    bench.copies.begin(ON)
    found = await bench.end()
    assert found.report is not None
    assert found.report.reason == "CopyFailed"
    await bench.until(lambda: not bench.owed.exists())
    assert not agent.frozen


async def test_the_next_agent_asks_on(bench: Bench, agent: Domain) -> None:
    """A guest whose agent ended is asked by the next one, which does not take one with saved memory for thawed."""
    bench.owed.touch()
    agent.frozen, agent.active, agent.saved = True, False, True
    await bench.copies.sweep()
    await bench.until(lambda: agent.seen.count("saved?") > 1)
    assert bench.owed.exists()
    agent.active, agent.saved = True, False
    await bench.until(lambda: not bench.owed.exists())
    assert not agent.frozen


async def test_a_guest_that_is_off_is_not_waited_for(bench: Bench, agent: Domain) -> None:
    """What has ended, or was started since, has nothing frozen."""
    bench.owed.touch()
    agent.active = False
    await bench.copies.sweep()
    await bench.until(lambda: not bench.owed.exists())
    assert agent.seen == ["saved?"]


@pytest.mark.parametrize("refused", ["time", "freeze"])
async def test_an_agent_may_say_no(bench: Bench, agent: Domain, refused: str) -> None:
    """An agent's own error is an answer: it may freeze all the same, and after a refused freeze nothing is owed."""
    agent.refused = refused
    bench.copies.begin(ON)
    await bench.until(lambda: "begin" in agent.seen)
    assert agent.seen == (["freeze", "begin", "thaw"] if refused == "time" else ["freeze", "begin"])
    assert not bench.owed.exists()


async def test_who_says_nothing_is_not_told_to_stand_still(bench: Bench, agent: Domain) -> None:
    """An agent that is there and does not answer is never asked to freeze: nobody could tell it to go on."""
    agent.silence = {"time": math.inf}
    bench.copies.begin(ON)
    await bench.until(lambda: bool(agent.seen))
    agent.finish()
    found = await bench.end()
    assert found.report is not None
    assert (found.report.outcome, agent.seen, bench.owed.exists()) == (ActionPhase.SUCCEEDED, ["begin"], False)
