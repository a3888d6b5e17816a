"""What users have sent of images: a file for each on the cache's disk, until the image is whole or not this host's.

``upload-<uid>.part`` grows by what comes. Beside it lies ``upload-<uid>.part.json`` from the moment on at which all of
it has come: then nothing is written to the file any more, for the cache has it under another name.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from kumulus_agent.storage.atomic import write_file
from kumulus_agent.storage.download import Digests, Downloaded, Validators, discard, hash_file
from kumulus_agent.storage.image_cache import CachedImage, Given
from kumulus_agent.storage.image_store import ImageStore, owner_of
from kumulus_api.image import ImageReason, held_address
from kumulus_api.upload_messages import Done, Refused, UploadRefusal, upload_command, waiting_for_upload
from kumulus_runtime.conditions import get_condition

Key = tuple[str, str]
Object = dict[str, Any]
_T = TypeVar("_T")
_RESERVE: Final = 1 << 30
"""Bytes of the disk that uploads leave to guests, or a twentieth of it where that is less."""


@dataclass(eq=False)
class Sender:
    """Who sends an image's bytes now.

    Attributes:
        name: as it calls itself.
        task: the conversation; cancelled to end it.
        size: bytes of the file.
        stopped: what it is told, if it was ended from here.
    """

    name: str
    task: asyncio.Task[None]
    size: int
    stopped: Refused | None = None

    def stop(self, refusal: UploadRefusal, message: str) -> None:
        """End the conversation."""
        self.stopped = Refused(refused=refusal, message=message)
        self.task.cancel()


@dataclass(eq=False)
class Upload:
    """What was sent of one image.

    Attributes:
        key: the Image.
        uid: its uid.
        part: the file.
        digests: of what is in the file; None before it was read.
        sender: who sends now.
        answer: of a sender who has sent everything: whether it is an image.
    """

    key: Key
    uid: str
    part: Path
    digests: Digests | None = None
    sender: Sender | None = None
    answer: asyncio.Future[Done | Refused] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    reading: asyncio.Task[None] | None = None

    def say(self, answer: Done | Refused) -> None:
        """Let the sender know, if there still is one."""
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(answer)


class Uploads:
    """The uploads of this host.

    Args:
        cache: takes what is whole; what comes lies beside its parts, since hard links lead from here to there.
        node: this host's name.
        changed: called with an Image that is to be looked at.
        changed_later: the same, where it can wait for some seconds.
        held_changed: called with an Image whose bytes this host holds from now on, or is to remove.
    """

    def __init__(
        self,
        cache: ImageStore,
        node: str,
        changed: Callable[[Key], None],
        changed_later: Callable[[Key], None],
        held_changed: Callable[[Key], None],
    ) -> None:
        self._cache = cache
        self._directory = cache.partial
        self._node = node
        self._uploads: dict[str, Upload] = {}
        self.changed = changed
        self.changed_later = changed_later
        self.held_changed = held_changed

    def of(self, key: Key, uid: str) -> Upload:
        """Give the upload of an image, which has perhaps not begun."""
        part = self._directory / f"upload-{uid}.part"
        return self._uploads.setdefault(uid, Upload(key, uid, part))

    def senders(self, namespace: str = "") -> int:
        """Give how many send now, of one namespace if that is given."""
        uploads = self._uploads.values()
        return sum(upload.sender is not None and namespace in ("", upload.key[0]) for upload in uploads)

    async def lacking(self, wanted: int) -> int:
        """Give how many bytes the disk lacks for so many more, beside what others send just now; 0 if there is room."""
        coming = sum(
            max(0, upload.sender.size - (upload.digests.size if upload.digests is not None else 0))
            for upload in self._uploads.values()
            if upload.sender is not None
        )
        return max(0, wanted + coming - await asyncio.to_thread(_room, self._directory))

    async def read(self, upload: Upload) -> tuple[Digests, bool]:
        """Give what there is of an image, and whether it is everything."""
        if upload.digests is None:
            if upload.reading is None:
                upload.reading = asyncio.create_task(_load(upload))
            # It may take minutes: it goes on when the sender leaves, who comes again.
            await asyncio.shield(upload.reading)
        async with upload.lock:
            digests = upload.digests or Digests()
            return digests, await asyncio.to_thread(_read_record, upload.part) is not None

    async def keep(self, upload: Upload) -> None:
        """Note, when the file is on the disk, that it is everything.

        Raises:
            FileNotFoundError: it was thrown away meanwhile.
        """
        async with upload.lock:
            if upload.digests is not None:
                await finished(asyncio.to_thread(_keep, upload.part, upload.digests))

    async def drop(self, upload: Upload) -> None:
        """Throw away what was sent; whoever has the file under another name still has it."""
        async with upload.lock:
            upload.digests = Digests()
            await finished(asyncio.to_thread(discard, upload.part))

    async def given(self, key: Key, uid: str) -> Given | None:
        """Give what puts an image's bytes into the cache's file; None before all of them have come."""
        upload = self.of(key, uid)
        found = await asyncio.to_thread(_read_record, upload.part)
        return None if found is None else partial(_give, upload.part, found, key)

    async def taken(self, key: Key, uid: str, image: CachedImage) -> None:
        """Have the cache's copy alone kept, and tell the sender that it is whole."""
        upload = self.of(key, uid)
        await self.drop(upload)
        self.held_changed(key)
        upload.say(Done(digest=image.came.digest))

    async def refused(self, key: Key, uid: str, why: tuple[str, str], image: CachedImage | None) -> None:
        """Throw away what is no image, and tell the sender why.

        Args:
            key: the Image.
            uid: its uid.
            why: as a reason and a sentence.
            image: what the cache has of it, if it came so far.
        """
        upload = self.of(key, uid)
        await self.drop(upload)
        if image is not None:
            await self._release(key, image)
        upload.say(Refused(refused=UploadRefusal.IMAGE, message=": ".join(why)))

    async def gone(self, key: Key, uid: str, image: CachedImage) -> None:
        """Have nothing kept of an image that was deleted before anybody heard that its bytes are here."""
        upload = self.of(key, uid)
        await self._release(key, image)
        await self.drop(upload)
        self.held_changed(key)
        upload.say(Refused(refused=UploadRefusal.GONE, message="the image is being deleted"))

    async def _release(self, key: Key, image: CachedImage) -> None:
        await self._cache.release(owner_of(key), image.digest)

    async def over(self, key: Key, body: Object | None) -> None:
        """Take nothing more of an image that is whole, deleted or another host's by now.

        Args:
            key: the Image.
            body: as this host sees it; None if it does not any more.
        """
        deleted = body is not None and "deletionTimestamp" in body["metadata"]
        if body is not None and "upload" in body["spec"]["source"]:
            self.of(key, body["metadata"]["uid"])  # a former agent may have left something
            self.held_changed(key)
        for upload in [upload for upload in self._uploads.values() if upload.key == key]:
            status = (body or {}).get("status") or {}
            if body is not None and not deleted and "digest" in status:
                upload.say(Done(digest=status["digest"]))
            elif upload.sender is not None:
                upload.sender.stop(*_why(deleted=deleted, node=self._node))
                await asyncio.wait({upload.sender.task})
            await self.drop(upload)
            self._uploads.pop(upload.uid, None)

    async def word(self, body: Object) -> tuple[ImageReason, str] | None:
        """Give what an image's condition says while it waits for bytes; None for what it says already."""
        metadata = body["metadata"]
        key = (metadata["namespace"], metadata["name"])
        upload = self.of(key, metadata["uid"])
        answered = upload.answer is not None and upload.answer.done()
        if upload.sender is not None and not answered:
            return ImageReason.UPLOADING, f"host {self._node} receives it: {_amount(upload.sender.size)}"
        here = await asyncio.to_thread(_size, upload.part)
        if here:
            message = f"host {self._node} has {_amount(here)} of it; go on with: {upload_command(*key)}"
            return ImageReason.WAITING_FOR_UPLOAD, message
        ready = get_condition((body.get("status") or {}).get("conditions") or [], "Ready") or {}
        if ready.get("reason") not in (ImageReason.UPLOADING, ImageReason.WAITING_FOR_UPLOAD, None):
            return None  # why the last upload was refused
        return ImageReason.WAITING_FOR_UPLOAD, waiting_for_upload(self._node, *key)


