"""Makes backups of the volumes and root disks here, reads them back, and removes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from kumulus_agent import metrics
from kumulus_agent.backups.apart import BackupAbsent, BackupBucket, BackupDamaged, Made, Progress
from kumulus_agent.backups.plan import Work, head_of, mates_of, shown_progress, status_of, work_of
from kumulus_agent.backups.restores import NoBucket
from kumulus_agent.backups.root_disks import see_placed
from kumulus_agent.backups.sources import Sources
from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.servers.report import MANAGER
from kumulus_agent.storage.errors import StorageError, Terminal
from kumulus_agent.volumes.place import read_place
from kumulus_agent.volumes.plan import fault_of
from kumulus_api import GROUP, VERSION, Volume, VolumeBackup, VolumeSnapshot
from kumulus_api.base import FINALIZER
from kumulus_api.volume_backup import RUN_LABEL, BackupAssignment
from kumulus_runtime.api_client import ApiError, KubeClient, NotFound
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.logs import log
from kumulus_runtime.store import Store
from kumulus_runtime.workqueue import WorkQueue

Key = tuple[str, str]
Object = dict[str, Any]
_AGAIN: Final = 10.0
_LOOK: Final = 5.0
_CLEAR_AGAIN: Final = 300.0
_GATHER: Final = 2.0
"""Seconds in which the backups of one run of a policy become known to their host."""


@dataclass
class _Run:
    """A piece of work that goes on."""

    work: Work
    uid: str
    given: BackupAssignment
    progress: Progress | None = None
    task: asyncio.Task[None] | None = None

    def heard(self, progress: Progress) -> None:
        """Note how far it is."""
        self.progress = progress


@dataclass(frozen=True)
class Here:
    """What the work is done with.

    Attributes:
        host: this host's name.
        client: to reach the API server.
        store: what the watches have shown.
        events: to tell of them.
        sources: where volumes are read.
        bucket: with the backups; None where the host was told of none.
        volume_changed: has a Volume looked at.
    """

    host: str
    client: KubeClient
    store: Store
    events: EventRecorder
    sources: Sources
    bucket: BackupBucket | None
    volume_changed: Callable[[Key], None]


class VolumeBackupController:
    """The backups that this host works on, each beside everything else: it may take hours.

    Args:
        here: what the work is done with.
        queue: of the backups that are looked at.
    """

    def __init__(self, here: Here, queue: WorkQueue[Key]) -> None:
        self._here = here
        self._queue = queue
        self._runs: dict[Key, _Run] = {}
        self._cleared: set[str] = set()

    async def reconcile(self, key: Key) -> float | None:
        """Begin what is to be done, tell how far it is, and end what is not to be done any more."""
        seen = self._here.store.get(VolumeBackup, key[1], key[0])
        work, run = work_of(seen, self._here.host), self._runs.get(key)
        if run is not None and (seen is None or run.work is not work or run.uid != seen["metadata"]["uid"]):
            await self._cancel(key, run)
            run = None
        if seen is None or work is Work.NOTHING:
            return None
        if run is not None:
            await self._tell_progress(seen, run)
            return _LOOK
        backup = VolumeBackup.model_validate(seen)
        given = backup.spec.assignment
        if given is None or (work is Work.CLEAR and given.backup_id in self._cleared):
            return None
        run = self._runs[key] = _Run(work, backup.metadata.uid or "", given)
        run.task = asyncio.create_task(self._work(key, backup, run))
        return _LOOK if work in (Work.MAKE, Work.VERIFY) else None

    async def close(self) -> None:
        """End all; the next agent begins anew what is not done."""
        for key, run in list(self._runs.items()):
            await self._cancel(key, run)

    async def _cancel(self, key: Key, run: _Run) -> None:
        self._runs.pop(key, None)
        if run.task is not None:
            run.task.cancel()
            await asyncio.gather(run.task, return_exceptions=True)
        with contextlib.suppress(HypervisorError):
            await self._here.sources.pulls.leave(run.given.backup_id)

    async def _work(self, key: Key, backup: VolumeBackup, run: _Run) -> None:
        # Of one that was removed the watch tells.
        again: float | None = _AGAIN if run.work is Work.REMOVE else None
        try:
            await self._do(backup, run)
        except (StorageError, HypervisorError, ApiError, OSError, ValueError) as error:
            again = await self._failed(key, run, error)
        finally:
            if self._runs.get(key) is run:  # else it was cancelled
                del self._runs[key]
                self._queue.add_after(key, again if again is not None else 0.0)

    async def _failed(self, key: Key, run: _Run, error: Exception) -> float | None:
        """Say why something was not done; give the seconds until it is tried again, if it is."""
        seen = self._here.store.get(VolumeBackup, key[1], key[0])
        log(seen or {}).warning("backup failed", work=run.work.name, error=str(error))
        with contextlib.suppress(HypervisorError):
            await self._here.sources.pulls.leave(run.given.backup_id)
        if run.work is Work.CLEAR:
            return _CLEAR_AGAIN  # the backup itself is none the worse for it
        ends = isinstance(error, Terminal) and run.work in (Work.MAKE, Work.FIND)
        if seen is not None:
            changes: Object = {"fault": fault_of(error).dump(), "progress": None} | ({"failed": True} if ends else {})
            with contextlib.suppress(ApiError, OSError):
                await self._tell(seen, **changes)
        return None if ends else max(_AGAIN, getattr(error, "delay", _AGAIN))

    async def _do(self, backup: VolumeBackup, run: _Run) -> None:
        bucket = self._here.bucket
        if run.work is Work.CLEAR:
            await self._clear(backup, run.given)
            return
        if bucket is None:
            message = f"host {self._here.host} knows no bucket: see the chart's images.s3; transient: goes on then"
            raise NoBucket(message, delay=60.0)
        if run.work is Work.MAKE:
            await self._make(backup, run, bucket)
        elif run.work is Work.FIND:
            await self._made(backup, await bucket.find(backup.key[0], run.given.backup_id))
        elif run.work is Work.VERIFY:
            await self._verify(backup, run, bucket)
        else:
            await self._remove(backup, bucket)

    async def _make(self, backup: VolumeBackup, run: _Run, bucket: BackupBucket) -> None:
        given, status, here = run.given, backup.status, self._here
        if RUN_LABEL in (backup.metadata.labels or {}):
            await asyncio.sleep(_GATHER)
        if given.root_disk is not None:
            await see_placed(here.client, here.host, backup.key[0], given.root_disk)
        taken_at = (status.taken_at if status is not None else None) or ""
        mates = partial(self._mates, backup)
        served = await here.sources.open(backup.key[0], given, taken_at, mates, self._still(backup))
        # A layer keeps its moment, a root disk never does, though both attempts may be of one second.
        same = served.taken_at == taken_at and given.root_disk is None
        known = status.consistency if status is not None and same else None
        consistency = self._consistency(given) or (known or served.consistency).value
        await self._tell(self._seen(backup), takenAt=served.taken_at, consistency=consistency, fault=None)
        head = head_of(backup) | {"consistency": consistency, "taken_at": served.taken_at}
        await self._made(backup, await bucket.backup(backup.key[0], head, served.source, run.heard, served.key))
        await self._clear(backup, given)

    async def _made(self, backup: VolumeBackup, made: Made) -> None:
        head = made.head
        await self._tell(
            self._seen(backup),
            digest=made.digest,
            size=made.size,
            storedBytes=made.stored,
            chain=head["chain"],
            parent=head["parent"] or None,
            rootDisk=head["root_disk"],
            sealed=bool(head["seal"]) or None,
            consistency=head["consistency"],
            takenAt=head["taken_at"],
            progress=None,
            fault=None,
        )
        message = f"{made.size} bytes of it are in the bucket, {made.stored} were put"
        self._here.events.post(_about(backup), "BackedUp", message)
        log(_about(backup)).info("backup made", backup_id=head["backup_id"], stored=made.stored)

    async def _verify(self, backup: VolumeBackup, run: _Run, bucket: BackupBucket) -> None:
        status, given = backup.status, run.given
        chain = given.chain or (status.chain if status is not None else None) or ""
        digest, fault = (status.digest if status is not None else None) or "", ""
        try:
            await bucket.verify(backup.key[0], given.backup_id, chain, digest, run.heard)
        except (BackupDamaged, BackupAbsent) as error:
            fault = str(error)[:1024]
            self._here.events.post(_about(backup), "BackupDamaged", fault, warning=True)
        told = {"request": backup.spec.verify, "at": _now(), "sound": not fault} | ({"message": fault} if fault else {})
        await self._tell(self._seen(backup), verified=told, progress=None, fault=None)

    async def _clear(self, backup: VolumeBackup, given: BackupAssignment) -> None:
        if await self._here.sources.close(given) and backup.spec.source.volume is not None:
            self._here.volume_changed((backup.key[0], backup.spec.source.volume.name))
        self._cleared.add(given.backup_id)

    async def _remove(self, backup: VolumeBackup, bucket: BackupBucket) -> None:
        """Remove what the bucket has, by what the API says now."""
        live = await self._here.client.get(VolumeBackup, backup.metadata.name, backup.key[0])
        if live is None or live["metadata"]["uid"] != backup.metadata.uid:
            return
        if work_of(live, self._here.host) is not Work.REMOVE:
            return
        current = VolumeBackup.model_validate(live)
        given, status, namespace = current.spec.assignment, current.status, current.key[0]
        if given is None:
            return
        await self._clear(current, given)
        chain = given.chain or (status.chain if status is not None else None)
        if chain is not None:
            await bucket.remove(namespace, given.backup_id, chain)
        await self._here.client.remove_finalizer(
            VolumeBackup, current.metadata.name, FINALIZER, namespace, uid=current.metadata.uid
        )
        self._cleared.discard(given.backup_id)
        log(live).info("backup removed", backup_id=given.backup_id)

    def _mates(self, backup: VolumeBackup) -> dict[str, BackupAssignment]:
        return mates_of(backup, self._here.store.list(VolumeBackup, backup.key[0]), self._here.host)

    def _still(self, backup: VolumeBackup) -> Callable[[], bool]:
        source, given = backup.spec.source.volume, backup.spec.assignment

        def still() -> bool:
            body = self._here.store.get(Volume, source.name, backup.key[0]) if source is not None else None
            if body is None or given is None:
                return True
            place = read_place(body)  # None of one that is another project's by now
            return place is not None and (place.volume_id != given.volume_id or place.host == self._here.host)

        return still

    def _consistency(self, given: BackupAssignment) -> str | None:
        """Give what the snapshot is like that a backup is of."""
        for body in self._here.store.list(VolumeSnapshot):
            snapshot = VolumeSnapshot.model_validate(body)
            its = snapshot.spec.assignment
            if its is not None and its.snapshot_id == given.snapshot_id and snapshot.status is not None:
                return snapshot.status.consistency.value if snapshot.status.consistency is not None else None
        return None

    def _seen(self, backup: VolumeBackup) -> Object:
        """Give the object as it is known by now; it may have gone meanwhile."""
        known = self._here.store.get(VolumeBackup, backup.metadata.name, backup.key[0])
        return known if known is not None and known["metadata"]["uid"] == backup.metadata.uid else _about(backup)

    async def _tell_progress(self, seen: Object, run: _Run) -> None:
        if run.progress is not None:
            told = (seen.get("status") or {}).get("progress")
            await self._tell(seen, progress=shown_progress(run.progress.done, run.progress.total, told))

    async def _tell(self, seen: Object, **changes: Any) -> None:
        status = status_of(seen, **changes)
        if status is None:
            return
        metadata = {part: seen["metadata"][part] for part in ("name", "namespace", "uid")}
        try:
            written = await self._here.client.apply_status(
                VolumeBackup, {"metadata": metadata, "status": status}, manager=MANAGER
            )
        except NotFound:
            return
        metrics.STATUS_WRITES.labels(kind="VolumeBackup").inc()
        self._here.store.apply("MODIFIED", written)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _about(backup: VolumeBackup) -> Object:
    metadata = {"name": backup.metadata.name, "namespace": backup.key[0], "uid": backup.metadata.uid}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "VolumeBackup", "metadata": metadata}
