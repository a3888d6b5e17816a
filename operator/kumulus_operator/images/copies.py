"""Images that are made of other images: of what the store has of these, by its digest, and with a life of their own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from kumulus_api import Image, Reference
from kumulus_api.image import ImageOriginal, ImageReason
from kumulus_operator.bodies import identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.images.held import in_bucket, is_ready
from kumulus_operator.images.sharing import ImageCatalog, needs_of, usable_image
from kumulus_operator.refusal import refuse, shown
from kumulus_runtime.conditions import set_condition

Object = dict[str, Any]
Holders = Callable[[Image, str], set[str]]
"""Gives the hosts that say that they have of an image a file of a digest, those left out that are lost."""
_MANAGER = "kumulus-operator-copies"
"""A field manager of its own: what else the operator writes of the spec takes nothing of this back."""


def find_original(image: Image, reference: Reference, catalog: ImageCatalog) -> ImageOriginal:
    """Decide what an image is made of, by what may be used and is there now (pure).

    Raises:
        Refused: the original may not be used, is not Ready, or has another format.
    """
    project = image.key[0]
    original, name = usable_image(project, reference, catalog), shown(project, reference)
    digest = original.stored_digest
    if digest is None or not is_ready(original) or original.deleting:
        message = f"image: {name} is not Ready; transient: goes on when it is"
        raise refuse(ImageReason.IMAGE_NOT_READY, message, *needs_of(project, reference))
    if original.stored_format is not image.spec.format:
        message = (
            f"image: {name} is stored in the format {original.stored_format.value}, {image.spec.format.value} is asked "
            "for; permanent: make a new image of that format"
        )
        raise refuse(ImageReason.FORMAT_MISMATCH, message)
    return ImageOriginal(digest=digest)


async def name_original(cloud: Cloud, image: Image, reference: Reference) -> Image:
    """Write what an image is made of; give the image as it is then.

    Raises:
        Refused: as `find_original`.
        Conflict, NotFound, Invalid: it is gone, or goes.
    """
    wanted = find_original(image, reference, cloud)
    body = identity(image) | {"spec": {"original": wanted.dump()}}
    written = await cloud.client.apply(Image, body, manager=_MANAGER)
    cloud.take(Image, written)
    return Image.model_validate(written)


def sources_of(image: Image, catalog: ImageCatalog, holders: Holders) -> set[str] | None:
    """Give the hosts that have the bytes of a copy already; None if any host gets them, from a bucket (pure).

    Raises:
        Refused: nobody has them any more, or nobody who can be asked.
    """
    reference, digest = image.spec.source.image, image.expected
    if reference is None or digest is None or in_bucket(image):
        return None
    original = catalog.images.get(reference.namespace or image.key[0], reference.name)
    if original is not None and (original.deleting or original.stored_digest != digest):
        original = None
    if original is not None and in_bucket(original):
        return None
    # Those of its own tell of it after a restore.
    found = holders(image, digest)
    if original is not None:
        told = original.status.import_host if original.status is not None else None
        found |= holders(original, digest) or ({told} if told is not None else set())
    if not found and original is None:
        message = f"image: nobody has the bytes of {digest} any more; permanent: make the image anew"
        raise refuse(ImageReason.SOURCE_GONE, message, *needs_of(image.key[0], reference))
    return found


def near_original(image: Image, reference: Reference, load: dict[str, int], catalog: ImageCatalog) -> dict[str, int]:
    """Give the load of hosts with the one in front that imported the original, and may have its bytes (pure)."""
    original = catalog.images.get(reference.namespace or image.key[0], reference.name)
    host = original.status.import_host if original is not None and original.status is not None else None
    return load | {host: -1} if host is not None else load


def refused_status(image: Image, reason: str, message: str, now: datetime) -> Object:
    """Give the status of an image that is not begun (pure)."""
    status = image.status
    found = [item.dump() for item in status.conditions if item.type == "Ready"] if status is not None else []
    return {"conditions": set_condition(found, "Ready", False, reason, message, image.metadata.generation, now)}
