"""The records that lie beside the images of a cache: what is known of each, and who owns it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from kumulus_agent.storage.atomic import write_file
from kumulus_agent.storage.cached_image import CachedImage, image_of
from kumulus_agent.storage.download import Validators

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """An image of the cache.

    Attributes:
        image: the file.
        sha512: hex, of what came.
        validators: of where it came from.
        used_at: seconds of time.time.
        owners: who keeps it from being removed.
    """

    image: CachedImage
    sha512: str
    validators: Validators
    used_at: float
    owners: tuple[str, ...] = ()


def find(entries: dict[str, Entry], checksum: str) -> Entry | None:
    """Give the image that has a digest, as it came or as a file (pure)."""
    algorithm, _, value = checksum.partition(":")
    if algorithm == "sha256":
        return entries.get(checksum) or next((e for e in entries.values() if checksum in e.image.names), None)
    return next((entry for entry in entries.values() if entry.sha512 == value), None)


def sidecar_of(image: Path) -> Path:
    """Give the record of an image's file (pure)."""
    return image.with_suffix(".json")


def write_entry(entry: Entry) -> None:
    """Note what is known of an image, and who owns it. Blocks."""
    document = asdict(entry)
    del document["used_at"]
    document["image"]["path"] = entry.image.path.name
    write_file(sidecar_of(entry.image.path), json.dumps(document).encode())


def read_entry(sidecar: Path) -> Entry | None:
    """Give what a record tells of an image that is there; None if it is not. Blocks."""
    try:
        document: dict[str, Any] = json.loads(sidecar.read_text())
        image = image_of(document.pop("image"), sidecar.with_suffix(".img"))
        validators = Validators(**document["validators"])
        owners = tuple(str(owner) for owner in document.get("owners", ()))
        entry = Entry(image, document["sha512"], validators, sidecar.stat().st_mtime, owners)
    except (OSError, ValueError, TypeError, KeyError) as error:
        _log.warning("unreadable image record ignored", path=str(sidecar), error=str(error))
        return None
    # A power cut may have left a record of a file that never reached the disk.
    if not image.path.exists():
        sidecar.unlink(missing_ok=True)
        return None
    return entry if image.path.stat().st_size == image.size else None


def unlink_entry(image: Path) -> None:
    """Remove an image, its record last. Blocks."""
    image.unlink(missing_ok=True)
    sidecar_of(image).unlink(missing_ok=True)
