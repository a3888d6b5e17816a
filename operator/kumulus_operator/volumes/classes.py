"""Which class a volume is of, and what a new one needs before it can be made (pure)."""

from __future__ import annotations

from typing import Protocol

from kumulus_api import Image, Volume, VolumeClass, VolumeSnapshot
from kumulus_api.image import ImageFormat
from kumulus_api.quantities import parse_quantity
from kumulus_api.server_assignment import AssignedImage
from kumulus_api.server_status import ScheduledReason
from kumulus_api.volume import VolumeReason
from kumulus_api.volume_class import DriverName
from kumulus_operator.images.held import is_ready
from kumulus_operator.images.sharing import Acceptances, needs_of, usable_image
from kumulus_operator.placement.facts import Amounts
from kumulus_operator.placement.usage import bytes_of
from kumulus_operator.refusal import Refusal, Refused, refuse, shown
from kumulus_operator.views import View
from kumulus_operator.waiting import any_of


class Shelves(Protocol):
    """The views that are looked into."""

    @property
    def images(self) -> View[Image]: ...  # noqa: D102
    @property
    def acceptances(self) -> Acceptances: ...  # noqa: D102
    @property
    def volumes(self) -> View[Volume]: ...  # noqa: D102
    @property
    def volume_classes(self) -> View[VolumeClass]: ...  # noqa: D102
    @property
    def volume_snapshots(self) -> View[VolumeSnapshot]: ...  # noqa: D102


def class_of(volume: Volume, shelves: Shelves) -> VolumeClass | None:
    """Give the class of a volume that is not bound; None for the hosts' own folders, where there is no class.

    Raises:
        Refused: it is absent, or not for the volume's project: both in the same words.
    """
    namespace = volume.key[0]
    classes = sorted(shelves.volume_classes, key=lambda item: item.metadata.name)
    if volume.spec.volume_class is None:
        usable = (item for item in classes if item.spec.default and not item.deleting and may_use(item, namespace))
        return next(usable, None)
    name = volume.spec.volume_class.name
    found = shelves.volume_classes.get("", name)
    if found is None or found.deleting or not may_use(found, namespace):
        message = f"reference: volume class {name} was not found; transient: goes on when it is made"
        raise refuse(VolumeReason.CLASS_NOT_FOUND, message, any_of("VolumeClass", ""))
    return found


def may_use(volume_class: VolumeClass, namespace: str) -> bool:
    """Give whether volumes of a project may be of a class."""
    return volume_class.spec.public or namespace in volume_class.spec.projects


def is_shared(volume: Volume, shelves: Shelves) -> bool:
    """Give whether any host finds a volume, or will.

    Raises:
        Refused: see `class_of`.
    """
    place = volume.spec.assignment
    if place is not None:
        return place.folder is not None
    found = class_of(volume, shelves)
    return found is not None and found.spec.driver is DriverName.SHARED


def exportable(volume: Volume, shelves: Shelves) -> bool:
    """Give whether a volume that is bound may serve servers of other hosts; one that is encrypted does not."""
    place = volume.spec.assignment
    if place is None or place.folder is not None or place.volume_class is None or place.encryption is not None:
        return False
    found = shelves.volume_classes.get("", place.volume_class)
    return found is not None and found.spec.driver is DriverName.LOCAL and found.spec.export


def is_copy(volume: Volume) -> bool:
    """Give whether a volume is made where the one is that it is a copy of."""
    source = volume.spec.source
    return source is not None and source.image is None


def new_amounts(volume: Volume, shelves: Shelves) -> Amounts:
    """Give what a volume that is not bound takes of the host of its first server; nothing if it is shared.

    Raises:
        Refused: see `class_of`.
    """
    found = class_of(volume, shelves)
    if found is not None and found.spec.driver is DriverName.SHARED:
        return Amounts()
    return bytes_of(found.metadata.name if found is not None else None, parse_quantity(volume.spec.size))


def own_ratio(volume: Volume, shelves: Shelves) -> str | None:
    """Give the class of a Local volume that is bound, if a ratio of its own says how it counts on its host's disk."""
    place = volume.spec.assignment
    if place is None or place.folder is not None or place.volume_class is None:
        return None
    found = shelves.volume_classes.get("", place.volume_class)
    return place.volume_class if found is not None and found.spec.overcommit is not None else None


def assigned_image(volume: Volume, shelves: Shelves) -> AssignedImage | None:
    """Give the image that a volume is made of; None if it is made of none.

    Raises:
        Refused: it may not be used, is absent, not Ready, of a CD, or too large.
    """
    wanted = volume.spec.source.image if volume.spec.source is not None else None
    if wanted is None:
        return None
    own = volume.key[0]
    name = shown(own, wanted)
    try:
        image = usable_image(own, wanted, shelves)
    except Refused as refused:
        given = refused.refusal
        gone = given.reason == ScheduledReason.IMAGE_NOT_FOUND
        reason = VolumeReason.SOURCE_NOT_FOUND if gone else VolumeReason.SOURCE_NOT_READY
        raise refuse(reason, given.message, *given.needs) from None
    status = image.status
    if not is_ready(image) or status is None or image.stored_digest is None or status.virtual_size is None:
        message = f"image: {name} is not Ready; transient: goes on when it is imported"
        raise refuse(VolumeReason.SOURCE_NOT_READY, message, *needs_of(own, wanted))
    if image.spec.format is ImageFormat.ISO:
        message = f"image: {name} is a CD; permanent: use an image of a disk"
        raise refuse(VolumeReason.SOURCE_NOT_READY, message)
    least = parse_quantity(image.spec.min_disk) if image.spec.min_disk is not None else 0
    check_size(volume, max(status.virtual_size, least), f"image {name}")
    stored = image.spec.assignment is not None
    return AssignedImage(
        name=wanted.name,
        namespace=image.key[0],
        url=image.stored_address,
        format=image.stored_format if stored else image.spec.format,
        digest=image.stored_digest if stored else status.digest,
        virtual_size=status.virtual_size,
    )


def check_size(volume: Volume, needed: int, what: str) -> None:
    """Check that a volume can hold what it is a copy of.

    Raises:
        Refused: it is too small.
    """
    if parse_quantity(volume.spec.size) < needed:
        message = f"size: {what} needs {needed} bytes, spec.size is {volume.spec.size}; transient: raise spec.size"
        raise refuse(VolumeReason.SIZE_TOO_SMALL, message)


def unready(volume: Volume, shelves: Shelves) -> Refusal | None:
    """Say why a server cannot have a volume yet, or None: a bound one is made at its start at the latest."""
    if volume.spec.assignment is not None:
        return None
    if is_copy(volume):
        message = f"volume {volume.metadata.name} is a copy that is not there yet; transient: goes on when it is"
        return Refusal(VolumeReason.SOURCE_NOT_READY, message, frozenset({("Volume", *volume.key)}))
    return None
