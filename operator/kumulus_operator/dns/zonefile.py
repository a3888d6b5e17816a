"""Zone files (RFC 1035, section 5): one line for each record, names always absolute, no directives (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_REFRESH, _RETRY, _EXPIRE, _NEGATIVE = 3600, 600, 1209600, 300
"""Seconds in the start of authority; the last is how long "there is no such name" may be kept (RFC 2308)."""
_NAME = re.compile(r"(\*\.)?([a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?\.)+")
_LONGEST_NAME = 254
_SERIAL = re.compile(r"[a-z0-9.-]+ \d+ IN SOA \S+ \S+ (\d+) ")
_MODULUS = 2**32


@dataclass(frozen=True, order=True)
class Entry:
    """All values that a name has of one type.

    Attributes:
        name: absolute, in lower case.
        type: such as `A`.
        ttl: seconds.
        values: as a zone file has them, each in one line.
    """

    name: str
    type: str
    ttl: int
    values: tuple[str, ...]


@dataclass(frozen=True)
class Authority:
    """What a zone says of itself.

    Attributes:
        domain: of the zone, absolute.
        email: who answers for it.
        ttl: of its own records.
        nameservers: absolute names, the primary first.
    """

    domain: str
    email: str
    ttl: int
    nameservers: tuple[str, ...]


def is_name(text: str) -> bool:
    """Give whether a text is an absolute name that a zone file may have as it is."""
    return len(text) <= _LONGEST_NAME and _NAME.fullmatch(text) is not None


def render(authority: Authority, entries: Iterable[Entry], serial: int) -> str:
    """Give the zone file; equal arguments give equal text, in whatever order the entries come.

    Raises:
        ValueError: a name or a value would not stay in its line. None that was checked before does so.
    """
    servers = authority.nameservers
    times = f"{_REFRESH} {_RETRY} {_EXPIRE} {min(authority.ttl, _NEGATIVE)}"
    start = f"{servers[0]} {_mailbox(authority.email)} {serial} {times}"
    lines = [_line(authority.domain, authority.ttl, "SOA", start)]
    lines += [_line(authority.domain, authority.ttl, "NS", server) for server in servers]
    for entry in sorted(entries):
        lines += [_line(entry.name, entry.ttl, entry.type, value) for value in entry.values]
    return "\n".join(lines) + "\n"


def _line(name: str, ttl: int, kind: str, value: str) -> str:
    if not is_name(name):
        raise ValueError(f"{name!r} is no name of a zone file")
    if not (value.isascii() and value.isprintable() and kind.isalnum()):
        raise ValueError(f"{value!r} of {name} does not stay in its line")
    return f"{name} {ttl:d} IN {kind} {value}"


def _mailbox(email: str) -> str:
    """Give an address as the start of authority has it: dots before the @ are escaped."""
    person, _, place = email.partition("@")
    return f"{person}.{place}.".replace(".", "\\.", person.count("."))


def serial_of(text: str) -> int | None:
    """Give the serial of a zone file that `render` made, None for any other."""
    found = _SERIAL.match(text)
    return int(found[1]) if found else None


def newer(serial: int, than: int) -> bool:
    """Give whether a serial is greater than another (RFC 1982, section 3.2)."""
    return 0 < (serial - than) % _MODULUS < _MODULUS // 2


def next_serial(known: Sequence[int | None], now: float) -> int:
    """Give a serial that is greater than all that were seen of the zone: the time, or one more than the last.

    Args:
        known: serials that may have been served.
        now: seconds since 1970; so a zone that nothing is known of any more goes on with a greater one.
    """
    wanted = int(now) % _MODULUS
    for serial in known:
        if serial is not None and not newer(wanted, serial):
            wanted = (serial + 1) % _MODULUS
    return wanted
