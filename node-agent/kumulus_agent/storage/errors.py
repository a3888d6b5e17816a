"""Errors of the host's storage.

::

    StorageError
    ├── Retryable             try again after .delay seconds
    │   ├── DownloadFailed    the source did not deliver; .http_status where it answered
    │   ├── HolderAway        the host that holds the image does not serve it; .reason is CamelCase for a condition
    │   ├── StoreFailed       the store of images does not take or remove one
    │   ├── VolumeBusy        the volume that an image is made of cannot be read now; .reason as above
    │   ├── CopyFailed        its copy did not become an image; .reason as above
    │   ├── CacheFull         the disk that holds the cache has no room
    │   └── DiskFull          the disk that holds a volume or an instance has no room
    └── Terminal              fails again until the request changes; .reason is CamelCase for a condition
        ├── ChecksumMismatch  the bytes are not the ones asked for
        ├── SignatureInvalid  the signature is of other bytes, or by another key
        ├── UnsafeImage       refers to other files, or hides one format in another
        ├── CorruptImage      is cut off, or its tables contradict each other
        ├── FormatMismatch    is of another format than declared
        ├── TooLarge          more than the limit, in bytes on the wire or as the guest sees it
        ├── DiskTooSmall      the root disk is smaller than its image
        ├── SourceGone        the image that it is made of went before
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


class VolumeBusy(Retryable):
    """The volume that an image is made of cannot be read now."""

    reason = "VolumeNotReady"


class CopyFailed(Retryable):
    """The copy of a volume did not become an image, and is read again."""

    reason = "CopyFailed"


class StoreFailed(Retryable):
    """The bucket did not take an image, or did not remove it."""


class CacheFull(Retryable):
    """No space is left on the disk of the cache."""


class DiskFull(Retryable):
    """What would be written does not leave the reserve on the disk."""

    reason = "HostDiskFull"

    def __init__(self, message: str, delay: float = 60.0) -> None:
        super().__init__(message, delay)


class Terminal(StorageError):
    """Fails again until the request changes; ``reason`` is fit for a condition."""

    reason = "StorageRefused"


class ChecksumMismatch(Terminal):
    """The content is not what the checksum promised."""

    reason = "ChecksumMismatch"


class SignatureInvalid(Terminal):
    """Whoever has the key has not signed this content."""

    reason = "SignatureInvalid"


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


class SourceGone(Terminal):
    """The image that another is made of went, with its bytes, before they were that one's."""

    reason = "SourceGone"


class SourceRefused(Terminal):
    """The source answers that it does not serve this."""

    reason = "SourceRefused"
