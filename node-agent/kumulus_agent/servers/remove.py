"""Removing an instance from this host. Nothing here asks whether that is right: the plan had the proof."""

from __future__ import annotations

import asyncio

from kumulus_agent import metrics
from kumulus_agent.servers.desired import DesiredPort
from kumulus_agent.servers.start import Actuators


async def remove_instance(actuators: Actuators, instance_id: str, ports: tuple[DesiredPort, ...]) -> None:
    """Switch the guest off and remove domain, disks, seed, console log, taps and networks; volumes stay.

    Args:
        actuators: what to do it with.
        instance_id: the instance.
        ports: its ports; those recorded on the disk if it is empty.

    Raises:
        HypervisorError, NetworkError, OSError: something could not be removed; call again.
    """
    files = actuators.files(instance_id)
    record = await files.read_record()
    known = ports or (record[1] if record else ())
    await actuators.hypervisor.destroy(instance_id)
    await actuators.hypervisor.undefine(instance_id)
    async with asyncio.TaskGroup() as group:
        group.create_task(unplug(actuators, instance_id, known))
        group.create_task(files.remove())
    metrics.REMOVALS.inc()


async def unplug(actuators: Actuators, instance_id: str, ports: tuple[DesiredPort, ...]) -> None:
    """Take an instance's interfaces away, and its networks where it was the last."""
    for port in ports:
        await actuators.datapath.unplug(port.tap)
    await actuators.networks.release(instance_id)
