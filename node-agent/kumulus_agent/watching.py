"""kopf's part: what it watches only feeds the store and the queues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kumulus_runtime.imports  # noqa: F401 - must precede kopf

import kopf  # isort: skip
from kumulus_api import (
    GROUP,
    VERSION,
    Host,
    Image,
    Kind,
    Port,
    Server,
    ServerAction,
    Volume,
    VolumeBackup,
    VolumeClass,
    VolumeSnapshot,
)
from kumulus_runtime import kopf_login, kopf_settings
from kumulus_runtime.store import Store

Key = tuple[str, str]
Enqueue = Callable[[Key], None]


def selectors(node: str) -> dict[tuple[str, str], str]:
    """Give the field selectors by which a host sees what concerns it, and nothing else; it sees all classes."""
    return {
        (GROUP, "servers"): f"spec.assignment.host={node}",
        (GROUP, "ports"): f"spec.assignment.host={node}",
        (GROUP, "volumes"): f"spec.assignment.host={node}",
        (GROUP, "volumesnapshots"): f"spec.assignment.host={node}",
        (GROUP, "volumebackups"): f"spec.assignment.host={node}",
        (GROUP, "images"): f"status.importHost={node}",
        (GROUP, "serveractions"): f"status.host={node}",
        (GROUP, "hosts"): f"metadata.name={node}",
    }


def build_registry(node: str, store: Store, enqueue: dict[type[Kind], Enqueue]) -> kopf.OperatorRegistry:
    """Make the handlers of this host.

    Args:
        node: this host's name.
        store: takes every object that is seen.
        enqueue: by kind, where the key of a changed object goes.
    """
    registry = kopf.OperatorRegistry()
    kopf_login.register(registry)

    @kopf.on.startup(registry=registry)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        kopf_settings.configure(settings, field_selectors=selectors(node))

    for kind in (Server, ServerAction, Port, Volume, VolumeSnapshot, VolumeBackup, VolumeClass, Image, Host):
        _register(registry, kind, store, enqueue[kind])
    return registry


def _register(registry: kopf.OperatorRegistry, kind: type[Kind], store: Store, enqueue: Enqueue) -> None:
    @kopf.on.event(GROUP, VERSION, kind.definition.plural, registry=registry, id=f"see-{kind.__name__.lower()}")
    async def see(event: kopf.RawEvent, **_: Any) -> None:
        body: Any = event["object"]
        store.apply(event["type"], {"kind": kind.__name__, **body})
        enqueue((body["metadata"].get("namespace") or "", body["metadata"]["name"]))
