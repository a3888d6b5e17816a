"""Check that a server's user data is there and not too large, and wait for a Secret or ConfigMap that is not."""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Any, Literal

from kumulus_api import Server
from kumulus_api.server import KeySelector, ScheduledReason
from kumulus_operator.cloud import Cloud
from kumulus_operator.refusal import refuse
from kumulus_operator.views import Key
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


def content_of(body: dict[str, Any], kind: Literal["Secret", "ConfigMap"] | str, key: str) -> bytes | None:
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


class UserDataWaits:
    """Watches on single Secrets and ConfigMaps, only as long as a server waits for one.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._watches: dict[Key, asyncio.Task[None]] = {}

    def watch(self, server: Key, resource: Resource, name: str, version: str | None) -> None:
        """Have the server looked at again when the object differs from the version that was seen."""
        if server not in self._watches:
            self._watches[server] = asyncio.create_task(self._until_changed(server, resource, name, version))

    def forget(self, server: Key) -> None:
        """Stop watching for a server."""
        task = self._watches.pop(server, None)
        if task is not None:
            task.cancel()

    async def _until_changed(self, server: Key, resource: Resource, name: str, version: str | None) -> None:
        events = self.cloud.client.watch(resource, namespace=server[0], field_selector=f"metadata.name={name}")
        async for kind, body in events:
            if kind in ("ADDED", "MODIFIED") and body["metadata"]["resourceVersion"] != version:
                break
        self._watches.pop(server, None)
        self.cloud.queues.servers.add(server)


async def check_user_data(waits: UserDataWaits, server: Server) -> None:
    """Look that the user data can be passed on, by one live read.

    Raises:
        Refused: it is absent or too large.
    """
    found = selector_of(server)
    if found is None:
        return
    resource, selector = found
    body = await waits.cloud.client.get(resource, selector.name, server.metadata.namespace)
    content = content_of(body, resource.kind, selector.key) if body is not None else None
    if content is not None and len(content) <= LARGEST:
        return
    version = body["metadata"]["resourceVersion"] if body is not None else None
    waits.watch(server.key, resource, selector.name, version)
    where = f"key {selector.key} of {resource.kind} {selector.name}"
    if content is None:
        message = f"userData: {where} was not found; transient: goes on when it is made"
        raise refuse(ScheduledReason.USER_DATA_NOT_FOUND, message)
    message = f"userData: {where} has {len(content)} bytes, at most {LARGEST} are passed on; transient: goes on when it is smaller"
    raise refuse(ScheduledReason.USER_DATA_TOO_LARGE, message)
