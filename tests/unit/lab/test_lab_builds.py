"""Programs are built once, whoever asks for them at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kumulus_lab import builds


def test_what_two_want_at_once_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several that want the same program at the same time one builds it, and all get it."""
    begun, built = threading.Event(), []

    def build_into(build: builds.Build, target: Path, _cache: Path) -> None:
        begun.wait(5)
        target.mkdir()  # fails if another was here first
        (target / build.programs[0]).write_text("program")
        built.append(build.name)

    monkeypatch.setattr(builds, "_build_into", build_into)
    build = builds.Build(name="x v1", programs=("x",))
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(builds.ensure, build, tmp_path) for _ in range(4)]
        begun.set()
        assert sorted(result.result(10) for result in results) == [False, False, False, True]
    assert built == ["x v1"]
    assert (tmp_path / "bin" / "x").read_text() == "program"
