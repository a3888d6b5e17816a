"""What HAProxy says of itself by its socket: which configuration it runs, and how members are."""

from __future__ import annotations

import asyncio
import csv
import io
from pathlib import Path

from kumulus_agent.network.errors import NetworkError
from kumulus_api.load_balancer_status import MemberState

_SECONDS = 3.0
_SERVERS = "show stat -1 4 -1"
"""Of all proxies those objects that are servers."""


class Unanswered(NetworkError):
    """HAProxy does not answer: it is starting, or gone."""


async def loaded(socket: Path) -> str:
    """Give the description of the configuration that is served.

    Raises:
        Unanswered: nobody answers.
    """
    lines = (await _ask(socket, "show info")).splitlines()
    return next((line.partition(": ")[2].strip() for line in lines if line.startswith("description: ")), "")


async def members(socket: Path) -> dict[tuple[str, str], MemberState]:
    """Give the state of each member, by the names of listener and member.

    Raises:
        Unanswered: nobody answers.
    """
    return read_members(await _ask(socket, _SERVERS))


def read_members(text: str) -> dict[tuple[str, str], MemberState]:
    """Read the answer: values with commas between and a header after a hash (HAProxy's management guide, 9.1)."""
    rows = csv.DictReader(io.StringIO(text.removeprefix("# ").strip()))
    return {(row["pxname"], row["svname"]): _state(row["status"]) for row in rows}


def _state(status: str) -> MemberState:
    word = status.split(maxsplit=1)[0] if status else ""
    if word == "no":  # "no check"
        return MemberState.NOT_CHECKED
    # One that is about to go down, or is led connections no more, is UP or DRAIN until then.
    return MemberState.UP if word in {"UP", "NOLB", "DRAIN"} else MemberState.DOWN


async def _ask(socket: Path, command: str) -> str:
    try:
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                writer.write(f"{command}\n".encode())
                await writer.drain()
                return (await reader.read()).decode(errors="replace")
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise Unanswered(f"asked HAProxy at {socket} to {command}: {error or 'no answer'}") from error
