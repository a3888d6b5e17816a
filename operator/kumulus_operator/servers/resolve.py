"""Resolve what a Server refers to (pure): the objects, or the refusal that names what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn, Protocol

from kumulus_api import (
    PUBLIC_NAMESPACE,
    Flavor,
    Image,
    KeyPair,
    Network,
    Port,
    Reference,
    SecurityGroup,
    Server,
    ServerGroup,
    Volume,
)
from kumulus_api.devices import port_name
from kumulus_api.image import ImageFormat
from kumulus_api.quantities import parse_quantity
from kumulus_api.security_group import DEFAULT_GROUP
from kumulus_api.server import NetworkInterface, VolumeAttachment
from kumulus_api.server_status import ScheduledReason
from kumulus_operator.images.sharing import needs_of, usable_image
from kumulus_operator.ipam.plan import fixed_fault
from kumulus_operator.placement.facts import Wish
from kumulus_operator.placement.wish import wish_for
from kumulus_operator.refusal import refuse, shown
from kumulus_operator.security_groups.plan import names_of, need_of, require
from kumulus_operator.views import Key, View
from kumulus_operator.volumes.classes import Shelves, class_of, exportable, is_shared, unready
from kumulus_operator.volumes.holders import is_multi_attach
from kumulus_operator.waiting import CAPACITY, Need, any_of, quota

_OWNERS = {"Server": "another server", "LoadBalancer": "a load balancer"}
"""Kinds whose objects have ports of their own."""
_DEFAULT_INTERFACE = "default"


class Catalog(Shelves, Protocol):
    """The views that are looked into, beside those for volumes."""

    @property
    def flavors(self) -> View[Flavor]: ...  # noqa: D102
    @property
    def key_pairs(self) -> View[KeyPair]: ...  # noqa: D102
    @property
    def networks(self) -> View[Network]: ...  # noqa: D102
    @property
    def ports(self) -> View[Port]: ...  # noqa: D102
    @property
    def security_groups(self) -> View[SecurityGroup]: ...  # noqa: D102
    @property
    def server_groups(self) -> View[ServerGroup]: ...  # noqa: D102


@dataclass(frozen=True)
class Interface:
    """One of the server's interfaces with its network; `port` is the user's own port, if one was named."""

    name: str
    network: Network
    port_name: str
    port: Port | None = None
    address: str | None = None
    groups: tuple[str, ...] = (DEFAULT_GROUP,)


@dataclass(frozen=True)
class Resolved:
    """Everything that a server is made of, all of it present and ready."""

    flavor: Flavor
    image: Image
    interfaces: tuple[Interface, ...]
    volumes: tuple[tuple[str, Volume], ...]
    group: ServerGroup | None = None
    shared: frozenset[Key] = frozenset()
    """Of the volumes, those that any host finds."""
    exportable: frozenset[Key] = frozenset()
    """Of the volumes, those that can be used from another host than theirs."""
    classes: Mapping[Key, str] = field(default_factory=dict)
    """Of the volumes that are not bound, those of a class."""
    for_several: frozenset[Key] = frozenset()
    """Of the volumes, those that other servers may have too."""


def resolve(server: Server, catalog: Catalog) -> Resolved:
    """Look up all that a server refers to.

    Raises:
        Refused: something is missing, not ready, or does not fit.
    """
    namespace = server.metadata.namespace or ""
    flavor = catalog.flavors.get("", server.spec.flavor.name)
    if flavor is None:
        need = ("Flavor", "", server.spec.flavor.name)
        _missing(ScheduledReason.FLAVOR_NOT_FOUND, f"flavor {server.spec.flavor.name}", need)
    image = bootable_image(server, flavor, catalog)
    key_pair = server.spec.key_pair
    if key_pair is not None and catalog.key_pairs.get(namespace, key_pair.name) is None:
        need = ("KeyPair", namespace, key_pair.name)
        _missing(ScheduledReason.KEY_PAIR_NOT_FOUND, f"key pair {key_pair.name}", need)
    interfaces = tuple(resolve_interface(server, item, catalog) for item in _wanted_interfaces(server, catalog))
    volumes = tuple((item.name, resolve_volume(namespace, item, catalog)) for item in server.spec.volumes)
    shared = frozenset(volume.key for _, volume in volumes if is_shared(volume, catalog))
    serving = frozenset(volume.key for _, volume in volumes if exportable(volume, catalog))
    several = frozenset(volume.key for _, volume in volumes if is_multi_attach(volume, catalog))
    _check_boot_volume(server, volumes, several)
    unbound = [volume for _, volume in volumes if volume.spec.assignment is None]
    classes = {item.key: found.metadata.name for item in unbound if (found := class_of(item, catalog)) is not None}
    return Resolved(flavor, image, interfaces, volumes, _group(server, catalog), shared, serving, classes, several)


def _check_boot_volume(server: Server, volumes: tuple[tuple[str, Volume], ...], several: frozenset[Key]) -> None:
    """Check that a server boots from a volume that it has alone.

    Raises:
        Refused: several write to it.
    """
    boot = next((volume for name, volume in volumes if name == server.spec.boot_volume), None)
    if boot is not None and boot.key in several:
        name = boot.metadata.name
        message = f"volume {name} is for several servers, and none boots from it; permanent: boot from another volume"
        raise refuse(ScheduledReason.VOLUME_NOT_BOOTABLE, message, ("Volume", *boot.key))


def visible_namespace(namespace: str, reference: Reference) -> str | None:
    """Give the namespace that a reference leads to, or None if the referrer may not look there."""
    wanted = reference.namespace or namespace
    return wanted if wanted in (namespace, PUBLIC_NAMESPACE) else None


def _missing(reason: str, what: str, *needs: Need) -> NoReturn:
    raise refuse(reason, f"reference: {what} was not found; transient: goes on when it is made", *needs)


def bootable_image(server: Server, flavor: Flavor, catalog: Catalog) -> Image:
    """Look up the image of a server that is Ready and fits into a flavor.

    Raises:
        Refused: it is absent, not Ready or too large.
    """
    own = server.metadata.namespace or ""
    reference = server.spec.image
    image = usable_image(own, reference, catalog)
    status = image.status
    state = next((item for item in status.conditions if item.type == "Ready"), None) if status is not None else None
    ready = state is not None and state.status == "True"
    if status is None or not ready or status.digest is None or status.virtual_size is None:
        why = f" ({state.reason})" if state is not None and not ready else ""
        message = f"image: {shown(own, reference)} is not Ready{why}; transient: goes on when it is imported"
        raise refuse(ScheduledReason.IMAGE_NOT_READY, message, *needs_of(own, reference))
    content = 0 if image.spec.format is ImageFormat.ISO else status.virtual_size
    wanted_disk = max(content, parse_quantity(image.spec.min_disk) if image.spec.min_disk else 0)
    if server.spec.boot_volume is None and parse_quantity(flavor.spec.root_disk) < wanted_disk:
        message = (
            f"image: {shown(own, reference)} needs a disk of {wanted_disk} bytes, flavor {flavor.metadata.name} has "
            f"{flavor.spec.root_disk}; permanent: use a flavor with a larger rootDisk"
        )
        raise refuse(ScheduledReason.DISK_TOO_SMALL, message, *needs_of(own, reference))
    if image.spec.min_memory and parse_quantity(flavor.spec.memory) < parse_quantity(image.spec.min_memory):
        message = (
            f"image: {shown(own, reference)} needs {image.spec.min_memory} of memory, flavor "
            f"{flavor.metadata.name} has {flavor.spec.memory}; permanent: use a flavor with more memory"
        )
        raise refuse(ScheduledReason.MEMORY_TOO_SMALL, message, *needs_of(own, reference))
    return image


def _wanted_interfaces(server: Server, catalog: Catalog) -> list[NetworkInterface]:
    if server.spec.networks is not None:
        return list(server.spec.networks)
    namespace = server.metadata.namespace or ""
    # As in Nova, a server is on an external network only if it asks for it.
    found = catalog.networks.in_namespace(namespace)
    networks = [item for item in found if not item.deleting and not item.spec.external]
    if not networks:
        _missing(ScheduledReason.NETWORK_NOT_FOUND, f"a network in {namespace}", any_of("Network", namespace))
    if len(networks) > 1:
        names = ", ".join(sorted(item.metadata.name for item in networks)[:5])
        message = f"reference: {namespace} has {len(networks)} networks ({names}); permanent: name one in spec.networks"
        raise refuse(ScheduledReason.NETWORK_AMBIGUOUS, message, any_of("Network", namespace))
    return [NetworkInterface(name=_DEFAULT_INTERFACE, network=Reference(name=networks[0].metadata.name))]


def resolve_interface(server: Server, wanted: NetworkInterface, catalog: Catalog) -> Interface:
    """Look up the network of an interface, and its port if it names one.

    Raises:
        Refused: one of them is missing, not ready, or does not fit.
    """
    own = server.metadata.namespace or ""
    if wanted.port is not None:
        port = _user_port(server, wanted.port.name, catalog)
        network = ready_network(own, port.spec.network, catalog)
        groups = names_of(port.spec.security_groups)
        require(own, groups, catalog.security_groups)
        return Interface(wanted.name, network, port.metadata.name, port=port, groups=groups)
    if wanted.network is None:
        _missing(ScheduledReason.NETWORK_NOT_FOUND, f"the network of interface {wanted.name}")
    network = ready_network(own, wanted.network, catalog)
    if wanted.address is not None:
        fault = fixed_fault(network.spec.subnets, wanted.address, None)
        if fault is not None:
            message = f"address: {fault}; permanent: choose another"
            raise refuse(ScheduledReason.ADDRESS_INVALID, message)
    groups = names_of(wanted.security_groups)
    require(own, groups, catalog.security_groups)
    return Interface(wanted.name, network, port_name(server, wanted.name), address=wanted.address, groups=groups)


def _user_port(server: Server, name: str, catalog: Catalog) -> Port:
    namespace = server.metadata.namespace or ""
    need: Need = ("Port", namespace, name)
    port = catalog.ports.get(namespace, name)
    if port is None or port.deleting:
        _missing(ScheduledReason.PORT_NOT_FOUND, f"port {name}", need)
    owners = port.metadata.owner_references
    other = next((item for item in owners if item.uid != server.metadata.uid), None)
    if other is not None and other.kind in _OWNERS:
        message = f"port {name} belongs to {_OWNERS[other.kind]}; permanent: make a port of your own"
        raise refuse(ScheduledReason.PORT_IN_USE, message, need)
    if port.spec.assignment is None:
        message = f"network: port {name} has no address yet; transient: goes on when it has one"
        raise refuse(ScheduledReason.NETWORK_NOT_READY, message, need)
    return port


def ready_network(own: str, reference: Reference, catalog: Catalog) -> Network:
    """Look up a network that has its VNI.

    Raises:
        Refused: it is absent, in a project that is not the referrer's, or not Ready.
    """
    place = visible_namespace(own, reference)
    network = catalog.networks.get(place, reference.name) if place is not None else None
    need: Need = ("Network", reference.namespace or own, reference.name)
    if network is None or network.deleting:
        _missing(ScheduledReason.NETWORK_NOT_FOUND, f"network {shown(own, reference)}", need)
    ready = network.status is not None and any(
        item.type == "Ready" and item.status == "True" for item in network.status.conditions
    )
    if network.status is None or network.status.vni is None or not ready:
        message = f"network: {shown(own, reference)} is not Ready; transient: goes on when it is"
        raise refuse(ScheduledReason.NETWORK_NOT_READY, message, need)
    return network


def _group(server: Server, catalog: Catalog) -> ServerGroup | None:
    reference = server.spec.placement.group
    if reference is None:
        return None
    namespace = server.metadata.namespace or ""
    group = catalog.server_groups.get(namespace, reference.name)
    if group is None or group.deleting:
        need = ("ServerGroup", namespace, reference.name)
        _missing(ScheduledReason.SERVER_GROUP_NOT_FOUND, f"server group {reference.name}", need)
    return group


def resolve_volume(namespace: str, attachment: VolumeAttachment, catalog: Catalog) -> Volume:
    """Look up the volume of an attachment.

    Raises:
        Refused: it is missing, goes away, or is a copy that is not there yet.
    """
    name = attachment.volume.name
    volume = catalog.volumes.get(namespace, name)
    if volume is None or volume.deleting:
        _missing(ScheduledReason.VOLUME_NOT_FOUND, f"volume {name}", ("Volume", namespace, name))
    fault = unready(volume, catalog)
    if fault is not None:
        raise refuse(ScheduledReason.VOLUME_NOT_READY, fault.message, *fault.needs)
    return volume


def wish_of(server: Server, resolved: Resolved) -> Wish:
    """Give what a server asks of a host.

    Raises:
        Refused: its volumes lie on different hosts, or not where it must run.
    """
    bound = [
        item for _, item in resolved.volumes if item.spec.assignment is not None or item.key not in resolved.shared
    ]
    here = [item for item in bound if item.key not in resolved.exportable]
    networks = [interface.network for interface in resolved.interfaces]
    wish = wish_for(
        server, resolved.flavor, resolved.image, resolved.group, here, networks=networks, classes=resolved.classes
    )
    places = (item.spec.assignment for item in bound if item.key in resolved.exportable)
    return replace(wish, near=next((place.host for place in places if place is not None), None))


def interests(server: Server) -> frozenset[Need]:
    """Give everything whose change may help a server that waits."""
    own, spec = server.metadata.namespace or "", server.spec
    needs: set[Need] = {
        CAPACITY,
        quota(own),
        ("Flavor", "", spec.flavor.name),
        *needs_of(own, spec.image),
    }
    if spec.key_pair is not None:
        needs.add(("KeyPair", own, spec.key_pair.name))
    if spec.user_data is not None:
        # Kept while the server is looked at again: what changes meanwhile would wake nobody.
        chosen = (("Secret", spec.user_data.secret), ("ConfigMap", spec.user_data.config_map))
        needs |= {(kind, own, selector.name) for kind, selector in chosen if selector is not None}
    if spec.placement.group is not None:
        needs.add(("ServerGroup", own, spec.placement.group.name))
    needs |= {("Volume", own, item.volume.name) for item in spec.volumes}
    for item in spec.networks or ():
        if item.network is not None:
            needs.add(("Network", item.network.namespace or own, item.network.name))
            needs.add(("Port", own, port_name(server, item.name)))
        if item.port is not None:
            needs.add(("Port", own, item.port.name))
            # The network and the groups of a port are only known once the port is.
            needs |= {any_of("Network", own), any_of("Network", PUBLIC_NAMESPACE), any_of("SecurityGroup", own)}
        needs |= {need_of(own, name) for name in names_of(item.security_groups)}
    if spec.networks is None:
        needs |= {any_of("Network", own), ("Port", own, port_name(server, _DEFAULT_INTERFACE))}
    return frozenset(needs)
