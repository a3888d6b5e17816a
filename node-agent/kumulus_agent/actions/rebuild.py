"""A root disk anew: the image first, then in one stroke."""

from __future__ import annotations

import asyncio

from kumulus_agent.servers.desired import Desired, DesiredImage
from kumulus_agent.servers.failing import failing_as
from kumulus_agent.servers.start import Actuators, cached_image
from kumulus_agent.storage.root_disk import replace_root_disk
from kumulus_api.server_status import ReadyReason, ServerConditionType


async def fetch_image(actuators: Actuators, image: DesiredImage, unwanted: asyncio.Event) -> None:
    """Have the image of a new root disk on this host.

    Raises:
        StartGivenUp: the server is being deleted.
        StepFailed: it cannot be had.
    """
    async with failing_as(ReadyReason.IMAGE_FAILED, ServerConditionType.IMAGE_READY):
        await cached_image(actuators, image, unwanted)


async def rebuild_root(actuators: Actuators, desired: Desired, image: DesiredImage, unwanted: asyncio.Event) -> None:
    """Put a new root disk in the place of that of a server that is off; a second time does no harm to an unused one.

    Raises:
        StartGivenUp: the server is being deleted.
        StepFailed: the new disk could not be made; the old one is still there.
    """
    async with failing_as(ReadyReason.IMAGE_FAILED, ServerConditionType.IMAGE_READY):
        base = await cached_image(actuators, image, unwanted)
        below = None if image.is_cd else base
        # What libvirt remembers of the old guest goes too: its shutdown, its saved memory. Its machine stays the same.
        await actuators.hypervisor.undefine(desired.instance_id, keep=True)
        await replace_root_disk(actuators.files(desired.instance_id).root_disk, below, desired.root_disk)
