"""What joins networks to the host's own namespace, and what is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

SERVICES = "ks"
"""The links by which servers reach Services begin with it: they lead to the namespace of a network's own servers."""
PODS = "kq"
"""Those by which pods reach servers: they lead to a namespace that is a port of the network."""
INNER = "cluster"
"""The other end of either."""
PORT = "eth0"
"""The end of the link to the network's bridge there."""
_FIRST = IPv4Address("169.254.192.0")
NUMBERS = 8192
"""So many links a host may have: each has two addresses, which nobody else ever sees."""


@dataclass(frozen=True)
class End:
    """An end of a link, with what leads to it.

    Attributes:
        name: of the interface.
        address: with prefix length.
        mtu: bytes.
        up: whether it is.
        routes: by destination, the next hop.
        forwards: the interfaces of its namespace, of those that matter, between which packets pass.
    """

    name: str
    address: str = ""
    mtu: int = 0
    up: bool = False
    routes: frozenset[tuple[str, str]] = frozenset()
    forwards: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LinkDesired:
    """A link between the host's namespace and another.

    Attributes:
        name: of its end in the host's namespace.
        namespace: where the other end is.
        mtu: bytes.
        outside: what the host sends there.
        inside: what the namespace sends to the host.
        rules: of the namespace, as libnftables-json(5).
        version: their digest.
    """

    name: str
    namespace: str
    mtu: int
    outside: frozenset[str]
    inside: frozenset[str]
    rules: Any = field(compare=False)
    version: str = ""

    def ends(self, number: int) -> tuple[End, End]:
        """Give both ends, the host's first, of the link that has this number on its host."""
        outer, inner = _FIRST + 2 * number, _FIRST + 2 * number + 1
        return (
            End(
                self.name,
                f"{outer}/31",
                self.mtu,
                up=True,
                routes=frozenset((cidr, str(inner)) for cidr in self.outside),
                forwards=frozenset({self.name}),
            ),
            End(
                INNER,
                f"{inner}/31",
                self.mtu,
                up=True,
                routes=frozenset((cidr, str(outer)) for cidr in self.inside),
                forwards=frozenset({INNER, PORT}),
            ),
        )


@dataclass(frozen=True)
class LinkSeen:
    """A link as it is.

    Attributes:
        number: that is noted on it; None on one that is half made.
        outer: the host's end.
        inner: the other end; None if it is not in the namespace where it should be.
        version: of the rules there, "" if there are none.
    """

    number: int | None
    outer: End
    inner: End | None = None
    version: str = ""


@dataclass(frozen=True)
class Observed:
    """What is there: links by name, and the version of the host's rules, "" if there are none."""

    links: Mapping[str, LinkSeen] = field(default_factory=dict)
    version: str = ""


def namespace_of(name: str, services: str, pods: str) -> str:
    """Give the namespace that a link leads to, by the prefixes of the names of both kinds."""
    return (services if name.startswith(SERVICES) else pods) + name[2:]


def note(number: int) -> str:
    """Give what is noted on a link that is made whole."""
    return f"kumulus-peering {number}"


def noted(alias: str) -> int | None:
    """Read the note; None if it is none."""
    word, _, number = alias.partition(" ")
    return int(number) if word == "kumulus-peering" and number.isdigit() else None
