"""etcd, kube-apiserver and, for a whole cluster, controller-manager and scheduler, as processes of the machine."""

import contextlib
import ipaddress
import json
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from kumulus_lab import builds, commands, processes
from kumulus_lab.errors import TimedOut
from kumulus_lab.pki import Authority, Identity
from kumulus_lab.pki import kubeconfig as kubeconfig_of
from kumulus_lab.processes import Daemon
from kumulus_lab.settings import LabSettings

_READY_LIMIT = 60
_LEAST_HEAP = 512 * 1024**2
_PORTS = ("etcd", "etcd-peer", "api", "controller-manager", "scheduler")
_USERS = (
    Identity("admin", "admin", ("system:masters",)),
    Identity("controller-manager", "system:kube-controller-manager"),
    Identity("scheduler", "system:kube-scheduler"),
)
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True)
class ControlPlaneSettings:
    """Where a control plane lives.

    Attributes:
        directory: its folder: pki/, etcd data, logs, pid files.
        binaries: the folder that holds etcd, kube-apiserver, kubectl and so on.
        address: where the API server listens.
        audit_log: the API server's audit log.
        api_port: its port; 0 takes a free one.
        controllers: whether controller-manager and scheduler run too.
        services: network of the Services' addresses.
        pods: network of the pods' addresses.
    """

    directory: Path
    binaries: Path
    address: str
    audit_log: Path
    api_port: int = 0
    controllers: bool = True
    services: str = "10.96.0.0/16"
    pods: str = "10.244.0.0/16"


