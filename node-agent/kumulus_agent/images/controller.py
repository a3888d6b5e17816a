"""Imports the Images that the operator gave to this host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from kumulus_agent import metrics
from kumulus_agent.servers.report import MANAGER
from kumulus_agent.settings import AgentSettings
from kumulus_agent.storage.errors import Retryable, Terminal
from kumulus_agent.storage.image_cache import CachedImage, ImageCache
from kumulus_api import GROUP, VERSION, Image
from kumulus_api.image import ImageReason, ImageSpec
from kumulus_runtime.api_client import KubeClient, NotFound
from kumulus_runtime.conditions import get_condition, set_condition
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.logs import log
from kumulus_runtime.store import Store

Key = tuple[str, str]
_TERMINAL = frozenset(
    {
        ImageReason.CHECKSUM_MISMATCH.value,
        ImageReason.UNSAFE.value,
        ImageReason.CORRUPT.value,
        ImageReason.FORMAT_MISMATCH.value,
        ImageReason.TOO_LARGE.value,
    }
)
_LONGEST_PAUSE = 300.0


def needs_import(body: dict[str, Any], host: str) -> bool:
    """Say whether this host has to import the image: it was given to it, and is neither there nor given up."""
    status = body.get("status") or {}
    held = "server" in body.get("spec", {}).get("source", {})
    if held or status.get("importHost") != host or body["metadata"].get("deletionTimestamp"):
        return False
    ready = get_condition(status.get("conditions") or [], "Ready") or {}
    if ready.get("status") == "True":
        return False
    return not (ready.get("reason") in _TERMINAL and ready.get("observedGeneration") == body["metadata"]["generation"])


def import_status(
    body: dict[str, Any], reason: ImageReason, message: str = "", image: CachedImage | None = None
) -> dict[str, Any]:
    """Make the part of an Image's status that belongs to the importing host."""
    generation = body["metadata"]["generation"]
    old = [c for c in (body.get("status") or {}).get("conditions") or [] if c["type"] == "Ready"]
    conditions = set_condition(old, "Ready", image is not None, reason.value, message, generation)
    status: dict[str, Any] = {"conditions": conditions}
    if image is not None:
        facts = {"digest": image.digest, "size": image.size, "virtualSize": image.virtual_size}
        status |= facts | {"observedGeneration": generation}
    return status


@dataclass(frozen=True, slots=True)
class _Failures:
    """Failed attempts at an image, which may have left a part to be resumed."""

    spec: ImageSpec
    count: int


@dataclass(frozen=True)
class ImageController:
    """Downloads, verifies, inspects and tells."""

    settings: AgentSettings
    client: KubeClient
    store: Store
    cache: ImageCache
    events: EventRecorder
    _failures: dict[Key, _Failures] = field(default_factory=dict)

    async def reconcile(self, key: Key) -> float | None:
        """Import one Image if it is this host's to import."""
        body = self.store.get(Image, key[1], key[0])
        if body is None or not needs_import(body, self.settings.node_name):
            failed = self._failures.pop(key, None)
            if failed is not None:
                await self.cache.forget(failed.spec.source.url or "", failed.spec.checksum)
            return None
        logger = log(body)
        image_object = Image.model_validate(body)
        spec = image_object.spec
        image_format: Literal["raw", "qcow2"] = "qcow2" if spec.format.value == "qcow2" else "raw"
        try:
            image = await self.cache.ensure(
                image_object.address, spec.checksum, image_format, self.settings.max_image_bytes
            )
        except Terminal as error:
            reason = ImageReason(error.reason) if error.reason in _TERMINAL else ImageReason.DOWNLOAD_FAILED
            logger.warning("image refused", reason=reason.value, error=str(error))
            await self._tell(key, body, import_status(body, reason, str(error)))
            return None if reason.value in _TERMINAL else _LONGEST_PAUSE
        except (Retryable, OSError) as error:
            before = self._failures.get(key)
            failed = self._failures[key] = _Failures(spec, before.count + 1 if before else 1)
            pause = min(_LONGEST_PAUSE, 2.0**failed.count)
            logger.warning("image not imported", error=str(error), retry_in=pause)
            await self._tell(key, body, import_status(body, ImageReason.DOWNLOAD_FAILED, str(error)))
            return pause
        self._failures.pop(key, None)
        await self._tell(key, body, import_status(body, ImageReason.IMPORTED, image=image))
        logger.info("image imported", digest=image.digest, size=image.size)
        return None

    async def _tell(self, key: Key, body: dict[str, Any], status: dict[str, Any]) -> None:
        old = body.get("status") or {}
        if all(old.get(name) == value for name, value in status.items()):
            return
        metadata = {"name": key[1], "namespace": key[0], "uid": body["metadata"]["uid"]}
        try:
            written = await self.client.apply_status(Image, {"metadata": metadata, "status": status}, manager=MANAGER)
        except NotFound:
            return
        metrics.STATUS_WRITES.labels(kind="Image").inc()
        self.store.apply("MODIFIED", written)
        about = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Image", "metadata": metadata}
        ready = get_condition(status["conditions"], "Ready") or {}
        failed = ready.get("status") != "True"
        message = ready.get("message") or f"imported by host {self.settings.node_name}"
        self.events.post(about, str(ready["reason"]), message, warning=failed)
