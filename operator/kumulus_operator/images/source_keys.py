"""Keys of the bucket that an Image's source lies in: read live, and neither kept nor logged."""

from __future__ import annotations

from typing import Final

from kumulus_api import Image
from kumulus_api.image import ImageReason
from kumulus_operator.refusal import refuse
from kumulus_operator.servers.userdata import content_of
from kumulus_operator.waiting import Need
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import Forbidden
from kumulus_runtime.resources import SECRET

ACCESS_KEY: Final = "AWS_ACCESS_KEY_ID"
SECRET_KEY: Final = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - a name
_LONGEST: Final = 1024


def imports(image: Image | None, node: str) -> bool:
    """Give whether a node is to read the source of an image now, and needs keys for it (pure)."""
    if image is None or image.status is None or image.deleting:
        return False
    source = image.spec.source.s3
    ready = any(item.type == "Ready" and item.status == "True" for item in image.status.conditions)
    return source is not None and source.secret is not None and not ready and image.status.import_host == node


async def source_keys(client: KubeClient, image: Image) -> dict[str, str]:
    """Give what opens the bucket of an image's source.

    Args:
        client: to reach the API server.
        image: whose source names a Secret.

    Returns:
        `accessKeyID` and `secretAccessKey`.

    Raises:
        Refused: they cannot be had; the message has nothing of them.
    """
    source = image.spec.source.s3
    name = source.secret.name if source is not None and source.secret is not None else ""
    need: Need = (SECRET.kind, image.key[0], name)
    try:
        body = await client.get(SECRET, name, image.key[0])
    except Forbidden:
        body = None
    found = {key: content_of(body or {}, SECRET.kind, key) or b"" for key in (ACCESS_KEY, SECRET_KEY)}
    keys = [value.decode(errors="replace").strip() for value in found.values()]
    if not all(0 < len(key) <= _LONGEST and key.isascii() for key in keys):
        message = f"source: Secret {name} with {ACCESS_KEY} and {SECRET_KEY} was not found; transient: make it"
        raise refuse(ImageReason.DOWNLOAD_FAILED, message, need)
    return {"accessKeyID": keys[0], "secretAccessKey": keys[1]}
