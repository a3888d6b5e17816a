"""What the plugin makes of kubectl's answers."""

from pathlib import Path

import pytest

from kumulus_cli import kubectl


@pytest.fixture
def answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl on PATH whose script the test writes."""
    program = tmp_path / "kubectl"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program


def test_console_bytes_that_are_no_text_are_shown_as_such(answering: Path) -> None:
    """What is not UTF-8 is replaced by a sign, and what is around it is printed."""
    answering.write_text("#!/bin/sh\nprintf 'cut-\\377-short'\n")
    answering.chmod(0o755)
    assert kubectl.run("exec") == "cut-\ufffd-short"


def test_refusal_is_kubectls_own(answering: Path) -> None:
    """The error of kubectl is the error of the plugin."""
    answering.write_text("#!/bin/sh\necho 'servers \"a\" not found' >&2\nexit 1\n")
    answering.chmod(0o755)
    with pytest.raises(kubectl.KubectlError, match='servers "a" not found'):
        kubectl.run("get")
