"""ConsoleSession: leave to reach one server's console once (Nova's remote console)."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import Column, Definition, Kind, LocalReference, Model, Rule, Timestamp, validated

TOKEN_HEADER = "Kumulus-Console-Token"  # noqa: S105 - a header's name
"""In a request to the console proxy: the token; where a header cannot be set, it is the last part of the path."""

ERROR_HEADER = "Kumulus-Error"
"""In its answer, and in an agent's, to what is refused: why, percent-encoded. A refused WebSocket shows no body."""


def token_hash(token: str) -> str:
    """Give what a session keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class ConsoleType(StrEnum):
    """What is reached: the screen, the serial line, or what the serial line has said so far."""

    VNC = "VNC"
    SERIAL = "Serial"
    LOG = "Log"


class ConsoleSessionSpec(Model):
    """Whose console it is, and the hash of the token that opens it. None of it can change."""

    server: LocalReference
    type: ConsoleType
    token_hash: Annotated[str, Field(min_length=64, max_length=64, pattern=r"^[0-9a-f]{64}$")]
    """SHA-256, in hexadecimal, of a secret that whoever makes the object has drawn and tells nobody but the proxy."""
    user: Annotated[str, Field(max_length=1024)] = ""
    """Who made the session; written at creation by the API server."""
    lifetime_seconds: Annotated[int, Field(ge=1, le=3600)] = 600
    """How long after its creation the token opens the console. One that is open then stays open."""

    model_config = validated(Rule("self == oldSelf", "a console session cannot change: make a new one"))


class ConsoleSessionStatus(Model):
    """Whether the token was used, and when."""

    opened_at: Timestamp | None = None
    """When the token was used: it opens nothing more. The session goes when the console is closed."""
    proxy: Annotated[str, Field(max_length=253)] = ""
    """The pod of the proxy that the console is open through."""


class ConsoleSession(Kind):
    """Leave to reach one server's console once; deleting it closes the console (Nova's remote console)."""

    definition: ClassVar = Definition(
        plural="consolesessions",
        short_names=("kcon",),
        columns=(
            Column("Server", ".spec.server.name"),
            Column("Type", ".spec.type"),
            Column("User", ".spec.user"),
            Column("Opened", ".status.openedAt", "date"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        in_all=False,
    )

    spec: ConsoleSessionSpec
    status: ConsoleSessionStatus | None = None
