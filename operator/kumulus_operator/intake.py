"""Take in what was seen, by a watch or as the answer to an own write: update the books, put keys into queues.

Nothing is decided here. Each function gets the former and the new state of one object; None is "not there".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
from kumulus_operator.claims.intake import address_claim_seen, network_id_claim_seen
from kumulus_operator.dns import book as names
from kumulus_operator.firewall_groups.index import take_firewall_group
from kumulus_operator.images.held import is_snapshot
from kumulus_operator.images.intake import acceptance_seen, image_seen
from kumulus_operator.load_balancers.intake import host_in_balancers, server_in_balancers, take_load_balancer
from kumulus_operator.networks.plan import told_by
from kumulus_operator.peerings import intake as peerings
from kumulus_operator.routers.intake import host_changed, ports_moved, take_floating_ip, take_router
from kumulus_operator.security_groups.intake import port_in_groups, security_group_seen
from kumulus_operator.traces.plan import is_open
from kumulus_operator.views import Key
from kumulus_operator.volume_backups.intake import backup_seen, policy_seen, root_disk_seen
from kumulus_operator.volumes.intake import class_seen, shares_seen, snapshot_seen, transfer_seen, volume_moved
from kumulus_operator.volumes.plan import admitted_before
from kumulus_operator.vpn_connections.intake import take_vpn_connection
from kumulus_operator.waiting import CAPACITY, Need, any_of, quota

if TYPE_CHECKING:
    from kumulus_operator.cloud import Cloud

Taker = Callable[["Cloud", Any, Any], None]


def take(cloud: Cloud, kind: type[Kind], body: dict[str, Any], *, deleted: bool) -> None:
    """Take one object in; what is not news changes nothing."""
    view = cloud.views[kind]
    former, new = (view.drop(body), None) if deleted else view.put(body)
    if former is new:
        return
    _TAKERS[kind](cloud, former, new)
    if new is None:
        _emptier(cloud, body)


def _emptier(cloud: Cloud, gone: dict[str, Any]) -> None:
    """Have a project that is being deleted looked at when something in it is gone."""
    namespace = gone["metadata"].get("namespace") or ""
    project = cloud.projects.get("", namespace)
    if project is not None and project.deleting:
        cloud.queues.projects.add(("", namespace))


def _project(cloud: Cloud, former: Project | None, new: Project | None) -> None:
    name = (new or former).metadata.name  # type: ignore[union-attr]
    peerings.project_seen(cloud, former, new)
    if former is None or new is None or _but_usage(former) != _but_usage(new):
        cloud.queues.projects.add(("", name))
    if former is None or new is None or former.spec.quota != new.spec.quota:
        cloud.wake(quota(name))
        cloud.usage_changed(name)
        names.quota_changed(cloud, name)


def _but_usage(project: Project) -> tuple[Any, ...]:
    """Give all of a project that its namespace and roles depend on: its usage changes with each server."""
    status = project.status
    shown = (status.conditions, status.namespace, status.observed_generation) if status is not None else None
    return project.metadata.uid, project.deleting, project.metadata.finalizers, project.spec, shown


def _named(cloud: Cloud, former: Kind | None, new: Kind | None) -> None:
    """Take in what others only wait for by its name."""
    if former is None and new is not None:
        cloud.wake((type(new).__name__, *new.key))


def _host(cloud: Cloud, former: Host | None, new: Host | None) -> None:
    host = new or former
    if host is None:
        return
    name = host.metadata.name
    cloud.queues.hosts.add(("", name))
    _index_host(cloud, former, new)
    shares_seen(cloud, name, new)
    peerings.host_seen(cloud, former, new)
    if _placement_facts(former) != _placement_facts(new):
        cloud.wake(CAPACITY, ("Host", "", name))
        host_changed(cloud, former, new)
        host_in_balancers(cloud, name)
    if _tunnel(former) != _tunnel(new):
        for network, servers in cloud.users_of_network.items():
            if servers & cloud.servers_on[name]:
                cloud.queues.endpoints.add(network)
    if new is not None and new.spec.decommissioned and not (former and former.spec.decommissioned):
        for key in cloud.servers_on[name]:
            cloud.queues.servers.add(key)
            for network in cloud.networks_of(key):
                cloud.queues.endpoints.add(network)
        for volume in cloud.volumes:
            cloud.queues.volumes.add(volume.key)


def _index_host(cloud: Cloud, former: Host | None, new: Host | None) -> None:
    if new is not None:
        cloud.ledger.host_seen(cloud.facts_of(new))
        cloud.running.see(new)
    elif former is not None:
        cloud.ledger.host_gone(former.metadata.name)
        cloud.running.drop(former.metadata.name)
    name = (new or former).metadata.name  # type: ignore[union-attr]
    for key in cloud.image_holders.see(name, new):
        cloud.queues.images.add(key)
    if former is None or new is None or former.metadata.labels != new.metadata.labels:
        _enqueue_aggregates(cloud)
        for image in cloud.images:
            if image.spec.pre_pull is not None:
                cloud.queues.images.add(image.key)


def _placement_facts(host: Host | None) -> tuple[Any, ...] | None:
    if host is None:
        return None
    status = host.status
    conditions = [(item.type, item.status) for item in status.conditions] if status else []
    facts: tuple[Any, ...] = ()
    if status is not None:
        able = (status.inventory, status.devices, status.traits, status.architecture)
        facts = (*able, status.tunnel_address, status.physical_networks, status.unclaimed_instances)
        facts += (status.missing_packages, status.taken_over)
    return (host.spec, host.metadata.labels, sorted(conditions), facts)


def _tunnel(host: Host | None) -> str | None:
    return host.status.tunnel_address if host is not None and host.status is not None else None


def _host_aggregate(cloud: Cloud, former: HostAggregate | None, new: HostAggregate | None) -> None:
    if former is not None and new is not None and (former.spec, former.deleting) == (new.spec, new.deleting):
        cloud.queues.aggregates.add(new.key)
        return
    for host in cloud.hosts:
        cloud.ledger.host_seen(cloud.facts_of(host))
    _enqueue_aggregates(cloud)
    cloud.wake(CAPACITY)


def _enqueue_aggregates(cloud: Cloud) -> None:
    """Have all aggregates looked at: a zone that two give to one host concerns both."""
    for aggregate in cloud.host_aggregates:
        cloud.queues.aggregates.add(aggregate.key)


def _image(cloud: Cloud, former: Image | None, new: Image | None) -> None:
    item = new or former
    if item is None:
        return
    cloud.queues.images.add(item.key)
    image_seen(cloud, former, new)
    if is_snapshot(new):
        cloud.counted_snapshots.admit(item.key, admitted=True)
    else:
        cloud.counted_snapshots.withdraw(item.key)
    if new is not None:
        cloud.wake(("Image", *item.key))


def _network(cloud: Cloud, former: Network | None, new: Network | None) -> None:
    item = new or former
    if item is None:
        return
    cloud.queues.networks.add(item.key)
    cloud.wake(("Network", *item.key))
    if former is None or new is None:
        cloud.wake(any_of("Network", item.key[0]))
    if cloud.users_of_network.get(item.key) or cloud.balancers.in_network.get(item.key):
        cloud.queues.endpoints.add(item.key)
    names.network_changed(cloud, former, new)
    peerings.network_seen(cloud, former, new)
    for router in cloud.edges.routers_in.get(item.key, ()):
        cloud.queues.routers.add(router)
    if new is None:
        for claim in cloud.network_id_claims:
            if (claim.spec.claim_ref.namespace, claim.spec.claim_ref.name) == item.key:
                cloud.queues.claims.add(("NetworkIDClaim", claim.metadata.name))


def _endpoints(cloud: Cloud, former: NetworkEndpoints | None, new: NetworkEndpoints | None) -> None:
    if new is None and former is not None:
        cloud.queues.endpoints.add((former.key[0], former.spec.network.name))


def _port(cloud: Cloud, former: Port | None, new: Port | None) -> None:
    item = new or former
    if item is None:
        return
    _indexed(cloud.ports_owned, item.key, _owner(former), _owner(new))
    port_in_groups(cloud, former, new)
    ports_moved(cloud, [item.key])
    reference = item.spec.network
    held = cloud.ledger.held_by(("Port", *item.key)) is not None or item.key in cloud.balancers.of_port
    if told_by(former) != told_by(new) and held:
        cloud.queues.endpoints.add((reference.namespace or item.key[0], reference.name))
    if new is not None:
        cloud.ledger.port_seen(new)
        if not any(owner.kind == "Server" for owner in new.metadata.owner_references):
            cloud.queues.ports.add(item.key)
        on = new.status.host if new.status is not None else None
        if on is not None and cloud.hosts.get("", on) is None:
            cloud.queues.hosts.add(("", on))
        had = former is not None and former.spec.assignment is not None
        if new.spec.assignment is not None and not had:
            cloud.wake(("Port", *item.key))
        _bound_elsewhere(cloud, new)
        return
    cloud.ledger.port_gone(item)
    cloud.unused((reference.namespace or item.key[0], reference.name))
    for claim in cloud.addresses.held_by(item.key):
        cloud.queues.claims.add(("AddressClaim", claim.metadata.name))
    cloud.wake(("Port", *item.key), quota(item.key[0]))
    for owner in item.metadata.owner_references:
        if owner.kind == "Server":
            cloud.queues.servers.add((item.key[0], owner.name))


def _owner(port: Port | None) -> str | None:
    if port is None:
        return None
    return next((item.name for item in port.metadata.owner_references if item.kind == "Server"), None)


def _holders(volume: Volume | None) -> frozenset[str]:
    place = volume.spec.assignment if volume is not None else None
    return frozenset(place.holders) if place is not None else frozenset()


def _indexed(index: dict[Key, set[Key]], item: Key, former: str | None, new: str | None) -> None:
    """Keep under the name of a server of its namespace what belongs to it."""
    if former == new:
        return
    if former is not None:
        index[item[0], former].discard(item)
        if not index[item[0], former]:
            del index[item[0], former]
    if new is not None:
        index[item[0], new].add(item)


def _bound_elsewhere(cloud: Cloud, port: Port) -> None:
    """Have a placed server look at a port of its own that names another host than its own."""
    holder = cloud.ledger.held_by(("Port", *port.key))
    server = cloud.servers.get(port.key[0], holder) if holder is not None else None
    if server is None or server.spec.assignment is None or port.spec.assignment is None:
        return
    if server.spec.assignment.host != port.spec.assignment.host:
        cloud.queues.servers.add(server.key)


def _volume(cloud: Cloud, former: Volume | None, new: Volume | None) -> None:
    item = new or former
    if item is None:
        return
    cloud.queues.volumes.add(item.key)
    had, has = _holders(former), _holders(new)
    for server in had - has:
        _indexed(cloud.volumes_held, item.key, server, None)
    for server in has - had:
        _indexed(cloud.volumes_held, item.key, None, server)
    if new is not None:
        cloud.ledger.volume_seen(new)
        if admitted_before(new):
            cloud.ledger.admit_volume(new, counted=True)
        released = former is not None and former.spec.assignment != new.spec.assignment
        if former is None or released:
            cloud.wake(("Volume", *item.key))
        volume_moved(cloud, former, new)
        return
    cloud.ledger.volume_gone(item)
    cloud.wake(("Volume", *item.key), quota(item.key[0]), CAPACITY, any_of("VolumeClass", ""))


def _server(cloud: Cloud, former: Server | None, new: Server | None) -> None:
    item = new or former
    if item is None:
        return
    cloud.queues.servers.add(item.key)
    _index_server(cloud, former, new)
    server_in_balancers(cloud, former, new)
    if new is not None:
        root_disk_seen(cloud, former, new)
        if former is not None and former.metadata.uid != new.metadata.uid:
            cloud.ledger.server_gone(former.key)
        if cloud.ledger.server_seen(new) and former is not None:
            cloud.wake(CAPACITY, quota(new.key[0]))
        if former is not None:
            cloud.wake(*(_held(former) - _held(new)))
        return
    cloud.ledger.server_gone(item.key)
    cloud.wake(CAPACITY, quota(item.key[0]), ("Server", *item.key))
    for attachment in item.spec.volumes:
        cloud.queues.volumes.add((item.key[0], attachment.volume.name))
    for interface in item.spec.networks or ():
        if interface.port is not None:
            cloud.queues.ports.add((item.key[0], interface.port.name))
            cloud.wake(("Port", item.key[0], interface.port.name))


def _held(server: Server) -> set[Need]:
    """Give what a server was given, which others may wait for."""
    given, namespace = server.spec.assignment, server.key[0]
    if given is None:
        return set()
    ports: set[Need] = {("Port", namespace, item.port) for item in given.ports}
    return ports | {("Volume", namespace, item.volume) for item in given.volumes}


def _action(cloud: Cloud, former: ServerAction | None, new: ServerAction | None) -> None:
    item = new or former
    if item is None:
        return
    cloud.queues.actions.add(item.key)
    if new is None or (new.status is not None and new.status.finished_at is not None):
        # The next one of the server may be due.
        for other in cloud.actions_of(item.key[0], item.spec.server.name):
            cloud.queues.actions.add(other.key)


def _trace(cloud: Cloud, former: NetworkTrace | None, new: NetworkTrace | None) -> None:
    key = (new or former).key  # type: ignore[union-attr]
    cloud.queues.traces.add(key)
    if former is not None and is_open(former) and (new is None or not is_open(new)):
        # The next one of the project may be due.
        for other in cloud.traces.in_namespace(key[0]):
            cloud.queues.traces.add(other.key)


def _index_server(cloud: Cloud, former: Server | None, new: Server | None) -> None:
    old = former.spec.assignment if former is not None else None
    now = new.spec.assignment if new is not None else None
    if old == now:
        return
    networks: set[tuple[str, str]] = set()
    if former is not None and old is not None:
        cloud.servers_on[old.host].discard(former.key)
        networks |= {(port.network_namespace, port.network) for port in old.ports}
        for network in networks:
            cloud.users_of_network[network].discard(former.key)
    if new is not None and now is not None:
        cloud.servers_on[now.host].add(new.key)
        for port in now.ports:
            network = (port.network_namespace, port.network)
            cloud.users_of_network[network].add(new.key)
            networks.add(network)
    for network in networks:
        cloud.queues.endpoints.add(network)
        cloud.unused(network)
        names.servers_changed(cloud, network)
    item = new or former
    if item is not None:
        given = [*(old.ports if old is not None else ()), *(now.ports if now is not None else ())]
        ports = {(item.key[0], port.port) for port in given}
        ports_moved(cloud, ports)
        if ports & cloud.edges.floating_to.keys():
            cloud.queues.floating_told.add(item.key)


_TAKERS: dict[type[Kind], Taker] = {
    Project: _project,
    Flavor: _named,
    KeyPair: _named,
    Host: _host,
    HostAggregate: _host_aggregate,
    Image: _image,
    ImageAcceptance: acceptance_seen,
    Network: _network,
    NetworkEndpoints: _endpoints,
    Port: _port,
    SecurityGroup: security_group_seen,
    Router: take_router,
    FloatingIP: take_floating_ip,
    NetworkTrace: _trace,
    LoadBalancer: take_load_balancer,
    FirewallGroup: take_firewall_group,
    VPNConnection: take_vpn_connection,
    Volume: _volume,
    VolumeClass: class_seen,
    VolumeSnapshot: snapshot_seen,
    VolumeTransfer: transfer_seen,
    VolumeBackup: backup_seen,
    BackupPolicy: policy_seen,
    Server: _server,
    ServerAction: _action,
    ServerGroup: _named,
    AddressClaim: address_claim_seen,
    NetworkIDClaim: network_id_claim_seen,
    DNSZone: names.zone_seen,
    DNSRecord: names.record_seen,
    DNSZoneClaim: names.claim_seen,
}
