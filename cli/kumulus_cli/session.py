"""Leave to open one console once: the user's own credentials make it, a token that only we know uses it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Literal

from kumulus_api.base import API_VERSION
from kumulus_api.console import token_hash
from kumulus_cli import kubectl

SYSTEM_NAMESPACE = "kumulus-system"
SERVICE_PATH = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/services/https:kumulus-console:https/proxy"
"""Where the API server leads to the console proxy."""
ConsoleType = Literal["VNC", "Serial", "Log"]
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Session:
    """A session and its token, which lies nowhere else: the API has only its hash."""

    namespace: str
    name: str
    server: str
    token: str
    plural: str = "consolesessions"

    @property
    def path(self) -> str:
        """The session at the console proxy, relative to the proxy's root."""
        return f"v1/namespaces/{self.namespace}/{self.plural}/{self.name}"


def make(name: str, namespace: str | None, kind: ConsoleType, lifetime: int | None = None) -> Session:
    """Make a session for a server's console.

    Args:
        name: the Server.
        namespace: its namespace; None for that of the current context.
        kind: what of its console.
        lifetime: seconds in which the token can be used; None for the usual ones.

    Raises:
        KubectlError: there is no such Server, it has no console yet, or this is not allowed.
    """
    server = kubectl.get("servers.kumulus.dev", name, namespace)
    if server["spec"].get("assignment") is None:
        what = "console log" if kind == "Log" else "console"
        raise kubectl.KubectlError(f"server {name} has no {what}: it is not placed yet: {_why(server)}")
    token = secrets.token_urlsafe(32)
    metadata = server["metadata"]
    session = Session(metadata["namespace"], f"{name[:_LONGEST].rstrip('-.')}-{secrets.token_hex(4)}", name, token)
    owner = {"apiVersion": server["apiVersion"], "kind": server["kind"], "name": name, "uid": metadata["uid"]}
    spec: dict[str, Any] = {"server": {"name": name}, "type": kind, "tokenHash": token_hash(token)}
    body = {
        "apiVersion": API_VERSION,
        "kind": "ConsoleSession",
        "metadata": {"name": session.name, "namespace": session.namespace, "ownerReferences": [owner]},
        "spec": spec | ({} if lifetime is None else {"lifetimeSeconds": lifetime}),
    }
    kubectl.create(body)
    return session


def _why(server: dict[str, Any]) -> str:
    conditions = server.get("status", {}).get("conditions", [])
    for condition in conditions:
        if condition["type"] == "Scheduled":
            return f"{condition['reason']}: {condition['message']}"
    return "the operator has not looked at it yet"
