"""The Image that a CreateImage fills: made when the action is opened, so that the name is taken and the agent known."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kumulus_api import Image, Server, ServerAction
from kumulus_api.server_action import ActionReason
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.images.held import held_status, image_body, is_snapshot, made_by
from kumulus_operator.refusal import refuse
from kumulus_operator.views import Key
from kumulus_runtime.errors import AlreadyExists, Conflict


async def make_image(cloud: Cloud, action: ServerAction, server: Server) -> None:
    """Make the Image of a CreateImage and name the host that holds it; what was made before is gone on with.

    Raises:
        Refused: there is another image of that name, or the project has as many snapshots as it may.
        Conflict: it went at this very moment; look again.
    """
    given = server.spec.assignment
    if given is None:
        return
    base = cloud.images.get(given.image.namespace, given.image.name) if given.image is not None else None
    body = image_body(action, server, base)
    key = (body["metadata"]["namespace"], body["metadata"]["name"])
    if cloud.images.get(*key) is None:
        _admit(cloud, key)
    try:
        await _make(cloud, action, body)
    finally:
        if not is_snapshot(cloud.images.get(*key)):
            cloud.counted_snapshots.withdraw(key)
        if cloud.images.get(*key) is None:
            cloud.image_book.withdraw(key)


def _admit(cloud: Cloud, key: Key) -> None:
    for what, book in (("snapshots", cloud.counted_snapshots), ("images", cloud.image_book)):
        excess = book.admit(key)
        if excess is not None:
            cloud.counted_snapshots.withdraw(key)
            message = f"quota: {excess}; transient: ask again when {what} are deleted or the quota is raised"
            raise refuse(ActionReason.QUOTA_EXCEEDED, message)


async def _make(cloud: Cloud, action: ServerAction, body: dict[str, Any]) -> None:
    name, namespace = body["metadata"]["name"], body["metadata"]["namespace"]
    try:
        written = await cloud.client.create(Image, body)
    except AlreadyExists:
        found = await cloud.client.get(Image, name, namespace)
        if found is None:
            raise Conflict(409, "Conflict", f"image {name} has just gone") from None
        written = found
    image = Image.model_validate(written)
    if not made_by(image, action) or image.deleting:
        message = f"image: there is an image {name} in {namespace}; permanent: choose another name"
        raise refuse(ActionReason.IMAGE_EXISTS, message)
    cloud.take(Image, written)
    status = held_status(image, datetime.now(UTC))
    if status is not None:
        told = identity(image) | {"status": status}
        cloud.take(Image, await cloud.client.apply_status(Image, told, manager=MANAGER))
