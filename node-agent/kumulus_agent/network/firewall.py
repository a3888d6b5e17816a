"""nftables of the datapath namespace: read, and change in one transaction."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Final

from kumulus_agent.network.command import run
from kumulus_agent.network.errors import NetlinkFailed
from kumulus_agent.network.expressions import TABLE
from kumulus_agent.network.limits import DROPPED, FAMILY, SPOOFED, counts_of
from kumulus_agent.network.namespace import entering, within
from kumulus_agent.network.netlink import netfilter_socket
from kumulus_agent.network.rules import FirewallChange, FirewallState, parse

_GET_GENERATION: Final = 0x0A10
"""NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN."""
_NEW_GENERATION: Final = 0x0A0F
_HEADER: Final = struct.Struct("=IHHII")
_FAMILY: Final = struct.Struct("=BBH")
_NUMBER: Final = struct.Struct("!HHI")


class Firewall:
    """The rules of a namespace.

    The kernel counts the transactions of a namespace, whoever made them. What was read, and what was made of it by a
    transaction of our own, is as it was while that count says that there was no other: a list of all rules takes
    seconds where there are thousands of ports. What packets do to counters and limits is not counted, nor read.

    Args:
        namespace: its name; it is there.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._socket: socket.socket = within(namespace, netfilter_socket)
        self._seen: tuple[int, FirewallState] | None = None

    def close(self) -> None:
        """Ask no more."""
        self._socket.close()

    async def observe(self) -> FirewallState:
        """Read the rules."""
        before = self._generation()
        if self._seen is not None and self._seen[0] == before:
            return self._seen[1]
        listed = await run((*entering(self._namespace), "nft", "--json", "list", "ruleset"))
        state = await asyncio.to_thread(lambda: parse(json.loads(listed)["nftables"]))
        self._seen = (before, state) if self._generation() == before else None
        return state

    async def apply(self, change: FirewallChange) -> None:
        """Apply the change: all of it, or (CommandFailed) nothing."""
        before, seen = self._generation(), self._seen
        self._seen = None
        transaction = json.dumps(change.transaction()).encode()
        await run((*entering(self._namespace), "nft", "--json", "--file", "-"), stdin=transaction)
        after = self._generation()
        if seen is not None and seen[0] == before and seen[1] is change.before and after == before + 1:
            self._seen = (after, change.result)

    def _generation(self) -> int:
        """Ask how many transactions there were; the kernel answers at once."""
        request = _FAMILY.pack(0, 0, 0)
        try:
            self._socket.send(_HEADER.pack(_HEADER.size + len(request), _GET_GENERATION, 1, 0, 0) + request)
            answer = self._socket.recv(4096)
        except OSError as error:
            raise NetlinkFailed(f"ask for the rules' generation in namespace {self._namespace}: {error}") from error
        if _HEADER.unpack_from(answer)[1] != _NEW_GENERATION:
            raise NetlinkFailed(f"ask for the rules' generation in namespace {self._namespace}: no answer to that")
        # Its first attribute is the number.
        return int(_NUMBER.unpack_from(answer, _HEADER.size + _FAMILY.size)[2])


async def counts(namespace: str) -> tuple[dict[str | int, int], dict[str | int, int]]:
    """Read what was dropped: by interface, and by port and reason; nothing else is listed, however many the rules."""
    spoofed, dropped = await asyncio.gather(
        _counts(namespace, "bridge", SPOOFED),
        _counts(namespace, FAMILY, DROPPED),
    )
    return spoofed, dropped


async def _counts(namespace: str, family: str, name: str) -> dict[str | int, int]:
    listed = await run((*entering(namespace), "nft", "--json", "list", "set", family, TABLE, name))
    return counts_of(json.loads(listed)["nftables"])


async def flush_zone(namespace: str, zone: int) -> None:
    """Forget the tracked connections of a network's zone."""
    # conntrack ends with 1 when there was nothing to delete.
    await run((*entering(namespace), "conntrack", "--delete", "--zone", str(zone)), allowed=(0, 1))
