"""The console proxy, reached through the API server: one way for log, serial line and screen."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote

import aiohttp

from kumulus_api.console import ERROR_HEADER, TOKEN_HEADER
from kumulus_cli.session import SERVICE_PATH, SYSTEM_NAMESPACE, Session

_NEVER = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
_BASE = f"http://localhost{SERVICE_PATH}"
_LARGEST = 1 << 20
_HEARTBEAT = 30.0
_NOBODY = frozenset({502, 503, 504})


class ConsoleError(Exception):
    """A console cannot be had; the message says why and what helps. The status is HTTP's, 0 where nobody answered."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@contextlib.asynccontextmanager
async def _requests(socket: Path) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(path=str(socket))
    async with aiohttp.ClientSession(connector=connector, timeout=_NEVER, trust_env=False) as session:
        try:
            yield session
        except aiohttp.WSServerHandshakeError as error:
            raise _refused(error.status, error.headers.get(ERROR_HEADER, "") if error.headers else "") from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ConsoleError(f"the connection to the console proxy broke: {error or type(error).__name__}") from error


async def about(socket: Path) -> str:
    """Give where browsers reach the console proxy; empty if only the API server leads there.

    Args:
        socket: of `kubectl.private_proxy`.

    Raises:
        ConsoleError: the proxy is not reached.
    """
    async with _requests(socket) as requests, requests.get(f"{_BASE}/v1/about") as answer:
        if answer.status != 200:
            raise await _told(answer)
        url: str = (await answer.json())["url"]
        return url


async def log(socket: Path, session: Session, query: dict[str, str]) -> AsyncIterator[bytes]:
    """Give a console log, piece by piece.

    Raises:
        ConsoleError: it cannot be had.
    """
    headers = {TOKEN_HEADER: session.token}
    async with (
        _requests(socket) as requests,
        requests.get(f"{_BASE}/{session.path}/stream", params=query, headers=headers) as answer,
    ):
        if answer.status != 200:
            raise await _told(answer)
        async for chunk in answer.content.iter_any():
            yield chunk


@contextlib.asynccontextmanager
async def console(socket: Path, session: Session) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """Open a console as a WebSocket.

    Raises:
        ConsoleError: it cannot be had.
    """
    async with (
        _requests(socket) as requests,
        requests.ws_connect(
            f"{_BASE}/{session.path}/stream",
            headers={TOKEN_HEADER: session.token},
            protocols=("binary",),
            heartbeat=_HEARTBEAT,
            max_msg_size=_LARGEST,
            timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
        ) as web_socket,
    ):
        yield web_socket


async def _told(answer: aiohttp.ClientResponse) -> ConsoleError:
    if told := answer.headers.get(ERROR_HEADER, ""):
        return _refused(answer.status, told)
    try:
        words = str((await answer.json(content_type=None)).get("message", ""))
    except (ValueError, AttributeError):
        words = ""
    # It is the API server that speaks: either it does not let us through, or there is nobody behind it.
    return (
        _refused(answer.status, "", words)
        if answer.status in _NOBODY or not words
        else ConsoleError(words, answer.status)
    )


def _refused(status: int, told: str, words: str = "") -> ConsoleError:
    if told:
        return ConsoleError(unquote(told), status)
    where = f"`kubectl get pods --namespace {SYSTEM_NAMESPACE} --selector app.kubernetes.io/component=console`"
    why = words or f"status {status}"
    return ConsoleError(f"the console proxy does not answer ({why}): see {where}, then try again", status)
