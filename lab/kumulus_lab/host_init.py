"""PID 1 of a host: mounts what makes it a host of its own, keeps its services running, reaps orphans.

``python -m kumulus_lab.host_init enter PLAN`` on the machine enters the host's control groups and namespaces and
becomes ``python -m kumulus_lab.host_init boot PLAN`` inside them. Killing that process is a loss of power: the kernel
ends everything in its PID namespace and drops its mounts.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

from kumulus_lab import cgroups
from kumulus_lab.host_plan import HostPlan, Service

_RESTART_DELAY = 1.0
"""Seconds between a service's end and its next start."""


def main(arguments: list[str]) -> None:
    """Run ``enter`` or ``boot``."""
    verb, path = arguments
    host = HostPlan.from_json(Path(path).read_text())
    if verb == "enter":
        enter(host, path)
    else:
        os.environ["PATH"] = host.path
        socket.sethostname(host.name)
        mount_all(host)
        allow_forwarding()
        Init(host).run()


def enter(host: HostPlan, path: str) -> None:
    """Become init of new mount, UTS, PID and cgroup namespaces, in the host's network namespace."""
    cgroups.enter(host.cgroup)
    inside = [sys.executable, "-m", "kumulus_lab.host_init", "boot", path]
    unshare = ["unshare", "--mount", "--uts", "--pid", "--cgroup", "--fork", "--kill-child", "--mount-proc"]
    os.execvp("nsenter", ["nsenter", f"--net=/run/netns/{host.netns}", *unshare, *inside])  # noqa: S606 - to become it is the point


def mount_all(host: HostPlan) -> None:
    """Put the host's own folders over the machine's."""
    groups = cgroups.hierarchies()
    _mount("-t", "sysfs", "sysfs", "/sys")
    _mount_cgroups(groups)
    resolv_conf = Path("/etc/resolv.conf").resolve()
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for folder in host.runtime_folders:
        Path("/run", folder).mkdir(parents=True)
    for source, target in host.binds:
        point = resolv_conf if target == "/etc/resolv.conf" else Path(target)
        if point.is_relative_to("/run"):
            point.parent.mkdir(parents=True, exist_ok=True)
            point.touch()
        if point.exists():
            _mount("--bind", source, str(point))
    _mount("--bind", "/run/netns", "/run/netns")
    # As systemd does: what a privileged pod mounts with bidirectional propagation is seen by the host.
    _mount("--make-rshared", "/")


def _mount_cgroups(groups: tuple[cgroups.Hierarchy, ...]) -> None:
    if all(not group.options for group in groups):
        _mount("-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
        return
    _mount("-t", "tmpfs", "-o", "mode=755", "cgroup", "/sys/fs/cgroup")
    for group in groups:
        group.path.mkdir()
        if group.options:
            _mount("-t", "cgroup", "-o", group.options, "cgroup", str(group.path))
        else:
            _mount("-t", "cgroup2", "cgroup2", str(group.path))
        names = group.options.split(",")
        for name in names if len(names) > 1 else ():  # cpu -> cpu,cpuacct
            (group.path.parent / name).symlink_to(group.folder)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def allow_forwarding() -> None:
    """Let the host route for its pods, and let Services apply to frames bridged between its pods."""
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "bridge/bridge-nf-call-iptables"):
        with contextlib.suppress(FileNotFoundError):
            Path("/proc/sys/net", name).write_text("1")


class Init:
    """Starts services, starts them again when they end, and collects every orphan."""

    def __init__(self, host: HostPlan) -> None:
        self._host = host
        self._running: dict[int, Service] = {}
        self._due: dict[Service, float] = dict.fromkeys(host.services, 0.0)
        self._prepared: set[Service] = set()

    def run(self) -> None:
        """Never return; SIGTERM ends the services in reverse order and then the host."""
        signal.signal(signal.SIGTERM, self._shut_down)
        while True:
            self._start_due()
            self._reap()
            time.sleep(0.1)

    def _start_due(self) -> None:
        now = time.monotonic()
        for service in [service for service, due in self._due.items() if due <= now]:
            if all(Path(path).exists() for path in service.needs) and self._prepare(service):
                del self._due[service]
                self._running[self._spawn(service)] = service

    def _prepare(self, service: Service) -> bool:
        """Whether its preparations are done; they are tried again a tick later where not."""
        if service not in self._prepared:
            with self._log(service) as log:
                for argv in service.prepare:
                    if subprocess.run(argv, stdout=log, stderr=log, check=False).returncode != 0:
                        return False
            self._prepared.add(service)
        return True

    def _spawn(self, service: Service) -> int:
        program = shutil.which(service.argv[0])
        if program is None:
            raise FileNotFoundError(f"{service.argv[0]} is not on {self._host.path}")
        with self._log(service) as log:
            files = [(os.POSIX_SPAWN_DUP2, log.fileno(), 1), (os.POSIX_SPAWN_DUP2, log.fileno(), 2)]
            return os.posix_spawn(program, service.argv, os.environ, file_actions=files, setsid=True)

    def _log(self, service: Service) -> BinaryIO:
        return (Path(self._host.logs) / f"{service.name}.log").open("ab")

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                service = self._running.pop(pid, None)
                if service is not None:
                    self._due[service] = time.monotonic() + _RESTART_DELAY

    def _shut_down(self, *_: object) -> None:
        for pid in reversed(list(self._running)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
