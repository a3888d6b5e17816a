"""One control group per host, in every hierarchy of the machine: versions 1, 2 and both at once.

A host's init sees its group as the root (a cgroup namespace), so that kubelet, containerd and the agent's services
use the paths they use on a real host, and ``remove`` finds all they made below one folder.
"""

import contextlib
import errno
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kumulus_lab import commands

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Hierarchy:
    """One tree of control groups.

    Attributes:
        options: what ``mount -t cgroup -o`` wants, ``cpu,cpuacct`` or ``name=systemd``; empty for version 2.
        folder: where it is mounted, relative to /sys/fs/cgroup; ``.`` where version 2 is the only one.
    """

    options: str
    folder: str

    @property
    def path(self) -> Path:
        """Its root."""
        return _ROOT / self.folder


def parse(own_groups: str, mounted: frozenset[str]) -> tuple[Hierarchy, ...]:
    """The hierarchies in the text of /proc/self/cgroup that are mounted.

    Args:
        own_groups: lines of ``<id>:<controllers>:<path>``.
        mounted: mount points below /sys/fs/cgroup, relative to it; ``.`` for itself.
    """
    found = []
    for line in own_groups.splitlines():
        _, options, _ = line.split(":", 2)
        folder = options.removeprefix("name=") or ("unified" if "unified" in mounted else ".")
        if folder in mounted:
            found.append(Hierarchy(options=options, folder=folder))
    return tuple(found)


def hierarchies() -> tuple[Hierarchy, ...]:
    """Those of this machine."""
    points = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point, filesystem = Path(line.split()[4]), line.partition(" - ")[2].split()[0]
        if filesystem in {"cgroup", "cgroup2"} and point.is_relative_to(_ROOT):
            points.add(str(point.relative_to(_ROOT)))
    return parse(Path("/proc/self/cgroup").read_text(), frozenset(points))


def create(group: str) -> None:
    """Make the group in every hierarchy."""
    for hierarchy in hierarchies():
        path = hierarchy.path / group
        path.mkdir(exist_ok=True)
        if "cpuset" in hierarchy.options.split(","):
            for name in ("cpuset.cpus", "cpuset.mems"):  # empty ones would admit no process
                (path / name).write_text((hierarchy.path / name).read_text())
            (path / "cgroup.clone_children").write_text("1")
        if hierarchy.folder == ".":
            _delegate(hierarchy.path)


def _delegate(path: Path) -> None:
    """Give the groups below a version 2 group all of its controllers."""
    controllers = (path / "cgroup.controllers").read_text().split()
    (path / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))


def delegate(group: str) -> None:
    """Where version 2 is alone: move the group's processes into ``init`` below it, as one that delegates has none.

    Done from the machine, as the process that holds the namespaces is not seen from inside them.
    """
    for hierarchy in hierarchies():
        if hierarchy.folder != ".":
            continue
        top = hierarchy.path / group
        leaf = top / "init"
        leaf.mkdir(exist_ok=True)
        while pids := (top / "cgroup.procs").read_text().split():  # one may have forked meanwhile
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    (leaf / "cgroup.procs").write_text(pid)
        _delegate(top)


def enter(group: str) -> None:
    """Move this process into the group, in every hierarchy."""
    for hierarchy in hierarchies():
        (hierarchy.path / group / "cgroup.procs").write_text(str(os.getpid()))


def remove(group: str) -> None:
    """Remove the group and all below it; absent is success.

    Raises:
        TimedOut: it still holds a process after ten seconds.
    """
    for hierarchy in hierarchies():
        # The kernel counts a killed process as a member for a moment after its end.
        commands.wait_until(partial(_remove_tree, hierarchy.path / group), what=f"{group} to be empty", limit=10)


def _remove_tree(top: Path) -> bool:
    """Whether it is gone now."""
    try:
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(FileNotFoundError):
                Path(folder).rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True
