"""Server: a virtual machine (Nova's server)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.alias_generators import to_camel

from kumulus_api.base import (
    Column,
    Definition,
    HostName,
    IPAddressText,
    Kind,
    LocalReference,
    Model,
    Name,
    ObjectName,
    Reference,
    Rule,
    first_broken,
    list_map,
    ruled,
    validated,
)
from kumulus_api.security_group import GroupReferences
from kumulus_api.server_assignment import ServerAssignment
from kumulus_api.server_status import ServerStatus


class PowerState(StrEnum):
    """What the user wants the server to do."""

    RUNNING = "Running"
    STOPPED = "Stopped"
    PAUSED = "Paused"
    """In memory, and not going on."""
    SUSPENDED = "Suspended"
    """Its memory lies on its host's disk; Running goes on from there."""
    SHELVED = "Shelved"
    """Off; its host and quota get vCPUs and memory back, the disks stay where they are."""


class GuestShutdownPolicy(StrEnum):
    """What follows when the guest shuts itself down."""

    STOP = "Stop"
    RESTART = "Restart"


class RecoveryPolicy(StrEnum):
    """What follows when QEMU ends though nobody asked it to."""

    RESTART = "Restart"
    NONE = "None"
    """The server stays Crashed until a Start, a Reboot of type Hard or a newer powerState."""


class ResizePolicy(StrEnum):
    """What a change of the flavor waits for, once there is room for it."""

    AUTOMATIC = "Automatic"
    """Nothing: the old size is given back as soon as the guest has the new one."""
    CONFIRM = "Confirm"
    """A ServerAction ConfirmResize or RevertResize: until then there is room for both, and the root disk stays."""


class NetworkInterface(Model):
    """A network interface: a network on which a port is made, or a port that exists."""

    name: Name
    network: Reference | None = None
    port: LocalReference | None = None
    address: IPAddressText | None = None
    """A fixed address on `network`."""
    security_groups: GroupReferences | None = None
    """Of the port that is made on `network`; without any it is in the project's group `default`. A change is applied at
    once."""

    model_config = validated(
        Rule("has(self.network) != has(self.port)", "give either network or port"),
        Rule("!has(self.address) || has(self.network)", "address goes with network; a port has its own", ".address"),
        Rule("!has(self.address) || isIP(self.address)", "address is not an IP address", ".address"),
        Rule(
            "!has(self.securityGroups) || has(self.network)",
            "securityGroups go with network; a port has its own",
            ".securityGroups",
        ),
    )


class VolumeAttachment(Model):
    """A volume of the server's namespace; the guest finds it by its serial, the start of the volume's id."""

    name: Name
    volume: LocalReference
    read_only: bool | None = None
    """The guest cannot write to it; a change holds from the next attachment on."""


class KeySelector(Model):
    """A key of a Secret or ConfigMap in the server's namespace."""

    name: ObjectName
    key: Annotated[str, Field(min_length=1, max_length=253)] = "userData"


class UserData(Model):
    """What cloud-init gets as user-data: inline, or what a Secret or ConfigMap of the namespace holds at each start."""

    inline: Annotated[str, Field(max_length=4096)] | None = None
    secret: KeySelector | None = None
    config_map: KeySelector | None = None

    model_config = validated(
        Rule(
            "[has(self.inline), has(self.secret), has(self.configMap)].filter(x, x).size() == 1",
            "give exactly one of inline (up to 4096 characters), secret or configMap",
        )
    )


class Placement(Model):
    """Where the server may run."""

    host: HostName | None = None
    """This host only; for those who may update Hosts."""
    group: LocalReference | None = None
    """A ServerGroup of the namespace: where the server may be depends on where the others of the group are."""
    zone: Name | None = None
    """Only hosts of this availability zone, which a HostAggregate gives them."""


_POWER = {
    PowerState.RUNNING: (PowerState.STOPPED, PowerState.PAUSED, PowerState.SUSPENDED, PowerState.SHELVED),
    PowerState.STOPPED: (PowerState.RUNNING, PowerState.SHELVED),
    PowerState.PAUSED: (PowerState.RUNNING, PowerState.SHELVED),
    PowerState.SUSPENDED: (PowerState.RUNNING, PowerState.SHELVED),
    PowerState.SHELVED: (PowerState.RUNNING,),
}
"""Where a powerState may go from where it is, as in Nova."""
_POWER_TABLE = "{" + ", ".join(f"'{old}': [{', '.join(repr(str(new)) for new in _POWER[old])}]" for old in _POWER) + "}"
_POWER_TEXT = "; ".join(f"{old} to {' or '.join(_POWER[old])}" for old in _POWER)

