"""Parts of bodies that are sent to the API server (pure)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from kumulus_api import API_VERSION, Kind

MANAGER = "kumulus-operator"
"""The field manager of all our writes."""

_NAMED = 3
"""How many names a message gives."""


def identity(item: Kind) -> dict[str, Any]:
    """Give the start of a body that is applied to this very object; a successor of its name refuses it."""
    metadata: dict[str, Any] = {"name": item.metadata.name, "uid": item.metadata.uid}
    if item.metadata.namespace:
        metadata["namespace"] = item.metadata.namespace
    return {"apiVersion": API_VERSION, "kind": type(item).__name__, "metadata": metadata}


def counted(word: str, names: Collection[str]) -> str:
    """Give a count with the first names, such as `3 servers (a, b, …)`."""
    first = ", ".join(sorted(names)[:_NAMED]) + (", …" if len(names) > _NAMED else "")
    return f"{len(names)} {word}{'s' if len(names) > 1 else ''} ({first})"


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
