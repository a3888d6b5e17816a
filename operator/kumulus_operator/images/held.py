"""Images whose bytes a host holds: what they are made with, and when they are given up (pure)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from kumulus_api import API_VERSION, FINALIZER, Image, Server, ServerAction
from kumulus_api.image import ImageFormat, ImageReason
from kumulus_api.image_store import StoreType
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


def held_status(image: Image, now: datetime, holders: Collection[str] = ()) -> Object | None:
    """Give the status with which a host is told that it holds an image, also after a restore; None if it was told.

    Args:
        image: of a server.
        now: the present.
        holders: hosts that have its bytes, if the one that made it is lost: one of them tells of it then.
    """
    server, status = image.spec.source.server, image.status
    if server is None or is_ready(image) or is_lost(image):
        return None
    told = status.import_host if status is not None else None
    host = (told if told in holders else min(holders)) if holders else server.host
    if told == host:
        return None
    message = f"host {host} has the copy of the disk of server {server.name}, or makes it"
    conditions = set_condition([], "Ready", False, ImageReason.COPYING, message, image.metadata.generation, now)
    return {"importHost": host, "conditions": conditions}


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


def found_status(image: Image, now: datetime) -> Object | None:
    """Give the status of an image that was lost and that a host has after all; None if it was not lost."""
    status = image.status
    if status is None or not is_lost(image):
        return None
    found = [item.dump() for item in status.conditions if item.type == "Ready"]
    generation, server = image.metadata.generation, image.spec.source.server
    reason = ImageReason.COPIED if server is not None else ImageReason.IMPORTED
    conditions = set_condition(found, "Ready", True, reason, "a host has it after all", generation, now)
    return {"importHost": status.import_host, "conditions": conditions}


def is_ready(image: Image) -> bool:
    """Give whether servers can start from an image."""
    conditions = image.status.conditions if image.status is not None else []
    return any(item.type == "Ready" and item.status == "True" for item in conditions)


def in_bucket(image: Image) -> bool:
    """Give whether an image is kept in a bucket, or is to be."""
    given = image.spec.assignment
    return given is not None and given.store is StoreType.S3


def can_be_had_anew(image: Image) -> bool:
    """Give whether an image's bytes come from elsewhere than a host, its user or another image, which may be gone."""
    return image.spec.source.url is not None or image.spec.source.s3 is not None


def is_lost(image: Image) -> bool:
    """Give whether an image says that it was lost with its host."""
    conditions = image.status.conditions if image.status is not None else []
    return any(item.type == "Ready" and item.reason == ImageReason.HOST_LOST for item in conditions)


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
