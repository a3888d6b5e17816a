"""What changes of images mean for those that use them (see `kumulus_operator.intake`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kumulus_api import Image, ImageAcceptance
from kumulus_operator.images.book import admitted_before, size_of
from kumulus_operator.images.of_volumes import volume_image_seen
from kumulus_operator.images.sharing import acceptance_need, accepted_key
from kumulus_operator.waiting import quota

if TYPE_CHECKING:
    from kumulus_operator.cloud import Cloud


def image_seen(cloud: Cloud, former: Image | None, new: Image | None) -> None:
    """Count an image and tell those who accepted it; its going wakes who waits for it, or for room."""
    key = (new or former).key  # type: ignore[union-attr]
    volume_image_seen(cloud, former, new)
    acceptances = cloud.acceptances.of_image(key)
    for acceptance in acceptances:
        cloud.queues.image_acceptances.add(acceptance)
    if acceptances or (new is not None and new.status is not None and new.status.accepted_by):
        cloud.queues.image_members.add(key)
    if new is None:
        cloud.wake(("Image", *key))
        if cloud.image_book.withdraw(key):
            cloud.wake(quota(key[0]))
    elif key in cloud.image_book or admitted_before(new):
        cloud.image_book.measure(key, size_of(new))


def acceptance_seen(cloud: Cloud, former: ImageAcceptance | None, new: ImageAcceptance | None) -> None:
    """Have an acceptance answered, and look at what waits in its project for the image."""
    cloud.acceptances.seen(former, new)
    for item in (former, new):
        if item is not None:
            cloud.queues.image_acceptances.add(item.key)
            cloud.queues.image_members.add(accepted_key(item))
            if former is None or new is None or accepted_key(former) != accepted_key(new):
                cloud.wake(acceptance_need(item.key[0], accepted_key(item)))
