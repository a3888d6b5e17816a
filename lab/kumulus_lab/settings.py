"""What a lab is made of: names, addresses and folders, all derived from a few values."""

import ipaddress
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from kumulus_lab.errors import LabError

_NAME = re.compile(r"[a-z][a-z0-9]{0,7}")
_MAX_HOSTS = 50
_FIRST_HOST = 10
"""Host i has the address base + 10 + i: .11, .12, …; .1 is the machine itself."""


_SUBNET = ipaddress.IPv4Network("10.88.0.0/24")
_PODS = ipaddress.IPv4Network("10.244.0.0/16")
_SERVICES = ipaddress.IPv4Network("10.96.0.0/16")


@dataclass(frozen=True)
class HostSpec:
    """One host of a lab, before it exists.

    Attributes:
        name: the Kubernetes node's name, ``h1``.
        index: 1 for the first.
        address: its IPv4 address on the lab's bridge.
        pod_cidr: the pods' subnet on it.
        netns: name of its network namespace on the machine.
        veth: name of the machine's end of its cable; 15 characters at most.
        physical_veth: that of its second cable, to the physical network that guests can be on.
        directory: everything that lasts over a power cycle, and its logs.
    """

    name: str
    index: int
    address: str
    pod_cidr: str
    netns: str
    veth: str
    physical_veth: str
    directory: Path


@dataclass(frozen=True)
class LabSettings:
    """Everything that tells one lab from another.

    Attributes:
        hosts: how many hosts there are.
        name: prefix of every name the lab leaves on the machine (bridge, namespaces, cgroups, nftables table);
            letters and digits, 8 at most, as interface names end at 15.
        subnet: IPv4 network of the bridge, /24 or larger.
        pods: IPv4 network of the pods, /16; host i has its i-th /24.
        services: IPv4 network of the Services' virtual addresses.
        state: folder of all state; ``down`` removes it.
        cache: folder of built binaries and downloaded parts; ``down`` keeps it.
        shared: notes of all labs on this machine about what they share; the last ``down`` removes it.
    """

    hosts: int = 2
    name: str = "klab"
    subnet: ipaddress.IPv4Network = _SUBNET
    pods: ipaddress.IPv4Network = _PODS
    services: ipaddress.IPv4Network = _SERVICES
    state: Path = Path("/var/lib/kumulus-lab")
    cache: Path = Path("~/.cache/kumulus")
    shared: Path = Path("/var/lib/kumulus-labs")

    def __post_init__(self) -> None:
        """Refuse values that could not work, and expand ``~``."""
        if not _NAME.fullmatch(self.name):
            raise LabError(f"the lab's name is {self.name!r}: it must be 1 to 8 small letters and digits")
        if not 1 <= self.hosts <= _MAX_HOSTS:
            raise LabError(f"{self.hosts} hosts were asked for: a lab has 1 to {_MAX_HOSTS}")
        if self.subnet.prefixlen > 24:
            raise LabError(f"the subnet {self.subnet} is too small: /24 or larger is needed")
        object.__setattr__(self, "state", self.state.expanduser().resolve())
        object.__setattr__(self, "cache", self.cache.expanduser().resolve())

    @classmethod
    def from_environment(cls, hosts: int | None = None) -> "LabSettings":
        """Read KUMULUS_LAB_NAME, KUMULUS_LAB_SUBNET, KUMULUS_LAB_PODS, KUMULUS_LAB_STATE and KUMULUS_CACHE.

        Labs that differ in all but the cache run beside each other. What is not set is as the lab of that state
        folder was started, or else the default.

        Args:
            hosts: how many; without it, as many as the running lab was started with, else 2.
        """
        state = Path(os.environ.get("KUMULUS_LAB_STATE", str(cls.state))).expanduser()
        known = _recorded(state)
        if hosts is None:
            hosts = int(known.get("hosts", cls.hosts))
        return cls(
            hosts=hosts,
            name=os.environ.get("KUMULUS_LAB_NAME", known.get("name", cls.name)),
            subnet=ipaddress.IPv4Network(os.environ.get("KUMULUS_LAB_SUBNET", known.get("subnet", cls.subnet))),
            pods=ipaddress.IPv4Network(os.environ.get("KUMULUS_LAB_PODS", known.get("pods", cls.pods))),
            state=state,
            cache=Path(os.environ.get("KUMULUS_CACHE", str(cls.cache))),
        )

    @classmethod
    def of_kubeconfig(cls, kubeconfig: Path) -> "LabSettings | None":
        """The running lab of this machine that a kubeconfig belongs to; None if it is another cluster's."""
        path = kubeconfig.expanduser().resolve()
        state = path.parents[2] if len(path.parents) > 2 else path
        known = _recorded(state)
        if not {"hosts", "name", "subnet", "pods"} <= set(known):
            return None
        lab = cls(
            hosts=int(known["hosts"]),
            name=known["name"],
            subnet=ipaddress.IPv4Network(known["subnet"]),
            pods=ipaddress.IPv4Network(known["pods"]),
            state=state,
            cache=Path(os.environ.get("KUMULUS_CACHE", str(cls.cache))),
        )
        return lab if lab.kubeconfig == path else None

    def record(self) -> None:
        """Remember what the lab is made of for the commands that come later."""
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        known = {"hosts": self.hosts, "name": self.name, "subnet": str(self.subnet), "pods": str(self.pods)}
        (self.state / "lab.json").write_text(json.dumps(known))

    @property
    def bridge(self) -> str:
        """The bridge that stands for the underlay."""
        return f"{self.name}0"

    @property
    def physical_bridge(self) -> str:
        """The bridge that stands for a physical network of the outside; each host's eth1 is on it."""
        return f"{self.name}-phys"

    @property
    def gateway(self) -> str:
        """The machine's address on the bridge; the API server listens there."""
        return str(self.subnet.network_address + 1)

    @property
    def api_url(self) -> str:
        """Where the API server is."""
        return f"https://{self.gateway}:6443"

    @property
    def dns_address(self) -> str:
        """The cluster DNS Service's address."""
        return str(self.services.network_address + 10)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state / "control-plane" / "pki" / "admin.conf"

    @property
    def audit_log(self) -> Path:
        """The API server's audit log, one JSON object a line."""
        return self.state / "audit.log"

    @property
    def host_specs(self) -> tuple[HostSpec, ...]:
        """All hosts, in order."""
        return tuple(self._host(index) for index in range(1, self.hosts + 1))

    def host(self, name: str) -> HostSpec:
        """The host of that name.

        Raises:
            LabError: there is none.
        """
        for spec in self.host_specs:
            if spec.name == name:
                return spec
        raise LabError(f"there is no host {name!r}; there are: {', '.join(spec.name for spec in self.host_specs)}")

    def _host(self, index: int) -> HostSpec:
        pod_base = self.pods.network_address + 256 * index
        return HostSpec(
            name=f"h{index}",
            index=index,
            address=str(self.subnet.network_address + _FIRST_HOST + index),
            pod_cidr=f"{pod_base}/24",
            netns=f"{self.name}-h{index}",
            veth=f"{self.name}-h{index}",
            physical_veth=f"{self.name}-p{index}",
            directory=self.state / "hosts" / f"h{index}",
        )


def _recorded(state: Path) -> dict[str, str]:
    """What ``record`` has written into a state folder; empty where no lab is, or none that this user may see."""
    try:
        known: dict[str, str] = json.loads((state / "lab.json").read_text())
    except (FileNotFoundError, PermissionError):
        return {}
    return known