_SAME = "has(self.{0}) ? has(oldSelf.{0}) && self.{0} == oldSelf.{0} : !has(oldSelf.{0})"

_RESCUED = "has(oldSelf.assignment) && has(oldSelf.assignment.rescue)"
_UNRESCUE = "cannot change while the server is rescued: make a ServerAction of type Unrescue first"
_SETTLED = f"oldSelf.powerState != 'Suspended' && !({_RESCUED})"
"""What is in the guest's saved memory, or kept for the end of a rescue, stays as it is."""


_SETTLE = (
    "cannot change while the server is suspended or rescued: "
    "set powerState to Running, or make a ServerAction of type Unrescue, first"
)
_RESIZABLE = "flavor changes while powerState is Running or Stopped"
_SETTLE_RESIZE = "make a ServerAction of type ConfirmResize or RevertResize first"
_ONE_RESIZE = (
    "!has(oldSelf.assignment) || !has(oldSelf.assignment.former)"
    " || self.flavor.name == oldSelf.assignment.former.flavor"
)
_UNLOCK = "cannot change while the server is locked: set locked to false first"

_WHILE_LOCKED = ("locked", "assignment", "power_changes")
"""What may change of a locked server."""


_PORTS_ONCE = ruled(
    Rule(
        "self.all(a, !has(a.port) || self.exists_one(b, has(b.port) && a.port.name == b.port.name))",
        "a port is used twice",
    )
)
_VOLUMES_ONCE = ruled(
    Rule("self.all(a, self.exists_one(b, a.volume.name == b.volume.name))", "a volume is attached twice")
)
_POWER_CHANGES = ruled(
    Rule(f"self == oldSelf || self in {_POWER_TABLE}[oldSelf]", f"powerState goes from {_POWER_TEXT}")
)

Metadata = Annotated[
    dict[str, Annotated[str, Field(max_length=255)]],
    Field(
        max_length=128,
        json_schema_extra=ruled(
            Rule("self.all(key, key.size() >= 1 && key.size() <= 255)", "a key of metadata has 1 to 255 characters")
        ),
    ),
]
"""Up to 128 keys and values of up to 255 characters, as in Nova."""

Tag = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[^,/]+$")]
"""A word of up to 60 characters without comma and slash, as in Nova."""


