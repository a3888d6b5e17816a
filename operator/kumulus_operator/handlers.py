"""kopf's handlers: they take in what is seen and put keys into queues, nothing else."""

from __future__ import annotations

import logging
from typing import Any

import kopf

from kumulus_api import GROUP, VERSION, Kind
from kumulus_operator.cloud import Cloud
from kumulus_operator.kinds import KINDS, MANY
from kumulus_runtime import kopf_login, kopf_settings

_GATHER = 1.0
"""Seconds in which a list's objects come in, so that the kind is compared once for all of them."""


def register(cloud: Cloud) -> kopf.OperatorRegistry:
    """Give a registry with a handler for each kind that kopf watches."""
    # One line per event and handler, which says nothing: our reconciles log what they do.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    registry = kopf.OperatorRegistry()
    kopf_login.register(registry)

    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        kopf_settings.configure(settings)

    kopf.on.startup(id="settings", registry=registry)(configure)
    for kind in KINDS:
        if kind not in MANY:
            _watch(registry, cloud, kind)

    async def namespace_seen(name: str, **_: Any) -> None:
        cloud.queues.projects.add(("", name))

    kopf.on.event("", "v1", "namespaces", id="watch-namespaces", registry=registry)(namespace_seen)
    return registry


def _watch(registry: kopf.OperatorRegistry, cloud: Cloud, kind: type[Kind]) -> None:
    async def seen(event: kopf.RawEvent, **_: Any) -> None:
        cloud.take(kind, dict(event["object"]), deleted=event["type"] == "DELETED")
        if event["type"] is None:
            # From a list: what is not in it, no event will ever tell.
            cloud.queues.relists.add_after(("", plural), _GATHER)

    plural = kind.definition.plural
    kopf.on.event(GROUP, VERSION, plural, id=f"watch-{plural}", registry=registry)(seen)
