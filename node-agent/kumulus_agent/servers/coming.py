"""What a running guest lacks, and what of that it can be given only when it is started anew (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from kumulus_agent.compute.slots import OLD_CARDS
from kumulus_agent.servers.desired import Desired, DesiredPort, DesiredVolume
from kumulus_agent.servers.terms import Observed
from kumulus_api.hardware import DiskBus


@dataclass(frozen=True, slots=True)
class Coming:
    """What a guest lacks.

    Attributes:
        ports: that it can be given now.
        volumes: that it can be given now.
        late_ports: for which it has no slot.
        late_volumes: for which it has no slot.
    """

    ports: tuple[DesiredPort, ...] = ()
    volumes: tuple[DesiredVolume, ...] = ()
    late_ports: tuple[DesiredPort, ...] = ()
    late_volumes: tuple[DesiredVolume, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of what it can be given now."""
        return [port.name for port in self.ports] + [volume.name for volume in self.volumes]


def coming(desired: Desired, observed: Observed) -> Coming:
    """Say what a guest lacks: slots are given to interfaces first, and to each in the order of the spec."""
    there, slots, machine = observed.devices, observed.slots, observed.machine(desired.hardware)
    if there is None or desired.target:
        return Coming()
    ports = tuple(port for port in desired.ports if port.mac not in there.macs)
    volumes = tuple(volume for volume in desired.volumes if volume.volume_id not in there.volumes)
    if not machine.plugs_disks:
        volumes = ()
    if slots is None:
        return Coming(ports, volumes)
    apart = machine.interface_model in OLD_CARDS and slots.old_cards is not None
    cards = (slots.old_cards or 0) if apart else slots.cards
    left = slots.cards if apart else max(0, slots.cards - len(ports))
    # All disks on SCSI share the slot of their controller.
    disks = len(volumes) if machine.disk_bus is DiskBus.SCSI else left
    return Coming(ports[:cards], volumes[:disks], ports[cards:], volumes[disks:])


@dataclass(frozen=True, slots=True)
class HeldUp:
    """Names of what comes to a guest, or leaves it, with its next start only.

    Attributes:
        bound: volumes on a bus where none comes or leaves while the guest runs.
        volumes: those for which it has no slot.
        ports: those for which it has no slot.
    """

    bound: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()


def held_up(desired: Desired, observed: Observed) -> HeldUp:
    """Say what comes to a guest, or leaves it, with its next start only."""
    late, there = coming(desired, observed), observed.devices
    bound: list[str] = []
    if there is not None and not desired.target and not observed.machine(desired.hardware).plugs_disks:
        bound = [volume.name for volume in desired.volumes if volume.volume_id not in there.volumes]
        bound += [volume.name for volume in desired.leaving_volumes if volume.volume_id in there.volumes]
    return HeldUp(
        tuple(sorted(bound)),
        tuple(volume.name for volume in late.late_volumes),
        tuple(port.name for port in late.late_ports),
    )
