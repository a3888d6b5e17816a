"""Imports the Images that the operator gave to this host."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from kumulus_agent import metrics
from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.images.of_volumes import VolumeImages
from kumulus_agent.images.originals import Find, bytes_of_copy
from kumulus_agent.images.progress import PACE_SECONDS, Seen, past_half, seen, worth_telling
from kumulus_agent.images.uploads import Uploads
from kumulus_agent.servers.report import MANAGER
from kumulus_agent.settings import AgentSettings
from kumulus_agent.storage.errors import Retryable, StorageError, Terminal
from kumulus_agent.storage.image_cache import CachedImage, Given, ImageCache
from kumulus_agent.storage.inspection import source_format
from kumulus_agent.storage.signature import verify_signature
from kumulus_api import GROUP, VERSION, Image
from kumulus_api.image import ImageReason
from kumulus_runtime.api_client import KubeClient, NotFound
from kumulus_runtime.conditions import get_condition, set_condition
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.logs import log
from kumulus_runtime.store import Store

Key = tuple[str, str]
_TERMINAL = frozenset(
    {
        ImageReason.CHECKSUM_MISMATCH.value,
        ImageReason.SIGNATURE_INVALID.value,
        ImageReason.UNSAFE.value,
        ImageReason.CORRUPT.value,
        ImageReason.FORMAT_MISMATCH.value,
        ImageReason.TOO_LARGE.value,
        ImageReason.SOURCE_GONE.value,
    }
)
_NOT_COPIED = frozenset({ImageReason.COPY_FAILED.value, ImageReason.VOLUME_NOT_READY.value})
_UNDER_WAY = frozenset({ImageReason.UPLOADING.value, ImageReason.WAITING_FOR_UPLOAD.value})
_LONGEST_PAUSE = 300.0
_CLEAR_AGAIN = 10.0


def needs_import(body: dict[str, Any], host: str) -> bool:
    """Say whether this host has to import the image: it was given to it, and is neither there nor given up."""
    status = body.get("status") or {}
    spec = body.get("spec", {})
    source = spec.get("source", {})
    undecided = bool({"image", "volume", "volumeSnapshot"} & source.keys()) and "original" not in spec
    if "server" in source or undecided or status.get("importHost") != host or body["metadata"].get("deletionTimestamp"):
        return False
    ready = get_condition(status.get("conditions") or [], "Ready") or {}
    if ready.get("status") == "True":
        return False
    if "upload" in source:
        return True  # after what was refused, something else may be sent
    return not (ready.get("reason") in _TERMINAL and ready.get("observedGeneration") == body["metadata"]["generation"])


def import_status(
    body: dict[str, Any],
    reason: ImageReason,
    message: str = "",
    image: CachedImage | None = None,
    progress: Seen | None = None,
) -> dict[str, Any]:
    """Make the part of an Image's status that belongs to the importing host."""
    generation = body["metadata"]["generation"]
    old = [c for c in (body.get("status") or {}).get("conditions") or [] if c["type"] == "Ready"]
    conditions = set_condition(old, "Ready", image is not None, reason.value, message, generation)
    status: dict[str, Any] = {"conditions": conditions}
    if image is not None:
        stored = {"digest": image.digest, "size": image.size, "format": image.format}
        facts = {"digest": image.came.digest, "size": image.came.size, "virtualSize": image.virtual_size}
        facts |= {"stored": stored, "progress": 100}
        status |= facts | {"observedGeneration": generation}
    return status | (progress.status() if progress is not None and progress.received else {})


@dataclass(frozen=True, slots=True)
class _Failures:
    """Failed attempts at an image, which may have left a part to be resumed."""

    image: Image
    count: int
    until: float
    """Not tried before this moment of time.monotonic: what is told of a failure has the image looked at again."""


async def _nowhere(_key: Key, _body: dict[str, Any]) -> None:
    """Have no store but hosts."""


