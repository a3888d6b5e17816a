"""Parts of bodies that are sent to the API server (pure)."""

from __future__ import annotations

from typing import Any

from kumulus_api import API_VERSION, Kind

MANAGER = "kumulus-operator"
"""The field manager of all our writes."""


def identity(item: Kind) -> dict[str, Any]:
    """Give the start of a body that is applied to this very object; a successor of its name refuses it."""
    metadata: dict[str, Any] = {"name": item.metadata.name, "uid": item.metadata.uid}
    if item.metadata.namespace:
        metadata["namespace"] = item.metadata.namespace
    return {"apiVersion": API_VERSION, "kind": type(item).__name__, "metadata": metadata}


def owner_reference(item: Kind) -> dict[str, Any]:
    """Give the ownerReference that has the garbage collector delete a dependent with this object."""
    return {
        "apiVersion": API_VERSION,
        "kind": type(item).__name__,
        "name": item.metadata.name,
        "uid": item.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
