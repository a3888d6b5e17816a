"""Host services: processes of the host that outlive the agent's pod and are found again by a new one.

Where systemd runs the host they are transient units. Elsewhere they are processes with a session and a control group of
their own, in the mount namespace of the host's first process. A record in /run says which process a unit is.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kumulus_agent.network.command import run
from kumulus_agent.services import cgroup, process
from kumulus_agent.services.exits import Exits
from kumulus_agent.services.process import ProcessId

UNIT = re.compile(r"kumulus-[a-z0-9-]{1,60}")


@dataclass(frozen=True)
class ServiceSpec:
    """A host service.

    Attributes:
        unit: its name, kumulus-….
        argv: the program, found on the host's PATH, and its arguments.
        netns: the file of the network namespace that it runs in; None for the host's own.
    """

    unit: str
    argv: tuple[str, ...]
    netns: str | None = None

    def __post_init__(self) -> None:
        if not UNIT.fullmatch(self.unit):
            raise ValueError(f"{self.unit!r} is not a unit name such as kumulus-dns-00002a")


@dataclass(frozen=True)
class ServiceRecord:
    """A unit and the process that it is."""

    spec: ServiceSpec
    process: ProcessId


def systemd_argv(spec: ServiceSpec) -> tuple[str, ...]:
    """Return the command that starts the service as a transient unit."""
    namespace = (f"--property=NetworkNamespacePath={spec.netns}",) if spec.netns else ()
    # systemd restarts it only where no agent has done so at once: its number is then another than the recorded one.
    restart = ("--property=Restart=on-failure", "--property=RestartSec=5")
    return ("systemd-run", f"--unit={spec.unit}", "--collect", "--quiet", *restart, *namespace, "--", *spec.argv)


class HostServices:
    """Starts, finds and ends host services.

    Args:
        directory: where records and output are kept; goes away when the host boots.
        init_pid: the host's first process; None if this process is in the host's mount namespace already.
        cgroup_root: where the host's control groups are mounted.
    """

    def __init__(
        self,
        directory: Path = Path("/run/kumulus/services"),
        init_pid: int | None = 1,
        cgroup_root: Path | None = None,
    ) -> None:
        self._directory = directory
        self._init_pid = init_pid
        self._root = Path(f"/proc/{init_pid}/root") if init_pid else Path("/")
        self._cgroups = cgroup_root or self._root / "sys/fs/cgroup"
        self.exits = Exits()
        """Tells of services that have ended without having been asked to."""

    @property
    def uses_systemd(self) -> bool:
        """Whether systemd runs the host."""
        return (self._root / "run/systemd/system").is_dir()

    def observe(self) -> Mapping[str, ServiceRecord]:
        """Return the services that run, by unit; their records are what a former agent left, checked against /proc."""
        records = (self._read(file) for file in sorted(self._directory.glob("*.json")))
        return {record.spec.unit: record for record in records if record and self._runs(record)}

    async def ensure(self, spec: ServiceSpec, *, restart: bool = False) -> bool:
        """Have the service run as specified; one that runs otherwise is restarted. False if nothing was to do."""
        record = self._running(spec.unit)
        if record is not None and record.spec == spec and not restart:
            self.exits.watch(spec.unit, record.process)
            return False
        await self.absent(spec.unit)
        self._directory.mkdir(parents=True, exist_ok=True)
        if self.uses_systemd:
            await self._start_unit(spec)
        else:
            self._start_process(spec)
        started = self._read(self._directory / f"{spec.unit}.json")
        if started is None:
            self.exits.report(spec.unit)
        else:
            self.exits.watch(spec.unit, started.process)
        return True

    def runs(self, unit: str) -> bool:
        """Whether the unit's process is alive."""
        return self._running(unit) is not None

    def program(self, unit: str) -> Path | None:
        """Give the file that the unit's process executes; None if it does not run."""
        record = self._running(unit)
        try:
            found = Path(f"/proc/{record.process.pid}/exe").readlink() if record is not None else None
        except OSError:
            return None
        # Of one that was upgraded meanwhile.
        return Path(str(found).removesuffix(" (deleted)")) if found is not None else None

    def _running(self, unit: str) -> ServiceRecord | None:
        record = self._read(self._directory / f"{unit}.json")
        return record if record is not None and self._runs(record) else None

    async def absent(self, unit: str) -> bool:
        """End the service; returns when it has exited. False if there was none."""
        self.exits.forget(unit)
        file = self._directory / f"{unit}.json"
        record = self._read(file)
        if self.uses_systemd:
            # 5: there is no such unit.
            await run((*self._host_prefix(), "systemctl", "stop", unit), allowed=(0, 5))
        elif record is not None:
            await process.stop(record.process)
            cgroup.absent(unit, self._groups())
        file.unlink(missing_ok=True)
        (self._directory / f"{unit}.log").unlink(missing_ok=True)
        return record is not None

    def reload(self, unit: str) -> bool:
        """Send SIGHUP; False if the service does not run."""
        return self.send(unit, signal.SIGHUP)

    def send(self, unit: str, number: signal.Signals) -> bool:
        """Send a signal; False if the service does not run."""
        record = self._running(unit)
        return record is not None and process.send(record.process, number)

    def said(self, unit: str) -> str:
        """Give the last line that a unit has written where there is no systemd, whose journal has it else."""
        try:
            lines = (self._directory / f"{unit}.log").read_text(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip()[:512] for line in reversed(lines) if line.strip()), "")

    async def run(self, argv: Sequence[str]) -> bytes:
        """Run a program of the host's to its end, and return what it printed.

        Raises:
            CommandFailed: it could not be started, or ended badly.
        """
        return await run((*self._host_prefix(), *argv))

    def _read(self, file: Path) -> ServiceRecord | None:
        try:
            content = json.loads(file.read_text())
        except FileNotFoundError:
            return None
        spec, started = content["spec"], content["process"]
        return ServiceRecord(
            ServiceSpec(spec["unit"], tuple(spec["argv"]), spec["netns"]), ProcessId(started["pid"], started["started"])
        )

    def _runs(self, record: ServiceRecord) -> bool:
        return process.identify(record.process.pid) == record.process

    def _record(self, spec: ServiceSpec, pid: int) -> None:
        identity = process.identify(pid)
        if identity is None:
            return
        file = self._directory / f"{spec.unit}.json"
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(ServiceRecord(spec, identity))))
        draft.rename(file)

    def _host_prefix(self) -> tuple[str, ...]:
        return ("nsenter", f"--target={self._init_pid}", "--mount", "--") if self._init_pid else ()

    def _groups(self) -> tuple[Path, ...]:
        return cgroup.directories(Path(f"/proc/{self._init_pid or 1}/cgroup").read_text(), self._cgroups)

    async def _start_unit(self, spec: ServiceSpec) -> None:
        await run((*self._host_prefix(), *systemd_argv(spec)))
        shown = await run((*self._host_prefix(), "systemctl", "show", "--property=MainPID", "--value", spec.unit))
        self._record(spec, int(shown))

    def _start_process(self, spec: ServiceSpec) -> None:
        """Start without asyncio, whose transports kill their processes when the loop closes."""
        mount = (f"--target={self._init_pid}", "--mount") if self._init_pid else ()
        network = (f"--net={spec.netns}",) if spec.netns else ()
        # nsenter becomes the program: the number that we get is the service's.
        argv = ("nsenter", *mount, *network, "--", *spec.argv) if mount or network else spec.argv
        log = self._directory / f"{spec.unit}.log"
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        pid = os.posix_spawnp(argv[0], argv, environment, file_actions=actions, setsid=True)
        # Recorded before anything else can go wrong: an unrecorded process is never found again.
        self._record(spec, pid)
        cgroup.move(pid, spec.unit, self._groups())
