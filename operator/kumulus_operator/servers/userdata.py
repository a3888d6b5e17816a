"""Check that a server's user data is there and not too large."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from kumulus_api import Server
from kumulus_api.server import KeySelector
from kumulus_api.server_status import ScheduledReason
from kumulus_operator.refusal import refuse
from kumulus_operator.waiting import Need
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import Forbidden
from kumulus_runtime.resources import CONFIGMAP, SECRET, Resource

LARGEST = 64 * 1024
"""Bytes of user data that are passed on."""


def selector_of(server: Server) -> tuple[Resource, KeySelector] | None:
    """Give where a server's user data lies, or None if it has none or has it inline."""
    data = server.spec.user_data
    if data is not None and data.secret is not None:
        return SECRET, data.secret
    if data is not None and data.config_map is not None:
        return CONFIGMAP, data.config_map
    return None


def content_of(body: dict[str, Any], kind: str, key: str) -> bytes | None:
    """Give the bytes under a key of a Secret or ConfigMap, or None."""
    data, binary = body.get("data") or {}, body.get("binaryData") or {}
    if kind == "ConfigMap" and key in data:
        return str(data[key]).encode()
    encoded = data.get(key) if kind == "Secret" else binary.get(key)
    if encoded is None:
        return None
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return None


async def check_user_data(client: KubeClient, server: Server) -> None:
    """Look that the user data can be passed on, by one live read.

    Raises:
        Refused: it is absent, too large, or cannot be read.
    """
    found = selector_of(server)
    if found is None:
        return
    resource, selector = found
    namespace = server.metadata.namespace or ""
    need: Need = (resource.kind, namespace, selector.name)
    where = f"key {selector.key} of {resource.kind} {selector.name}"
    try:
        size = await _size(client, resource, selector, namespace)
    except Forbidden:
        message = f"userData: {where} cannot be read yet; transient: goes on when the project's roles are in force"
        raise refuse(ScheduledReason.USER_DATA_NOT_FOUND, message, need) from None
    if size is None:
        message = f"userData: {where} was not found; transient: goes on when it is made"
        raise refuse(ScheduledReason.USER_DATA_NOT_FOUND, message, need)
    if size > LARGEST:
        message = f"userData: {where} has {size} bytes; transient: goes on when it has at most {LARGEST}"
        raise refuse(ScheduledReason.USER_DATA_TOO_LARGE, message, need)


async def _size(client: KubeClient, resource: Resource, selector: KeySelector, namespace: str) -> int | None:
    """Give the bytes of user data, or None if there is none; the content itself is forgotten with the return."""
    body = await client.get(resource, selector.name, namespace)
    content = content_of(body, resource.kind, selector.key) if body is not None else None
    return len(content) if content is not None else None
