"""Keys of VPN connections: read live, and neither kept nor logged."""

from __future__ import annotations

from dataclasses import dataclass

from kumulus_api.vpn_connection import PreSharedKey, VPNConnectionReason
from kumulus_operator.refusal import refuse
from kumulus_operator.servers.userdata import content_of
from kumulus_operator.waiting import Need
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import Forbidden
from kumulus_runtime.resources import SECRET

_SHORTEST, _LONGEST = 8, 1024


@dataclass(frozen=True)
class Key:
    """A key.

    Attributes:
        content: what both ends have.
        version: of the Secret, another for each change.
    """

    content: bytes
    version: str

    def __repr__(self) -> str:
        return f"Key(version={self.version!r})"


async def key_of(client: KubeClient, namespace: str, where: PreSharedKey) -> Key:
    """Give the key that a Secret holds.

    Args:
        client: to reach the API server.
        namespace: of the VPNConnection.
        where: the Secret and its key.

    Raises:
        Refused: it is absent, or no key; the message has nothing of it.
    """
    need: Need = (SECRET.kind, namespace, where.secret)
    try:
        body = await client.get(SECRET, where.secret, namespace)
    except Forbidden:
        message = f"psk: Secret {where.secret} cannot be read; transient: goes on when the project's roles are in force"
        raise refuse(VPNConnectionReason.SECRET_NOT_FOUND, message, need) from None
    if body is None:
        message = f"psk: Secret {where.secret} was not found; transient: goes on when it is made"
        raise refuse(VPNConnectionReason.SECRET_NOT_FOUND, message, need)
    content = content_of(body, SECRET.kind, where.key)
    if content is None:
        message = f"psk: Secret {where.secret} has no key {where.key}; transient: goes on when it has"
        raise refuse(VPNConnectionReason.SECRET_NOT_FOUND, message, need)
    content = content.removesuffix(b"\n").removesuffix(b"\r")
    if not _SHORTEST <= len(content) <= _LONGEST:
        message = (
            f"psk: key {where.key} of Secret {where.secret} has {len(content)} bytes, {_SHORTEST} to {_LONGEST} are "
            "asked for; transient: goes on when it is corrected"
        )
        raise refuse(VPNConnectionReason.KEY_INVALID, message, need)
    return Key(content, str(body["metadata"]["resourceVersion"]))
