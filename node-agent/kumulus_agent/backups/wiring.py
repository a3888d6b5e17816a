"""What makes and restores backups here, put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kumulus_agent.backups.apart import BackupBucket
from kumulus_agent.backups.controller import Here, VolumeBackupController
from kumulus_agent.backups.pulls import Pulls
from kumulus_agent.backups.restores import Restores
from kumulus_agent.backups.sources import Sources
from kumulus_agent.host.inventory import HOST_ROOT
from kumulus_agent.settings import AgentSettings
from kumulus_agent.storage.bucket_apart import BucketAddress
from kumulus_agent.volumes.snapshots import Taker
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.store import Store
from kumulus_runtime.workqueue import WorkQueue

Key = tuple[str, str]
_QEMU_HOME: Final = "var/lib/libvirt/qemu"


@dataclass(frozen=True)
class BackupsHere:
    """The backups of this host.

    Attributes:
        pulls: to be swept before the controller works.
        controller: of VolumeBackups.
        restores: of Volumes.
    """

    pulls: Pulls
    controller: VolumeBackupController
    restores: Restores

    async def close(self) -> None:
        """End what goes on; the next agent begins it anew."""
        await self.controller.close()
        await self.restores.close()


def backups_of(
    settings: AgentSettings,
    known: tuple[KubeClient, Store, EventRecorder],
    taker: Taker,
    queues: tuple[WorkQueue[Key], WorkQueue[Key]],
) -> BackupsHere:
    """Put it together.

    Args:
        settings: of the agent.
        known: the API server's client, what the watches have shown, and the Events.
        taker: takes snapshots, and knows the guests.
        queues: of VolumeBackups, and of Volumes.
    """
    backups, volumes = queues
    bucket = None
    if settings.s3_bucket:
        where = settings.s3_endpoint, settings.s3_bucket, settings.s3_region
        address = BucketAddress(*where, path_style=settings.s3_path_style, keys=settings.s3_keys)
        bucket = BackupBucket(address, settings.s3_prefix)
    pulls = Pulls(taker.guests, settings.run_dir, HOST_ROOT / _QEMU_HOME)
    here = Here(settings.node_name, *known, Sources(taker, pulls), bucket, volumes.add)
    controller = VolumeBackupController(here, backups)
    return BackupsHere(pulls, controller, Restores(settings.state_dir, bucket, volumes.add))
