"""What is known of an image that lies in a host's cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kumulus_agent.storage.inspection import ImageFormat, SourceFormat


@dataclass(frozen=True, slots=True)
class Came:
    """Bytes as they came: their format, how many they are, and ``sha256:<hex>`` of them."""

    format: SourceFormat
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class CachedImage:
    """An image ready to be used.

    Attributes:
        path: the file; immutable.
        digest: ``sha256:<hex>`` of the file.
        format: ``qcow2`` or ``raw``, as inspected.
        size: bytes of the file.
        virtual_size: bytes of the disk that the guest sees.
        made_of: what came, if the file was made of it; None if it is what came.
    """

    path: Path
    digest: str
    format: ImageFormat
    size: int
    virtual_size: int
    made_of: Came | None = None

    @property
    def came(self) -> Came:
        """What came."""
        return self.made_of or Came(self.format, self.size, self.digest)

    def format_of(self, digest: str | None) -> SourceFormat:
        """Give the format of the bytes that are asked for by a digest: of the file's, or of what came."""
        return self.format if digest == self.digest else self.came.format

    @property
    def names(self) -> set[str]:
        """The digests by which it is asked for: of the file, and of what came."""
        return {self.digest, self.came.digest}


def image_of(document: dict[str, Any], path: Path) -> CachedImage:
    """Give the image that a record tells of.

    Raises:
        TypeError: the record is of another kind.
    """
    made_of = document.get("made_of")
    return CachedImage(**{**document, "path": path, "made_of": Came(**made_of) if made_of else None})
