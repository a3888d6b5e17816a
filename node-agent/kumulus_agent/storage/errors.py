"""Errors of the host's storage.

::

    StorageError
    ├── Retryable             try again after .delay seconds
    │   ├── DownloadFailed    the source did not deliver; .http_status where it answered
    │   ├── HolderAway        the host that holds the image does not serve it; .reason is CamelCase for a condition
    │   └── CacheFull         the disk that holds the cache has no room
    └── Terminal              fails again until the request changes; .reason is CamelCase for a condition
        ├── ChecksumMismatch  the bytes are not the ones asked for
        ├── UnsafeImage       refers to other files, or hides one format in another
        ├── CorruptImage      is cut off, or its tables contradict each other
        ├── FormatMismatch    is of another format than declared
        ├── TooLarge          more than the limit, in bytes on the wire or as the guest sees it
        ├── DiskTooSmall      the root disk is smaller than its image
        └── SourceRefused     the source says that it will never serve this (4xx), or the URL cannot be used
"""

from __future__ import annotations

from typing import Final

SMALLER: Final = "use a smaller image"
"""What helps against TooLarge."""


class StorageError(Exception):
    """Anything that went wrong with files of instances and images."""


class Retryable(StorageError):
    """May succeed after ``delay`` seconds without anybody changing a thing."""

    def __init__(self, message: str, delay: float = 5.0) -> None:
        super().__init__(message)
        self.delay = delay


class DownloadFailed(Retryable):
    """The source did not deliver the whole image; what came is kept and resumed."""

    def __init__(self, message: str, http_status: int | None = None, delay: float = 5.0) -> None:
        super().__init__(message, delay)
        self.http_status = http_status


class HolderAway(Retryable):
    """The host that holds the image does not serve it now; what came is kept and resumed."""

    reason = "ImageHostAway"


class CacheFull(Retryable):
    """No space is left on the disk of the cache."""


class Terminal(StorageError):
    """Fails again until the request changes; ``reason`` is fit for a condition."""

    reason = "StorageRefused"


class ChecksumMismatch(Terminal):
    """The content is not what the checksum promised."""

    reason = "ChecksumMismatch"


class UnsafeImage(Terminal):
    """The image could make QEMU open other files of the host."""

    reason = "UnsafeImage"


class CorruptImage(Terminal):
    """The image is not whole: a guest would read errors, or nothing where its data should be."""

    reason = "CorruptImage"


class FormatMismatch(Terminal):
    """The content is of another format than declared."""

    reason = "FormatMismatch"


class TooLarge(Terminal):
    """The image exceeds its limit."""

    reason = "TooLarge"


class DiskTooSmall(Terminal):
    """A root disk cannot be smaller than the image below it."""

    reason = "DiskTooSmall"


class SourceRefused(Terminal):
    """The source answers that it does not serve this."""

    reason = "SourceRefused"
