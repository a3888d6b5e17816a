"""Certificates of listeners whose TLS ends at the load balancer: read live, and neither kept nor logged."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass

from kumulus_api.load_balancer_status import LoadBalancerReason
from kumulus_operator.refusal import refuse
from kumulus_operator.servers.userdata import content_of
from kumulus_operator.waiting import Need
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import Forbidden
from kumulus_runtime.resources import SECRET

CERTIFICATE, KEY = "tls.crt", "tls.key"
_LARGEST = 64 * 1024


@dataclass(frozen=True)
class Certificate:
    """A certificate with its chain and its key.

    Attributes:
        pem: both.
        version: of the Secret, another for each change.
    """

    pem: str
    version: str

    def __repr__(self) -> str:
        return f"Certificate(version={self.version!r})"


async def certificate_of(client: KubeClient, namespace: str, name: str, part: str) -> Certificate:
    """Give the certificate in a Secret of type kubernetes.io/tls.

    Args:
        client: to reach the API server.
        namespace: of the load balancer.
        name: of the Secret.
        part: what it is for; messages begin with it.

    Raises:
        Refused: it is absent, or no server could use it; the message has nothing of it.
    """
    need: Need = (SECRET.kind, namespace, name)
    try:
        body = await client.get(SECRET, name, namespace)
    except Forbidden:
        message = f"{part}: Secret {name} cannot be read; transient: goes on when the project's roles are in force"
        raise refuse(LoadBalancerReason.SECRET_NOT_FOUND, message, need) from None
    if body is None:
        message = f"{part}: Secret {name} was not found; transient: goes on when it is made"
        raise refuse(LoadBalancerReason.SECRET_NOT_FOUND, message, need)
    chain, key = (content_of(body, SECRET.kind, field) for field in (CERTIFICATE, KEY))
    fault = f"has no {CERTIFICATE} and {KEY}" if not chain or not key else _fault(chain, key)
    if fault is not None or not chain or not key:
        message = f"{part}: Secret {name} {fault}; transient: goes on when it is corrected"
        raise refuse(LoadBalancerReason.CERTIFICATE_INVALID, message, need)
    return Certificate(f"{chain.decode().strip()}\n{key.decode().strip()}\n", body["metadata"]["resourceVersion"])


def _fault(chain: bytes, key: bytes) -> str | None:
    """Say why a TLS server could not use them, or None. They are in memory alone while that is tried."""
    if max(len(chain), len(key)) > _LARGEST:
        return f"has more than {_LARGEST} bytes under a key"
    try:
        chain.decode("ascii"), key.decode("ascii")
    except UnicodeDecodeError:
        return "holds no PEM"
    handles = [os.memfd_create("pem") for _ in range(2)]
    try:
        for handle, content in zip(handles, (chain, key), strict=True):
            os.write(handle, content)
        certificates, keys = (f"/proc/self/fd/{handle}" for handle in handles)
        # A key with a passphrase would be asked for at a terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificates, keys, password="")
    except ssl.SSLError as error:
        return f"holds no certificate with its key in PEM ({error.reason or 'not readable'})"
    except (OSError, ValueError):
        return "holds no certificate with its key in PEM"
    finally:
        for handle in handles:
            os.close(handle)
    return None
