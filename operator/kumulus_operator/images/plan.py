"""Plan which host imports an Image (pure)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from kumulus_api import Image
from kumulus_api.image import ImageReason
from kumulus_api.upload_messages import waiting_for_upload
from kumulus_operator.placement.facts import HostFacts
from kumulus_runtime.conditions import set_condition


def import_status(
    image: Image, hosts: Sequence[HostFacts], silent: Collection[str], load: Mapping[str, int], now: datetime
) -> dict[str, Any] | None:
    """Give the status of ours for an image: the host that imports it, or that there is none.

    Args:
        image: as it is.
        hosts: all hosts.
        silent: names of hosts that no longer speak.
        load: how many images each host was given.
        now: the present.

    Returns:
        None if nothing is to be done: the host is named already and speaks, or the import is finished.
    """
    status = image.status
    if status is not None:
        done = any(item.type == "Ready" and item.status == "True" for item in status.conditions)
        exists = any(host.name == status.import_host and not host.decommissioned for host in hosts)
        if done or (exists and status.import_host not in silent):
            return None
    good = [host for host in hosts if host.ready and host.fresh and not host.decommissioned and not host.maintenance]
    found = [item.dump() for item in status.conditions if item.type == "Ready"] if status is not None else []
    generation = image.metadata.generation
    if not good:
        message = "import: no host is Ready; transient: goes on when one is"
        conditions = set_condition(found, "Ready", False, ImageReason.WAITING_FOR_HOST, message, generation, now)
        return {"conditions": conditions}
    chosen = min(good, key=lambda host: (not host.schedulable, load.get(host.name, 0), host.name)).name
    # The condition comes along: left out, an earlier one of ours would be taken away, and of one that an agent has
    # written in the meantime the parts that we took over, which leaves no valid object.
    reason, message = ImageReason.IMPORTING, f"host {chosen} imports it"
    if image.spec.source.upload is not None:
        reason, message = ImageReason.WAITING_FOR_UPLOAD, waiting_for_upload(chosen, *image.key)
    conditions = set_condition(found, "Ready", False, reason, message, generation, now)
    return {"importHost": chosen, "conditions": conditions}


def concerns(image: Image, host: str) -> bool:
    """Give whether a host imports an image, or keeps it."""
    status, given = image.status, image.spec.assignment
    told = status is not None and (status.import_host == host or host in (status.replicas or []))
    return told or (given is not None and host in given.hosts)
