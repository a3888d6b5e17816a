"""What a program can do where images are read: nothing but read one file and write another, for a while."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kumulus_agent.storage.sandbox import NOBODY, Room

ALLOWED = re.compile(r"/(usr|lib|lib64|source|target|dev/null)(/|$)")


@pytest.fixture
def room(tmp_path: Path, secret: Path) -> Room:
    """A room with a large sparse source and an empty target, beside a file of the host."""
    source, target = tmp_path / "source.img", tmp_path / "target.img"
    source.touch(mode=0o600)
    os.truncate(source, 4 << 30)
    target.touch()
    assert secret.exists()
    return Room(str(source), str(target), memory=256 << 20, seconds=60, output=1 << 20)


def _run(room: Room, *argv: str) -> subprocess.CompletedProcess[str]:
    program = f"/usr/bin/{argv[0]}"
    return subprocess.run([*room.argv(), program, *argv[1:]], check=False, capture_output=True, text=True, timeout=60)


def test_there_is_nothing_else(room: Room, secret: Path) -> None:
    """The file system has the two files and the machine's programs; a file of the host has no name there."""
    names = set(_run(room, "ls", "/").stdout.split())
    assert names - {"bin", "lib", "lib64"} == {"source", "target", "usr", "dev"}
    assert _run(room, "ls", "/dev").stdout.split() == ["null"]
    assert "No such file" in _run(room, "cat", str(secret)).stderr
    assert "No such file" in _run(room, "cat", "/proc/1/environ").stderr


def test_it_has_no_rights(room: Room) -> None:
    """It is nobody, the source cannot be written, nothing can be made, and guests have the processor first."""
    assert _run(room, "id", "-u").stdout.strip() == str(NOBODY)
    assert int(_run(room, "nice").stdout) >= 10
    for path in ("/source", "/new", "/usr/new", "/dev/new"):
        assert _run(room, "cp", "/dev/null", path).returncode != 0
    assert Path(room.source).stat().st_size == 4 << 30
    assert _run(room, "cp", "/dev/null", "/target").returncode == 0


def test_it_has_no_network(room: Room) -> None:
    """Not even the machine itself can be reached."""
    said = _run(room, "bash", "-c", "echo > /dev/tcp/127.0.0.1/22").stderr
    assert "unreachable" in said


def test_it_writes_no_more_than_it_may(room: Room) -> None:
    """A file ends at the limit, with an error that is seen."""
    done = _run(room, "cp", "--sparse=never", "/source", "/target")
    assert "File too large" in done.stderr
    assert Path(room.target).stat().st_size == 1 << 20


def test_it_takes_no_more_than_it_may(room: Room) -> None:
    """Memory and time of a processor end, too."""
    assert "memory" in _run(room, "sort", "/source").stderr
    assert _run(replace(room, seconds=1), "sha512sum", "/source").returncode == 128 + 9


def _child(launcher: subprocess.Popen[bytes]) -> int:
    """Give the program's process, once it is that."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    while True:
        assert launcher.poll() is None
        child = children.read_text().strip()
        if child and Path(f"/proc/{child}/comm").read_text().strip() == "sha512sum":
            return int(child)


def test_it_does_not_outlive_who_waits(room: Room) -> None:
    """When what has started it is killed, it is gone."""
    with subprocess.Popen([*room.argv(), "/usr/bin/sha512sum", "/source"], stdout=subprocess.DEVNULL) as launcher:
        program = os.pidfd_open(_child(launcher))
        launcher.kill()
    assert select.select([program], [], [], 30)[0]
    os.close(program)


def test_nothing_of_the_host_stays_mounted(room: Room, tmp_path: Path) -> None:
    """What the host unmounts meanwhile is free: the sandbox keeps no mount of it, such as a network's namespace."""
    with subprocess.Popen([*room.argv(), "/usr/bin/sha512sum", "/source"], stdout=subprocess.DEVNULL) as launcher:
        child = _child(launcher)
        mounted = {line.split()[4] for line in Path(f"/proc/{child}/mountinfo").read_text().splitlines()}
        launcher.kill()
    assert {"/", "/source", "/target", "/usr", "/dev/null"} <= mounted
    assert mounted <= {"/", "/source", "/target", "/usr", "/dev/null", "/bin", "/lib", "/lib64"}


def test_a_program_that_is_not_there_is_told_apart(room: Room) -> None:
    """What could not be started is no verdict on an image."""
    done = _run(room, "no-such-program")
    assert (done.returncode, "No such file" in done.stderr) == (125, True)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_qemu_img_opens_two_files(good: dict[str, Path], room: Room, tmp_path: Path) -> None:
    """By the kernel's word qemu-img opens the source, the target and its libraries when it converts an image."""
    source, log = tmp_path / "image", tmp_path / "log"
    source.write_bytes(good["stream.vmdk"].read_bytes())
    options = "driver=vmdk,file.driver=file,file.filename=/source"
    argv = ["convert", "-q", "--image-opts", options, "-O", "qcow2", "-o", "compat=1.1", "/target"]
    given = replace(room, source=str(source), memory=512 << 20, output=1 << 30).argv()
    traced = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2,execve,connect,socket", "-o", str(log)]
    subprocess.run([*traced, *given, "/usr/bin/qemu-img", *argv], check=True, timeout=60)
    lines = log.read_text().splitlines()
    begins = next(number for number, line in enumerate(lines) if 'execve("/usr/bin/qemu-img"' in line)
    calls = [line.split(maxsplit=1)[1] for line in lines[begins + 1 :]]
    opened = {call.split('"')[1] for call in calls if call.startswith("open") and "= -1" not in call}
    assert {"/source", "/target"} <= opened
    assert [path for path in opened if not ALLOWED.match(path)] == []
    assert [call for call in calls if call.startswith(("socket", "connect", "execve"))] == []
