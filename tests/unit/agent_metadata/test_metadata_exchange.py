"""HTTP as the metadata service speaks it, and how much of it."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import pytest

from kumulus_agent.metadata.exchange import (
    BODY_BYTES,
    HEAD_BYTES,
    Reply,
    Unreadable,
    parse,
    read_body,
    read_request,
    reply_bytes,
)
from kumulus_agent.metadata.pace import BURST, CONNECTIONS, RATE, Pace, TooMuch


def reader_of(data: bytes) -> asyncio.StreamReader:
    """A connection on which this has come and nothing follows."""
    reader = asyncio.StreamReader(limit=HEAD_BYTES)
    reader.feed_data(data)
    reader.feed_eof()
    return reader


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", True),
        ("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", False),
        ("GET / HTTP/1.0\r\n\r\n", False),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
        ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", True),
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", False),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", False),
    ],
)
def test_a_connection_is_kept_where_both_may(head: str, keeps: bool) -> None:
    """It is kept as HTTP says, and never after a body, which as a rule is not read."""
    request = parse(head.encode())
    assert (request.method, request.target, request.keeps) == (head.split(maxsplit=1)[0], "/", keeps)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\n\r\n", 400),
        ("G\0T / HTTP/1.1\r\n\r\n", 400),
        ("\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\n\r\n", 505),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nContent-Length : 5\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nContent-Length: ²\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_is_refused(head: str, status: int) -> None:
    """Nothing is guessed."""
    with pytest.raises(Unreadable) as caught:
        parse(head.encode())
    assert caught.value.status == status


async def test_requests_are_read_one_after_another() -> None:
    """Those that were sent at once are answered in turn; half of one at the end is no request."""
    reader = reader_of(b"GET /a HTTP/1.1\r\n\r\nHEAD /b HTTP/1.1\r\n\r\nGET /c HT")
    found = [await read_request(reader) for _ in range(3)]
    assert [request and (request.method, request.target) for request in found] == [("GET", "/a"), ("HEAD", "/b"), None]


async def test_a_head_is_bounded() -> None:
    """A head that does not end within its limit is refused, and not kept."""
    with pytest.raises(Unreadable) as caught:
        await read_request(reader_of(b"GET / HTTP/1.1\r\nX: " + b"x" * HEAD_BYTES * 2 + b"\r\n\r\n"))
    assert caught.value.status is HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


def test_an_answer_says_its_length() -> None:
    """The length is the body's, also where the body is left out; an error says itself in words."""
    head, _, body = reply_bytes(Reply(HTTPStatus.OK, b"four"), keeps=True).partition(b"\r\n\r\n")
    assert body == b"four"
    assert b"HTTP/1.1 200 OK\r\n" in head
    assert b"Content-Length: 4\r\nConnection: keep-alive" in head
    assert reply_bytes(Reply(HTTPStatus.OK, b"four"), keeps=True, head_only=True) == head + b"\r\n\r\n"
    missing = reply_bytes(Reply(HTTPStatus.NOT_FOUND, headers=(("Allow", "GET"),)), keeps=False)
    assert missing.endswith(b"Connection: close\r\nAllow: GET\r\n\r\n404 Not Found\n")


def test_requests_are_paced() -> None:
    """A guest may ask a burst at once, then as many a second as the rate says, and never more than a burst again."""
    pace = Pace()
    assert sum(pace.take(100.0) for _ in range(1000)) == BURST
    assert sum(pace.take(101.0) for _ in range(1000)) == RATE
    assert sum(pace.take(10000.0) for _ in range(1000)) == BURST


def test_connections_are_counted() -> None:
    """One more than the limit is refused, and one that has ended makes room."""
    pace = Pace()
    held = [pace.connected() for _ in range(CONNECTIONS)]
    for connection in held:
        connection.__enter__()
    with pytest.raises(TooMuch), pace.connected():
        pass
    held[0].__exit__(None, None, None)
    with pace.connected():
        assert pace.connections == CONNECTIONS


@pytest.mark.parametrize(
    ("fields", "sent", "status"),
    [
        ("Transfer-Encoding: chunked", b"3\r\nabc", 411),
        (f"Content-Length: {BODY_BYTES + 1}", b"x" * (BODY_BYTES + 1), 413),
        ("Content-Length: 4", b"abc", 400),
    ],
)
async def test_a_body_is_bounded(fields: str, sent: bytes, status: int) -> None:
    """A body that is too large, or of which the length is not known or not true, is refused; no other is cut."""
    with pytest.raises(Unreadable) as caught:
        await read_body(reader_of(sent), parse(f"POST / HTTP/1.1\r\n{fields}\r\n\r\n".encode()))
    assert caught.value.status == status
    request = parse(f"POST / HTTP/1.1\r\nContent-Length: {BODY_BYTES}\r\n\r\n".encode())
    assert await read_body(reader_of(b"x" * BODY_BYTES + b"more"), request) == b"x" * BODY_BYTES
