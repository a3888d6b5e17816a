"""Reconcile a VolumeClass: tell what there is for its volumes, and what they were promised."""

from __future__ import annotations

from typing import Any

from kumulus_api import VolumeClass
from kumulus_api.quantities import format_quantity, parse_quantity
from kumulus_api.storage_usage import step_of
from kumulus_operator.cloud import Cloud
from kumulus_operator.ledger.shares import Share
from kumulus_operator.metrics import CLASS_BYTES
from kumulus_operator.views import Key

_AMOUNTS = ("capacity", "free", "provisioned")


def class_status(volume_class: VolumeClass, share: Share | None, promised: int) -> dict[str, Any] | None:
    """Give the status of a class, or None if it says so already, or nearly (pure).

    Args:
        volume_class: as it is.
        share: of its volumes; None for Local ones, and where no host has told of it.
        promised: bytes, to all its volumes.
    """
    wanted = {"provisioned": promised} | ({"capacity": share.capacity, "free": share.free} if share is not None else {})
    found = volume_class.status
    told = {name: getattr(found, name) for name in _AMOUNTS} if found is not None else {}
    known = {name: parse_quantity(value) for name, value in told.items() if value is not None}
    step = step_of(share.capacity if share is not None else max(promised, known.get("provisioned", 0)))
    same = known.keys() == wanted.keys() and known.get("capacity") == wanted.get("capacity")
    if same and all(abs(known[name] - amount) < step for name, amount in wanted.items()):
        return None
    return {name: format_quantity(amount) for name, amount in wanted.items()}


class VolumeClassController:
    """Keeps the status of volume classes; placement reads their spec.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> None:
        """Bring the status of one class up to date."""
        cloud, name = self._cloud, key[1]
        volume_class = cloud.volume_classes.get(*key)
        if volume_class is None or volume_class.deleting:
            for what in _AMOUNTS:
                CLASS_BYTES.remove(name, what)
            return
        share, promised = cloud.ledger.shares.share_of(name), cloud.ledger.shares.promised[name]
        CLASS_BYTES.labels(name, "provisioned").set(promised)
        if share is not None:
            CLASS_BYTES.labels(name, "capacity").set(share.capacity)
            CLASS_BYTES.labels(name, "free").set(share.free)
        status = class_status(volume_class, share, promised)
        if status is not None:
            await cloud.write_status(volume_class, status)
