"""A corpus of images that attack their host, judged as an agent does it, with real tools."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from kumulus_agent.storage.confined import Work, confined
from kumulus_agent.storage.errors import CorruptImage
from kumulus_agent.storage.qemu_img import check_whole
from kumulus_agent.storage.sandbox import SOURCE, TARGET
from kumulus_lab.testing.canary import Canary
from kumulus_lab.testing.hostile_images import CORPUS
from kumulus_lab.testing.judging import GROWTH_GRANTED, Judged, judge

MEMORY = 160 << 20
"""Bytes that no process for any image exceeds."""
# These are opened by qemu-img as it comes: what they name is a file of the host.
FOLLOWED = ("qcow2-backing-file", "vmdk-flat", "vmdk-embedded-no-disk")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes], secret: Path) -> dict[str, Path]:
    """The files of the corpus."""
    folder, made = tmp_path_factory.mktemp("hostile"), {}
    for number, (name, image) in enumerate(CORPUS.items()):
        made[name] = folder / f"{number}.part"
        made[name].write_bytes(image.make(content, secret))
    return made


@pytest.fixture(scope="module")
def judged(hostile: dict[str, Path], secret: Path) -> tuple[dict[str, Judged], bool]:
    """What came of each, and whether a file of the host was opened meanwhile."""
    with Canary(secret) as canary:
        found = judge([(path, CORPUS[name].declared) for name, path in hostile.items()])
        return dict(zip(hostile, found, strict=True)), canary.sung()


@pytest.mark.parametrize("name", CORPUS)
def test_it_is_refused_with_a_reason(
    name: str, hostile: dict[str, Path], judged: tuple[dict[str, Judged], bool]
) -> None:
    """Each attempt is refused with its reason and a sentence that says what was found; little is written for it."""
    image, found = CORPUS[name], judged[0][name]
    assert re.fullmatch(image.reason, found.reason), found
    assert re.search(image.says, found.message), found
    assert found.written < 32 * hostile[name].stat().st_size + GROWTH_GRANTED + (1 << 20)
    assert found.memory < MEMORY


def test_no_file_of_the_host_is_opened(judged: tuple[dict[str, Judged], bool]) -> None:
    """While the whole corpus is judged nobody opens a file that images name."""
    assert not judged[1]


@pytest.mark.parametrize("name", FOLLOWED)
def test_the_canary_sings(name: str, hostile: dict[str, Path], canary: Canary, tmp_path: Path) -> None:
    """The attempts are real: qemu-img as it comes opens the host's file for them."""
    driver = "qcow2" if name.startswith("qcow2") else "vmdk"
    argv = ["qemu-img", "convert", "-f", driver, "-O", "raw", str(hostile[name]), str(tmp_path / "out")]
    subprocess.run(argv, check=False, capture_output=True, timeout=60)
    assert canary.sung()


@pytest.mark.parametrize("name", FOLLOWED)
async def test_the_sandbox_holds_by_itself(name: str, hostile: dict[str, Path], canary: Canary, tmp_path: Path) -> None:
    """What an inspection would have let through reaches no file of the host from where it is converted."""
    driver = "qcow2" if name.startswith("qcow2") else "vmdk"
    (target := tmp_path / "out").touch()
    options = f"driver={driver},file.driver=file,file.filename={SOURCE}"
    arguments = ("convert", "-q", "--image-opts", options, "-O", "qcow2", TARGET)
    done = await confined(Work("convert", arguments, hostile[name], target, output=1 << 30))
    assert done.code != 0
    assert "No such file" in done.said
    assert not canary.sung()


async def test_a_check_follows_nothing(hostile: dict[str, Path], canary: Canary) -> None:
    """The check of a qcow2 opens no backing file either."""
    with pytest.raises(CorruptImage, match="cannot open"):
        await check_whole(hostile["qcow2-backing-file"])
    assert not canary.sung()