@dataclass(frozen=True)
class ImageController:
    """Downloads, verifies, inspects and tells."""

    settings: AgentSettings
    client: KubeClient
    store: Store
    cache: ImageCache
    events: EventRecorder
    uploads: Uploads
    stored: Callable[[dict[str, Any], CachedImage], Awaitable[None]]
    """Has the bytes of an Image where they are kept, before it is told."""
    find: Find = _nowhere
    """Gives the digest of what is kept without a host."""
    volumes: VolumeImages | None = None
    """Makes images of volumes."""
    _failures: dict[Key, _Failures] = field(default_factory=dict)

    async def reconcile(self, key: Key) -> float | None:
        """Import one Image if it is this host's to import."""
        body = self.store.get(Image, key[1], key[0])
        if body is None or not needs_import(body, self.settings.node_name):
            failed = self._failures.pop(key, None)
            if failed is not None:
                await self.cache.forget(failed.image.address, failed.image.expected)
            await self.uploads.over(key, body)
            return await self._settle(key, body)
        given: Given | None = None
        if "upload" in body["spec"]["source"]:
            given = await self.uploads.given(key, body["metadata"]["uid"])
            if given is None:
                word = await self.uploads.word(body)
                if word is not None:
                    await self._tell(key, body, import_status(body, *word))
                return None
        return await self._bring(key, body, given)

    async def _bring(self, key: Key, body: dict[str, Any], given: Given | None) -> float | None:
        logger, uid, wanted = log(body), body["metadata"]["uid"], Image.model_validate(body)
        spec = wanted.spec
        before = self._failures.get(key)
        if before is not None and before.image.spec == spec and before.until > time.monotonic():
            return before.until - time.monotonic()
        image: CachedImage | None = None
        try:
            image = await self._import(key, body, given)
            if spec.signature is not None:
                await verify_signature(spec.signature.public_key, spec.signature.value, image.came.digest)
            await self.stored(body, image)
        except Terminal as error:
            reason = ImageReason(error.reason) if error.reason in _TERMINAL else ImageReason.DOWNLOAD_FAILED
            logger.warning("image refused", reason=reason.value, error=str(error))
            await self._tell(key, body, import_status(body, reason, str(error)))
            if given is not None:
                self._failures.pop(key, None)
                await self.uploads.refused(key, uid, (reason.value, str(error)), image)
                return None
            if reason.value in _TERMINAL:
                return None
            self._failures[key] = _Failures(wanted, 1, time.monotonic() + _LONGEST_PAUSE)
            return _LONGEST_PAUSE
        except (Retryable, OSError) as error:
            count = before.count + 1 if before else 1
            pause = min(_LONGEST_PAUSE, 2.0**count)
            self._failures[key] = _Failures(wanted, count, time.monotonic() + pause)
            logger.warning("image not imported", error=str(error), retry_in=pause)
            why = str(getattr(error, "reason", ""))
            failed = ImageReason(why) if why in _NOT_COPIED else ImageReason.DOWNLOAD_FAILED
            await self._tell(key, body, import_status(body, failed, str(error)))
            return pause
        self._failures.pop(key, None)
        if image.made_of is not None:
            self.events.post(
                _about(key, body), "Converted", f"{image.made_of.format} became {image.size} bytes of qcow2"
            )
        how = ImageReason.COPIED if wanted.of_volume else ImageReason.IMPORTED
        told = await self._tell(key, body, import_status(body, how, image=image))
        if given is not None:
            await (self.uploads.taken if told else self.uploads.gone)(key, uid, image)
        logger.info("image imported", digest=image.came.digest, size=image.size)
        return await self._settle(key, self.store.get(Image, key[1], key[0]))

    async def _settle(self, key: Key, body: dict[str, Any] | None) -> float | None:
        """Remove what the making of an image of a volume has left, when it has ended."""
        if body is None or self.volumes is None or needs_import(body, self.settings.node_name):
            return None
        try:
            await self.volumes.clear(key, body)
        except (StorageError, HypervisorError, OSError) as error:
            log(body).warning("what an image was made with is not removed", error=str(error))
            return _CLEAR_AGAIN
        return None

    async def _import(self, key: Key, body: dict[str, Any], given: Given | None) -> CachedImage:
        """Have the image here, and tell from time to time how far it is.

        Raises:
            StorageError: it cannot be had.
        """
        image = Image.model_validate(body)
        spec, limit = image.spec, self.settings.max_image_bytes
        mirrors = tuple(spec.source.mirrors or ())
        downloads = given is None and not image.of_volume
        if image.of_volume and self.volumes is not None:
            begun = partial(self._begun, key, body)
            task = asyncio.ensure_future(self.volumes.have(key, body, self.find, begun))
        elif spec.original is not None:
            task = asyncio.ensure_future(bytes_of_copy(self.client, self.cache, body, self.find, limit))
        else:
            wanted = source_format(spec.format.value)
            ensuring = self.cache.ensure(image.address, spec.checksum, wanted, limit, mirrors, given=given)
            task = asyncio.ensure_future(ensuring)
        told, last = Seen(time.monotonic()), None
        try:
            while not (await asyncio.wait({task}, timeout=PACE_SECONDS))[0]:
                expected = image.expected if given is None else None
                making = self.volumes.progress(key) if self.volumes is not None and image.of_volume else None
                found = seen(making or self.cache.progress(image.address, expected), time.monotonic())
                if last is None and downloads:
                    self.events.post(_about(key, body), "Downloading", f"host {self.settings.node_name} downloads it")
                if downloads and past_half(last, found):
                    self.events.post(_about(key, body), "HalfDownloaded", found.sentence(self.settings.node_name))
                if (given is None or found.converting) and worth_telling(told, found):
                    reason = ImageReason.CONVERTING if found.converting else ImageReason.IMPORTING
                    sentence = found.sentence(self.settings.node_name)
                    if image.of_volume:
                        reason, sentence = ImageReason.COPYING, f"host {self.settings.node_name} makes it of its copy"
                    status = import_status(body, reason, sentence, progress=found)
                    await self._write(key, body, status)
                    told = found
                last = found
        finally:
            task.cancel()
        return task.result()

    async def _begun(self, key: Key, body: dict[str, Any], sentence: str) -> None:
        self.events.post(_about(key, body), "Copying", sentence)
        await self._write(key, body, import_status(body, ImageReason.COPYING, sentence))

    async def _write(self, key: Key, body: dict[str, Any], status: dict[str, Any]) -> bool:
        """Write the status; give whether the image is still there."""
        metadata = {"name": key[1], "namespace": key[0], "uid": body["metadata"]["uid"]}
        try:
            written = await self.client.apply_status(Image, {"metadata": metadata, "status": status}, manager=MANAGER)
        except NotFound:
            return False
        metrics.STATUS_WRITES.labels(kind="Image").inc()
        self.store.apply("MODIFIED", written)
        return True

    async def _tell(self, key: Key, body: dict[str, Any], status: dict[str, Any]) -> bool:
        """Write the status if it says something new; give whether the image is still there."""
        old = (self.store.get(Image, key[1], key[0]) or body).get("status") or {}
        if all(old.get(name) == value for name, value in status.items()):
            return True
        if not await self._write(key, body, status):
            return False
        ready = get_condition(status["conditions"], "Ready") or {}
        failed = ready.get("status") != "True" and ready.get("reason") not in _UNDER_WAY
        message = ready.get("message") or f"imported by host {self.settings.node_name}"
        self.events.post(_about(key, body), str(ready["reason"]), message, warning=failed)
        return True


def _about(key: Key, body: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": key[1], "namespace": key[0], "uid": body["metadata"]["uid"]}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Image", "metadata": metadata}
