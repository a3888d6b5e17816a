"""Memory and CPU time of Kumulus' own processes, as the kernel accounts them (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kumulus_lab.settings import LabSettings

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """What a process has used.

    Attributes:
        pid: its id on the machine.
        pss_mib: proportional set size in MiB.
        cpu_seconds: user and system time.
    """

    pid: int
    pss_mib: float
    cpu_seconds: float


def of(program: str, lab: LabSettings) -> list[Usage]:
    """Give the usage of all processes of a lab whose command line names `program`, such as `kumulus-agent`."""
    found = []
    for pid in pids(program, lab):
        try:
            found.append(_usage(Path("/proc", str(pid))))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


def of_pid(pid: int) -> Usage:
    """Give the usage of one process.

    Raises:
        FileNotFoundError: it has ended.
    """
    return _usage(Path("/proc", str(pid)))


def pids(program: str, lab: LabSettings, host: str | None = None) -> Iterator[int]:
    """Give the machine's numbers of the processes that run `program` on a lab's hosts, or on one of them.

    Args:
        program: last part of the path of a word of the command line, or the command itself.
        lab: other labs of the machine have processes of the same names.
        host: only of this one.
    """
    groups = {f"/{spec.netns}" for spec in lab.host_specs if host in (None, spec.name)}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_text(errors="replace").split("\0")
            if any(Path(word).name == program for word in words[:3]) and _group(entry) in groups:
                yield int(entry.name)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked


def _group(entry: Path) -> str:
    """The first part of the control group's path: the host that the process belongs to."""
    path = (entry / "cgroup").read_text().splitlines()[0].split(":", 2)[2]
    return "/" + path.strip("/").split("/")[0]


def _usage(entry: Path) -> Usage:
    rollup = (entry / "smaps_rollup").read_text()
    pss = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
    return Usage(int(entry.name), pss / 1024, (int(fields[11]) + int(fields[12])) / _TICKS)
