"""This host's certificate, by which the other hosts know it: asked for when the first migration needs it."""

from __future__ import annotations

import asyncio
import base64
import secrets
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from kumulus_agent.storage.atomic import write_file
from kumulus_runtime.api_client import CONFIGMAP, KubeClient
from kumulus_runtime.certificates.issuing import run_apart
from kumulus_runtime.resources import CERTIFICATESIGNINGREQUEST

SIGNER: Final = "kumulus.dev/host"
AUTHORITY: Final = "kumulus-host-ca"
_USAGES: Final = ("digital signature", "client auth", "server auth")
_RENEW_SECONDS: Final = 2 * 86400.0
"""Age at which a certificate, which is good for a week, is replaced by a new one."""
_DEADLINE_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.2
_PROGRAM: Final = Path(__file__).with_name("certificate_request.py")

_log = structlog.stdlib.get_logger(__name__)


class NoCredentials(Exception):
    """There is no certificate for this host now."""


@dataclass(frozen=True, slots=True)
class Contexts:
    """TLS as the host that is dialled, and as the one that dials; both sides show a certificate."""

    server: ssl.SSLContext
    client: ssl.SSLContext


class Credentials:
    """Keeps key and certificate in a folder that only root reads.

    Args:
        client: to reach the API server.
        node: this host's name.
        directory: the folder.
        system_namespace: where the authority's ConfigMap lies.
    """

    def __init__(self, client: KubeClient, node: str, directory: Path, system_namespace: str) -> None:
        self._client = client
        self._node = node
        self._directory = directory
        self._namespace = system_namespace
        self._asking = asyncio.Lock()

    async def contexts(self) -> Contexts:
        """Give the contexts, with a certificate that is asked for if there is none or an old one.

        Raises:
            NoCredentials: the operator does not make one out.
            ApiError: the API server does not answer.
        """
        async with self._asking:
            return await asyncio.to_thread(self._load, await self._renewed())

    async def pem(self) -> tuple[bytes, bytes]:
        """Give key and certificate, and the authorities, for another program; errors as of `contexts`."""
        async with self._asking:
            authority = await self._renewed()
            return await asyncio.to_thread((self._directory / "host.pem").read_bytes), authority.encode()

    async def _renewed(self) -> str:
        """Have a certificate that is not old; give the authorities."""
        authorities = await self._authorities()
        if not await asyncio.to_thread(self._usable, authorities):
            await self._ask()
            authorities = await self._authorities()
            await asyncio.to_thread(write_file, self._directory / "issuer.crt", authorities["current"].encode())
        return authorities["ca.crt"]

    async def _authorities(self) -> dict[str, str]:
        found = await self._client.get(CONFIGMAP, AUTHORITY, self._namespace)
        return (found or {}).get("data") or {}

    def _usable(self, authorities: dict[str, str]) -> bool:
        try:
            issuer = (self._directory / "issuer.crt").read_text()
            age = time.time() - (self._directory / "host.pem").stat().st_mtime
        except OSError:
            return False
        return issuer in authorities.get("ca.crt", "") and 0 <= age < _RENEW_SECONDS

    def _load(self, authority: str) -> Contexts:
        contexts = []
        for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
            context = ssl.SSLContext(protocol)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=authority)
            context.load_cert_chain(self._directory / "host.pem")
            contexts.append(context)
        return Contexts(*contexts)

    async def _ask(self) -> None:
        try:
            made = await run_apart(_PROGRAM, self._node)
        except (RuntimeError, TimeoutError) as error:
            raise NoCredentials(f"no certificate request: {str(error) or 'its process takes too long'}") from error
        name = f"kumulus-host-{self._node[:200]}-{secrets.token_hex(4)}"
        body: dict[str, Any] = {
            "metadata": {"name": name},
            "spec": {
                "signerName": SIGNER,
                "request": base64.b64encode(made["request"].encode()).decode(),
                "usages": list(_USAGES),
            },
        }
        await self._client.create(CERTIFICATESIGNINGREQUEST, body)
        certificate = await self._answer(name)
        await asyncio.to_thread(self._keep, made["key"] + certificate)
        _log.info("host certificate received", request=name)

    async def _answer(self, name: str) -> str:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while time.monotonic() < deadline:
            status = (await self._client.get(CERTIFICATESIGNINGREQUEST, name) or {}).get("status") or {}
            if status.get("certificate"):
                return base64.b64decode(status["certificate"]).decode()
            for item in status.get("conditions") or []:
                if item["type"] in ("Denied", "Failed"):
                    raise NoCredentials(f"the request {name} was turned down: {item.get('message', '')}")
            await asyncio.sleep(_PAUSE_SECONDS)
        raise NoCredentials(f"the operator has not answered the request {name} within {_DEADLINE_SECONDS:.0f} s")

    def _keep(self, pem: str) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(self._directory / "host.pem", pem.encode())
