"""Objects as a test of the API puts them there."""

from __future__ import annotations

from typing import Any

from kumulus_api import Kind
from kumulus_runtime.api_client import KubeClient

Object = dict[str, Any]


def status_body(body: Object, status: Object) -> Object:
    """Give what server-side apply of a status sends."""
    metadata = {key: value for key, value in body["metadata"].items() if key in ("name", "namespace")}
    return {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata, "status": status}


async def fresh(client: KubeClient, kind: type[Kind], body: Object, status: Object | None = None) -> Object:
    """Create an object, or give the one that is there; then set its status."""
    metadata = body["metadata"]
    found = await client.get(kind, metadata["name"], metadata.get("namespace"))
    found = found or await client.create(kind, body)
    if status is not None:
        found = await client.apply_status(kind, status_body(body, status), manager="setup")
    return found
