"""What those who send an image's bytes and those who take them say to each other.

A WebSocket carries it, all as binary messages. The two ends take turns: Offer, Have, Begin; then bytes from the one and
Received from the other; after the last byte End, and Done or Refused. Refused may come at any time.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from kumulus_api.base import Model

LONGEST_MESSAGE = 1 << 20
"""Bytes of a message."""
BLOCK = 1 << 18
"""Bytes of the file in one message; whoever sends waits until the other has room for more."""
SESSION_DELETED = "the session was deleted"
"""Reason with which a WebSocket is closed whose session somebody has deleted."""
_SHA256 = r"^[0-9a-f]{64}$"
_MOST = 1 << 60


class UploadRefusal(StrEnum):
    """Why bytes are not taken."""

    BUSY = "Busy"
    """Another sends them."""
    MOVED = "Moved"
    """Another host was named, and the upload begins anew there."""
    WRONG_SIZE = "WrongSize"
    TOO_LARGE = "TooLarge"
    NO_ROOM = "NoRoom"
    CHANGED = "Changed"
    """What came is not what was sent: the file was changed, or damaged on its way."""
    IDLE = "Idle"
    UNREADABLE = "Unreadable"
    """A message is none of those that are awaited."""
    IMAGE = "ImageRefused"
    """All bytes came, and are no image that hosts use; the message has the condition's reason and message."""
    GONE = "Gone"
    """The image was deleted, or is whole already."""


PASSING = frozenset({UploadRefusal.BUSY, UploadRefusal.MOVED, UploadRefusal.IDLE, UploadRefusal.CHANGED})
"""Those after which the same file may be sent again without anybody changing a thing."""


class Offer(Model):
    """From the sender, first: how many bytes the file has, and who sends."""

    size: Annotated[int, Field(ge=1, le=_MOST)]
    sender: Annotated[str, Field(min_length=16, max_length=64)]
    """Drawn by each command for itself: it takes over from itself, where a broken connection is not noticed yet."""


class Have(Model):
    """From the host: how many bytes it has, and their SHA-256."""

    offset: Annotated[int, Field(ge=0, le=_MOST)]
    sha256: Annotated[str, Field(pattern=_SHA256)]
    host: str = ""


class Begin(Model):
    """From the sender: where it goes on, which is that offset, or 0 if its file begins with other bytes."""

    offset: Annotated[int, Field(ge=0, le=_MOST)]


class Received(Model):
    """From the host, now and then: how many bytes it has on its disk."""

    received: Annotated[int, Field(ge=0, le=_MOST)]


class End(Model):
    """From the sender, after the last byte: what all of them hash to."""

    sha256: Annotated[str, Field(pattern=_SHA256)]


class Done(Model):
    """From the host: the image is whole, and servers can start from it."""

    digest: str


class Refused(Model):
    """From the host: it takes nothing more."""

    refused: UploadRefusal
    message: str


Answer = Have | Received | Done | Refused


def wire(message: Model) -> bytes:
    """Give a message as it is sent."""
    return json.dumps(message.dump()).encode()


def read_answer(data: bytes) -> Answer:
    """Read what a host says.

    Raises:
        ValueError: it is none of its messages.
    """
    found: Any = json.loads(data)
    kinds: dict[str, type[Answer]] = {"offset": Have, "received": Received, "digest": Done, "refused": Refused}
    for word, kind in kinds.items():
        if isinstance(found, dict) and word in found:
            return kind.model_validate(found)
    raise ValueError(f"none of the messages that a host sends: {data[:100]!r}")


def upload_command(namespace: str, name: str) -> str:
    """Give what sends an image's bytes."""
    return f"kubectl kumulus image upload FILE --name {name} --namespace {namespace}"


def waiting_for_upload(host: str, namespace: str, name: str) -> str:
    """Give what the condition of an image says whose bytes nobody has sent yet."""
    return f"host {host} waits for its bytes: {upload_command(namespace, name)}"
