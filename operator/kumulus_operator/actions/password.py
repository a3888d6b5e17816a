"""The password of a SetPassword: read live when it is needed, by nobody but the operator, and never kept."""

from __future__ import annotations

from kumulus_api import ServerAction
from kumulus_api.server_action import ActionReason
from kumulus_operator.refusal import refuse
from kumulus_operator.servers.userdata import content_of
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import Forbidden
from kumulus_runtime.resources import SECRET

_LONGEST = 512


async def password_of(client: KubeClient, action: ServerAction) -> str:
    """Give the password that an action names.

    Raises:
        Refused: there is none, or it could not be given to a guest; the message has nothing of it.
    """
    wanted = action.spec.set_password
    namespace = action.metadata.namespace or ""
    if wanted is None:
        raise refuse(ActionReason.SECRET_NOT_FOUND, "setPassword: no secret is named; permanent: name one")
    where = f"setPassword: key {wanted.secret.key} of Secret {wanted.secret.name}"
    try:
        body = await client.get(SECRET, wanted.secret.name, namespace)
    except Forbidden:
        message = f"{where} cannot be read; permanent: ask again when the project's roles are in force"
        raise refuse(ActionReason.SECRET_NOT_FOUND, message) from None
    content = content_of(body, SECRET.kind, wanted.secret.key) if body is not None else None
    if content is None:
        message = f"{where} was not found in {namespace}; permanent: make it, then ask again"
        raise refuse(ActionReason.SECRET_NOT_FOUND, message)
    password = _readable(content)
    if password is None:
        message = (
            f"{where} holds no password: 1 to {_LONGEST} printable characters in UTF-8 are one, without the end of a "
            "line (make it with printf, not echo); permanent: correct it, then ask again"
        )
        raise refuse(ActionReason.PASSWORD_INVALID, message)
    return password


def _readable(content: bytes) -> str | None:
    """Give the bytes as a password; None if guests would take it for something else, such as two lines."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return text if 1 <= len(text) <= _LONGEST and text.isprintable() else None
