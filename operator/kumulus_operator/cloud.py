"""What the operator knows and works with: views of all kinds, the books, the queues."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

from kumulus_api import (
    Host,
    Kind,
    Port,
    ServerAction,
)
from kumulus_api.base import Model
from kumulus_api.tenancy import Quota
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.dns.book import ZoneBook, domains_of
from kumulus_operator.dns.files import ZoneFiles
from kumulus_operator.firewall_groups.index import Guards
from kumulus_operator.hosts.liveness import Liveness
from kumulus_operator.hosts.running import RunningInstances
from kumulus_operator.images.book import ImageBook
from kumulus_operator.intake import take
from kumulus_operator.ipam.claims import AddressBook
from kumulus_operator.ledger.counted import Counted
from kumulus_operator.ledger.groups import GroupBook
from kumulus_operator.ledger.ledger import Ledger
from kumulus_operator.ledger.plan import Usage
from kumulus_operator.load_balancers.index import Balancers
from kumulus_operator.placement.facts import HostFacts
from kumulus_operator.placement.inventory import host_facts
from kumulus_operator.refusal import Refusal
from kumulus_operator.routers.index import Edges
from kumulus_operator.secret_watch import SecretWatch
from kumulus_operator.seen import Seen
from kumulus_operator.settings import OperatorSettings
from kumulus_operator.views import Key, KindT
from kumulus_operator.volume_backups.book import BackupBook
from kumulus_operator.waiting import CAPACITY, STANDBY, Need, Waiters
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import Conflict, NotFound
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.workqueue import WorkQueue


class Queues:
    """One work queue for each kind of work; keys are namespace and name."""

    def __init__(self) -> None:
        self.projects: WorkQueue[Key] = WorkQueue("projects")
        self.networks: WorkQueue[Key] = WorkQueue("networks")
        self.endpoints: WorkQueue[Key] = WorkQueue("endpoints")
        self.ports: WorkQueue[Key] = WorkQueue("ports")
        self.security_groups: WorkQueue[Key] = WorkQueue("security-groups")
        self.routers: WorkQueue[Key] = WorkQueue("routers")
        self.floating_ips: WorkQueue[Key] = WorkQueue("floating-ips")
        self.floating_told: WorkQueue[Key] = WorkQueue("floating-told")
        self.traces: WorkQueue[Key] = WorkQueue("network-traces")
        self.load_balancers: WorkQueue[Key] = WorkQueue("load-balancers")
        self.firewall_groups: WorkQueue[Key] = WorkQueue("firewall-groups")
        self.vpn_connections: WorkQueue[Key] = WorkQueue("vpn-connections")
        self.servers: WorkQueue[Key] = WorkQueue("servers")
        self.actions: WorkQueue[Key] = WorkQueue("actions")
        self.volumes: WorkQueue[Key] = WorkQueue("volumes")
        self.volume_classes: WorkQueue[Key] = WorkQueue("volume-classes")
        self.volume_snapshots: WorkQueue[Key] = WorkQueue("volume-snapshots")
        self.volume_transfers: WorkQueue[Key] = WorkQueue("volume-transfers")
        self.volume_backups: WorkQueue[Key] = WorkQueue("volume-backups")
        self.backup_policies: WorkQueue[Key] = WorkQueue("backup-policies")
        self.images: WorkQueue[Key] = WorkQueue("images")
        self.image_acceptances: WorkQueue[Key] = WorkQueue("image-acceptances")
        self.image_members: WorkQueue[Key] = WorkQueue("image-members")
        self.hosts: WorkQueue[Key] = WorkQueue("hosts")
        self.aggregates: WorkQueue[Key] = WorkQueue("aggregates")
        self.usage: WorkQueue[Key] = WorkQueue("usage")
        self.claims: WorkQueue[Key] = WorkQueue("claims")
        self.dns_zones: WorkQueue[Key] = WorkQueue("dns-zones")
        self.dns_records: WorkQueue[Key] = WorkQueue("dns-records")
        self.dns_pods: WorkQueue[Key] = WorkQueue("dns-pods")
        self.relists: WorkQueue[Key] = WorkQueue("relists")

    def all(self) -> list[WorkQueue[Key]]:
        """Give all queues."""
        return list(vars(self).values())


class Cloud(Seen):
    """Everything that reconciles share. It decides nothing.

    Args:
        client: to reach the API server.
        settings: of the process.
    """

    def __init__(self, client: KubeClient, settings: OperatorSettings) -> None:
        super().__init__()
        self.client = client
        self.settings = settings
        self.tuning = settings.tuning
        self.events = EventRecorder(client, "kumulus.dev/operator")
        self.queues = Queues()
        self.liveness = Liveness(settings.host_silence)
        self.running = RunningInstances()
        self.addresses = AddressBook(client)
        self.names = ZoneBook()
        self.zone_files = ZoneFiles(client, settings.system_namespace, settings.zone_shards, self._zone_file_changed)
        self.ledger = Ledger(
            self.quota_of, self.host_fresh, self.tuning.weights, self.usage_changed, self.class_usage_changed
        )
        self.group_book = GroupBook(self.quota_of, self.usage_changed)
        self.counted_snapshots = Counted("snapshots", lambda name: self.quota_of(name).snapshots, self.usage_changed)
        self.counted_routers = Counted("routers", lambda name: self.quota_of(name).routers, self.usage_changed)
        self.counted_floating_ips = Counted(
            "floating IPs", lambda name: self.quota_of(name).floating_ips, self.usage_changed
        )
        self.counted_load_balancers = Counted(
            "load balancers", lambda name: self.quota_of(name).load_balancers, self.usage_changed
        )
        self.counted_firewall_groups = Counted(
            "firewall groups", lambda name: self.quota_of(name).firewall_groups, self.usage_changed
        )
        self.counted_vpn_connections = Counted(
            "VPN connections", lambda name: self.quota_of(name).vpn_connections, self.usage_changed
        )
        self.edges = Edges()
        self.balancers = Balancers()
        self.guards = Guards()
        self.server_waiters = Waiters()
        self.port_waiters = Waiters()
        self.group_waiters = Waiters()
        self.router_waiters = Waiters()
        self.floating_ip_waiters = Waiters()
        self.load_balancer_waiters = Waiters()
        self.vpn_waiters = Waiters()
        self.image_waiters = Waiters()
        (
            self.volume_waiters,
            self.volume_snapshot_waiters,
            self.volume_transfer_waiters,
            self.volume_backup_waiters,
        ) = (Waiters() for _ in range(4))
        self.user_data = SecretWatch(client, self.queues.servers.add)
        self.volume_keys = SecretWatch(client, self.queues.volumes.add)
        self.certificates = SecretWatch(client, self.queues.load_balancers.add)
        """As long as the load balancers are there; and the keys of VPN connections, too."""
        self.vpn_keys = SecretWatch(client, self.queues.vpn_connections.add)
        self.users_of_network: dict[Key, set[Key]] = defaultdict(set)
        """Servers that have a port on a network."""
        self.users_of_group: dict[Key, set[Key]] = defaultdict(set)
        """Ports that are in a security group."""
        self.ports_owned: dict[Key, set[Key]] = defaultdict(set)
        """Ports that were made for a server, by its name."""
        self.volumes_held: dict[Key, set[Key]] = defaultdict(set)
        """Volumes that say that a server holds them, by its name."""
        self.servers_on: dict[str, set[Key]] = defaultdict(set)
        """Servers that are assigned to a host."""
        self.placing: Counter[Key] = Counter()
        """How many servers are just being given a port on a network."""
        self.abandoned: dict[str, float] = {}
        """Claims whose claimant was found gone, by name, and when (monotonic seconds)."""

    @cached_property
    def image_book(self) -> ImageBook:
        """Images of all projects, and their bytes."""
        return ImageBook(self.quota_of, self.usage_changed)

    @cached_property
    def backup_book(self) -> BackupBook:
        """Backups of all projects, and the bytes of their volumes."""
        return BackupBook(self.quota_of, self.usage_changed)

    def take(self, kind: type[Kind], body: dict[str, Any], *, deleted: bool = False) -> None:
        """Take in an object as seen; see `kumulus_operator.intake`."""
        take(self, kind, body, deleted=deleted)

    async def write_status(self, item: Kind, status: dict[str, Any], *, manager: str = MANAGER) -> bool:
        """Apply a status to this very object and take it in; give whether it was still there."""
        kind = type(item)
        try:
            body = await self.client.apply_status(kind, identity(item) | {"status": status}, manager=manager)
        except (NotFound, Conflict):
            return False  # It is gone; the watch says so too.
        self.take(kind, body)
        return True

    async def tell(
        self,
        item: Kind,
        status: dict[str, Any] | None,
        faults: Iterable[Refusal],
        passing: Collection[str] = (),
    ) -> None:
        """Write a status that is another than before, with an Event for each fault.

        Args:
            item: the object.
            status: None if it says so already.
            faults: that the status tells of.
            passing: reasons of faults that are no Events, as they pass by themselves.
        """
        if status is None or not await self.write_status(item, status):
            return
        for fault in faults:
            if fault.reason not in passing:
                self.events.post(identity(item), fault.reason, fault.message, warning=True)

    async def assign(self, item: KindT, assignment: Model) -> KindT:
        """Apply an assignment to this very object and take it in; give the object as it is then.

        Raises:
            Conflict, NotFound: it is gone, or another one has its name.
        """
        kind = type(item)
        wanted = identity(item) | {"spec": {"assignment": assignment.dump()}}
        body = await self.client.apply(kind, wanted, manager=MANAGER)
        self.take(kind, body)
        return kind.model_validate(body)

    async def let_go(self, item: Kind, finalizer: str) -> None:
        """Remove a finalizer, if the API says now that this very object is being deleted."""
        kind, metadata = type(item), item.metadata
        live = await self.client.get(kind, metadata.name, metadata.namespace)
        if live is not None and live["metadata"]["uid"] == metadata.uid and live["metadata"].get("deletionTimestamp"):
            await self.client.remove_finalizer(kind, metadata.name, finalizer, metadata.namespace, uid=metadata.uid)

    def _zone_file_changed(self, domain: str) -> None:
        """Have the zone looked at whose file somebody else has changed."""
        self.queues.dns_zones.add(("", domain))
        self.zone_files_written()

    def zone_files_written(self) -> None:
        """Have the name servers told, when the kubelets have heard of the files too."""
        self.queues.dns_pods.add_after(("", ""), self.settings.zones_debounce)

    def ports_of(self, server: Key) -> set[Key]:
        """Give the ports that a server was given."""
        found = self.servers.get(*server)
        given = found.spec.assignment if found is not None else None
        return {(server[0], port.port) for port in given.ports} if given is not None else set()

    def actions_of(self, namespace: str, server: str) -> list[ServerAction]:
        """Give all actions on a server, ended ones too."""
        return [item for item in self.actions.in_namespace(namespace) if item.spec.server.name == server]

    @contextmanager
    def placing_on(self, networks: Collection[Key]) -> Iterator[None]:
        """Keep networks while a server is placed on them, though nothing of it can be seen yet."""
        self.placing.update(networks)
        try:
            yield
        finally:
            self.placing.subtract(networks)
            for network in networks:
                self.unused(network)

    def unused(self, network: Key) -> None:
        """Note that something uses a network no more: a deletion may go on."""
        found = self.networks.get(*network)
        if found is not None and found.deleting:
            self.queues.networks.add(network)

    def networks_of(self, server: Key) -> set[Key]:
        """Give the networks in which a server has ports."""
        found = self.servers.get(*server)
        given = found.spec.assignment if found is not None else None
        return {(port.network_namespace, port.network) for port in given.ports} if given is not None else set()

    def host_facts(self) -> list[HostFacts]:
        """Give all hosts as they are now."""
        return [self.facts_of(host, fresh=self.host_fresh(host.metadata.name)) for host in self.hosts]

    def facts_of(self, host: Host, *, fresh: bool = True) -> HostFacts:
        """Give what placement compares of a host."""
        return host_facts(host, self.host_aggregates, self.tuning, fresh=fresh, classes=self.volume_classes)

    def host_fresh(self, name: str) -> bool:
        """Give whether a host certainly renews its Lease."""
        return self.liveness.fresh(name, time.monotonic())

    def usage_changed(self, namespace: str) -> None:
        """Have a project's usage written, together with what changes until then."""
        self.queues.usage.add_after(("", namespace), self.settings.usage_debounce)

    def class_usage_changed(self, name: str) -> None:
        """Have it written what the volumes of a class take, together with what changes until then."""
        self.queues.volume_classes.add_after(("", name), self.settings.usage_debounce)

    def usage_of(self, namespace: str) -> Usage:
        """Give what a project uses."""
        groups, rules = self.group_book.used(namespace)
        images, image_bytes = self.image_book.used(namespace)
        backups, backup_bytes = self.backup_book.used(namespace)
        return replace(
            self.ledger.usage(namespace),
            groups=groups,
            group_rules=rules,
            snapshots=self.counted_snapshots.count(namespace),
            backups=backups,
            backup_bytes=backup_bytes,
            images=images,
            image_bytes=image_bytes,
            routers=self.counted_routers.count(namespace),
            floating_ips=self.counted_floating_ips.count(namespace),
            load_balancers=self.counted_load_balancers.count(namespace),
            firewall_groups=self.counted_firewall_groups.count(namespace),
            vpn_connections=self.counted_vpn_connections.count(namespace),
            dns_zones=len(domains_of(self, namespace)),
        )

    def quota_of(self, namespace: str) -> Quota:
        """Give the limits of a project; a namespace without Project has none."""
        project = self.projects.get("", namespace)
        return project.spec.quota if project is not None else Quota()

    def host_silent(self, name: str) -> bool:
        """Give whether a host has not renewed its Lease for too long."""
        return self.liveness.silent_in(name, time.monotonic()) <= 0

    def host_lost(self, name: str) -> bool:
        """Give whether a host is no more: it is silent, and its Host is gone or was given up by an administrator."""
        host = self.hosts.get("", name)
        return (host is None or host.spec.decommissioned) and self.host_silent(name)

    def ports_on(self, host: str) -> list[Port]:
        """Give the ports of which a host has said that they are there."""
        return [port for port in self.ports if port.status is not None and port.status.host == host]

    def host_speaks(self, name: str) -> None:
        """Note that a host renews its Lease (again)."""
        self.queues.hosts.add(("", name))
        self.ledger.more_room()
        self.wake(CAPACITY, STANDBY, ("Host", "", name))

    def wake(self, *needs: Need) -> None:
        """Have everything looked at again that waits for one of the needs."""
        for waiters, queue in (
            (self.server_waiters, self.queues.servers),
            (self.port_waiters, self.queues.ports),
            (self.group_waiters, self.queues.security_groups),
            (self.router_waiters, self.queues.routers),
            (self.floating_ip_waiters, self.queues.floating_ips),
            (self.load_balancer_waiters, self.queues.load_balancers),
            (self.vpn_waiters, self.queues.vpn_connections),
            (self.guards.waiters, self.queues.firewall_groups),
            (self.image_waiters, self.queues.images),
            (self.volume_waiters, self.queues.volumes),
            (self.volume_snapshot_waiters, self.queues.volume_snapshots),
            (self.volume_transfer_waiters, self.queues.volume_transfers),
            (self.volume_backup_waiters, self.queues.volume_backups),
        ):
            enqueue(queue, waiters.woken_by(*needs))


def network_of(port: Port) -> Key:
    """Give namespace and name of a port's network."""
    reference = port.spec.network
    return reference.namespace or port.key[0], reference.name


def enqueue(queue: WorkQueue[Key], keys: Iterable[Key]) -> None:
    """Add several keys."""
    for key in keys:
        queue.add(key)
