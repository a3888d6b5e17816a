"""Memory and CPU time of Kumulus' own processes, as the kernel accounts them (proc(5))."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

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


def of(program: str) -> list[Usage]:
    """Give the usage of all processes whose command line names `program`, such as `kumulus-agent`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if any(word.endswith(f"/{program}".encode()) for word in words):
                found.append(_usage(entry))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


def _usage(entry: Path) -> Usage:
    rollup = (entry / "smaps_rollup").read_text()
    pss = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
    return Usage(int(entry.name), pss / 1024, (int(fields[11]) + int(fields[12])) / _TICKS)
