"""Host: a machine that runs servers (Nova's hypervisor, Placement's resource provider)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import (
    CUSTOM_RESOURCE,
    Column,
    CustomResources,
    Definition,
    IPAddressText,
    Kind,
    Model,
    Name,
    ObjectName,
    Quantity,
    Rule,
    Status,
    Trait,
    UUIDText,
    list_map,
    validated,
)
from kumulus_api.image_store import MOST_KEPT, KeptImage
from kumulus_api.passthrough import FoundDevices, HostDevices
from kumulus_api.provider import MAPPING_RULES, BridgeMappings, PhysicalNetwork
from kumulus_api.quantities import parse_quantity
from kumulus_api.storage_usage import ShareUsage, StorageUsage


class RevokedInstance(Model):
    """An instance that this host must not run any more; it acknowledges by reporting it gone."""

    instance_id: UUIDText = Field(alias="instanceID")
    epoch: Annotated[int, Field(ge=0)]


Ratio = Annotated[str, Field(max_length=9, pattern=r"^[0-9]{1,4}(\.[0-9]{1,4})?$")]


class Overcommit(Model):
    """How many times over each resource is given out (Nova's allocation ratios)."""

    vcpus: Ratio | None = None
    memory: Ratio | None = None
    disk: Ratio | None = None

    model_config = validated(
        *(
            Rule(f"!has(self.{name}) || double(self.{name}) > 0.0", "a ratio is more than 0", f".{name}")
            for name in ("vcpus", "memory", "disk")
        )
    )


class Reserved(Model):
    """What a host keeps for itself (Nova: `reserved_host_cpus`, `reserved_host_memory_mb`, …)."""

    vcpus: Annotated[int, Field(ge=0, le=65535)] | None = None
    memory: Quantity | None = None
    disk: Quantity | None = None


class HostSpec(Model):
    """What administrators and the operator want of the host."""

    schedulable: bool = True
    """Whether new servers are placed here (Nova: `compute service set --disable`)."""
    maintenance: bool = False
    """Whether the host is to be emptied. Without migration it only keeps new servers away."""
    decommissioned: bool = False
    """An administrator's word that this host never returns: its instances are revoked and may start elsewhere."""
    traits: Annotated[list[Trait], Field(max_length=256)] = Field(default_factory=list)
    """What an administrator says of the host, beside the traits that its agent finds: `CUSTOM_GOLD`."""
    overcommit: Overcommit | None = None
    """Ratios of this host, where they differ from the operator's settings."""
    resources: CustomResources | None = None
    """What an administrator says the host has, beside what its agent finds: `CUSTOM_LICENSE: 4`. Flavors ask for it by
    the extra spec `resources:CUSTOM_LICENSE`."""
    devices: HostDevices | None = None
    """PCI and mediated devices of this host that servers may be given, whole and alone. Flavors ask for them by the
    extra spec `resources:CLASS`."""
    reserved: Reserved | None = None
    """What is not given to servers here; the ratios are of what is left."""
    dedicated_cpus: Annotated[str, Field(max_length=1024, pattern=r"^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$")] | None = (
        Field(default=None, alias="dedicatedCPUs")
    )
    """CPUs for servers with `hw:cpu_policy: dedicated`, such as `2-7,10` (Nova's `cpu_dedicated_set`). The others are
    shared. It holds for what starts from now on."""
    bridge_mappings: BridgeMappings | None = None
    """The interfaces of this host that lead to physical networks, in place of all in the agent's settings (Neutron:
    `bridge_mappings`). Guests on provider networks reach them; one with the host's own address is not taken."""
    revoked: Annotated[
        list[RevokedInstance], Field(max_length=4096, json_schema_extra=list_map("instanceID", "epoch"))
    ] = Field(default_factory=list)
    """Written by the operator only."""

    model_config = validated(
        Rule(
            "!(oldSelf.decommissioned && !self.decommissioned)",
            "a decommissioned host does not return under its name",
        ),
        Rule(
            f"!has(self.resources) || self.resources.all(k, k.matches(r'{CUSTOM_RESOURCE}'))",
            "a resource class is CUSTOM_ and letters A to Z, digits and _",
            ".resources",
        ),
        *MAPPING_RULES,
        Rule(
            "!has(self.resources) || !has(self.devices) || self.resources.all(k,"
            " (!has(self.devices.pci) || !self.devices.pci.exists(d, has(d.resourceClass) && d.resourceClass == k))"
            " && (!has(self.devices.mdev) || !self.devices.mdev.exists(d, d.resourceClass == k)))",
            "what is a class of devices is counted by the agent: it has no number in resources",
            ".resources",
        ),
    )


@dataclass(frozen=True, slots=True)
class Room:
    """Amounts of what servers share: virtual CPUs, and bytes of memory and disk."""

    vcpus: float
    memory: float
    disk: float


def room_of(spec: HostSpec, found: Room, ratios: Room) -> Room:
    """Give what a host may give to its servers: what it has less what it keeps, times the ratios.

    Args:
        spec: of the host; its own ratios go before `ratios`.
        found: what the host has.
        ratios: how many times over each is given out by default.
    """
    kept = spec.reserved or Reserved()
    own = spec.overcommit or Overcommit()
    return Room(
        max(0.0, found.vcpus - (kept.vcpus or 0)) * float(own.vcpus or ratios.vcpus),
        max(0.0, found.memory - parse_quantity(kept.memory or "0")) * float(own.memory or ratios.memory),
        max(0.0, found.disk - parse_quantity(kept.disk or "0")) * float(own.disk or ratios.disk),
    )


class Virtualization(StrEnum):
    """How guests run: by KVM, or emulated by QEMU's TCG."""

    KVM = "kvm"
    QEMU = "qemu"


class HugePages(Model):
    """Huge pages of one size that the host keeps ready."""

    size: Quantity
    count: Annotated[int, Field(ge=0)]


class Inventory(Model):
    """What the host has, before overcommit."""

    vcpus: Annotated[int, Field(ge=0)]
    """CPUs that servers share (Placement's VCPU)."""
    dedicated_vcpus: Annotated[int, Field(ge=0)] | None = None
    """CPUs that each go to one server (Placement's PCPU)."""
    memory: Quantity
    disk: Quantity
    numa_nodes: Annotated[int, Field(ge=1)] | None = None
    huge_pages: Annotated[list[HugePages], Field(max_length=8, json_schema_extra=list_map("size"))] | None = None


class Versions(Model):
    """The versions of what the host runs."""

    kernel: Annotated[str, Field(max_length=128)] = ""
    libvirt: Annotated[str, Field(max_length=64)] = ""
    qemu: Annotated[str, Field(max_length=64)] = ""
    agent: Annotated[str, Field(max_length=64)] = ""


class UnclaimedInstance(Model):
    """A domain of ours on the host for which the API has no Server: reported, never removed."""

    instance_id: UUIDText = Field(alias="instanceID")
    namespace: Name
    name: ObjectName
    epoch: int = 0
    running: bool = True


class ConsoleEndpoint(Model):
    """Where the agent serves the consoles of its guests, for the proxy alone."""

    url: Annotated[str, Field(max_length=300, pattern=r"^https://[^\s]+$")]
    certificate: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
    """SHA-256 of the certificate that it shows there, in DER."""


FAILOVER_PACKAGE = "keepalived"
"""Of `HostStatus.missing_packages` one without which a host is Ready: it has no part in takeovers then."""
VPN_PACKAGES = frozenset({"charon-systemd", "libcharon-extra-plugins", "libstrongswan-standard-plugins"})
"""Others without which a host is Ready: VPNConnections of routers that it leads out say so."""


class HostStatus(Status):
    """What the agent found; renewed once a minute."""

    boot_id: Annotated[str, Field(max_length=36)] | None = Field(default=None, alias="bootID")
    tunnel_address: IPAddressText | None = None
    """Where other hosts send VXLAN to (RFC 7348)."""
    console: ConsoleEndpoint | None = None
    virtualization: Virtualization | None = None
    architecture: Annotated[str, Field(max_length=32)] = ""
    inventory: Inventory | None = None
    traits: Annotated[list[Trait], Field(max_length=256)] = Field(default_factory=list)
    """What the agent found that the host can do, as Placement spells it."""
    physical_networks: Annotated[list[PhysicalNetwork], Field(max_length=16, json_schema_extra=list_map("name"))] = (
        Field(default_factory=list)
    )
    """The physical networks that are mapped here: which the host reaches, and why it does not reach the others."""
    devices: FoundDevices | None = None
    """What the host has of `spec.devices`."""
    versions: Versions = Field(default_factory=Versions)
    missing_packages: Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=64)] = Field(
        default_factory=list
    )
    unclaimed_instances: Annotated[
        list[UnclaimedInstance], Field(max_length=4096, json_schema_extra=list_map("instanceID"))
    ] = Field(default_factory=list)
    taken_over: Annotated[list[UUIDText], Field(max_length=16384)] = Field(default_factory=list)
    """Routers, by `routerID`, that lead out here though they are assigned to another host, which was not heard of; and
    load balancers, by `loadBalancerID`, that are served here instead."""
    images: Annotated[list[KeptImage], Field(max_length=MOST_KEPT)] = Field(default_factory=list)
    """Images that it keeps whatever room they take: as the store's, or since they are to be here beforehand."""
    storage: Annotated[list[StorageUsage], Field(max_length=8, json_schema_extra=list_map("name"))] = Field(
        default_factory=list
    )
    """What the folders with disks, volumes and images take. It is written anew when a number has moved by a hundredth
    of the file system, and by 1Gi; of a small one by a twentieth."""
    shares: Annotated[list[ShareUsage], Field(max_length=64, json_schema_extra=list_map("volumeClass"))] = Field(
        default_factory=list
    )
    """The shares of VolumeClasses that are mounted here; they are written anew as `storage` is."""
    observed_revoked: Annotated[
        list[RevokedInstance], Field(max_length=4096, json_schema_extra=list_map("instanceID", "epoch"))
    ] = Field(default_factory=list)
    """Those of `spec.revoked` that this host has shown to be gone."""


