"""Why charon says that something failed: the records of its error-notify plugin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kumulus_agent.vpn.vici import DaemonUnanswered
from kumulus_api.vpn_connection import VPNConnectionReason

RECORD = 768
"""Bytes: a number in network order, and texts that end with a zero: 384 of message, 64 of the connection's name, 256 of
the peer's identity, 60 of its address."""
_NAME, _IDENTITY, _ADDRESS = 4 + 384, 4 + 384 + 64, 4 + 384 + 64 + 256
_Told = tuple[VPNConnectionReason, str]
_MEANING: dict[int, _Told] = {
    2: (
        VPNConnectionReason.AUTHENTICATION_FAILED,
        "the peer refuses this end: the key is another there, or it expects another identity than localID",
    ),
    3: (
        VPNConnectionReason.AUTHENTICATION_FAILED,
        "the peer does not prove what it is: its key is another, or it calls itself otherwise than peerID",
    ),
    6: (VPNConnectionReason.PEER_UNREACHABLE, "the peer does not answer"),
    8: (
        VPNConnectionReason.NO_PROPOSAL_CHOSEN,
        "the two have no ike policy in common, or the peer does not know this end",
    ),
    9: (VPNConnectionReason.NO_PROPOSAL_CHOSEN, "the two have no esp policy in common"),
    10: (VPNConnectionReason.NETWORKS_DIFFER, "the peer has other networks for the two sites"),
    11: (VPNConnectionReason.DAEMON_FAILED, "charon could not install what was agreed on"),
    12: (VPNConnectionReason.DAEMON_FAILED, "charon could not install what was agreed on"),
}


@dataclass(frozen=True)
class Alert:
    """What failed.

    Attributes:
        connection: its name; empty where charon does not know which it was to be.
        address: of the peer.
        reason: machine-readable.
        message: a sentence of ours; nothing of what the peer sent is in it.
    """

    connection: str
    address: str
    reason: VPNConnectionReason
    message: str


def read(record: bytes) -> Alert | None:
    """Read a record; None if it tells of nothing that a user could act on."""
    told = _MEANING.get(int.from_bytes(record[:4]))
    if told is None:
        return None
    return Alert(_text(record[_NAME:_IDENTITY]), _text(record[_ADDRESS:]).partition("[")[0], *told)


def _text(content: bytes) -> str:
    return content.partition(b"\0")[0].decode(errors="replace")


class Alerts:
    """Listens to one charon; belongs to the event loop's thread.

    Args:
        reader: from its socket.
        writer: to its socket.
        heard: called with each alert.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Callable[[Alert], None]
    ) -> None:
        self._reader, self._writer, self._heard = reader, writer, heard
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def connect(cls, socket: Path, heard: Callable[[Alert], None]) -> Alerts:
        """Open a connection.

        Raises:
            DaemonUnanswered: nobody listens there.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(str(socket))
        except OSError as error:
            raise DaemonUnanswered(f"charon does not listen at {socket}: {error.strerror}") from error
        return cls(reader, writer, heard)

    async def close(self) -> None:
        """Listen no more."""
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, OSError):
                while True:
                    alert = read(await self._reader.readexactly(RECORD))
                    if alert is not None:
                        self._heard(alert)
        finally:
            self._writer.close()
