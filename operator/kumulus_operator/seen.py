"""What the watches have shown: the objects of each kind that the operator works with."""

from __future__ import annotations

from typing import Any

from kumulus_api import (
    AddressClaim,
    BackupPolicy,
    DNSRecord,
    DNSZone,
    DNSZoneClaim,
    FirewallGroup,
    Flavor,
    FloatingIP,
    Host,
    HostAggregate,
    Image,
    ImageAcceptance,
    KeyPair,
    Kind,
    LoadBalancer,
    Network,
    NetworkEndpoints,
    NetworkIDClaim,
    NetworkTrace,
    Port,
    Project,
    Router,
    SecurityGroup,
    Server,
    ServerAction,
    ServerGroup,
    Volume,
    VolumeBackup,
    VolumeClass,
    VolumeSnapshot,
    VolumeTransfer,
    VPNConnection,
)
from kumulus_operator.images.holders import Holders
from kumulus_operator.images.sharing import Acceptances
from kumulus_operator.views import View


class Seen:
    """A view of each kind, and who has accepted which image."""

    def __init__(self) -> None:
        self.projects = View(Project)
        self.flavors = View(Flavor)
        self.hosts = View(Host)
        self.host_aggregates = View(HostAggregate)
        self.images = View(Image)
        self.image_acceptances = View(ImageAcceptance)
        self.image_holders = Holders()
        self.key_pairs = View(KeyPair)
        self.networks = View(Network)
        self.endpoints = View(NetworkEndpoints)
        self.ports = View(Port)
        self.security_groups = View(SecurityGroup)
        self.routers = View(Router)
        self.floating_ips = View(FloatingIP)
        self.traces = View(NetworkTrace)
        self.load_balancers = View(LoadBalancer)
        self.firewall_groups = View(FirewallGroup)
        self.vpn_connections = View(VPNConnection)
        self.volumes = View(Volume)
        self.volume_classes = View(VolumeClass)
        self.volume_snapshots = View(VolumeSnapshot)
        self.volume_transfers = View(VolumeTransfer)
        self.volume_backups = View(VolumeBackup)
        self.backup_policies = View(BackupPolicy)
        self.servers = View(Server)
        self.actions = View(ServerAction)
        self.server_groups = View(ServerGroup)
        self.address_claims = View(AddressClaim)
        self.network_id_claims = View(NetworkIDClaim)
        self.dns_zones = View(DNSZone)
        self.dns_records = View(DNSRecord)
        self.dns_zone_claims = View(DNSZoneClaim)
        self.acceptances = Acceptances()
        self.views: dict[type[Kind], View[Any]] = {
            view.kind: view for view in vars(self).values() if isinstance(view, View)
        }
