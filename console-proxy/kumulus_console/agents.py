"""How the proxy reaches a host's agent: the certificate pinned, and with a token that is good at that host alone."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import aiohttp

from kumulus_api.console import ERROR_HEADER
from kumulus_console.sessions import Endpoint, Refusal, Target
from kumulus_runtime.api_client import KubeClient

_LIFETIME = 600
"""Seconds that a token for a host is good, the least that Kubernetes gives."""
_HEARTBEAT = 30.0
_LARGEST = 1 << 20
_CONNECT = aiohttp.ClientTimeout(total=None, sock_connect=5.0)
_Answer = aiohttp.ClientResponse


@dataclass
class Agents:
    """Calls agents.

    Attributes:
        client: to ask the API server for tokens.
        namespace: the system namespace.
        account: our ServiceAccount.
    """

    client: KubeClient
    namespace: str
    account: str
    _tokens: dict[str, tuple[str, float]] = field(default_factory=dict)
    _http: aiohttp.ClientSession | None = None

    async def socket(self, endpoint: Endpoint, target: Target, console: str) -> aiohttp.ClientWebSocketResponse:
        """Open a guest's console.

        Args:
            endpoint: where its host serves consoles.
            target: the guest.
            console: `vnc` or `serial`.

        Raises:
            Refusal: the agent refuses, with its words, or is not reached.
        """
        return await self.open(endpoint, target.host, f"/v1/instances/{target.instance}/{console}")

    async def open(self, endpoint: Endpoint, host: str, path: str) -> aiohttp.ClientWebSocketResponse:
        """Open a WebSocket to a host's agent; raises what `socket` raises."""
        try:
            return await self._session().ws_connect(
                f"{endpoint.url}{path}",
                headers=await self._headers(host),
                ssl=aiohttp.Fingerprint(endpoint.fingerprint),
                protocols=("binary",),
                heartbeat=_HEARTBEAT,
                max_msg_size=_LARGEST,
                timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
            )
        except aiohttp.WSServerHandshakeError as error:
            said = unquote(error.headers.get(ERROR_HEADER, "") if error.headers else "")
            raise _refused(host, error.status, said) from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _unreached(host, error) from error

    async def log(self, endpoint: Endpoint, target: Target, query: dict[str, str]) -> _Answer:
        """Open a guest's console log, as a response to be read and closed.

        Raises:
            Refusal: as for `socket`.
        """
        try:
            answer = await self._session().get(
                f"{endpoint.url}/v1/instances/{target.instance}/log",
                params=query,
                headers=await self._headers(target.host),
                ssl=aiohttp.Fingerprint(endpoint.fingerprint),
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _unreached(target.host, error) from error
        if answer.status != HTTPStatus.OK:
            answer.close()
            raise _refused(target.host, answer.status, unquote(answer.headers.get(ERROR_HEADER, "")))
        return answer

    async def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=_CONNECT, trust_env=False, auto_decompress=False)
        return self._http

    async def _headers(self, host: str) -> dict[str, str]:
        token, until = self._tokens.get(host, ("", 0.0))
        if time.monotonic() >= until:
            body: dict[str, Any] = {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"audiences": [f"kumulus-console/{host}"], "expirationSeconds": _LIFETIME},
            }
            path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{self.account}/token"
            answer = await self.client.request("POST", path, body)
            token = str(answer["status"]["token"])
            self._tokens[host] = (token, time.monotonic() + _LIFETIME / 2)
        return {"Authorization": f"Bearer {token}"}


def _refused(host: str, status: int, words: str) -> Refusal:
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.BAD_REQUEST):
        return Refusal(HTTPStatus(status), words)
    return Refusal(HTTPStatus.BAD_GATEWAY, f"the agent of host {host} answered {status}: {words or 'no reason given'}")


def _unreached(host: str, error: Exception) -> Refusal:
    if isinstance(error, aiohttp.ServerFingerprintMismatch):
        what = "shows another certificate than its Host says"
    else:
        what = f"is not reached: {error or type(error).__name__}"
    return Refusal(HTTPStatus.BAD_GATEWAY, f"the agent of host {host} {what}")