class ServerSpec(Model):
    """What the server is made of and whether it runs."""

    flavor: LocalReference
    """Its size. A change is applied at the next start; until then the condition RestartRequired tells of it."""
    image: Annotated[
        Reference, Field(json_schema_extra=ruled(Rule("self == oldSelf", "image cannot change: make a new server")))
    ]
    """What its root disk was made from at first."""
    networks: (
        Annotated[list[NetworkInterface], Field(max_length=16, json_schema_extra=list_map("name") | _PORTS_ONCE)] | None
    ) = None
    """Interfaces. If it is absent, one is made on the namespace's only Network, called `default`. What is added or
    taken away reaches a running guest at once."""
    volumes: Annotated[
        list[VolumeAttachment], Field(max_length=16, json_schema_extra=list_map("name") | _VOLUMES_ONCE)
    ] = Field(default_factory=list)
    """Disks beside its root disk. What is added or taken away reaches a running guest at once; it has to let go of a
    disk, and the Volume is free when it has."""
    boot_volume: Name | None = None
    """The name of one of `volumes`: the server has it in the place of a root disk. The image then says what its machine
    is made of, and is the CD in its drive if it is one."""
    key_pair: LocalReference | None = None
    user_data: UserData | None = None
    metadata: Metadata = Field(default_factory=dict)
    """What the guest is told about itself, as `meta` in its meta-data. A change is told by the metadata service at
    once, by seed and config drive from the next start on."""
    tags: Annotated[list[Tag], Field(max_length=50, json_schema_extra={"uniqueItems": True})] = Field(
        default_factory=list
    )
    """Words by which people find the server; the guest is not told."""
    config_drive: bool = False
    """Give the guest OpenStack's config drive too, a disk labelled `config-2`; a change holds from the next start."""
    power_state: Annotated[PowerState, Field(json_schema_extra=_POWER_CHANGES)] = PowerState.RUNNING
    power_changes: Annotated[int, Field(ge=0)] | None = None
    """How often powerState has changed; counted at admission, whatever was given."""
    stop_timeout_seconds: Annotated[int, Field(ge=0, le=86400)] | None = None
    """How long the guest may take to shut down before it is switched off; without it, as the host has it."""
    on_guest_shutdown: GuestShutdownPolicy = GuestShutdownPolicy.STOP
    recovery: RecoveryPolicy = RecoveryPolicy.RESTART
    resize_policy: ResizePolicy = ResizePolicy.AUTOMATIC
    locked: bool = False
    """While it is true nothing else of the spec can change, the server cannot be deleted, and no action is begun."""
    placement: Placement = Field(default_factory=Placement)
    assignment: ServerAssignment | None = None
    """Written by the operator only."""

    model_config = validated(
        first_broken(
            "self.flavor == oldSelf.flavor",
            (
                (
                    "oldSelf.powerState in ['Running', 'Stopped']",
                    "flavor changes while powerState is Running or Stopped",
                ),
                (
                    _ONE_RESIZE,
                    "flavor was changed already: make a ServerAction of type ConfirmResize or RevertResize first",
                ),
            ),
            "flavor changes while powerState is Running or Stopped, and with resizePolicy Confirm not again before a "
            "ServerAction of type ConfirmResize or RevertResize",
            ".flavor",
        ),
        first_broken(
            f"({_SETTLED})",
            (
                (_SAME.format("networks"), f"networks {_SETTLE}"),
                (_SAME.format("volumes"), f"volumes {_SETTLE}"),
                (f"!({_RESCUED}) || self.flavor == oldSelf.flavor", f"flavor {_UNRESCUE}"),
                (f"!({_RESCUED}) || self.powerState == oldSelf.powerState", f"powerState {_UNRESCUE}"),
            ),
            f"networks and volumes {_SETTLE}; flavor and powerState {_UNRESCUE}",
        ),
        Rule(
            "has(self.networks) || !has(oldSelf.networks)",
            "networks cannot be left out again: an empty list takes all interfaces away",
            ".networks",
        ),
        Rule(
            "!has(self.bootVolume) || (has(self.volumes) && self.volumes.exists(v, v.name == self.bootVolume))",
            "bootVolume is the name of one of volumes",
            ".bootVolume",
        ),
        Rule(_SAME.format("bootVolume"), "bootVolume cannot change: make a new server", ".bootVolume"),
        Rule(_SAME.format("keyPair"), "keyPair cannot change: guests take it at their first boot", ".keyPair"),
        Rule(_SAME.format("userData"), "userData cannot change, what it refers to can", ".userData"),
        Rule(
            "self.placement == oldSelf.placement || !has(oldSelf.assignment)"
            f" || ({_SAME.format('placement.group')}) && ({_SAME.format('placement.zone')})",
            "group and zone cannot change once the server is placed: make a new one",
            ".placement",
        ),
        first_broken(
            "!oldSelf.locked",
            tuple(
                (_SAME.format(to_camel(name)), f"{to_camel(name)} {_UNLOCK}")
                for name in tuple(__annotations__)
                if name not in _WHILE_LOCKED
            ),
            f"all but locked itself {_UNLOCK}",
        ),
        Rule("has(self.assignment) || !has(oldSelf.assignment)", "assignment cannot be taken away", ".assignment"),
    )


class Server(Kind):
    """A virtual machine: flavor, image, networks, volumes (Nova's server)."""

    definition: ClassVar = Definition(
        plural="servers",
        short_names=("ksrv",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Power", ".status.powerState"),
            Column("Address", ".status.addresses[0].address"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Host", ".spec.assignment.host"),
            Column("Floating", ".status.floatingIPs[0].address", priority=1),
            Column("Flavor", ".spec.flavor.name", priority=1),
            Column("Image", ".spec.image.name", priority=1),
            Column("OS", ".status.guestAgent.os.name", priority=1),
            Column("Instance", ".spec.assignment.instanceID", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".spec.assignment.host", ".spec.assignment.target", ".spec.placement.group.name"),
        rules=(
            Rule(
                "self.metadata.name.matches('^[^.]{1,63}$')",
                "a server's name becomes its hostname: at most 63 characters, no dots",
            ),
        ),
    )

    spec: ServerSpec
    status: ServerStatus | None = None
