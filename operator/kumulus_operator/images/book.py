"""Count images, and the bytes of their files: a project may have so much of both."""

from __future__ import annotations

from kumulus_api import Image
from kumulus_api.quantities import format_quantity, parse_quantity
from kumulus_operator.ledger.sizes import Sizes
from kumulus_operator.views import Key


class ImageBook(Sizes):
    """Admits images one after the other: nothing is awaited between looking and counting."""

    def admit(self, key: Key, size: int = 0) -> str | None:
        """Count an image, or say by what it would exceed the quota.

        Args:
            key: namespace and name; one that is counted is not counted again.
            size: bytes of its file, 0 if that is not known yet. Room for one byte has to be there.
        """
        namespace, name = key
        if name in self._sizes[namespace]:
            return None
        excess = self._excess(namespace, max(1, size))
        if excess is None:
            self.measure(key, size)
        return excess

    def _excess(self, namespace: str, size: int) -> str | None:
        limits, (images, used) = self._quota_of(namespace), self.used(namespace)
        if limits.images is not None and images + 1 > limits.images:
            return f"{images} of {limits.images} images are in use"
        if limits.image_gigabytes is not None and used + size > limits.image_gigabytes * 2**30:
            return f"{format_quantity(used)} of {limits.image_gigabytes}Gi of images are in use"
        return None


def size_of(image: Image) -> int:
    """Give the bytes of an image's file, as it is or as its user says that it will be; 0 if they are not known."""
    status, upload = image.status, image.spec.source.upload
    if status is not None and (status.stored is not None or status.size is not None):
        return (status.stored.size if status.stored is not None else status.size) or 0
    return parse_quantity(upload.size) if upload is not None and upload.size is not None else 0


def admitted_before(image: Image) -> bool:
    """Give whether an image was admitted before this process started: a host was named, or it is there."""
    status, spec = image.status, image.spec
    if spec.source.server is not None or spec.original is not None:
        return True
    return status is not None and (status.import_host is not None or status.digest is not None)
