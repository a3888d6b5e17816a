"""kopf's credentials, from the same files as our own client's and without the synchronous Kubernetes client."""

import base64
import json
import time
from datetime import UTC, datetime
from typing import Any

import kopf

from kumulus_runtime.connection import NoCluster, authorization_header, load_configuration

# A pod's token lives for an hour and its file is replaced after 48 minutes, so a token just read has twelve left.
_LONGEST_USE = 1800.0
_SPARE = 60.0


def register(registry: kopf.OperatorRegistry | None = None) -> None:
    """Make kopf use `login`; its own logins then stay unused.

    Args:
        registry: where the process registers its handlers; default kopf's own.
    """
    kopf.on.login(registry=registry, id="kumulus_login", retries=3, backoff=1.0)(login)


async def login(settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo:
    """Read the credentials; kopf calls this at the start, after they have expired and after a 401.

    Raises:
        kopf.LoginError: no usable configuration was found.
    """
    try:
        configuration = await load_configuration()
        authorization = (await authorization_header(configuration)).get("Authorization", "")
    except NoCluster as error:
        raise kopf.LoginError(str(error)) from error
    scheme, _space, token = authorization.partition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme.capitalize() or None,
        token=token.strip() or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
        trust_env=settings.networking.trust_env,
        expiration=_expiration(token, time.time()) if token else None,
    )


def _expiration(token: str, now: float) -> datetime:
    """When the token shall be read again.

    The moment depends on the token alone within each period: kopf refuses credentials that it has seen fail only if
    they compare equal, and would otherwise repeat a bad login without a pause.

    Args:
        token: a JWT, or any other text.
        now: seconds since the epoch.
    """
    claims = _claims(token)
    issued = float(claims.get("iat", 0.0))
    periods = (now - issued) // _LONGEST_USE + 1
    ends = [issued + periods * _LONGEST_USE, float(claims.get("exp", float("inf"))) - _SPARE]
    at = min(end for end in ends if end > now)
    return datetime.fromtimestamp(at, UTC)


def _claims(token: str) -> dict[str, Any]:
    """The numbers in a JWT's payload; it is ours, so its signature need not be checked."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    if not isinstance(payload, dict):
        return {}
    return {name: value for name, value in payload.items() if name in {"iat", "exp"} and isinstance(value, int | float)}
