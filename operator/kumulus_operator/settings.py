"""Settings of the operator process."""

from dataclasses import fields
from ipaddress import IPv4Network

from pydantic import Field, field_validator

from kumulus_api.image_store import StoreType
from kumulus_operator.dns.zonefile import is_name
from kumulus_operator.placement.tuning import DEFAULT, Tuning
from kumulus_runtime.settings import BaseProcessSettings


class OperatorSettings(BaseProcessSettings):
    """What an administrator may choose; environment variables begin with `KUMULUS_`."""

    pod: str = ""
    """Name of the pod that the process runs in. A container starts when the one before it in its pod has ended, so a
    process may go on with the Lease of its pod at once; without a pod it waits until the Lease has run out."""
    vni_first: int = Field(default=4096, ge=1, le=16777215)
    """First VXLAN network identifier to give out."""
    vni_last: int = Field(default=1048575, ge=1, le=16777215)
    """Last VXLAN network identifier to give out."""
    vcpu_overcommit: float = Field(default=DEFAULT.vcpu_overcommit, gt=0)
    """vCPUs that are given out per CPU of a host."""
    memory_overcommit: float = Field(default=DEFAULT.memory_overcommit, gt=0)
    """Memory that is given out per byte of a host."""
    disk_overcommit: float = Field(default=DEFAULT.disk_overcommit, gt=0)
    """Disk that is given out per byte of a host."""
    disk_reserved_percent: float = Field(default=DEFAULT.disk_reserved_percent, ge=0, le=100)
    """Of a host's disk what is to stay free whatever is given out (Cinder: `reserved_percentage`)."""
    weight_vcpus: float = DEFAULT.weight_vcpus
    """How much free vCPUs count when several hosts fit; negative fills hosts up instead of spreading servers."""
    weight_memory: float = DEFAULT.weight_memory
    """How much free memory counts."""
    weight_disk: float = DEFAULT.weight_disk
    """How much free disk counts."""
    weight_group: float = Field(default=DEFAULT.weight_group, ge=0)
    """How much each server of the own group on a host counts, for it or against it, if the group's policy is soft."""
    usage_debounce: float = Field(default=1.0, ge=0)
    """Seconds that changes of a project's usage are gathered before they are written."""
    claim_quarantine: float = Field(default=60.0, ge=0)
    """Seconds between finding a claimant gone and giving its address or VNI to another."""
    host_silence: float = Field(default=DEFAULT.host_silence, gt=0)
    """Seconds without a renewal after which a host counts as silent."""
    endpoints_debounce: float = Field(default=0.1, ge=0)
    """Seconds between two writes of one network's endpoints."""
    endpoints_per_second: float = Field(default=10.0, gt=0)
    """Writes of endpoints of all networks together, when many change at once."""
    pod_cidrs: str = ""
    """IPv4 ranges of the cluster's pods, commas between; without them no network is peered with the cluster."""
    service_cidrs: str = ""
    """IPv4 ranges of the cluster's Services, likewise."""
    nameservers: str = "ns.kumulus.internal."
    """Names of the name servers of all zones, each with a dot at its end, commas between, the primary first."""
    zone_shards: int = Field(default=0, ge=0, le=64)
    """ConfigMaps over which zone files are spread, each of at most 1 MiB; 0 if there is no name server."""
    zones_debounce: float = Field(default=1.0, ge=0)
    """Seconds between two writes of one zone file."""
    zones_per_second: float = Field(default=10.0, gt=0)
    """Writes of zone files of all zones together, when many change at once."""
    boot_data_port: int = Field(default=8443, ge=0, le=65535)
    """Where node agents ask for user data over TLS."""
    boot_data_service: str = "kumulus-boot-data"
    """The Service through which agents reach the boot data server; its certificate is made out to it."""
    service_account: str = "kumulus-operator"
    """The operator's ServiceAccount in the system namespace: in projects it is allowed to read user data."""
    workers: int = Field(default=16, ge=1)
    """Objects of one kind that are reconciled at once."""
    image_store: str = Field(default="hosts", pattern=r"^(hosts|s3)$")
    """Where images are put that come from now on: on disks of `image_replicas` hosts, or into a bucket."""
    image_replicas: int = Field(default=2, ge=1, le=16)
    """Hosts that keep each image of the store `hosts`."""
    image_replica_grace: float = Field(default=600.0, ge=0)
    """Seconds for which a host may be silent before another keeps its images, too."""
    action_history: int = Field(default=50, ge=1)
    """Ended ServerActions that are kept of each Server."""
    action_days: float = Field(default=90.0, gt=0)
    """Days for which an ended ServerAction is kept."""

    @field_validator("nameservers")
    @classmethod
    def _absolute_names(cls, value: str) -> str:
        if not all(is_name(name) for name in value.split(",")):
            raise ValueError("names in lower case, each with a dot at its end")
        return value

    @field_validator("pod_cidrs", "service_cidrs")
    @classmethod
    def _ipv4_ranges(cls, value: str) -> str:
        try:
            list(map(IPv4Network, filter(None, value.split(","))))
        except ValueError as error:
            raise ValueError(f"IPv4 networks such as 10.96.0.0/16, commas between: {error}") from error
        return value

    @property
    def store_type(self) -> StoreType:
        """The store of images that come from now on."""
        return StoreType.S3 if self.image_store == "s3" else StoreType.HOSTS

    @property
    def pod_ranges(self) -> tuple[str, ...]:
        """The ranges of the cluster's pods."""
        return tuple(filter(None, self.pod_cidrs.split(",")))

    @property
    def service_ranges(self) -> tuple[str, ...]:
        """The ranges of the cluster's Services."""
        return tuple(filter(None, self.service_cidrs.split(",")))

    @property
    def nameserver_names(self) -> tuple[str, ...]:
        """The names of the name servers, the primary first."""
        return tuple(self.nameservers.split(","))

    @property
    def tuning(self) -> Tuning:
        """What placement is tuned by."""
        return Tuning(**{field.name: getattr(self, field.name) for field in fields(Tuning)})
