"""What the API asks of an instance, read from a Server object once and frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kumulus_agent.network.groups import GroupKey
from kumulus_agent.network.names import tap
from kumulus_agent.network.state import Rates
from kumulus_api import FINALIZER, Server
from kumulus_api.devices import named_ports, named_volumes
from kumulus_api.flavor import Allocation
from kumulus_api.hardware import Hardware
from kumulus_api.image import ImageFormat
from kumulus_api.quantities import parse_quantity
from kumulus_api.security_group import DEFAULT_GROUP
from kumulus_api.server import GuestShutdownPolicy, PowerState, RecoveryPolicy
from kumulus_api.server_assignment import AssignedImage, AssignedPort, AssignedVolume, ServerAssignment

Key = tuple[str, str]
"""Namespace and name of a Server."""


@dataclass(frozen=True, slots=True)
class NetworkKey:
    """A Network, with the number its frames carry."""

    namespace: str
    name: str
    vni: int


@dataclass(frozen=True, slots=True)
class DesiredPort:
    """A NIC of the instance; `tap` is its device on the host, `name` the interface's in the Server."""

    name: str
    port: str
    network: NetworkKey
    mac: str
    addresses: tuple[str, ...]
    tap: str
    port_id: str = ""
    mtu: int = 0
    """Bytes; 0: as the host's settings say."""
    groups: tuple[GroupKey, ...] = ()
    """Its security groups; without any it takes and makes no connection."""
    namespace: str = ""
    """Of the Port."""
    shared: bool = False
    """Another host has it too, and one of them speaks."""
    rates: Rates | None = None
    """What the server's flavor says of it, where its Port says nothing."""


@dataclass(frozen=True, slots=True)
class DesiredVolume:
    """A volume of the instance; `size` in bytes.

    One that is `shared` lies where all hosts find it, or its `exporter` serves it to the host where the server is; one
    with `boot` is there in the place of a root disk. One that is `by_class` counts on the host's disk by the ratio of
    its class, which the operator has looked at.
    """

    name: str
    volume: str
    volume_id: str
    size: int
    read_only: bool = False
    shared: bool = False
    boot: bool = False
    exporter: str = ""
    encrypted: bool = False
    by_class: bool = False
    multi_attach: bool = False


@dataclass(frozen=True, slots=True)
class DesiredImage:
    """The base of the root disk; `virtual_size` in bytes."""

    url: str
    format: str
    digest: str
    virtual_size: int
    mirrors: tuple[str, ...] = ()

    @property
    def is_cd(self) -> bool:
        """Whether it goes into a drive, and the root disk is empty at first."""
        return self.format == ImageFormat.ISO.value