class ControlPlane:
    """A control plane that may run already: ``start`` starts only what does not."""

    def __init__(self, settings: ControlPlaneSettings) -> None:
        self.settings = settings

    @classmethod
    def of_lab(cls, lab: LabSettings) -> "ControlPlane":
        """The lab's own, on the bridge's address, where the hosts reach it."""
        return cls(
            ControlPlaneSettings(
                directory=lab.state / "control-plane",
                binaries=builds.bin_directory(lab),
                address=lab.gateway,
                audit_log=lab.audit_log,
                api_port=6443,
                services=str(lab.services),
                pods=str(lab.pods),
            )
        )

    @classmethod
    @contextlib.contextmanager
    def temporary(cls, directory: Path, cache: Path | None = None) -> Iterator["ControlPlane"]:
        """Etcd and API server alone, on free ports of 127.0.0.1, for the length of a ``with`` block.

        There are no controllers: namespaces do not finish terminating, nothing is garbage-collected, and pods do
        not get a ServiceAccount's token. It needs no root. Builds the binaries if the cache lacks them.

        Args:
            directory: an empty folder; it keeps logs, audit log and data afterwards.
            cache: folder of built binaries; by default that of the lab.
        """
        cache = cache or LabSettings.from_environment().cache
        builds.ensure(builds.KUBE, cache)
        plane = cls(
            ControlPlaneSettings(
                directory=directory,
                binaries=cache / "bin",
                address="127.0.0.1",
                audit_log=directory / "audit.log",
                controllers=False,
            )
        )
        try:
            plane.start()
            yield plane
        finally:
            plane.stop(gently=False)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.settings.directory / "pki" / "admin.conf"

    def token_kubeconfig(self, path: Path, namespace: str, account: str, *, node: str = "") -> Path:
        """Write a kubeconfig with a ServiceAccount's token, bound to a Node if one is named, and give its path."""
        bound = ["--bound-object-kind=Node", f"--bound-object-name={node}"] if node else []
        token = self.kubectl("create", "token", account, "--namespace", namespace, *bound).stdout.strip()
        cluster = {"server": self.url, "certificate-authority": str(self.settings.directory / "pki" / "ca.crt")}
        path.write_text(json.dumps(kubeconfig_of(cluster, {"token": token})))
        return path

    @property
    def audit_log(self) -> Path:
        """The audit log, one JSON object a line, level Metadata."""
        return self.settings.audit_log

    @property
    def url(self) -> str:
        """``https://address:port`` of the API server."""
        return f"https://{self.settings.address}:{self._ports()['api']}"

    def authority(self) -> Authority:
        """The authority that signs for this control plane."""
        return Authority(self.settings.directory / "pki")

    def start(self) -> None:
        """Start what does not run; return when the API server is ready.

        Raises:
            TimedOut: it is not ready in time; the message ends with its log's last lines.
        """
        self._ensure_files()
        etcd, apiserver, *controllers = self.daemons()
        processes.ensure_started(etcd)
        processes.ensure_started(apiserver, garbage_collection(_machine_memory()))
        try:
            commands.wait_until(self.ready, what="the API server's /readyz", limit=_READY_LIMIT)
        except TimedOut as error:
            raise TimedOut(f"{error}; {apiserver.log} ends with:\n{processes.tail(apiserver.log)}") from error
        # Started earlier they would crash on the missing API server.
        for daemon in controllers:
            processes.ensure_started(daemon)

    def stop(self, *, gently: bool = True) -> None:
        """Stop everything, the API server before etcd; absent is success.

        Args:
            gently: let the API server finish its requests, up to its grace; else it is killed at once.
        """
        if not (self.settings.directory / "ports.json").exists():
            return
        for daemon in reversed(self.daemons()):
            processes.stop(daemon, signal.SIGTERM if gently else signal.SIGKILL)

    def ready(self) -> bool:
        """Whether the API server says that it is ready."""
        return self.kubectl("get", "--raw", "/readyz", check=False).returncode == 0

    def kubectl(
        self, *arguments: str, stdin: str | None = None, timeout: float = 60, check: bool = True
    ) -> CompletedProcess[str]:
        """Run kubectl as administrator."""
        argv = [str(self.settings.binaries / "kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments]
        return commands.run(argv, stdin=stdin, timeout=timeout, check=check)

    def daemons(self) -> tuple[Daemon, ...]:
        """The processes as they should be, in starting order."""
        ports = self._ports()
        plan = [self._daemon("etcd", etcd_flags(self.settings, ports), grace=10)]
        # It lets watches and requests end, which has been seen to take a minute.
        plan.append(self._daemon("kube-apiserver", apiserver_flags(self.settings, ports), grace=70))
        if self.settings.controllers:
            flags = controller_manager_flags(self.settings, ports)
            plan.append(self._daemon("kube-controller-manager", flags, grace=15))
            plan.append(self._daemon("kube-scheduler", scheduler_flags(self.settings, ports), grace=15))
        return tuple(plan)

    def _daemon(self, name: str, flags: list[str], *, grace: float) -> Daemon:
        argv = (str(self.settings.binaries / name), *flags)
        return Daemon(name=name, argv=argv, directory=self.settings.directory, grace=grace)

    def _ensure_files(self) -> None:
        directory = self.settings.directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._choose_ports()
        (directory / "audit-policy.json").write_text(json.dumps(_AUDIT_POLICY))
        first_service = str(ipaddress.IPv4Network(self.settings.services).network_address + 1)
        names = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        authority = self.authority()
        authority.ensure(
            Identity("apiserver", "kube-apiserver", hosts=(*names, "127.0.0.1", first_service, self.settings.address))
        )
        authority.ensure(Identity("kubelet-client", "kube-apiserver-kubelet-client", ("system:masters",)))
        authority.ensure(Identity("front-proxy", "front-proxy-client"))
        authority.ensure_signing_pair("service-account")
        for user in _USERS:
            authority.ensure_kubeconfig(user, self.url)

    def _ports(self) -> dict[str, int]:
        ports: dict[str, int] = json.loads((self.settings.directory / "ports.json").read_text())
        return ports

    def _choose_ports(self) -> None:
        """Note free ports, once: another cluster of the machine may hold the usual ones."""
        path = self.settings.directory / "ports.json"
        if path.exists():
            return
        with contextlib.ExitStack() as stack:
            ports = {name: _free_port(stack) for name in _PORTS}
        if self.settings.api_port:
            ports["api"] = self.settings.api_port
        path.write_text(json.dumps(ports))


def _free_port(stack: contextlib.ExitStack) -> int:
    """A free TCP port of 127.0.0.1, held until the stack is closed so that the next call gets another."""
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    return int(listener.getsockname()[1])


def garbage_collection(memory: int) -> dict[str, str]:
    """Environment of the API server: it collects garbage a quarter as often as Go has it, while that takes little.

    With Go's own measure a sixth of its CPU time goes there.

    Args:
        memory: of the machine, in bytes; near a sixteenth of it garbage is collected as often as it must.
    """
    return {"GOGC": "400", "GOMEMLIMIT": str(max(memory // 16, _LEAST_HEAP))}


def _machine_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def etcd_flags(settings: ControlPlaneSettings, ports: dict[str, int]) -> list[str]:
    """Etcd on loopback; without fsync, as a lab's data need not survive a crash of the machine."""
    client, peer = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd", "etcd-peer"))
    return [
        f"--data-dir={settings.directory / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
        "--quota-backend-bytes=4294967296",
    ]


def apiserver_flags(settings: ControlPlaneSettings, ports: dict[str, int]) -> list[str]:
    """The API server with Node and RBAC authorisation and an audit log of metadata."""
    pki = settings.directory / "pki"
    flags = [
        f"--etcd-servers=http://127.0.0.1:{ports['etcd']}",
        f"--bind-address={settings.address}",
        f"--advertise-address={settings.address}",
        f"--secure-port={ports['api']}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--requestheader-client-ca-file={pki / 'ca.crt'}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki / 'front-proxy.crt'}",
        f"--proxy-client-key-file={pki / 'front-proxy.key'}",
        f"--service-account-key-file={pki / 'service-account.pub'}",
        f"--service-account-signing-key-file={pki / 'service-account.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={settings.services}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'kubelet-client.key'}",
        # By name it would ask the machine's DNS for the nodes.
        "--kubelet-preferred-address-types=InternalIP",
        # No kube-proxy runs beside it: webhooks are reached at their pods' addresses.
        "--enable-aggregator-routing=true",
        f"--audit-policy-file={settings.directory / 'audit-policy.json'}",
        f"--audit-log-path={settings.audit_log}",
        "--audit-log-maxsize=500",
        "--audit-log-maxbackup=1",
        "--profiling=false",
    ]
    if not settings.controllers:
        # Nobody makes the default ServiceAccounts, and a loopback address is refused as an endpoint.
        flags += ["--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none"]
    return flags


def controller_manager_flags(settings: ControlPlaneSettings, ports: dict[str, int]) -> list[str]:
    """All built-in controllers, each under its own ServiceAccount."""
    pki = settings.directory / "pki"
    kubeconfig = pki / "controller-manager.conf"
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports['controller-manager']}",
        f"--service-account-private-key-file={pki / 'service-account.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        f"--cluster-cidr={settings.pods}",
        # The lab gives each node its pods' subnet by number, so that routes are known before the node is.
        "--allocate-node-cidrs=false",
        # Faults are part of the lab: a dead node is noticed in seconds rather than in a minute.
        "--node-monitor-period=2s",
        "--node-monitor-grace-period=20s",
    ]


def scheduler_flags(settings: ControlPlaneSettings, ports: dict[str, int]) -> list[str]:
    """The scheduler."""
    kubeconfig = settings.directory / "pki" / "scheduler.conf"
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports['scheduler']}",
        "--leader-elect=false",
    ]
