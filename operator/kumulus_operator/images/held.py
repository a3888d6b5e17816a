"""Images whose bytes a host holds: what they are made with, and when they are given up (pure)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from kumulus_api import API_VERSION, FINALIZER, Image, Server, ServerAction
from kumulus_api.image import ImageFormat, ImageReason
from kumulus_runtime.conditions import set_condition

Object = dict[str, Any]


def image_body(action: ServerAction, server: Server, base: Image | None) -> Object:
    """Give the Image that a CreateImage makes.

    Args:
        action: the CreateImage.
        server: what is copied; it has an assignment.
        base: the image that the server was made from, if it is still there: what it asks of hosts, the copy asks too.
    """
    wanted, given = action.spec.create_image, server.spec.assignment
    if wanted is None or given is None:
        raise ValueError(f"{action.metadata.name} names no image, or its server has no host")
    names = {"name": server.metadata.name, "action": action.metadata.uid}
    source = names | {"instanceID": given.instance_id, "host": given.host}
    spec: Object = {"source": {"server": source}, "format": ImageFormat.QCOW2.value}
    if base is not None:
        found = base.spec.dump()
        kept = ("minMemory", "architecture", "requiredTraits", "properties")
        spec |= {name: found[name] for name in kept if found.get(name)}
    # The finalizer holds the object until the holder has removed the bytes.
    metadata = {"name": wanted.name, "namespace": server.metadata.namespace, "finalizers": [FINALIZER]}
    return {"apiVersion": API_VERSION, "kind": "Image", "metadata": metadata, "spec": spec}


def held_status(image: Image, now: datetime) -> Object | None:
    """Give the status with which a host is told that it holds an image, also after a restore; None if it was told."""
    server = image.spec.source.server
    if server is None or (image.status is not None and image.status.import_host == server.host):
        return None
    message = f"host {server.host} copies the disk of server {server.name}"
    conditions = set_condition([], "Ready", False, ImageReason.COPYING, message, image.metadata.generation, now)
    return {"importHost": server.host, "conditions": conditions}


def lost_status(image: Image, now: datetime) -> Object | None:
    """Give the status of an image whose only copy went with its host; None if it says so already."""
    status = image.status
    if status is None or not is_ready(image):
        return None
    host = status.import_host
    message = f"image: host {host} held the only copy and never returns; permanent: delete the image"
    found = [item.dump() for item in status.conditions if item.type == "Ready"]
    conditions = set_condition(found, "Ready", False, ImageReason.HOST_LOST, message, image.metadata.generation, now)
    return {"importHost": host, "conditions": conditions}


def is_ready(image: Image) -> bool:
    """Give whether servers can start from an image."""
    conditions = image.status.conditions if image.status is not None else []
    return any(item.type == "Ready" and item.status == "True" for item in conditions)


def never_comes(image: Image, *, lost: bool) -> bool:
    """Give whether an image is not there and will not be: its host says so, or went before it had made it."""
    conditions = image.status.conditions if image.status is not None else []
    reason = next((item.reason for item in conditions if item.type == "Ready"), ImageReason.COPYING.value)
    return reason == ImageReason.NOT_HELD or (lost and reason == ImageReason.COPYING)


def is_snapshot(image: Image | None) -> bool:
    """Give whether there is an image and it was made of a server."""
    return image is not None and image.spec.source.server is not None


def made_by(image: Image, action: ServerAction) -> bool:
    """Give whether an image was made for an action."""
    source = image.spec.source.server
    return source is not None and source.action == action.metadata.uid
