"""Compare what is known of a kind with what is there, after kopf has listed it instead of watching on.

kopf shows what its list holds. What was deleted before that list, while nobody watched, it does not mention: it would
be counted, and would hold its room, its addresses and its name, until the next restart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import structlog

from kumulus_api import Kind
from kumulus_operator.cloud import Cloud
from kumulus_operator.kinds import KINDS, MANY
from kumulus_operator.views import Key, version_of

SETTLED = 10.0
"""Seconds after the start when kopf has listed all kinds; of one without objects it shows nothing."""

_KINDS = {kind.definition.plural: kind for kind in KINDS}
_OF_KOPF = [plural for plural, kind in _KINDS.items() if kind not in MANY]
_LOG = structlog.stdlib.get_logger(__name__)


def absent(known: Iterable[Kind], listed: Collection[dict[str, Any]], version: int) -> list[Kind]:
    """Give what a list shows to be gone: what is not in it and was not made after it (pure).

    Args:
        known: objects of the kind.
        listed: all objects of the kind.
        version: resourceVersion of the list.
    """
    present = {body["metadata"]["uid"] for body in listed}
    return [
        item for item in known if item.metadata.uid not in present and int(item.metadata.resource_version) <= version
    ]


class RelistController:
    """Takes in one kind anew. Keys are empty and the kind's plural.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        for plural in _OF_KOPF:
            cloud.queues.relists.add_after(("", plural), SETTLED)

    async def reconcile(self, key: Key) -> None:
        """List a kind, and take what is missing as deleted."""
        cloud, kind = self._cloud, _KINDS[key[1]]
        bodies, version = await cloud.client.list(kind)
        for body in bodies:
            cloud.take(kind, body)
        gone = absent(list(cloud.views[kind]), bodies, version_of({"metadata": {"resourceVersion": version}}))
        for item in gone:
            metadata = {"name": item.metadata.name, "namespace": item.metadata.namespace, "uid": item.metadata.uid}
            cloud.take(kind, {"metadata": metadata}, deleted=True)
            _LOG.info("deletion noticed by a list", kind=kind.__name__, namespace=item.key[0], name=item.key[1])