@dataclass(frozen=True, slots=True)
class Desired:
    """An instance as the API wants it.

    Attributes:
        key: the Server's namespace and name.
        uid: the Server object's uid.
        generation: of the spec that this was read from.
        instance_id: identity that survives a restore.
        epoch: of the assignment.
        vcpus: number of virtual CPUs.
        memory: bytes.
        root_disk: bytes.
        max_vcpus: up to so many the guest may be given while it runs; 0 for none.
        max_memory: the same of memory, bytes.
        image: base of the root disk, None if the assignment has none.
        ports: in the guest's order.
        volumes: in the guest's order.
        leaving_ports: those that were given and that the spec does not name any more: to be unplugged.
        leaving_volumes: the same of volumes.
        running: whether the user's powerState is Running.
        restart_after_guest_shutdown: whether a guest that turns itself off is started again.
        key_pair: name of the KeyPair, or empty.
        user_data: inline user-data, or empty.
        remote_user_data: whether the user-data lies in a Secret or ConfigMap, which only the operator may read.
        deleting: deletion was asked for.
        finalizer: whether our finalizer is still there.
        rest: the user's powerState where it is not Running.
        power_changes: how often powerState has changed.
        stop_seconds: how long the guest may take to shut down; None as the host has it.
        recovers: whether a guest that crashes is started again.
        rescue: what it runs from instead of its root disk.
        rescue_id: id of that rescue, or empty.
        config_drive: whether the guest gets OpenStack's config drive too.
        metadata: keys and values that the guest is told, sorted.
        shelved: vCPUs and memory were given back; it runs when the operator has admitted it again.
        target: the host that the instance migrates to, or empty.
        host: the host that has it.
        pinned: the user's placement names a host.
        zone: the availability zone that the user's placement names, or empty.
        flavor: name of the flavor whose size it has.
        hardware: what its machine is made of where flavor or image say it.
        custom: how many of each custom resource class, and of VGPU, it was given; some are devices of the host.
    """

    key: Key
    uid: str
    generation: int
    instance_id: str
    epoch: int
    vcpus: int
    memory: int
    root_disk: int
    image: DesiredImage | None
    ports: tuple[DesiredPort, ...]
    volumes: tuple[DesiredVolume, ...]
    running: bool
    restart_after_guest_shutdown: bool
    key_pair: str
    user_data: str
    remote_user_data: bool
    deleting: bool
    finalizer: bool
    rest: PowerState = PowerState.STOPPED
    power_changes: int = 0
    stop_seconds: float | None = None
    recovers: bool = True
    rescue: DesiredImage | None = None
    rescue_id: str = ""
    shelved: bool = False
    metadata: tuple[tuple[str, str], ...] = ()
    config_drive: bool = False
    hardware: Hardware = field(default_factory=Hardware)

    @property
    def in_memory(self) -> bool:
        """Whether its guest takes memory of the host while all is as asked."""
        return self.running or self.rest is PowerState.PAUSED or self.rescue is not None

    target: str = ""
    pinned: bool = False
    zone: str = ""
    flavor: str = ""
    host: str = ""
    max_vcpus: int = 0
    max_memory: int = 0
    custom: tuple[tuple[str, int], ...] = ()
    leaving_ports: tuple[DesiredPort, ...] = ()
    leaving_volumes: tuple[DesiredVolume, ...] = ()

    @property
    def all_ports(self) -> tuple[DesiredPort, ...]:
        """Those that it has, and those that leave it."""
        return (*self.ports, *self.leaving_ports)

    @property
    def boot_volume(self) -> DesiredVolume | None:
        """The volume that it boots from; None if it has a root disk."""
        return next((volume for volume in self.volumes if volume.boot), None)

    @property
    def all_volumes(self) -> tuple[DesiredVolume, ...]:
        """Those that it has, and those that leave it."""
        return (*self.volumes, *self.leaving_volumes)

    @property
    def leaving(self) -> frozenset[str]:
        """The ids of the ports and volumes that leave it."""
        return frozenset(
            [port.port_id for port in self.leaving_ports] + [volume.volume_id for volume in self.leaving_volumes]
        )

    @property
    def networks(self) -> tuple[NetworkKey, ...]:
        """The networks of the ports, each once, sorted."""
        return tuple(sorted({port.network for port in self.ports}, key=lambda network: network.vni))


