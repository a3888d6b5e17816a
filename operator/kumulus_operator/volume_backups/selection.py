"""What a policy backs up: volumes, and root disks of servers (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kumulus_api import BackupPolicy, Server, Volume, VolumeBackup
from kumulus_api.backup_policy import BackupSelector
from kumulus_operator.volume_backups.root_disks import has_root_disk

_ROOT = ".root"


@dataclass(frozen=True, order=True)
class Source:
    """A volume, or the root disk of a server.

    Attributes:
        field: of `spec.source` that names it.
        name: of the Volume or Server.
        id: of the volume or instance; another one of the same name is another source.
    """

    field: Literal["server", "volume"]
    name: str
    id: str = ""

    @property
    def spec(self) -> dict[str, Any]:
        """What names it in a backup."""
        return {self.field: {"name": self.name}}

    @property
    def word(self) -> str:
        """What names it in the name of a backup; no server has a dot in its name."""
        return f"{self.name}{_ROOT}" if self.field == "server" else self.name

    @property
    def ambiguous(self) -> bool:
        """Whether a root disk may have the same word."""
        return self.field == "volume" and self.name.endswith(_ROOT)


def selected(policy: BackupPolicy, volumes: Iterable[Volume], servers: Iterable[Server]) -> list[Source]:
    """Give what a policy backs up, servers first: what has data and stays."""
    chosen = [server for server in servers if _takes(policy.spec.servers, server)]
    attached = {item.volume.name for server in chosen for item in server.spec.volumes}
    disks = [
        Source("server", server.metadata.name, server.spec.assignment.instance_id)
        for server in chosen
        if server.spec.assignment is not None and has_root_disk(server) and not server.deleting
    ]
    return sorted(disks) + sorted(
        Source("volume", volume.metadata.name, volume.spec.assignment.volume_id if volume.spec.assignment else "")
        for volume in volumes
        if (_takes(policy.spec.volumes, volume) or volume.metadata.name in attached)
        and not volume.deleting
        and (volume.spec.assignment is None or volume.spec.assignment.given_to is None)
        and volume.status is not None
        and volume.status.size_bytes is not None
    )


def named_by(backup: VolumeBackup) -> tuple[str, str]:
    """Give the field and the name of what a backup is of."""
    source = backup.spec.source
    if source.server is not None:
        return "server", source.server.name
    return "volume", source.volume.name if source.volume is not None else ""


def _takes(selector: BackupSelector | None, item: Volume | Server) -> bool:
    labels: Mapping[str, str] = item.metadata.labels or {}
    return selector is not None and all(labels.get(key) == value for key, value in selector.match_labels.items())
