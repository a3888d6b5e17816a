"""The volume behind an Image: what the operator found that it is to be made of."""

from __future__ import annotations

from pydantic import Field

from kumulus_api.base import Model, ObjectName, UUIDText
from kumulus_api.volume_class import FolderPath


class OriginalVolume(Model):
    """A volume, or one of its snapshots, where it lies."""

    volume_id: UUIDText = Field(alias="volumeID")
    snapshot_id: UUIDText | None = Field(default=None, alias="snapshotID")
    """None for the volume as it is when its host begins."""
    copy_id: UUIDText = Field(alias="copyID")
    """Of the copy that its host reads while the volume goes on; it goes when the image is whole."""
    volume_class: ObjectName | None = None
    folder: FolderPath | None = None
    """Of a volume that is shared."""