def read_desired(body: dict[str, Any]) -> Desired | None:
    """Read a Server object.

    Args:
        body: as the API server sends it.

    Returns:
        None if the operator has assigned nothing yet.
    """
    server = Server.model_validate(body)
    assignment = server.spec.assignment
    if assignment is None:
        return None
    user_data = server.spec.user_data
    ports, volumes = _kept_devices(server, assignment)
    return Desired(
        key=server.key,
        uid=server.metadata.uid,
        generation=server.metadata.generation,
        instance_id=assignment.instance_id,
        epoch=assignment.epoch,
        **_size(assignment.resources),
        image=read_image(assignment.image),
        ports=tuple(_port(server, assignment, port) for port in ports),
        volumes=tuple(_volume(volume) for volume in volumes),
        leaving_ports=tuple(_port(server, assignment, port) for port in assignment.ports if port not in ports),
        leaving_volumes=tuple(_volume(volume) for volume in assignment.volumes if volume not in volumes),
        running=server.spec.power_state is PowerState.RUNNING,
        restart_after_guest_shutdown=server.spec.on_guest_shutdown is GuestShutdownPolicy.RESTART,
        key_pair=server.spec.key_pair.name if server.spec.key_pair else "",
        user_data=(user_data.inline or "") if user_data else "",
        remote_user_data=user_data is not None and user_data.inline is None,
        deleting=server.deleting,
        finalizer=FINALIZER in server.metadata.finalizers,
        rest=PowerState.STOPPED if server.spec.power_state is PowerState.RUNNING else server.spec.power_state,
        power_changes=server.spec.power_changes or 0,
        stop_seconds=server.spec.stop_timeout_seconds,
        recovers=server.spec.recovery is RecoveryPolicy.RESTART,
        rescue=read_image(assignment.rescue.image if assignment.rescue is not None else None),
        rescue_id=assignment.rescue.action if assignment.rescue is not None else "",
        shelved=assignment.shelved,
        target=assignment.target or "",
        host=assignment.host,
        pinned=server.spec.placement.host is not None,
        zone=server.spec.placement.zone or "",
        flavor=assignment.flavor or server.spec.flavor.name,
        metadata=tuple(sorted(server.spec.metadata.items())),
        config_drive=server.spec.config_drive,
        hardware=assignment.hardware or Hardware(),
        custom=tuple(sorted((assignment.resources.custom or {}).items())),
    )


def read_image(image: AssignedImage | None) -> DesiredImage | None:
    """Give an image of an assignment."""
    if image is None:
        return None
    return DesiredImage(image.url, image.format.value, image.digest, image.virtual_size, tuple(image.mirrors or ()))


def _kept_devices(server: Server, given: ServerAssignment) -> tuple[list[AssignedPort], list[AssignedVolume]]:
    """Give what the guest has and keeps: one that migrates keeps all of it until it has arrived."""
    if given.target is not None:
        return given.ports, given.volumes
    return named_ports(server), named_volumes(server)


def _size(given: Allocation) -> dict[str, int]:
    """Give what an instance has and can have, by the names of `Desired`."""
    return {
        "vcpus": given.vcpus,
        "memory": parse_quantity(given.memory),
        "root_disk": parse_quantity(given.root_disk),
        "max_vcpus": given.max_vcpus or 0,
        "max_memory": parse_quantity(given.max_memory) if given.max_memory else 0,
    }


def _port(server: Server, assignment: ServerAssignment, port: AssignedPort) -> DesiredPort:
    return DesiredPort(
        name=port.name,
        port=port.port,
        network=NetworkKey(port.network_namespace, port.network, port.vni),
        mac=port.mac,
        addresses=tuple(port.addresses),
        tap=tap(assignment.instance_id, port.name),
        port_id=port.port_id,
        mtu=port.mtu or 0,
        groups=tuple((server.key[0], name) for name in port.security_groups or (DEFAULT_GROUP,)),
        namespace=server.key[0],
        rates=flavor_rates(assignment.hardware),
    )


def flavor_rates(hardware: Hardware | None) -> Rates | None:
    """Give the rates of a server's interfaces as its flavor says them; a kB has 8 kbit."""
    if hardware is None or (hardware.vif_inbound is None and hardware.vif_outbound is None):
        return None
    (rate, peak, burst), (egress, egress_peak, egress_burst) = (
        (item.average * 8, (item.peak or 0) * 8, (item.burst or 0) * 8) if item is not None else (0, 0, 0)
        for item in (hardware.vif_inbound, hardware.vif_outbound)
    )
    return Rates(rate, egress, burst, egress_burst, peak, egress_peak)


def _volume(volume: AssignedVolume) -> DesiredVolume:
    size, marks = parse_quantity(volume.size), (volume.read_only, volume.shared, volume.boot)
    exporter, encrypted = volume.exporter or "", volume.encrypted
    known = volume.name, volume.volume, volume.volume_id, size
    by_class, several = volume.volume_class is not None, volume.multi_attach
    return DesiredVolume(
        *known, *marks, exporter=exporter, encrypted=encrypted, by_class=by_class, multi_attach=several
    )