async def finished(work: Awaitable[_T]) -> _T:
    """Wait for a thread to its end, also if cancelled: it goes on, and what follows must find what it has done."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def _load(upload: Upload) -> None:
    async with upload.lock:
        if upload.digests is None:
            upload.digests = await finished(asyncio.to_thread(_hashed, upload.part))
    upload.reading = None


async def _give(source: Path, done: Downloaded, key: Key, part: Path) -> Downloaded:
    await asyncio.to_thread(_link, source, part)
    return Downloaded(Validators(held_address(*key)), done.size, done.sha256, done.sha512, owner=owner_of(key))


def _link(source: Path, part: Path) -> None:
    discard(part)
    part.hardlink_to(source)


def _why(*, deleted: bool, node: str) -> tuple[UploadRefusal, str]:
    if deleted:
        return UploadRefusal.GONE, "the image is being deleted"
    return UploadRefusal.MOVED, f"host {node} does not take the image any more: another was named, or it was deleted"


def _record(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _keep(part: Path, digests: Digests) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    told = {"size": digests.size, "sha256": digests.sha256.hexdigest(), "sha512": digests.sha512.hexdigest()}
    write_file(_record(part), json.dumps(told).encode())


def _read_record(part: Path) -> Downloaded | None:
    try:
        found = json.loads(_record(part).read_text())
        done = Downloaded(Validators(""), int(found["size"]), str(found["sha256"]), str(found["sha512"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return done if _size(part) == done.size else None


def _hashed(part: Path) -> Digests:
    return hash_file(part) if part.exists() else Digests()


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def _room(directory: Path) -> int:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize - min(_RESERVE, found.f_blocks * found.f_frsize // 20)


def _amount(size: int) -> str:
    return f"{size} bytes" if size < 1 << 20 else f"{size >> 20} MiB"
