"""Good images with some bytes changed, where formats keep what they say of themselves."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kumulus_agent.storage.convert import convert, needs_conversion
from kumulus_agent.storage.errors import StorageError, Terminal
from kumulus_agent.storage.inspection import Inspected, inspect_image, source_format
from kumulus_agent.storage.qemu_img import check_whole
from kumulus_lab.testing.canary import Canary
from kumulus_lab.testing.disk_images import DISK_BYTES, FORMATS
from kumulus_lab.testing.hostile_images import patched

LIMIT = 1 << 30
# Headers lie at the beginning and at the end; VHDX has them at some multiples of 64 KiB, and its metadata at 2 MiB.
STARTS = (0, 512, 1024, 64 << 10, 128 << 10, 192 << 10, 256 << 10, 2 << 20, (2 << 20) + (64 << 10), -512, -1024, -1536)
PLACES = st.tuples(st.sampled_from(STARTS), st.integers(0, 511)).map(lambda place: place[0] + place[1])
BYTES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from((b"\xff" * 4, b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"PATH", b'RW 8 FLAT "PATH" 0\n')),
)
CHANGES = st.lists(st.tuples(PLACES, BYTES), min_size=1, max_size=6)


def _changed(content: dict[str, bytes], name: str, changes: list[tuple[int, bytes]], secret: Path) -> bytes:
    named = [(place, new.replace(b"PATH", str(secret).encode())) for place, new in changes]
    return patched(content[name], *named)[: len(content[name])]


@given(name=st.sampled_from(sorted(FORMATS)), changes=CHANGES)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_change_breaks_the_inspection(
    name: str, changes: list[tuple[int, bytes]], content: dict[str, bytes], secret: Path, tmp_path: Path
) -> None:
    """Whatever is changed in an image, it is taken or refused in a sentence."""
    path = tmp_path / "image.part"
    path.write_bytes(_changed(content, name, changes, secret))
    try:
        inspect_image(path, source_format(FORMATS[name]), LIMIT)
    except Terminal as error:
        assert "image" in str(error)  # noqa: PT017 - it may also be taken


@given(name=st.sampled_from(sorted(FORMATS)), changes=CHANGES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_change_leads_to_a_file_of_the_host(
    name: str, changes: list[tuple[int, bytes]], content: dict[str, bytes], secret: Path, tmp_path: Path
) -> None:
    """Whatever is changed in an image, and whatever an inspection would say, nobody opens what it may name."""
    path, declared = tmp_path / "image.part", source_format(FORMATS[name])
    path.write_bytes(_changed(content, name, changes, secret))
    with Canary(secret) as canary:
        with contextlib.suppress(StorageError):
            asyncio.run(_use(path, Inspected(declared, DISK_BYTES)))
        assert not canary.sung()


async def _use(path: Path, found: Inspected) -> None:
    if needs_conversion(found):
        await convert(path, path.with_name("made"), found)
    else:
        await check_whole(path)
