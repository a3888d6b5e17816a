"""What Secrets and ConfigMaps hold for this host, which the operator hands out: agents may not read them."""

from __future__ import annotations

import base64
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from kumulus_agent.servers.desired import Desired
from kumulus_agent.servers.errors import StepFailed
from kumulus_agent.settings import AgentSettings
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


class BootDataRefused(StepFailed):
    """The operator has answered that it does not give what was asked for; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(ReadyReason.BOOT_DATA_FAILED, message)
        self.status = status


def boot_data_source(settings: AgentSettings) -> BootDataSource:
    """Give where this host asks."""
    ca, token = settings.boot_data_ca, settings.boot_data_token
    return BootDataSource(settings.boot_data_base, settings.system_namespace, ca, token)


async def fetch_user_data(client: KubeClient, source: BootDataSource, desired: Desired) -> bytes:
    """Ask the operator for the user-data of a server.

    Raises:
        StepFailed: with reason BootDataFailed.
    """
    return _bytes(await _fetch(client, source, f"boot-data/{desired.key[0]}/{desired.key[1]}"), "userData")


async def fetch_password(client: KubeClient, source: BootDataSource, action: tuple[str, str]) -> str:
    """Ask the operator for the password of an open SetPassword.

    Args:
        client: to reach the API server.
        source: where to ask.
        action: namespace and name of the ServerAction.

    Raises:
        BootDataRefused: there is none, or it is not for this host.
        StepFailed: the operator cannot be asked now.
    """
    password = (await _fetch(client, source, f"passwords/{action[0]}/{action[1]}")).get("password")
    if not isinstance(password, str) or not password:
        raise _unexpected()
    return password


async def fetch_certificates(client: KubeClient, source: BootDataSource, balancer: tuple[str, str]) -> dict[str, str]:
    """Ask the operator for the certificates of a load balancer that this host has.

    Args:
        client: to reach the API server.
        source: where to ask.
        balancer: namespace and name of the LoadBalancer.

    Returns:
        Certificate chain and key, as PEM, by the name of the listener; those that cannot be had are not in it.

    Raises:
        BootDataRefused: it is not for this host.
        StepFailed: the operator cannot be asked now.
    """
    found = (await _fetch(client, source, f"certificates/{balancer[0]}/{balancer[1]}")).get("certificates")
    if not isinstance(found, dict) or not all(isinstance(pem, str) for pem in found.values()):
        raise _unexpected()
    return found


async def fetch_vpn_key(client: KubeClient, source: BootDataSource, connection: tuple[str, str]) -> bytes:
    """Ask the operator for the key of a VPN connection whose router this host leads out, or may.

    Args:
        client: to reach the API server.
        source: where to ask.
        connection: namespace and name of the VPNConnection.

    Raises:
        BootDataRefused: there is none, or it is not for this host.
        StepFailed: the operator cannot be asked now.
    """
    return _bytes(await _fetch(client, source, f"vpn-keys/{connection[0]}/{connection[1]}"), "key")


async def fetch_volume_key(client: KubeClient, source: BootDataSource, volume: tuple[str, str]) -> bytes:
    """Ask the operator for the key of an encrypted volume that this host has, or gets.

    Args:
        client: to reach the API server.
        source: where to ask.
        volume: namespace and name of the Volume.

    Raises:
        BootDataRefused: there is none, or it is not for this host.
        StepFailed: the operator cannot be asked now.
    """
    key = _bytes(await _fetch(client, source, f"volume-keys/{volume[0]}/{volume[1]}"), "key")
    if not key:
        raise _unexpected()
    return key


async def fetch_image_keys(client: KubeClient, source: BootDataSource, image: tuple[str, str]) -> tuple[str, str]:
    """Ask the operator for what opens the bucket that an Image's source lies in, which this host imports.

    Returns:
        Access key and secret key.

    Raises:
        BootDataRefused: there is none, or it is not for this host.
        StepFailed: the operator cannot be asked now.
    """
    found = await _fetch(client, source, f"image-keys/{image[0]}/{image[1]}")
    keys = found.get("accessKeyID"), found.get("secretAccessKey")
    if not all(isinstance(key, str) and key for key in keys):
        raise _unexpected()
    return str(keys[0]), str(keys[1])


async def _fetch(client: KubeClient, source: BootDataSource, path: str) -> dict[str, Any]:
    try:
        context = await _trust(client, source)
        token = source.token_file.read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{source.base_url}/v1/{path}"
        async with (
            aiohttp.ClientSession(timeout=_SECONDS, trust_env=False) as session,
            session.get(url, headers=headers, ssl=context, allow_redirects=False) as response,
        ):
            body = await _whole(response)
            if response.status == 200:
                return _decode(body)
            message = f"the operator answered {response.status}: {body[:200].decode(errors='replace').strip()}"
            raise BootDataRefused(response.status, message) if response.status < 500 else _failed(message)
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


def _decode(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        raise _unexpected() from None  # the error would quote what was read
    if not isinstance(found, dict):
        raise _unexpected()
    return found


def _bytes(found: dict[str, Any], field: str) -> bytes:
    try:
        return base64.b64decode(found.get(field) or "", validate=True)
    except (TypeError, ValueError) as error:
        raise _unexpected() from error


def _unexpected() -> StepFailed:
    return _failed("the operator's answer is not the JSON that was expected")


async def _trust(client: KubeClient, source: BootDataSource) -> ssl.SSLContext:
    config_map = await client.get(CONFIGMAP, source.ca_config_map, source.system_namespace)
    ca = ((config_map or {}).get("data") or {}).get("ca.crt")
    if not ca:
        raise _failed(f"ConfigMap {source.system_namespace}/{source.ca_config_map} holds no ca.crt yet")
    return ssl.create_default_context(cadata=ca)


def _failed(message: str) -> StepFailed:
    return StepFailed(ReadyReason.BOOT_DATA_FAILED, message)
