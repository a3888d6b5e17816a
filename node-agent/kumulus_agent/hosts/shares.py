"""What the shares of volume classes have that are mounted on this host: looked at often, told seldom."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kumulus_agent import metrics
from kumulus_agent.volumes.drivers.protocol import NotShared
from kumulus_agent.volumes.drivers.shared import check_shared
from kumulus_api import VolumeClass
from kumulus_api.quantities import format_quantity, parse_quantity
from kumulus_api.storage_usage import ShareUsage, step_of

_PATIENCE = 5.0
"""Seconds after which a share that does not answer is told of as before."""

Shares = dict[str, tuple[int, int]]
"""Capacity and what is free of each share, in bytes, by class."""


def share_folders(classes: Iterable[Mapping[str, Any]]) -> dict[str, Path]:
    """Give the folders of shared classes, by their names (pure)."""
    read = (VolumeClass.model_validate(body) for body in classes)
    return {item.metadata.name: Path(item.spec.shared.folder) for item in read if item.spec.shared is not None}


def read_shares(folders: Mapping[str, Path]) -> Shares:
    """Look at shares; those that are not mounted here are left out. Blocks, on a dead server for ever."""
    found: Shares = {}
    for name, folder in folders.items():
        try:
            check_shared(folder, name)
            room = os.statvfs(folder)
        except (NotShared, OSError):
            continue
        found[name] = (room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize)
    return found


def told_shares(found: Shares, told: Sequence[Mapping[str, Any]]) -> tuple[ShareUsage, ...]:
    """Give what is to be told: what was told before, where nothing has moved enough to be worth a write (pure)."""
    known = {item["volumeClass"]: item for item in told}
    shares = []
    for name, (capacity, free) in sorted(found.items()):
        former = known.get(name)
        same = former is not None and parse_quantity(former["capacity"]) == capacity
        if former is not None and same and abs(parse_quantity(former["free"]) - free) < step_of(capacity):
            shares.append(ShareUsage.model_validate(former))
        else:
            fresh = {"capacity": format_quantity(capacity), "free": format_quantity(free)}
            shares.append(ShareUsage(volume_class=name, **fresh))
    return tuple(shares)


class ShareLook:
    """Looks at shares, one look at a time: a server that is away holds a thread, and no more than one."""

    def __init__(self) -> None:
        self._look: asyncio.Task[Shares] | None = None

    async def told(self, folders: Mapping[str, Path], told: Sequence[Mapping[str, Any]]) -> tuple[ShareUsage, ...]:
        """Give what is to be told of shares; as before while one of them does not answer."""
        if not folders:
            return ()
        if self._look is None:
            self._look = asyncio.create_task(asyncio.to_thread(read_shares, dict(folders)))
        done, _ = await asyncio.wait({self._look}, timeout=_PATIENCE)
        if not done:
            return tuple(ShareUsage.model_validate(item) for item in told)
        found, self._look = self._look.result(), None
        for name, (capacity, free) in found.items():
            metrics.SHARES.labels(volume_class=name, what="capacity").set(capacity)
            metrics.SHARES.labels(volume_class=name, what="free").set(free)
        return told_shares(found, told)
