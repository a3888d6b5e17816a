"""The bytes of an Image that is made of another: those that the store has of that one, by their digest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from kumulus_agent.images.kept import digest_of
from kumulus_agent.storage.errors import HolderAway, SourceGone
from kumulus_agent.storage.image_cache import CachedImage, ImageCache
from kumulus_agent.storage.inspection import source_format
from kumulus_api import Image
from kumulus_api.image import held_address
from kumulus_runtime.api_client import KubeClient

Key = tuple[str, str]
Object = dict[str, Any]
Find = Callable[[Key, Object], Awaitable[str | None]]
"""Gives the digest of what a bucket has of an Image of which the API tells nothing."""


async def bytes_of_copy(client: KubeClient, cache: ImageCache, body: Object, find: Find, limit: int) -> CachedImage:
    """Have the bytes of a copy here; what is here already is taken as it is.

    Args:
        client: to reach the API server.
        cache: of this host.
        body: the Image, whose original the operator has told.
        find: looks for what was put away of the copy before a restore.
        limit: bytes that the disk may have.

    Raises:
        SourceGone: nobody has them any more.
        StorageError: as of `ImageCache.ensure`.
    """
    image = Image.model_validate(body)
    reference, digest, wanted = image.spec.source.image, image.expected, source_format(image.spec.format.value)
    if reference is None or digest is None:
        raise ValueError(f"{image.key} is no copy, or nobody has said of what")
    try:
        found = await cache.ensure(image.address, digest, wanted, limit)
    except HolderAway:
        if await find(image.key, body) == digest:
            found = await cache.ensure(held_address(*image.key), digest, wanted, limit)
        else:
            live = await client.get(Image, reference.name, reference.namespace or image.key[0])
            if live is not None and "deletionTimestamp" not in live["metadata"] and digest_of(live) == digest:
                raise
            message = f"the image that it is made of has no bytes of {digest} any more; permanent: make the image anew"
            raise SourceGone(message) from None
    # What that was made of, if anything, is not this image's.
    return replace(found, made_of=None)
