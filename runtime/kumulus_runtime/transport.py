"""HTTP to the API server: credentials, TLS, time-outs and the translation of errors."""

import json
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio.client.api_client import ApiClient

from kumulus_runtime.connection import authorization_header, reload_credentials
from kumulus_runtime.errors import Retryable, error_from_response
from kumulus_runtime.metrics import API_REQUESTS

_TIMEOUT = aiohttp.ClientTimeout(total=30.0, sock_connect=5.0)
_JSON = "application/json"


@dataclass(frozen=True)
class _Request:
    """One request; ``path`` is quoted, empty query parameters are left out."""

    method: str
    path: str
    body: Any = None
    content_type: str = _JSON
    query: Mapping[str, str] = field(default_factory=dict)
    accept: str = _JSON
    timeout: aiohttp.ClientTimeout = _TIMEOUT

    @property
    def asked(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def target(self) -> str:
        parameters = {key: value for key, value in self.query.items() if value}
        return self.path + ("?" + urlencode(parameters, quote_via=quote) if parameters else "")

    def unreachable(self, error: Exception) -> Retryable:
        detail = str(error) or type(error).__name__
        # Processes that lose the API server together shall not come back together.
        delay = random.uniform(0.5, 2.0)  # noqa: S311 - spreads load, protects nothing
        return Retryable(0, "Unreachable", f"{self.asked}: no answer: {detail}", delay=delay)


class Transport:
    """Sends requests over the connections of a ``kubernetes.aio`` client."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str | None = None,
        query: Mapping[str, str] | None = None,
        *,
        accept: str = _JSON,
    ) -> Any:
        """Send one request.

        Args:
            method: HTTP method.
            path: absolute path at the API server, already quoted.
            body: sent as JSON.
            content_type: of the body, default ``application/json``.
            query: parameters; empty values are left out.
            accept: what is asked for; JSON in one of its forms is decoded.

        Returns:
            The decoded JSON, the text of other answers, None for an empty one.

        Raises:
            ApiError: the subclass that fits the answer.
        """
        request = _Request(method, path, body, content_type or _JSON, query or {}, accept)
        response = await self._send(request)
        async with response:
            content = await _read(request, response)
        if not content:
            return None
        if response.content_type == _JSON:
            return json.loads(content)
        return content.decode(errors="replace")

    async def stream(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        idle_timeout: float | None = None,
        accept: str = _JSON,
    ) -> AsyncIterator[bytes]:
        """Read a long answer line by line, e.g. a watch or a log.

        Args:
            path: absolute path at the API server, already quoted.
            query: parameters.
            idle_timeout: seconds without a byte after which the connection counts as dead.
            accept: what is asked for.

        Yields:
            Lines without their end; of any length.

        Raises:
            ApiError: the subclass that fits the answer.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=idle_timeout)
        request = _Request("GET", path, query=query or {}, accept=accept, timeout=timeout)
        response = await self._send(request)
        async with response:
            pending = bytearray()
            try:
                async for chunk in response.content.iter_any():
                    first, *rest = chunk.split(b"\n")
                    pending += first
                    for piece in rest:
                        yield bytes(pending)
                        pending[:] = piece
            except (aiohttp.ClientError, TimeoutError) as error:
                raise request.unreachable(error) from error
            if pending:
                yield bytes(pending)

    async def _send(self, request: _Request) -> aiohttp.ClientResponse:
        """Send, and once more with fresh credentials if these have expired; the body of a success is not read."""
        response = await self._send_once(request)
        if response.status == 401:
            response.release()
            await reload_credentials(self._client.configuration)
            response = await self._send_once(request)
        if response.status < 400:
            return response
        async with response:
            content = await _read(request, response)
        raise error_from_response(response.status, content, response.headers.get("Retry-After"), asked=request.asked)

    async def _send_once(self, request: _Request) -> aiohttp.ClientResponse:
        configuration = self._client.configuration
        headers = {
            "Accept": request.accept,
            "User-Agent": self._client.user_agent,
            "Content-Type": request.content_type,
        }
        headers |= await authorization_header(configuration)
        url = configuration.host + request.target
        try:
            answer = await self._client.call_api(
                request.method, url, headers, request.body, _request_timeout=request.timeout
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            API_REQUESTS.labels(method=request.method, code="error").inc()
            raise request.unreachable(error) from error
        response: aiohttp.ClientResponse = answer.response
        API_REQUESTS.labels(method=request.method, code=str(response.status)).inc()
        return response


def as_object(answer: Any) -> dict[str, Any]:
    """Give the answer of a request as the object that it should be.

    Raises:
        Retryable: it is none; something between us and the API server has answered.
    """
    if not isinstance(answer, dict):
        raise Retryable(0, "NotAnObject", f"expected an object, got {type(answer).__name__}")
    return answer


async def _read(request: _Request, response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise request.unreachable(error) from error
