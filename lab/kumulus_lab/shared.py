"""What labs beside each other share of the machine: kernel settings, and the folders that their hosts mount over.

The first lab notes what it found and the last one to leave puts it back. Undone earlier it would harm the others: a
folder removed on the machine takes the mounts that hosts have over it along.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from kumulus_lab.settings import LabSettings

_SYSCTLS = {
    # Hosts and pods reach the outside through the machine.
    "net/ipv4/ip_forward": "1",
    # kubelet sets these; noting them here restores them.
    "vm/overcommit_memory": "1",
    "kernel/panic": None,
    "kernel/panic_on_oops": None,
    "kernel/keys/root_maxkeys": None,
    "kernel/keys/root_maxbytes": None,
}
# A host takes about 40 instances; Debian allows 128 for all of root's processes, and kubelet does not start without.
_AT_LEAST = {"fs/inotify/max_user_instances": 1024}


def change_sysctls(lab: LabSettings) -> None:
    """Set what labs need; note the values found, if this is the first."""
    with _joined(lab) as notes:
        note = notes / "sysctls.json"
        if not note.exists():
            names = [name for name in (*_SYSCTLS, *_AT_LEAST) if _sysctl(name).exists()]
            _write(note, {name: _sysctl(name).read_text().strip() for name in names})
        for name, value in _SYSCTLS.items():
            if value is not None:
                _sysctl(name).write_text(value)
        for name, least in _AT_LEAST.items():
            if int(_sysctl(name).read_text()) < least:
                _sysctl(name).write_text(str(least))


def ensure_folders(lab: LabSettings, wanted: Iterable[Path]) -> None:
    """Make the folders that hosts mount over, and note those that were not there."""
    with _joined(lab) as notes:
        note = notes / "folders.json"
        made = json.loads(note.read_text()) if note.exists() else []
        folders = tuple(wanted)
        absent = {str(path) for folder in folders for path in (folder, *folder.parents) if not path.exists()}
        # Noted before they are there: an interruption between the two would leave one that nobody removes.
        _write(note, [*made, *sorted(absent - set(made))])
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)


def leave(lab: LabSettings) -> None:
    """Give up this lab's share; the last one restores the kernel settings and removes the folders made."""
    if not lab.shared.exists():
        return
    with _locked(lab.shared):
        _member(lab).unlink(missing_ok=True)
        if not _others(lab):
            _restore_sysctls(lab.shared / "sysctls.json")
            _remove_folders(lab.shared / "folders.json")
            shutil.rmtree(lab.shared)


def _member(lab: LabSettings) -> Path:
    return lab.shared / f"{lab.name}.lab"


def _others(lab: LabSettings) -> list[Path]:
    """The files of labs that hold a share; one whose state somebody has removed by hand is none any more."""
    return [path for path in lab.shared.glob("*.lab") if path != _member(lab) and Path(path.read_text()).exists()]


@contextlib.contextmanager
def _joined(lab: LabSettings) -> Iterator[Path]:
    """The notes' folder, locked, with this lab among those that hold a share."""
    with _locked(lab.shared):
        _member(lab).write_text(str(lab.state))
        yield lab.shared


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, alone on this machine; the folder is made where it is missing."""
    while True:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Whoever held it may have been the last, and have removed the folder.
            if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
                yield
                return
        finally:
            os.close(handle)


def _write(note: Path, content: object) -> None:
    """Write a note that is there wholly or not at all."""
    draft = note.with_suffix(".draft")
    draft.write_text(json.dumps(content))
    draft.replace(note)


def _restore_sysctls(note: Path) -> None:
    """Write the noted values back where they differ."""
    with contextlib.suppress(FileNotFoundError):
        for name, value in json.loads(note.read_text()).items():
            if _sysctl(name).read_text().strip() != value:
                _sysctl(name).write_text(value)


def _remove_folders(note: Path) -> None:
    """Remove the folders made here, as far as nobody has put anything into them."""
    with contextlib.suppress(FileNotFoundError):
        for folder in reversed(json.loads(note.read_text())):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def _sysctl(name: str) -> Path:
    return Path("/proc/sys", name)
