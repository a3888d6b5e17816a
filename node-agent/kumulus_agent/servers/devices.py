"""Plug volumes and NICs into a running guest, and have it let go of those that are taken away."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field

from kumulus_agent.compute.domain_spec import Nic
from kumulus_agent.compute.plugged import Devices
from kumulus_agent.servers.coming import coming
from kumulus_agent.servers.desired import Desired, DesiredPort, DesiredVolume
from kumulus_agent.servers.errors import StepFailed
from kumulus_agent.servers.failing import failing_as
from kumulus_agent.servers.start import Actuators, prepare_tap
from kumulus_agent.servers.status import Part
from kumulus_agent.servers.terms import ALIVE, Observed, Power
from kumulus_agent.servers.volume_disks import hide_keys, volume_disk
from kumulus_api.hardware import Hardware
from kumulus_api.server_status import DeviceReason, ReadyReason, ServerConditionType

_ASK_AGAIN = 10.0
"""Seconds after which a guest that has not let go of a device is asked again."""
_TRY_AGAIN = 5.0


@dataclass(frozen=True)
class DevicesChanged:
    """What came of it.

    Attributes:
        parts: the conditions of what did not succeed.
        failed: ids of the ports and volumes that are not plugged in, though they should be.
        pending: ids of those that are still plugged in, though they should not be.
        asked: whether the guest was asked to let go of something.
    """

    parts: Mapping[ServerConditionType, Part] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    pending: frozenset[str] = frozenset()
    asked: bool = False

    def and_(self, other: DevicesChanged) -> DevicesChanged:
        """Join with what else was changed."""
        return DevicesChanged(
            {**self.parts, **other.parts},
            self.failed | other.failed,
            self.pending | other.pending,
            self.asked or other.asked,
        )

    @property
    def look_again(self) -> float | None:
        """Seconds after which to try what did not succeed once more."""
        if self.failed:
            return _TRY_AGAIN
        return _ASK_AGAIN if self.parts else None

    def connected(self, desired: Desired) -> list[DesiredPort]:
        """Give the ports of which the rest of the status is true."""
        return [port for port in desired.ports if port.port_id not in self.failed]


def detached(desired: Desired, observed: Observed, changed: DevicesChanged) -> frozenset[str]:
    """Give the ids of what leaves an instance and is not plugged into it once its plan was carried out (pure)."""
    if observed.power not in ALIVE and observed.power is not Power.SUSPENDED:
        return desired.leaving
    there = observed.devices
    if there is None:
        return frozenset()
    if changed.asked:
        return desired.leaving - changed.pending
    return desired.leaving - _ids(desired, there)


def _ids(desired: Desired, devices: Devices) -> frozenset[str]:
    ports = [port.port_id for port in desired.all_ports if port.mac in devices.macs]
    return frozenset(ports) | devices.volumes


async def attach(actuators: Actuators, desired: Desired, observed: Observed) -> DevicesChanged:
    """Plug in what a running guest lacks; one that fails keeps no other from it.

    Args:
        actuators: what to do it with.
        desired: the instance.
        observed: as it is.
    """
    done, lacks, machine = DevicesChanged(), coming(desired, observed), observed.machine(desired.hardware)
    for volume in lacks.volumes:
        work = _attach_volume(actuators, desired, volume, machine)
        done = done.and_(await _attached(work, volume.name, volume.volume_id))
    if lacks.ports:
        # Beside the instance first: a guest that no Server claims any more keeps its network.
        await actuators.files(desired.instance_id).write_record(desired.key, desired.all_ports)
    for port in lacks.ports:
        done = done.and_(await _attached(_attach_port(actuators, desired, port, machine), port.name, port.port_id))
    return done


async def _attached(work: Awaitable[None], name: str, device_id: str) -> DevicesChanged:
    try:
        await work
    except StepFailed as failure:
        part = failure.part or ServerConditionType.VOLUMES_READY
        message = f"{name}: {failure.message}; transient: tried again every {_TRY_AGAIN:.0f} s"
        reason = DeviceReason.ATTACH_FAILED
        return DevicesChanged({part: Part(status=False, reason=reason, message=message)}, frozenset({device_id}))
    return DevicesChanged()


async def _attach_volume(actuators: Actuators, desired: Desired, volume: DesiredVolume, machine: Hardware) -> None:
    async with actuators.shelves.held([volume.volume_id]):
        try:
            disk = await volume_disk(actuators, desired, volume)
            async with failing_as(ReadyReason.START_FAILED, ServerConditionType.VOLUMES_READY):
                await actuators.hypervisor.attach(desired.instance_id, disk, machine)
        finally:
            await hide_keys(actuators, [volume])


async def _attach_port(actuators: Actuators, desired: Desired, port: DesiredPort, machine: Hardware) -> None:
    networks, datapath = actuators.networks, actuators.datapath
    async with failing_as(ReadyReason.NETWORK_FAILED, ServerConditionType.NETWORK_READY):
        networks.hold(desired.instance_id, desired.key[1], desired.all_ports)
        await networks.ensure(desired.networks)
    await prepare_tap(actuators, port)
    async with failing_as(ReadyReason.NETWORK_FAILED, ServerConditionType.NETWORK_READY):
        nic = Nic(port.tap, port.mac, actuators.mtu(port))
        await actuators.hypervisor.attach(desired.instance_id, nic, machine)
        await datapath.plug(port.tap, port.network.vni)


async def detach(actuators: Actuators, desired: Desired, observed: Observed) -> DevicesChanged:
    """Have a running guest let go of all that it shall not have, and clear away what that leaves on the host.

    Args:
        actuators: what to do it with.
        desired: the instance.
        observed: as it is.

    Raises:
        HypervisorError, NetworkError: it could not be asked, or something could not be cleared away; call again.
    """
    there = observed.devices or Devices()
    macs = there.macs - {port.mac for port in desired.ports}
    volumes = there.volumes - {volume.volume_id for volume in desired.volumes}
    bound = frozenset[str]() if observed.machine(desired.hardware).plugs_disks else volumes
    kept = Devices()
    if macs or volumes - bound:
        kept = await actuators.hypervisor.detach(desired.instance_id, macs, volumes - bound)
    await let_go(actuators, desired, [port for port in desired.leaving_ports if port.mac not in kept.macs])
    return DevicesChanged(_pending(desired, kept), pending=_ids(desired, kept) | bound, asked=True)


def _pending(desired: Desired, kept: Devices) -> dict[ServerConditionType, Part]:
    """Give the conditions that tell what a guest has not let go of."""
    volumes = [item.name for item in desired.leaving_volumes if item.volume_id in kept.volumes]
    ports = [item.name for item in desired.leaving_ports if item.mac in kept.macs]
    found = ((ServerConditionType.VOLUMES_READY, volumes), (ServerConditionType.NETWORK_READY, ports))
    return {kind: _not_let_go(names) for kind, names in found if names}


def _not_let_go(names: list[str]) -> Part:
    message = (
        f"the guest has not let go of {', '.join(names)}; transient: it is asked again every {_ASK_AGAIN:.0f} s, and "
        "loses it when it is stopped"
    )
    return Part(status=False, reason=DeviceReason.DETACH_PENDING, message=message)


async def let_go(actuators: Actuators, desired: Desired, ports: Iterable[DesiredPort]) -> None:
    """Clear away what unplugged NICs leave on the host: taps, and networks that nothing here uses any more."""
    gone = {port.tap for port in ports}
    held = actuators.networks.held(desired.instance_id)
    known = {port.tap for port in desired.all_ports}
    for tap in sorted(gone | (set(held) - known)):
        await actuators.datapath.unplug(tap)
    if gone or set(held) - known:
        await actuators.networks.retain(desired.instance_id, known - gone)
        kept = tuple(port for port in desired.all_ports if port.tap not in gone)
        files = actuators.files(desired.instance_id)
        if files.exist():
            await files.write_record(desired.key, kept)
