"""How processes are told what to do."""

import sys

import pytest

from kumulus_runtime.settings import BaseProcessSettings


def test_command_line_wins_over_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting of the command line is taken before one of the environment, and both before the default."""
    monkeypatch.setenv("KUMULUS_METRICS_PORT", "1")
    monkeypatch.setenv("KUMULUS_LOG_LEVEL", "ERROR")
    monkeypatch.setattr(sys, "argv", ["program", "--metrics-port", "2"])
    read = BaseProcessSettings.read("program")
    assert (read.metrics_port, read.log_level, read.log_format) == (2, "ERROR", "json")


def test_a_bad_value_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that cannot be ends the process with a line that names the setting and the value."""
    monkeypatch.setenv("KUMULUS_METRICS_PORT", "70000")
    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(SystemExit, match=r"^program: setting metrics_port='70000': Input should be less than"):
        BaseProcessSettings.read("program")


def test_help_starts_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With --help all settings are shown with what they mean, and the process ends."""
    monkeypatch.setattr(sys, "argv", ["program", "--help"])
    with pytest.raises(SystemExit) as ended:
        BaseProcessSettings.read("program")
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert "--metrics-port" in shown
    assert "TCP port of /metrics" in shown
