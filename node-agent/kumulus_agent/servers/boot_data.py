"""User-data from Secrets and ConfigMaps, which the operator hands out: agents have no right to read them."""

from __future__ import annotations

import base64
import binascii
import json
import ssl
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from kumulus_agent.servers.desired import Desired
from kumulus_agent.servers.errors import StepFailed
from kumulus_api.server_status import ReadyReason
from kumulus_runtime.api_client import CONFIGMAP, ApiError, KubeClient

_SECONDS = aiohttp.ClientTimeout(total=10.0, sock_connect=3.0)
_LARGEST = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class BootDataSource:
    """Where boot data is asked for, whom to trust and who we are.

    Attributes:
        base_url: of the service.
        system_namespace: where the CA's ConfigMap lies.
        ca_config_map: its name; the CA is under `ca.crt`.
        token_file: our ServiceAccount token for the service, replaced in place by the kubelet.
    """

    base_url: str
    system_namespace: str
    ca_config_map: str
    token_file: Path


async def fetch_user_data(client: KubeClient, source: BootDataSource, desired: Desired) -> bytes:
    """Ask the operator for the user-data of a server.

    Raises:
        StepFailed: with reason BootDataFailed.
    """
    try:
        context = await _trust(client, source)
        token = source.token_file.read_text().strip()
        url = f"{source.base_url}/v1/boot-data/{desired.key[0]}/{desired.key[1]}"
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession(timeout=_SECONDS, trust_env=False) as session,
            session.get(url, headers=headers, ssl=context, allow_redirects=False) as response,
        ):
            body = await _whole(response)
            if response.status != 200:
                raise _failed(f"the operator answered {response.status}: {body[:200].decode(errors='replace').strip()}")
            return _decode(body)
    except (aiohttp.ClientError, TimeoutError, OSError, ApiError) as error:
        raise _failed(f"the operator's boot data service: {type(error).__name__}: {error}") from error


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """Read the answer to its end: one read gives only what has arrived so far."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _LARGEST:
            raise _failed(f"the operator's answer is larger than {_LARGEST} bytes")
    return bytes(body)


def _decode(body: bytes) -> bytes:
    try:
        encoded = json.loads(body).get("userData") or ""
        return base64.b64decode(encoded, validate=True)
    except (ValueError, AttributeError, binascii.Error) as error:
        raise _failed("the operator's answer is not the JSON that was expected") from error


async def _trust(client: KubeClient, source: BootDataSource) -> ssl.SSLContext:
    config_map = await client.get(CONFIGMAP, source.ca_config_map, source.system_namespace)
    ca = ((config_map or {}).get("data") or {}).get("ca.crt")
    if not ca:
        raise _failed(f"ConfigMap {source.system_namespace}/{source.ca_config_map} holds no ca.crt yet")
    return ssl.create_default_context(cadata=ca)


def _failed(message: str) -> StepFailed:
    return StepFailed(ReadyReason.BOOT_DATA_FAILED, message)
