"""How qemu-img is asked about encrypted files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.storage.errors import Retryable
from kumulus_agent.volumes.drivers import encrypted
from kumulus_agent.volumes.drivers.encrypted import EncryptedFiles
from kumulus_agent.volumes.drivers.keys import VolumeKey


@pytest.mark.parametrize(
    ("said", "asked"),
    [("qemu-img create failed: Unable to get accurate CPU usage", 3), ("qemu-img create failed: No space left", 1)],
)
async def test_qemu_measures_again_what_it_could_not_measure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, asked: int
) -> None:
    """Where the clock did not move while a key was derived, the layer is made at the next attempt; else it fails."""
    answers: list[str] = []

    async def qemu_img(*_: Any, **__: Any) -> bytes:
        answers.append(said)
        if len(answers) < 3:
            raise Retryable(said)
        (tmp_path / ".first.qcow2.part").touch()
        return b""

    monkeypatch.setattr(encrypted, "qemu_img", qemu_img)
    files = EncryptedFiles(VolumeKey(b"thirty-two bytes, or some more of them"))
    if asked == 1:
        with pytest.raises(Retryable):
            await files.make_layer(tmp_path / "first.qcow2", 1 << 20)
    else:
        await files.make_layer(tmp_path / "first.qcow2", 1 << 20)
    assert len(answers) == asked
