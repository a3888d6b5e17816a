"""An own control group for a host service, so that it does not die with the pod that started it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

PARENT = "kumulus"


def directories(cgroup_file: str, root: Path) -> tuple[Path, ...]:
    """Return where the host's first process is, per mounted hierarchy.

    Args:
        cgroup_file: the text of the host's /proc/1/cgroup.
        root: where the host's hierarchies are mounted.
    """
    found = []
    for line in cgroup_file.splitlines():
        _, controllers, path = line.split(":", 2)
        # v2 lies at the root itself, or beside v1's hierarchies.
        mounts = [controllers.removeprefix("name="), *controllers.split(",")] if controllers else ["unified", ""]
        mount = next((root / name for name in mounts if (root / name / "cgroup.procs").exists()), None)
        if mount is not None:
            found.append(mount / path.lstrip("/"))
    return tuple(dict.fromkeys(found))


def move(pid: int, unit: str, parents: tuple[Path, ...]) -> None:
    """Move the process to the group `kumulus/<unit>` of every hierarchy."""
    for parent in parents:
        for group in (parent / PARENT, parent / PARENT / unit):
            group.mkdir(parents=True, exist_ok=True)
            _inherit_cpuset(group)
        (parent / PARENT / unit / "cgroup.procs").write_text(str(pid))


def absent(unit: str, parents: tuple[Path, ...]) -> None:
    """Remove the group where it is empty, and the last one's parent."""
    for parent in parents:
        for group in (parent / PARENT / unit, parent / PARENT):
            with suppress(OSError):
                group.rmdir()


def _inherit_cpuset(group: Path) -> None:
    """Version 1 refuses processes in a cpuset that names no CPU."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = group / name
        if file.exists() and (group.parent / name).exists() and not file.read_text().strip():
            file.write_text((group.parent / name).read_text())
