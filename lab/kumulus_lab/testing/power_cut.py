"""A host that loses its power at any moment of an act, with a real file system that forgets what was not flushed.

The act runs in a process that is the init of its own PID namespace: when it ends, all that it has started ends at the
same moment. It ends at a chosen one of the steps by which it changes files. What its disk has by then is looked at
twice: with all that was written, as after the death of the process; and with what had been flushed, as after a loss of
power: the file that the file system is in is copied at that moment, and the copy is mounted.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kumulus_lab.testing.small_disk import make_file_system, mounted

Act = Callable[[Path], Awaitable[Any]]
"""Changes files of a folder."""
_CUT: Final = 75
_CLONE_NEWPID: Final = 0x20000000
_NOTHING_BY_ITSELF: Final = "commit=300"
"""The file system flushes only what it is told to, as long as a test lasts."""
_CHANGES: Final = frozenset(
    {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.chmod", "os.chown", "os.utime"}
)
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Cut:
    """What a cut has left.

    Attributes:
        step: at which the power went; it had not begun.
        what: the step.
        written: folder with all that was written.
        flushed: folder with what had been flushed.
    """

    step: int
    what: str
    written: Path
    flushed: Path


class Host:
    """A host with a disk of its own.

    Args:
        folder: where all is put.
        size: bytes of the disk.
    """

    def __init__(self, folder: Path, size: int = 48 << 20) -> None:
        self._folder = folder
        self._before = folder / "before.img"
        folder.mkdir(parents=True, exist_ok=True)
        make_file_system(self._before, size)

    def prepare(self, act: Act, look: Callable[[Path], Any]) -> Any:
        """Have what is there before the act; give what `look` finds then."""
        with mounted(self._before, self._folder / "disk") as disk:
            asyncio.run(_run(act, disk.path))
            return look(disk.path)

    def complete(self, act: Act, look: Callable[[Path], Any]) -> Any:
        """Give what `look` finds after an act that nothing disturbs."""
        with self._disk("complete") as path:
            asyncio.run(_run(act, path))
            return look(path)

    @contextmanager
    def cut(self, act: Act, step: int) -> Iterator[Cut | None]:
        """Carry the act out until its nth step and take the power away; None if it has ended before."""
        with self._disk("run") as path:
            what = _until(act, path, step)
            flushed = self._folder / "flushed.img"
            _copy(self._folder / "run.img", flushed)
            with mounted(flushed, self._folder / "flushed") as after:
                yield Cut(step, what, path, after.path) if what else None

    @contextmanager
    def _disk(self, name: str) -> Iterator[Path]:
        file = self._folder / f"{name}.img"
        _copy(self._before, file)
        # Where it was before: what is written down of paths holds.
        with mounted(file, self._folder / "disk", _NOTHING_BY_ITSELF) as disk:
            yield disk.path


def _copy(source: Path, target: Path) -> None:
    # Never over one that was mounted: whoever has copied our mounts into a namespace of his own may still write to it.
    target.unlink(missing_ok=True)
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(source), str(target)], check=True)


async def _run(act: Act, path: Path) -> None:
    await act(path)


def _until(act: Act, path: Path, step: int) -> str:
    """Run an act in a process until its nth step; give which that was, empty if there are fewer.

    Raises:
        AssertionError: the act has failed.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os._exit(_namespace(act, path, step, writing))
    os.close(writing)
    with os.fdopen(reading) as said:
        what = said.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, _CUT):
        raise AssertionError(f"the act has failed: {what}")
    return what if code == _CUT else ""


def _namespace(act: Act, path: Path, step: int, said: int) -> int:
    """Become the parent of an init; give its exit code."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWPID):
        os.write(said, b"no PID namespace")
        return 1
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            sys.addaudithook(_Axe(path, step, said))
            asyncio.run(_run(act, path))
            code = 0
        except BaseException as error:  # noqa: BLE001 - nobody above hears of it
            os.write(said, repr(error).encode())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class _Axe:
    """Ends the process before the nth thing that it does to files of a folder."""

    def __init__(self, path: Path, step: int, said: int) -> None:
        self._path = os.fsencode(path)
        self._left = step
        self._said = said

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._counts(event, arguments):
            return
        self._left -= 1
        if self._left == 0:
            named = " ".join(str(item) for item in arguments[:2])
            os.write(self._said, f"{event} {named}"[:500].encode())
            os._exit(_CUT)

    def _counts(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "subprocess.Popen":
            return True
        if event == "open":
            path, mode, flags = arguments
            changes = any(letter in (mode or "") for letter in "wax+") or bool((flags or 0) & _WRITING)
            return changes and self._is_ours(path)
        return event in _CHANGES and self._is_ours(arguments[0])

    def _is_ours(self, path: Any) -> bool:
        # By descriptor, as rmtree does: of what was opened there.
        return isinstance(path, int) or (isinstance(path, str | bytes) and self._lies_there(os.fsencode(path)))

    def _lies_there(self, path: bytes) -> bool:
        return not path.startswith(b"/") or path.startswith(self._path)
