"""What a host consists of: its files, mounts and services, as data.

``plan`` is pure; ``hosts`` writes it down, ``host_init`` carries it out inside the host's namespaces.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from kumulus_lab import images
from kumulus_lab.settings import HostSpec, LabSettings

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CTR = ("ctr", "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io")
# Folder in the host's directory to where the host sees it.
_FOLDERS = {
    "etc-libvirt": "/etc/libvirt",
    "var-libvirt": "/var/lib/libvirt",
    "cache-libvirt": "/var/cache/libvirt",
    "kubelet": "/var/lib/kubelet",
    "containerd": "/var/lib/containerd",
    "kumulus": "/var/lib/kumulus",
    "etc-cni": "/etc/cni/net.d",
    "cni": "/var/lib/cni",
    "log": "/var/log",
}
_FILES = {"hosts": "/etc/hosts", "hostname": "/etc/hostname", "machine-id": "/etc/machine-id"}
_RUNTIME_FOLDERS = ("lock", "netns", "libvirt", "containerd", "kumulus")


@dataclass(frozen=True)
class Service:
    """A process that init keeps running.

    Attributes:
        name: names its log.
        argv: command and arguments.
        needs: paths that must exist before it is started.
        prepare: commands that must succeed, in this order, before its first start.
    """

    name: str
    argv: tuple[str, ...]
    needs: tuple[str, ...] = ()
    prepare: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class HostPlan:
    """Everything init needs to know.

    Attributes:
        name: the host's name.
        cgroup: its control group on the machine.
        netns: its network namespace on the machine.
        logs: folder of the services' logs.
        path: the PATH of all services.
        binds: (source, target) of folders and files to mount over the machine's, in order.
        runtime_folders: folders to make in the fresh /run.
        services: what runs, in starting order.
    """

    name: str
    cgroup: str
    netns: str
    logs: str
    path: str
    binds: tuple[tuple[str, str], ...]
    runtime_folders: tuple[str, ...]
    services: tuple[Service, ...]

    def to_json(self) -> str:
        """The plan as text."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "HostPlan":
        """The inverse of ``to_json``."""
        raw = json.loads(text)
        services = tuple(
            Service(
                name=service["name"],
                argv=tuple(service["argv"]),
                needs=tuple(service["needs"]),
                prepare=tuple(tuple(argv) for argv in service["prepare"]),
            )
            for service in raw.pop("services")
        )
        binds = tuple((source, target) for source, target in raw.pop("binds"))
        return cls(**{**raw, "runtime_folders": tuple(raw["runtime_folders"])}, binds=binds, services=services)


def plan(lab: LabSettings, host: HostSpec, *, search_path: str) -> HostPlan:
    """The plan of a host.

    Args:
        lab: the lab it belongs to.
        host: which one.
        search_path: PATH for its services, with the built programs in front.
    """
    directory = host.directory
    folders = [(str(directory / source), target) for source, target in _FOLDERS.items()]
    files = [(str(directory / source), target) for source, target in _FILES.items()]
    return HostPlan(
        name=host.name,
        cgroup=host.netns,
        netns=host.netns,
        logs=str(directory / "log"),
        path=search_path,
        binds=(*folders, *files, (str(directory / "resolv.conf"), "/etc/resolv.conf")),
        runtime_folders=_RUNTIME_FOLDERS,
        services=_services(lab, host),
    )


def folders(host: HostSpec) -> tuple[Path, ...]:
    """The folders of a host's directory."""
    return tuple(host.directory / name for name in _FOLDERS)


def mount_points() -> tuple[Path, ...]:
    """Where the hosts' folders are mounted: they must exist on the machine."""
    return tuple(Path(target) for target in _FOLDERS.values())


