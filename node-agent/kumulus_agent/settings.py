"""Settings of the agent."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from kumulus_runtime.settings import BaseProcessSettings

_MAPPING = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?:[A-Za-z0-9][A-Za-z0-9_.-]{0,14}"


class AgentSettings(BaseProcessSettings):
    """Read once in `main` from the environment (`KUMULUS_` and the field's name) and passed down."""

    node_name: str = Field(min_length=1)
    """This machine's name, as its Node and its Host have it."""
    node_ip: str = ""
    """The Node's internal address (downward API, status.hostIP)."""
    tunnel_address: str = ""
    """Where other hosts send VXLAN to, if it is not the Node's address."""
    underlay_mtu: int = Field(default=1500, ge=576, le=65535)
    """MTU in bytes of the network between the hosts; guests get 50 less."""
    metrics_port: int = Field(default=9808, ge=0, le=65535)
    """TCP port of /metrics, /healthz and /readyz."""
    bridge_mappings: str = Field(default="", pattern=rf"^({_MAPPING}(,{_MAPPING})*)?$")
    """Physical networks and the interfaces that lead to them, `physnet1:eth1,physnet2:eth2`, as Neutron has it;
    `Host.spec.bridgeMappings` replaces it on one host. Such an interface is for guests alone."""
    migration_port: int = Field(default=9809, ge=0, le=65535)
    """TCP port for other hosts: guests that migrate to this one, images that it holds. Open while there are any."""
    export_port: int = Field(default=9900, ge=1024, le=65535)
    """The first TCP port for volumes of this host that servers on other hosts use; each such volume has one."""
    exports: int = Field(default=100, ge=1, le=1000)
    """How many ports there are for them, from that one on."""
    libvirt_uri: str = "qemu:///system"
    """The hypervisor."""
    virtualization: str = Field(default="auto", pattern=r"^(auto|kvm|qemu)$")
    """`kvm`, `qemu` (emulation), or `auto`: KVM where a guest boots with it."""
    state_dir: Path = Path("/var/lib/kumulus")
    """Images, disks, volumes and console logs; the same path on the host."""
    run_dir: Path = Path("/run/kumulus")
    """Locks and run-time files; the same path on the host."""
    stop_seconds: float = Field(default=20.0, ge=0)
    """How long a guest may take to shut down before it is switched off."""
    memory_overcommit: float = Field(default=1.0, gt=0)
    """Memory given out per byte of the host's; as the operator has it."""
    disk_overcommit: float = Field(default=1.0, gt=0)
    """Disk given out per byte of the host's; as the operator has it."""
    image_cache_bytes: int = Field(default=50 << 30, ge=0)
    """Size that the image cache keeps to, as far as images are not in use."""
    workers: int = Field(default=4, ge=1)
    """Servers that are worked on at once."""
    max_image_bytes: int = Field(default=1 << 40, ge=1)
    """Size above which an image is refused, as file and as disk."""
    boot_data_url: str = ""
    """Base URL of the operator's boot data service; empty: `https://kumulus-boot-data.<system namespace>.svc:8443`."""
    boot_data_ca: str = "kumulus-boot-data-ca"
    """ConfigMap in the system namespace with that service's CA under `ca.crt`."""
    boot_data_token: Path = Path("/var/run/secrets/kumulus/boot-data/token")
    """File with our ServiceAccount token for that service."""

    s3_endpoint: str = Field(default="", pattern=r"^(https?://[^\s/]+)?$")
    """Base URL of the S3 service of the images' store."""
    s3_bucket: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$")
    """Its bucket; empty where images are kept by hosts only."""
    s3_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._/-]*$")
    """What the keys of all objects begin with."""
    s3_region: str = "us-east-1"
    """As requests are signed for."""
    s3_path_style: bool = True
    """The bucket stands in the path of URLs, not in the name of the server."""
    s3_keys: Path = Path("/var/run/secrets/kumulus/s3")
    """Folder of the files AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""

    console_port: int = Field(default=9810, ge=1, le=65535)
    """TCP port of the node's address on which the console proxy reaches the guests' consoles."""
    console_service_account: str = "kumulus-console"
    """The console proxy's ServiceAccount in the system namespace: consoles are served to nobody else."""

    @field_validator("bridge_mappings")
    @classmethod
    def _one_interface_each(cls, value: str) -> str:
        parts = [part for pair in value.split(",") if pair for part in pair.split(":")]
        if len(set(parts[::2])) < len(parts) / 2 or len(set(parts[1::2])) < len(parts) / 2:
            raise ValueError("a physical network has one interface, and an interface leads to one")
        return value

    @property
    def mappings(self) -> dict[str, str]:
        """The interface of each physical network."""
        pairs = (pair.partition(":") for pair in self.bridge_mappings.split(",") if pair)
        return {name: interface for name, _, interface in pairs}

    @property
    def console_proxy(self) -> str:
        """The console proxy's user name."""
        return f"system:serviceaccount:{self.system_namespace}:{self.console_service_account}"

    @property
    def underlay_address(self) -> str:
        """The address from which this host tunnels."""
        return self.tunnel_address or self.node_ip

    @property
    def guest_mtu(self) -> int:
        """MTU in bytes of guests' interfaces: VXLAN over IPv4 takes 50 bytes (RFC 7348)."""
        return self.underlay_mtu - 50

    @property
    def boot_data_base(self) -> str:
        """Where boot data is asked for."""
        return self.boot_data_url or f"https://kumulus-boot-data.{self.system_namespace}.svc:8443"

    @property
    def instances_dir(self) -> Path:
        """One directory per instance."""
        return self.state_dir / "instances"

    def instance_dir(self, instance_id: str) -> Path:
        """The directory of an instance's root disk, seed and console log."""
        return self.instances_dir / instance_id
