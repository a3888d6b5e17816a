"""What a guest agent has said, made fit for a status (pure).

The guest is not trusted: it says whatever it likes, of whatever length, as often as it likes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

Object = dict[str, Any]
_MAC: Final = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
_READ: Final = 256
"""Interfaces, and addresses of each, beyond which nothing is looked at."""
_TOLD: Final = 32
_SYSTEM: Final = (
    ("id", ("os.id",), 64),
    ("name", ("os.pretty-name", "os.name"), 128),
    ("version", ("os.version-id", "os.version"), 64),
    ("kernel", ("os.kernel-release",), 128),
    ("machine", ("os.machine",), 32),
)
"""Field, where it is taken from, and its longest value."""


def read_answer(values: Mapping[str, Any], macs: Collection[str]) -> Object:
    """Read what a guest has said of itself.

    Args:
        values: as of `virDomainGetGuestInfo`, for instance `os.id` and `if.0.addr.1.addr`.
        macs: of the NICs that it was given, in lower case: their addresses come first.

    Returns:
        `os`, `hostname` and `addresses` as in `status.guestAgent`, each if there is anything to tell of it.
    """
    out: Object = {}
    system = {name: text for name, keys, limit in _SYSTEM if (text := _first(values, keys, limit))}
    if system:
        out["os"] = system
    if hostname := plain(values.get("hostname"), 253):
        out["hostname"] = hostname
    found = {(item["interface"], item["address"]): item for item in _addresses(values)}
    if found:

        def order(item: Object) -> tuple[bool, str, int, str]:
            return item.get("mac") not in macs, item["interface"], len(item["address"]), item["address"]

        out["addresses"] = sorted(found.values(), key=order)[:_TOLD]
    return out


def is_whole(answer: Mapping[str, Any], macs: Collection[str]) -> bool:
    """Say whether an answer has what a guest that is still booting cannot say yet: an address of a NIC that it has."""
    return "os" in answer and (not macs or any(item.get("mac") in macs for item in answer.get("addresses", ())))


def plain(said: object, limit: int) -> str:
    """Give a guest's word as one line of printable characters; empty if it is none.

    What only changes how a terminal shows other characters (control, direction, invisible ones) is left out.
    """
    if not isinstance(said, str):
        return ""
    letters = (" " if letter.isspace() else letter for letter in said[: 4 * limit])
    return " ".join("".join(letter for letter in letters if letter.isprintable()).split())[:limit].rstrip()


def _first(values: Mapping[str, Any], keys: Collection[str], limit: int) -> str:
    return next((text for key in keys if (text := plain(values.get(key), limit))), "")


def _addresses(values: Mapping[str, Any]) -> Iterator[Object]:
    for number in range(_count(values.get("if.count"))):
        name = plain(values.get(f"if.{number}.name"), 64)
        mac = plain(values.get(f"if.{number}.hwaddr"), 64).lower()
        known = {"mac": mac} if _MAC.fullmatch(mac) else {}
        for place in range(_count(values.get(f"if.{number}.addr.count"))):
            key = f"if.{number}.addr.{place}"
            found = _address(values.get(f"{key}.addr"), values.get(f"{key}.prefix"))
            if name and found is not None:
                yield {"interface": name} | known | found


def _address(said: object, prefix: object) -> Object | None:
    """Give an address that others could reach, as Python writes it; None if it is none."""
    try:
        address = ipaddress.ip_address(said) if isinstance(said, str) else None
    except ValueError:
        return None
    if address is None or not isinstance(prefix, int) or not 0 <= prefix <= address.max_prefixlen:
        return None
    if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
        return None
    text = str(address)
    return {"address": text, "prefix": int(prefix)} if "%" not in text else None


def _count(said: object) -> int:
    return min(max(said, 0), _READ) if isinstance(said, int) else 0
