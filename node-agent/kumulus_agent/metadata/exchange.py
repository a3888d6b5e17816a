"""As much of HTTP/1.1 (RFC 9112) as the service needs: requests, most without a body, answered one after another.

What a guest sends is bounded before it is read: a head has 8 KiB, a body that is asked for 1 KiB, both a few seconds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

HEAD_BYTES: Final = 8192
"""The reader's limit: a longer head is refused."""
BODY_BYTES: Final = 1024
_NO_SENTENCE: Final = {HTTPStatus.OK}


class Unreadable(Exception):
    """What came is no request that is answered."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head.

    Attributes:
        keeps: the connection is kept for the next one.
        length: bytes of its body; None if it does not say.
    """

    method: str
    target: str
    keeps: bool
    length: int | None = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; without a body of its own it says its status in words."""

    status: HTTPStatus
    body: bytes = b""
    kind: str = "text/plain; charset=UTF-8"
    headers: tuple[tuple[str, str], ...] = ()


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """Read the next request.

    Args:
        reader: with HEAD_BYTES as its limit.

    Returns:
        None if the connection ended.

    Raises:
        Unreadable: it is too long, or none.
        ConnectionError: the connection broke.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError as error:
        raise Unreadable(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from error
    return parse(head)


def parse(head: bytes) -> Request:
    """Read a head, with the empty line at its end.

    Raises:
        Unreadable: it is none.
    """
    first, *lines = head.decode("latin-1").lstrip("\r\n").removesuffix("\r\n\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[0].isalpha() or not words[1] or not words[2].startswith("HTTP/"):
        raise Unreadable(HTTPStatus.BAD_REQUEST)
    if words[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise Unreadable(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise Unreadable(HTTPStatus.BAD_REQUEST)
        fields[name.lower()] = value.strip().lower()
    wishes = {wish.strip() for wish in fields.get("connection", "").split(",")}
    keeps = "keep-alive" in wishes if words[2] == "HTTP/1.0" else "close" not in wishes
    length = _length(fields)
    # As a rule a body is not read: what follows it could not be told from it.
    return Request(words[0], words[1], keeps and length == 0, length)


def _length(fields: dict[str, str]) -> int | None:
    if "transfer-encoding" in fields:
        return None
    value = fields.get("content-length", "0")
    if not (value.isascii() and value.isdecimal() and len(value) < 16):
        raise Unreadable(HTTPStatus.BAD_REQUEST)
    return int(value)


async def read_body(reader: asyncio.StreamReader, request: Request) -> bytes:
    """Read a request's body.

    Raises:
        Unreadable: it is too large, does not say its length, or does not come whole.
    """
    if request.length is None:
        raise Unreadable(HTTPStatus.LENGTH_REQUIRED)
    if request.length > BODY_BYTES:
        raise Unreadable(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    try:
        return await reader.readexactly(request.length)
    except asyncio.IncompleteReadError as error:
        raise Unreadable(HTTPStatus.BAD_REQUEST) from error


def reply_bytes(reply: Reply, *, keeps: bool, head_only: bool = False) -> bytes:
    """Give an answer as it is sent.

    Args:
        reply: the answer.
        keeps: the connection is kept.
        head_only: the request was a HEAD.
    """
    body = reply.body
    if not body and reply.status not in _NO_SENTENCE:
        body = f"{reply.status.value} {reply.status.phrase}\n".encode()
    fields = (
        ("Content-Type", reply.kind),
        ("Content-Length", str(len(body))),
        ("Connection", "keep-alive" if keeps else "close"),
        *reply.headers,
    )
    head = f"HTTP/1.1 {reply.status.value} {reply.status.phrase}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in fields)
    return head.encode() + b"\r\n" + (b"" if head_only else body)
