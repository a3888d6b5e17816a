"""The Kumulus API: one pydantic model per kind, from which CRDs and reference pages are made."""

from kumulus_api.aggregate import HostAggregate
from kumulus_api.backup_policy import BackupPolicy
from kumulus_api.base import (
    API_VERSION,
    FINALIZER,
    GROUP,
    IN_USE,
    PROJECT_LABEL,
    PUBLIC_NAMESPACE,
    VERSION,
    Condition,
    Kind,
    Reference,
    Resource,
)
from kumulus_api.claims import AddressClaim, NetworkIDClaim
from kumulus_api.console import ConsoleSession
from kumulus_api.dns import DNSRecord, DNSZone, DNSZoneClaim
from kumulus_api.firewall_group import FirewallGroup
from kumulus_api.flavor import Flavor
from kumulus_api.floating_ip import FloatingIP
from kumulus_api.host import Host
from kumulus_api.image import Image
from kumulus_api.image_acceptance import ImageAcceptance
from kumulus_api.image_upload import ImageUpload
from kumulus_api.load_balancer import LoadBalancer
from kumulus_api.network import Network, NetworkEndpoints
from kumulus_api.network_trace import NetworkTrace
from kumulus_api.port import Port
from kumulus_api.router import Router
from kumulus_api.security_group import SecurityGroup
from kumulus_api.server import Server
from kumulus_api.server_action import ServerAction
from kumulus_api.server_group import ServerGroup
from kumulus_api.tenancy import KeyPair, Project
from kumulus_api.volume import Volume
from kumulus_api.volume_backup import VolumeBackup
from kumulus_api.volume_class import VolumeClass
from kumulus_api.volume_snapshot import VolumeSnapshot
from kumulus_api.volume_transfer import VolumeTransfer
from kumulus_api.vpn_connection import VPNConnection

KINDS: tuple[type[Kind], ...] = (
    Project,
    Flavor,
    Host,
    HostAggregate,
    Image,
    ImageAcceptance,
    KeyPair,
    Network,
    NetworkEndpoints,
    Port,
    SecurityGroup,
    Router,
    FloatingIP,
    LoadBalancer,
    FirewallGroup,
    VPNConnection,
    NetworkTrace,
    Volume,
    VolumeClass,
    VolumeSnapshot,
    VolumeTransfer,
    VolumeBackup,
    BackupPolicy,
    Server,
    ServerAction,
    ServerGroup,
    ConsoleSession,
    ImageUpload,
    DNSZone,
    DNSRecord,
    AddressClaim,
    NetworkIDClaim,
    DNSZoneClaim,
)
"""All kinds, in the order in which they are documented."""

__all__ = [
    "API_VERSION",
    "FINALIZER",
    "GROUP",
    "IN_USE",
    "KINDS",
    "PROJECT_LABEL",
    "PUBLIC_NAMESPACE",
    "VERSION",
    "AddressClaim",
    "BackupPolicy",
    "Condition",
    "ConsoleSession",
    "DNSRecord",
    "DNSZone",
    "DNSZoneClaim",
    "FirewallGroup",
    "Flavor",
    "FloatingIP",
    "Host",
    "HostAggregate",
    "Image",
    "ImageAcceptance",
    "ImageUpload",
    "KeyPair",
    "Kind",
    "LoadBalancer",
    "Network",
    "NetworkEndpoints",
    "NetworkIDClaim",
    "NetworkTrace",
    "Port",
    "Project",
    "Reference",
    "Resource",
    "Router",
    "SecurityGroup",
    "Server",
    "ServerAction",
    "ServerGroup",
    "VPNConnection",
    "Volume",
    "VolumeBackup",
    "VolumeClass",
    "VolumeSnapshot",
    "VolumeTransfer",
]
