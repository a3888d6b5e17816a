"""Copies of servers' disks, made for CreateImage beside everything else: they may take long.

A copy is a file in the instance's directory until it is whole; what an agent that ended has left there is swept by the
next, which begins anew while the action is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import structlog

from kumulus_agent.compute.disk_backup import Copied, begin_backup, end_backup, is_backing_up, look_at_backup
from kumulus_agent.compute.errors import HypervisorError, HypervisorUnavailable, InstanceNotFound
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.images.thaws import Thaws
from kumulus_agent.servers.instance_files import THAW_OWED, InstanceFiles, instance_files
from kumulus_agent.servers.terms import Copy, Report
from kumulus_agent.settings import AgentSettings
from kumulus_agent.storage.disk_copy import copy_disk, empty_copy, missing_room
from kumulus_agent.storage.errors import StorageError
from kumulus_agent.storage.image_cache import CachedImage, ImageCache
from kumulus_agent.storage.image_store import owner_of
from kumulus_api import Image
from kumulus_api.image import held_address
from kumulus_api.server_action import ActionPhase, ActionReason
from kumulus_runtime.api_client import ApiError, KubeClient

Key = tuple[str, str]
Object = dict[str, Any]
_FIRST_LOOK: Final = 0.05
_LAST_LOOK: Final = 1.0
_ATTEMPTS: Final = 30
_TELL_AGAIN: Final = 2.0
_THAW_SECONDS: Final = 120.0
"""How long an action waits for its guest to go on; it is asked for longer."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """What to copy and for whom.

    Attributes:
        server: its namespace and name.
        instance_id: whose root disk.
        action: uid of the ServerAction.
        name: of the action.
        image: name of the Image, in the server's namespace.
        offline: the guest is off; else it runs or is paused.
    """

    server: Key
    instance_id: str
    action: str
    name: str
    image: str
    offline: bool

    @property
    def image_key(self) -> Key:
        """Namespace and name of the Image."""
        return self.server[0], self.image


class _NotCopied(Exception):
    """The end of a copy: why, as a reason and a sentence."""

    def __init__(self, reason: ActionReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class _Run:
    wish: Wish
    task: asyncio.Task[None]
    report: Report | None = None


class DiskCopies:
    """The copies that go on here, by the uid of their action.

    Args:
        settings: the agent's.
        client: to reach the API server.
        hypervisor: libvirtd.
        cache: takes what is whole.
        server_changed: has a Server looked at.
    """

    def __init__(
        self,
        settings: AgentSettings,
        client: KubeClient,
        hypervisor: Hypervisor,
        cache: ImageCache,
        server_changed: Callable[[Key], None],
    ) -> None:
        self._settings = settings
        self._client = client
        self._hypervisor = hypervisor
        self._thaws = Thaws(hypervisor)
        self._cache = cache
        self._server_changed = server_changed
        self._runs: dict[str, _Run] = {}
        self.tell: Callable[[Object, CachedImage], Awaitable[bool]] | None = None
        """Says that an Image is whole, and gives whether there still is one."""
        self.image_changed: Callable[[Key], None] = lambda _key: None
        """Has an Image looked at."""

    def of(self, action: str) -> Copy | None:
        """Give how far the copy for an action is; None if none was begun by this agent."""
        run = self._runs.get(action)
        return Copy(run.wish.offline, run.report) if run is not None else None

    def copying(self, image: Key) -> bool:
        """Give whether a copy for an Image goes on."""
        return any(run.wish.image_key == image and run.report is None for run in self._runs.values())

    def begin(self, wish: Wish) -> None:
        """Begin a copy, unless it was begun."""
        if wish.action not in self._runs:
            self._runs[wish.action] = _Run(wish, asyncio.create_task(self._run(wish)))

    def forget(self, namespace: str, name: str) -> None:
        """Give up the copy for an action that is not open any more."""
        for uid, run in list(self._runs.items()):
            if (run.wish.server[0], run.wish.name) == (namespace, name):
                # Until it has cleared up, no other is begun for the action.
                run.task.add_done_callback(partial(self._forgotten, uid, run.wish))
                run.task.cancel()

    def _forgotten(self, uid: str, wish: Wish, _task: asyncio.Task[None]) -> None:
        if self._runs.pop(uid, None) is not None:
            self._server_changed(wish.server)
            self.image_changed(wish.image_key)

    async def sweep(self) -> None:
        """Clear away what an agent that ended has left: guests that may be frozen, half files, jobs that fill them.

        Raises:
            HypervisorError: libvirtd does not answer.
        """
        owed, parts = await asyncio.to_thread(_left, self._settings.instances_dir)
        for file in owed:
            self._thaws.begin(str(UUID(file.parent.name)), file)
        for part in parts:
            _log.info("half a copy is removed", path=str(part))
            await self._clear(str(UUID(part.parent.name)), part)

    async def close(self) -> None:
        """End what goes on; the next agent begins it anew."""
        runs, self._runs = list(self._runs.values()), {}
        for run in runs:
            run.task.cancel()
        await asyncio.gather(*(run.task for run in runs), return_exceptions=True)
        await self._thaws.close()

    async def _run(self, wish: Wish) -> None:
        try:
            report = Report(ActionPhase.SUCCEEDED, ActionReason.COMPLETED.value, await self._make(wish))
        except _NotCopied as error:
            report = Report(ActionPhase.FAILED, error.reason.value, f"CreateImage: {error}")
        except (HypervisorError, StorageError, ApiError, OSError, ValueError) as error:
            message = f"CreateImage: {error}; the guest goes on; transient: ask again"
            report = Report(ActionPhase.FAILED, ActionReason.COPY_FAILED.value, message)
        if wish.action in self._runs:
            self._runs[wish.action].report = report
        _log.info("copy ended", server="/".join(wish.server), image=wish.image, outcome=report.outcome)
        self._server_changed(wish.server)

    async def _make(self, wish: Wish) -> str:
        """Make an image; give a sentence on how."""
        body = await self._image(wish)
        owner, how = owner_of(wish.image_key), ""
        image = await self._cache.owned(owner)
        if image is None:
            files = instance_files(self._settings.instances_dir, wish.instance_id)
            part = files.snapshot(wish.action)
            try:
                how = await self._copy(wish, files, part)
                address, limit = held_address(*wish.image_key), self._settings.max_image_bytes
                image = await self._cache.adopt(part, address, owner, limit)
            finally:
                await asyncio.shield(self._clear(wish.instance_id, part))
        if not await self._told(body, image):
            await self._cache.disown(owner)
            await self._cache.unneeded(image.digest)
            raise _deleted(wish)
        return how

    async def _image(self, wish: Wish) -> Object:
        namespace, name = wish.image_key
        body = await self._client.get(Image, name, namespace)
        source = ((body or {}).get("spec") or {}).get("source") or {}
        if body is None or (source.get("server") or {}).get("action") != wish.action:
            raise _deleted(wish)
        if "deletionTimestamp" in body["metadata"]:
            raise _deleted(wish)
        return body

    async def _copy(self, wish: Wish, files: InstanceFiles, part: Path) -> str:
        missing = await missing_room(files.root_disk)
        if missing:
            host = self._settings.node_name
            message = f"host {host} lacks {missing} bytes for a copy of the disk; transient: ask again when it has room"
            raise _NotCopied(ActionReason.DISK_FULL, message)
        if wish.offline:
            await copy_disk(files.root_disk, part)
            return "of a guest that is off"
        await empty_copy(files.root_disk, part)
        frozen = await self._begin(wish.instance_id, files, part)
        if not await self._thaws.ended(wish.instance_id, _THAW_SECONDS):
            message = (
                f"the guest's agent has not let the file systems go on for {_THAW_SECONDS:.0f} s and is asked until it "
                "does; transient: ask again then, or end what stands still by a hard Reboot"
            )
            raise _NotCopied(ActionReason.GUEST_FROZEN, message)
        await self._until_ended(wish.instance_id)
        if frozen:
            return "its guest's agent had frozen the file systems"
        return "as after a power cut: no guest agent has answered"

    async def _begin(self, instance_id: str, files: InstanceFiles, part: Path) -> bool:
        """Begin the job; a guest that it has left frozen is asked to go on, whoever still waits for the copy."""
        owed = files.thaw_owed
        begin = partial(begin_backup, source=str(files.root_disk), path=str(part), owed=owed)
        begun = asyncio.create_task(self._on_domain(instance_id, "begin to copy the disk", begin))
        try:
            return bool(await asyncio.shield(begun))
        finally:
            await asyncio.wait([begun])  # libvirt's call goes on to its end, also without us
            if await asyncio.to_thread(owed.exists):
                self._thaws.begin(instance_id, owed)

    async def _until_ended(self, instance_id: str) -> None:
        pause = _FIRST_LOOK
        while True:
            found: Copied = await self._on_domain(instance_id, "look at the copy of the disk", look_at_backup)
            if found.failure:
                message = f"{found.failure}; the guest goes on; transient: ask again"
                raise _NotCopied(ActionReason.COPY_FAILED, message)
            if not found.going_on:
                return
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, _LAST_LOOK)

    async def _told(self, body: Object, image: CachedImage) -> bool:
        assert self.tell is not None  # noqa: S101 - wired when the agent is put together
        while True:
            try:
                return await self.tell(body, image)
            except ApiError as error:
                # The bytes are here: it is told as soon as somebody listens.
                _log.warning("image not told yet", error=str(error))
                await asyncio.sleep(_TELL_AGAIN)

    async def _clear(self, instance_id: str, part: Path) -> None:
        """End the job that fills a file, if it goes on, and remove the file; a whole one has another name by then."""
        if not await asyncio.to_thread(part.exists):
            return
        try:
            await self._on_domain(instance_id, "end the copy of the disk", end_backup)
            while await self._on_domain(instance_id, "end the copy of the disk", is_backing_up):  # noqa: ASYNC110
                await asyncio.sleep(_FIRST_LOOK)
        except InstanceNotFound:
            _log.info("the guest of a copy is gone", instance=instance_id)
        await asyncio.to_thread(part.unlink, missing_ok=True)

    async def _on_domain(self, instance_id: str, asked: str, verb: Callable[[Any], Any]) -> Any:
        what = f"{asked} of instance {instance_id}"
        for attempt in range(_ATTEMPTS):
            try:
                return await self._hypervisor.call(what, lambda conn: verb(conn.lookupByUUIDString(instance_id)))
            except HypervisorUnavailable:  # a libvirtd that is started anew knows of the copy
                if attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(_LAST_LOOK)
        raise AssertionError("the loop has returned or raised")


def _deleted(wish: Wish) -> _NotCopied:
    message = f"image {wish.image} was deleted before it was whole; permanent: ask for another"
    return _NotCopied(ActionReason.IMAGE_DELETED, message)


def _left(instances: Path) -> tuple[list[Path], list[Path]]:
    return sorted(instances.glob(f"*/{THAW_OWED}")), sorted(instances.glob("*/snapshot-*.part"))