def _services(lab: LabSettings, host: HostSpec) -> tuple[Service, ...]:
    conf, pki = host.directory / "conf", lab.state / "control-plane" / "pki"
    busybox = str(lab.state / "images" / "busybox.tar")
    kubelet = (
        "kubelet",
        f"--config={conf / 'kubelet.json'}",
        f"--kubeconfig={pki / f'node-{host.name}.conf'}",
        f"--hostname-override={host.name}",
        f"--node-ip={host.address}",
    )
    return (
        Service("containerd", ("containerd", "--config", str(conf / "containerd.toml"))),
        Service("virtlogd", ("virtlogd",)),
        Service("libvirtd", ("libvirtd",), needs=("/run/libvirt/virtlogd-sock",)),
        Service("kubelet", kubelet, needs=(CONTAINERD_SOCKET,), prepare=((*CTR, "images", "import", busybox),)),
        Service("kube-proxy", ("kube-proxy", f"--config={conf / 'kube-proxy.json'}")),
    )


def configuration(lab: LabSettings, host: HostSpec, *, nameservers: tuple[str, ...]) -> dict[str, str]:
    """Path in the host's directory to content, for all files that are derived from the settings alone."""
    return {
        "conf/kubelet.json": json.dumps(_kubelet(lab, host), indent=1),
        "conf/kube-proxy.json": json.dumps(_kube_proxy(lab, host), indent=1),
        "conf/containerd.toml": _CONTAINERD,
        "etc-cni/10-lab.conflist": json.dumps(_cni(host), indent=1),
        "hosts": hosts_file(lab),
        "hostname": f"{host.name}\n",
        "resolv.conf": "".join(f"nameserver {address}\n" for address in nameservers),
        "etc-libvirt/qemu.conf": _QEMU,
    }


def hosts_file(lab: LabSettings) -> str:
    """Names of all hosts: without them libvirt asks DNS before a migration, which takes a minute."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    return "\n".join([*lines, *(f"{spec.address} {spec.name}" for spec in lab.host_specs), ""])


def libvirtd_conf(uuid: str) -> str:
    """Libvirtd on its unix sockets only, with an identity of its own (all hosts share the machine's firmware)."""
    return f'''listen_tls = 0
listen_tcp = 0
host_uuid = "{uuid}"
unix_sock_group = "root"
auth_unix_ro = "none"
auth_unix_rw = "none"
'''


# Guests run as root and without libvirt's own namespaces: the host is one already. They have control groups for CPU
# time, as on a host with systemd: however many are busy, together they weigh as much as one of the host's services.
_QEMU = """user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = ["cpu", "cpuacct"]
namespaces = []
"""

_CONTAINERD = f"""version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{images.BUSYBOX}"
[plugins."io.containerd.cri.v1.runtime"]
# Machines in the cloud often withhold CAP_SYS_RESOURCE, without which a lower score than one's own is refused.
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "/etc/cni/net.d"
"""


def _kubelet(lab: LabSettings, host: HostSpec) -> dict[str, object]:
    pki = lab.state / "control-plane" / "pki"
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / f"node-{host.name}.crt"),
        "tlsPrivateKeyFile": str(pki / f"node-{host.name}.key"),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "resolvConf": "/etc/resolv.conf",
        "clusterDNS": [lab.dns_address],
        "clusterDomain": "cluster.local",
        "nodeStatusUpdateFrequency": "4s",
        "nodeLeaseDurationSeconds": 20,
        # Tests kill what is ours again and again: it is started again at once, not after minutes.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        # Images are imported, not pulled: one removed to save space would not come back.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }


def _kube_proxy(lab: LabSettings, host: HostSpec) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": host.name,
        "clusterCIDR": str(lab.pods),
        "clientConnection": {"kubeconfig": str(lab.state / "control-plane" / "pki" / "kube-proxy.conf")},
        # These are read-only in a network namespace; 0 leaves them alone.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


def _cni(host: HostSpec) -> dict[str, object]:
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": host.pod_cidr}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            # Addresses are given back by a loss of power, as the pods are.
            "dataDir": "/run/cni/networks",
        },
    }
    return {"cniVersion": "1.0.0", "name": "lab", "plugins": [bridge]}
