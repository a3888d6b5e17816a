"""Project: a tenant, and KeyPair: a public SSH key (Keystone's project, Nova's keypair)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import Column, Definition, Kind, Model, Name, Quantity, Rule, Status, list_map, validated
from kumulus_api.peering import PeeringGrant


class ProjectRole(StrEnum):
    """What the subjects of a binding may do in the project (Keystone's default roles)."""

    ADMIN = "admin"
    MEMBER = "member"
    READER = "reader"


class SubjectKind(StrEnum):
    """The kinds of RBAC subjects."""

    USER = "User"
    GROUP = "Group"
    SERVICE_ACCOUNT = "ServiceAccount"


class Subject(Model):
    """Somebody who is given a role: a user, a group, or a ServiceAccount with its namespace."""

    kind: SubjectKind
    name: Annotated[str, Field(min_length=1, max_length=253)]
    namespace: Name | None = None

    model_config = validated(
        Rule(
            "(self.kind == 'ServiceAccount') == has(self.namespace)",
            "a ServiceAccount needs a namespace, a User or Group has none",
        )
    )


class RoleAssignment(Model):
    """A role and who holds it."""

    role: ProjectRole
    subjects: Annotated[list[Subject], Field(max_length=64)]


class Quota(Model):
    """Upper limits of what the project's objects use together; what is not given is not limited."""

    servers: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    vcpus: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    memory: Quantity | None = None
    dns_zones: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Domains that are held; of a deleted zone until the domain is free."""
    volumes: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    gigabytes: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None
    """GiB of all volumes together."""
    snapshots: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Images that were made of servers (CreateImage)."""
    backups: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Of volumes."""
    backup_gigabytes: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None
    """GiB of the volumes as they were when they were backed up, each time anew."""
    images: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """All images, those made of servers too."""
    image_gigabytes: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None
    """GiB of the files of all images together. The size of one is known when it is imported; who uploads one says it
    before."""
    ports: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    security_groups: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """The project's `default` is one of them."""
    security_group_rules: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    routers: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    floating_ips: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(default=None, alias="floatingIPs")
    load_balancers: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    firewall_groups: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    vpn_connections: Annotated[int, Field(ge=0, le=1_000_000)] | None = None


class ProjectSpec(Model):
    """What the project is called, who works in it and how much it may use."""

    description: Annotated[str, Field(max_length=1024)] = ""
    roles: Annotated[list[RoleAssignment], Field(max_length=3, json_schema_extra=list_map("role"))] = Field(
        default_factory=list
    )
    quota: Quota = Field(default_factory=Quota)
    peering: PeeringGrant | None = None
    """What its networks may have of the Kubernetes cluster: nothing unless it is given."""


class QuotaUsage(Model):
    """What the project's objects use together: servers that have a host, with what their flavors take."""

    servers: int = 0
    vcpus: int = 0
    memory: Quantity = "0"
    dns_zones: int = 0
    volumes: int = 0
    gigabytes: int = 0
    """GiB, rounded up."""
    snapshots: int = 0
    backups: int = 0
    backup_gigabytes: int = 0
    """GiB, rounded up."""
    images: int = 0
    image_gigabytes: int = 0
    """GiB, rounded up."""
    ports: int = 0
    security_groups: int = 0
    security_group_rules: int = 0
    routers: int = 0
    floating_ips: int = Field(default=0, alias="floatingIPs")
    load_balancers: int = 0
    firewall_groups: int = 0
    vpn_connections: int = 0


class QuotaShown(Model):
    """Used and limit in one word, `3/10`; `3/-` if nothing limits it."""

    servers: Annotated[str, Field(max_length=64)] = ""
    vcpus: Annotated[str, Field(max_length=64)] = ""
    memory: Annotated[str, Field(max_length=80)] = ""
    dns_zones: Annotated[str, Field(max_length=64)] = ""
    volumes: Annotated[str, Field(max_length=64)] = ""
    gigabytes: Annotated[str, Field(max_length=64)] = ""
    snapshots: Annotated[str, Field(max_length=64)] = ""
    backups: Annotated[str, Field(max_length=64)] = ""
    backup_gigabytes: Annotated[str, Field(max_length=64)] = ""
    images: Annotated[str, Field(max_length=64)] = ""
    image_gigabytes: Annotated[str, Field(max_length=64)] = ""
    ports: Annotated[str, Field(max_length=64)] = ""
    security_groups: Annotated[str, Field(max_length=64)] = ""
    security_group_rules: Annotated[str, Field(max_length=64)] = ""
    routers: Annotated[str, Field(max_length=64)] = ""
    floating_ips: Annotated[str, Field(max_length=64)] = Field(default="", alias="floatingIPs")
    load_balancers: Annotated[str, Field(max_length=64)] = ""
    firewall_groups: Annotated[str, Field(max_length=64)] = ""
    vpn_connections: Annotated[str, Field(max_length=64)] = ""


class ProjectStatus(Status):
    """The namespace that was made, what is used, and conditions."""

    namespace: Name | None = None
    usage: QuotaUsage | None = None
    """Written at most once a second."""
    quota: QuotaShown | None = None


class Project(Kind):
    """A tenant: makes a namespace of its name, with roles and quota (Keystone's project)."""

    definition: ClassVar = Definition(
        plural="projects",
        namespaced=False,
        short_names=("kproj",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Servers", ".status.quota.servers"),
            Column("VCPUs", ".status.quota.vcpus"),
            Column("Memory", ".status.quota.memory"),
            Column("Ports", ".status.quota.ports"),
            Column("Volumes", ".status.quota.volumes"),
            Column("Gigabytes", ".status.quota.gigabytes"),
            Column("Snapshots", ".status.quota.snapshots", priority=1),
            Column("Backups", ".status.quota.backups", priority=1),
            Column("Backup-Gigabytes", ".status.quota.backupGigabytes", priority=1),
            Column("Images", ".status.quota.images", priority=1),
            Column("Image-Gigabytes", ".status.quota.imageGigabytes", priority=1),
            Column("Groups", ".status.quota.securityGroups"),
            Column("Rules", ".status.quota.securityGroupRules"),
            Column("Floating-IPs", ".status.quota.floatingIPs"),
            Column("Routers", ".status.quota.routers", priority=1),
            Column("Load-Balancers", ".status.quota.loadBalancers", priority=1),
            Column("Firewall-Groups", ".status.quota.firewallGroups", priority=1),
            Column("VPNs", ".status.quota.vpnConnections", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        in_all=False,
        rules=(
            Rule(
                "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
                "a project's name becomes a namespace: at most 63 characters, no dots",
            ),
        ),
    )

    spec: ProjectSpec = Field(default_factory=ProjectSpec)
    status: ProjectStatus | None = None


class ProjectReason(StrEnum):
    """Reasons of a Project's Ready condition."""

    NAMESPACE_READY = "NamespaceReady"
    NAMESPACE_RESERVED = "NamespaceReserved"
    NAMESPACE_FOREIGN = "NamespaceForeign"
    NOT_EMPTY = "NotEmpty"


class KeyPairSpec(Model):
    """An OpenSSH public key in one line (RFC 4253, section 6.6)."""

    public_key: Annotated[
        str,
        Field(
            min_length=20,
            max_length=16384,
            pattern=r"^(ssh-(rsa|ed25519)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
            r" [A-Za-z0-9+/]+={0,2}( [^\n\r]*)?$",
        ),
    ]

    model_config = validated(Rule("self == oldSelf", "a key pair cannot change: make a new one"))


class KeyPair(Kind):
    """A public SSH key that is put into servers (Nova's keypair)."""

    definition: ClassVar = Definition(
        plural="keypairs",
        short_names=("kkey",),
        columns=(Column("Age", ".metadata.creationTimestamp", "date"),),
        in_all=False,
    )

    spec: KeyPairSpec