class HostConditionType(StrEnum):
    """Conditions of a Host."""

    READY = "Ready"
    SELF_TEST_PASSED = "SelfTestPassed"
    PACKAGES_PRESENT = "PackagesPresent"
    HYPERVISOR_CONNECTED = "HypervisorConnected"
    DISK_HEALTHY = "DiskHealthy"
    DISK_PRESSURE = "DiskPressure"
    """Whether so little room is left that the host makes no copies, and removes images that nothing needs; no part of
    Ready. Guests on it stand still when there is none."""
    TABLES_LARGE = "TablesLarge"
    """Whether the kernel's tables that tenants share hold what all of them may put there; no part of Ready."""
    DRAINED = "Drained"
    """The operator's word on a host in maintenance: whether guests still run there."""


class DiskPressureReason(StrEnum):
    """Reasons of a Host's DiskPressure condition."""

    ENOUGH_ROOM = "EnoughRoom"
    RESERVE_IN_USE = "ReserveInUse"


class DrainReason(StrEnum):
    """Reasons of a Host's Drained condition."""

    DRAINED = "Drained"
    DRAINING = "Draining"
    BLOCKED = "Blocked"
    """None of the servers that are left can leave now; the message says why of each."""
    NOT_ASKED = "NotInMaintenance"


class Host(Kind):
    """A machine that runs servers; its agent makes it (Nova's hypervisor and Placement's resource provider)."""

    definition: ClassVar = Definition(
        plural="hosts",
        namespaced=False,
        short_names=("khost",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Schedulable", ".spec.schedulable", "boolean"),
            Column("Virt", ".status.virtualization"),
            Column("VCPUs", ".status.inventory.vcpus", "integer"),
            Column("Memory", ".status.inventory.memory"),
            Column("Disk", ".status.inventory.disk", priority=1),
            Column("DiskPressure", ".status.conditions[?(@.type=='DiskPressure')].status", priority=1),
            Column("Tunnel", ".status.tunnelAddress", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        in_all=False,
    )

    spec: HostSpec = Field(default_factory=HostSpec)
    status: HostStatus | None = None
