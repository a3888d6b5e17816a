"""Hosts made of namespaces: start, power off, run a command inside."""

import contextlib
import datetime
import functools
import secrets
import shutil
import signal
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess

from kumulus_lab import builds, cgroups, commands, host_plan, images, machine, processes, shared
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.errors import LabError, TimedOut
from kumulus_lab.pki import Identity
from kumulus_lab.processes import Daemon
from kumulus_lab.settings import HostSpec, LabSettings

_READY_LIMIT = 120
_BEGIN_LIMIT = 10


class Hosts:
    """The hosts of a lab, each found by its name (``h1``)."""

    def __init__(self, lab: LabSettings) -> None:
        self.lab = lab

    def start(self, name: str) -> None:
        """Switch a host on; it returns before the host's services are up. One that runs is left alone."""
        host = self.lab.host(name)
        if not self.is_on(name):
            self._write_files(host)
            self._connect(host)
            cgroups.create(host.netns)
            package_root = str(Path(__file__).resolve().parent.parent)
            processes.ensure_started(_init(host), env={"PYTHONPATH": package_root, "PATH": self._search_path()})
        # Also for one that is on: the call that started it may have been interrupted here.
        commands.wait_until(
            lambda: self._init_pid(host) is not None,
            what=f"host {name} to begin; see {_init(host).log}",
            limit=_BEGIN_LIMIT,
            interval=0.02,
        )
        cgroups.delegate(host.netns)

    def start_all(self) -> None:
        """Switch on every host that is off and bring the name files of the others up to date."""
        for host in self.lab.host_specs:
            self.start(host.name)
            # Written in place: the file is mounted in the host.
            (host.directory / "hosts").write_text(host_plan.hosts_file(self.lab))
            self._route(host)

    def power_off(self, name: str) -> None:
        """Cut a host's power: pods, libvirtd, guests and its network are gone when this returns; its disk stays."""
        host = self.lab.host(name)
        pid = self._init_pid(host)
        if pid is not None:
            processes.end(pid, signal.SIGKILL, grace=30)  # it ends after everything in its PID namespace has
        processes.stop(_init(host), signal.SIGKILL)
        cgroups.remove(host.netns)
        for link in (host.veth, host.physical_veth):
            machine.remove_link(link)
        if Path("/run/netns", host.netns).exists():
            commands.run(["ip", "netns", "del", host.netns])

    def is_on(self, name: str) -> bool:
        """Whether the host has power."""
        return processes.running(_init(self.lab.host(name))) is not None

    def run(
        self, name: str, argv: Sequence[str], *, timeout: float = 60, check: bool = False, stdin: str | None = None
    ) -> CompletedProcess[str]:
        """Run a command on a host as root, with its services' PATH.

        Args:
            name: the host.
            argv: command and arguments.
            timeout: seconds until it is killed.
            check: raise CommandFailed when the status is not 0.
            stdin: text for its standard input.

        Raises:
            LabError: the host is off.
        """
        return commands.run(self.command(name, argv), timeout=timeout, check=check, stdin=stdin)

    def command(self, name: str, argv: Sequence[str]) -> list[str]:
        """The command on the machine that runs ``argv`` on a host, for callers that want its terminal."""
        pid = self._init_pid(self.lab.host(name))
        if pid is None:
            raise LabError(f"host {name} is off")
        enter = ["nsenter", f"--target={pid}", "--mount", "--uts", "--net", "--pid", "--cgroup", "--root", "--wd=/"]
        return [*enter, "env", f"PATH={self._search_path()}", *argv]

    def import_image(self, archive: Path, names: Sequence[str] = ()) -> None:
        """Import a docker-archive or OCI archive into the hosts' containerd.

        Args:
            archive: a path that is the same inside the hosts, so not below /run, /var/log or /var/lib/libvirt.
            names: which hosts; all by default.
        """
        for name in names or [host.name for host in self.lab.host_specs]:
            self.run(name, [*host_plan.CTR, "images", "import", str(archive)], timeout=300, check=True)

    def wait_ready(self) -> None:
        """Return when every node is Ready.

        Raises:
            TimedOut: one is not; the message ends with its kubelet's last lines.
            LabError: a host's init has ended; the message ends with its last lines.
        """
        plane = ControlPlane.of_lab(self.lab)
        for host in self.lab.host_specs:
            ready = functools.partial(self._is_ready, plane, host)
            try:
                commands.wait_until(ready, what=f"node {host.name} to be Ready", limit=_READY_LIMIT, interval=0.5)
            except TimedOut as error:
                log = host.directory / "log" / "kubelet.log"
                raise TimedOut(f"{error}; {log} ends with:\n{processes.tail(log)}") from error

    def _is_ready(self, plane: ControlPlane, host: HostSpec) -> bool:
        if not self.is_on(host.name):
            log = _init(host).log
            raise LabError(f"host {host.name} went off; {log} ends with:\n{processes.tail(log)}")
        path = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
        with contextlib.suppress(TimedOut):
            node = plane.kubectl("get", "node", host.name, "-o", path, check=False, timeout=10)
            return node.stdout == "True" and self._has_renewed(plane, host) and self._has_looked_at_pods(plane, host)
        return False

    def _has_renewed(self, plane: ControlPlane, host: HostSpec) -> bool:
        """Whether its kubelet has been heard since the host went on: what the node says may be from before."""
        path = "jsonpath={.spec.renewTime}"
        lease = plane.kubectl("get", "lease", host.name, "-n", "kube-node-lease", "-o", path, check=False, timeout=10)
        return lease.returncode == 0 and bool(lease.stdout) and _since_power_on(host, lease.stdout)

    def _has_looked_at_pods(self, plane: ControlPlane, host: HostSpec) -> bool:
        """Whether no pod is said to run since before the host went on: it would be taken for ready, and then end."""
        path = "jsonpath={.items[*].status.containerStatuses[*].state.running.startedAt}"
        own = ["--all-namespaces", f"--field-selector=spec.nodeName={host.name}", "-o", path]
        pods = plane.kubectl("get", "pods", *own, check=False, timeout=10)
        return pods.returncode == 0 and all(_since_power_on(host, moment) for moment in pods.stdout.split())

    def _init_pid(self, host: HostSpec) -> int | None:
        """The host's PID 1 as the machine sees it: the child of the process that made the namespaces."""
        outer = processes.running(_init(host))
        if outer is None:
            return None
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        return int(children[0]) if children else None

    def _search_path(self) -> str:
        standard = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return f"{builds.bin_directory(self.lab)}:{standard}"

    def _write_files(self, host: HostSpec) -> None:
        """Everything a host reads at its start; what must stay the same over its life is made once."""
        for folder in (*host_plan.folders(host), host.directory / "conf"):
            folder.mkdir(parents=True, exist_ok=True)
        shared.ensure_folders(self.lab, host_plan.mount_points())
        libvirt = host.directory / "etc-libvirt"
        if not (host.directory / "machine-id").exists():  # it is written last
            shutil.copytree("/etc/libvirt", libvirt, dirs_exist_ok=True)
            shutil.rmtree(libvirt / "qemu" / "networks", ignore_errors=True)  # libvirt's own NAT is not wanted
            (libvirt / "libvirtd.conf").write_text(host_plan.libvirtd_conf(str(uuid.uuid4())))
            (host.directory / "machine-id").write_text(f"{secrets.token_hex(16)}\n")
        servers = machine.nameservers(Path("/etc/resolv.conf").read_text())
        for name, content in host_plan.configuration(self.lab, host, nameservers=servers).items():
            (host.directory / name).write_text(content)
        images.ensure_busybox(self.lab)
        authority = ControlPlane.of_lab(self.lab).authority()
        user = f"system:node:{host.name}"
        node = Identity(f"node-{host.name}", user, ("system:nodes",), (host.name, host.address))
        authority.ensure_kubeconfig(node, self.lab.api_url)
        authority.ensure_kubeconfig(Identity("kube-proxy", "system:kube-proxy"), self.lab.api_url)
        plan = host_plan.plan(self.lab, host, search_path=self._search_path())
        (host.directory / "plan.json").write_text(plan.to_json())

    def _connect(self, host: HostSpec) -> None:
        """A network namespace with a cable to each bridge; eth1 has no address, as it is for guests."""
        if not Path("/run/netns", host.netns).exists():
            commands.run(["ip", "netns", "add", host.netns])
        inside = ["ip", "-n", host.netns]
        cables = ((host.veth, self.lab.bridge), (host.physical_veth, self.lab.physical_bridge))
        for number, (veth, bridge) in enumerate(cables):
            machine.ensure_link(veth, "type", "veth", "peer", "name", f"eth{number}", "netns", host.netns)
            commands.run(["ip", "link", "set", veth, "master", bridge, "up"])
        commands.run([*inside, "addr", "replace", f"{host.address}/{self.lab.subnet.prefixlen}", "dev", "eth0"])
        for link in ("lo", "eth0", "eth1"):
            commands.run([*inside, "link", "set", link, "up"])
        commands.run([*inside, "route", "replace", "default", "via", self.lab.gateway])
        self._route(host)

    def _route(self, host: HostSpec) -> None:
        """Routes to the pods of the other hosts."""
        for other in self.lab.host_specs:
            if other != host:
                route = [other.pod_cidr, "via", other.address]
                commands.run(["ip", "-n", host.netns, "route", "replace", *route])


def _since_power_on(host: HostSpec, moment: str) -> bool:
    return datetime.datetime.fromisoformat(moment).timestamp() > _init(host).pid_file.stat().st_mtime


def _init(host: HostSpec) -> Daemon:
    argv = (sys.executable, "-m", "kumulus_lab.host_init", "enter", str(host.directory / "plan.json"))
    return Daemon(name="init", argv=argv, directory=host.directory)
