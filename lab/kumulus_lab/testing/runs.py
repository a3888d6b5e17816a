"""When and where an instance ran, as libvirt's own log of its domain tells; the log outlives the domain."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from kumulus_lab.settings import LabSettings

_LINE = re.compile(r"^(\S+ \S+)\+0000: (starting up|shutting down)", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """One run of a domain; `ended` is None while it goes on."""

    host: str
    started: datetime
    ended: datetime | None


def runs(lab: LabSettings, instance_id: str) -> list[Run]:
    """Give all runs of an instance on all hosts, by their beginning."""
    found = []
    for host in lab.host_specs:
        log = host.directory / "log" / "libvirt" / "qemu" / f"k-{instance_id}.log"
        if log.exists():
            found += _runs(host.name, log.read_text(errors="replace"))
    return sorted(found, key=lambda run: run.started)


def _runs(host: str, text: str) -> list[Run]:
    found: list[Run] = []
    for moment, what in _LINE.findall(text):
        at = datetime.fromisoformat(moment).replace(tzinfo=UTC)
        if what == "starting up":
            found.append(Run(host, at, None))
        elif found:
            found[-1] = Run(host, found[-1].started, at)
    return found
