"""Run a program on an untrusted file where nothing else can be reached.

As a program: ``python -m kumulus_agent.storage.sandbox ROOM program argument …``, where ROOM is `Room` as JSON. The
program sees a file system of its own with the files ``/source`` (read-only) and ``/target``, and the machine's
programs; it has no network, no other process, no rights, and no more memory, processor time and bytes of a file than it
was given. Exits as the program does, with 128 and the signal that ended it, or with 125 if it could not be started.

Mount, network, IPC and PID namespaces, limits and a user without rights are as old as any kernel that runs containers.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

SOURCE: Final = "/source"
TARGET: Final = "/target"
NOT_STARTED: Final = 125
"""Exit code: the sandbox could not be made."""
NOBODY: Final = 65534
"""User and group of the program: those that own nothing (Debian's nobody, nogroup)."""
_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWPID, _CLONE_NEWNET = 0x20000, 0x8000000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC = 1, 2, 4, 8, 32, 4096, 16384
_PRIVATE, _DETACH = 1 << 18, 2
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_STACK_BYTES: Final = 1 << 20
"""Of each thread: address space that is limited."""
_PROGRAMS: Final = "/usr"
_NULL: Final = "/dev/null"
_LINKS: Final = ("bin", "lib", "lib64")
"""Links into /usr, or folders beside it, where a loader looks for libraries."""
_NEW_ROOT: Final = "/tmp"  # noqa: S108 - any folder: what is mounted there is seen here only
_SPARED: Final = 10
"""Niceness: guests come first."""


@dataclass(frozen=True, slots=True)
class Room:
    """What the program is given.

    Attributes:
        source: the file it reads.
        target: the file it writes, which exists; empty for none.
        memory: bytes of address space.
        seconds: of processor time.
        output: bytes that a file may have.
    """

    source: str
    target: str
    memory: int
    seconds: int
    output: int

    def argv(self) -> tuple[str, ...]:
        """Give the command line that runs what is put after it."""
        return sys.executable, "-m", "kumulus_agent.storage.sandbox", json.dumps(asdict(self))


def main() -> None:
    """Run the program of the arguments and exit as it does."""
    try:
        code = _run(Room(**json.loads(sys.argv[1])), sys.argv[2:])
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        code = NOT_STARTED
    sys.stderr.flush()
    os._exit(code)


def _run(room: Room, argv: list[str]) -> int:
    Path("/proc/self/oom_score_adj").write_text("1000")  # where memory is short it goes before the agent
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc, "prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _call(libc, "unshare", _CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWPID | _CLONE_NEWNET)
    _enter(libc, room)
    alive, ours = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        _drop(libc, room)
        # Asked for before, it would have been taken back with the rights.
        _call(libc, "prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if select.select([alive], [], [], 0)[0]:
            os._exit(1)  # whoever waits is gone already
        os.execve(argv[0], argv, {"PATH": "/usr/bin", "LC_ALL": "C", "MALLOC_ARENA_MAX": "1"})  # noqa: S606 - what it is for
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _enter(libc: ctypes.CDLL, room: Room) -> None:
    """Have nothing but the programs and the files."""
    _mount(libc, "none", "/", _REC | _PRIVATE)
    source = os.open(room.source, os.O_RDONLY)
    os.fchmod(source, os.fstat(source).st_mode & 0o777 | 0o044)
    files = [(source, SOURCE, _RDONLY | _NODEV), (os.open(_NULL, os.O_RDWR), _NULL, 0)]
    if room.target:
        target = os.open(room.target, os.O_RDWR)
        os.fchown(target, NOBODY, NOBODY)
        files.append((target, TARGET, _NODEV))
    links = {name: Path("/", name) for name in _LINKS}
    links = {name: path for name, path in links.items() if path.exists()}
    programs = os.open(_PROGRAMS, os.O_RDONLY)
    folders = {name: os.open(path, os.O_RDONLY) for name, path in links.items() if not path.is_symlink()}
    pointing = {name: path.readlink() for name, path in links.items() if path.is_symlink()}
    _mount(libc, "tmpfs", _NEW_ROOT, _NOSUID | _NODEV | _NOEXEC, b"tmpfs")
    os.chdir(_NEW_ROOT)
    for name, path in pointing.items():
        Path(name).symlink_to(path)
    for name, descriptor in {_PROGRAMS[1:]: programs, **folders}.items():
        Path(name).mkdir()
        _bind(libc, descriptor, name, _RDONLY | _NODEV)
    Path("dev").mkdir()
    for descriptor, name, flags in files:
        Path(name[1:]).touch()
        _bind(libc, descriptor, name[1:], flags | _NOEXEC)
    _mount(libc, "none", ".", _REMOUNT | _RDONLY | _NOSUID | _NODEV | _NOEXEC)
    # Left mounted here, namespaces and disks of the host would live as long as the program.
    _call(libc, "pivot_root", b".", b".")
    _call(libc, "umount2", b".", _DETACH)
    os.chdir("/")


def _drop(libc: ctypes.CDLL, room: Room) -> None:
    """Have no rights, and little of the machine."""
    os.nice(_SPARED)
    limits = {
        resource.RLIMIT_AS: room.memory,
        resource.RLIMIT_CPU: room.seconds,
        resource.RLIMIT_FSIZE: room.output,
        resource.RLIMIT_STACK: _STACK_BYTES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    _call(libc, "prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def _bind(libc: ctypes.CDLL, descriptor: int, name: str, flags: int) -> None:
    _mount(libc, f"/proc/self/fd/{descriptor}", name, _BIND)
    _mount(libc, "none", name, _REMOUNT | _BIND | _NOSUID | flags)
    os.close(descriptor)


def _mount(libc: ctypes.CDLL, what: str, where: str, flags: int, kind: bytes | None = None) -> None:
    _call(libc, "mount", what.encode(), where.encode(), kind, ctypes.c_ulong(flags), None)


def _call(libc: ctypes.CDLL, name: str, *arguments: object) -> None:
    if getattr(libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


if __name__ == "__main__":
    main()
