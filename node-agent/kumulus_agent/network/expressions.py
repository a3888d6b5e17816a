"""What nftables' rules are made of, as libnftables-json(5)."""

from __future__ import annotations

import json
from hashlib import blake2s
from typing import Any, Final

Command = dict[str, Any]

TABLE: Final = "kumulus"
DROP: Final[Any] = {"drop": None}
ACCEPT: Final[Any] = {"accept": None}


def meta(key: str) -> Any:
    """What is known of a packet beside its bytes."""
    return {"meta": {"key": key}}


def field(protocol: str, name: str) -> Any:
    """A field of a header."""
    return {"payload": {"protocol": protocol, "field": name}}


def transported(offset: int, bits: int) -> Any:
    """Bits of what IP carries, `offset` bits behind its beginning."""
    return {"payload": {"base": "th", "offset": offset, "len": bits}}


def match(left: Any, right: Any, op: str = "==") -> Any:
    """The two are (not) equal, or the one is (not) in the other."""
    return {"match": {"op": op, "left": left, "right": right}}


def anyof(*values: Any) -> Any:
    """A set without a name; of one value that value."""
    return {"set": list(values)} if len(values) > 1 else values[0]


def udp(source: int, destination: int) -> list[Any]:
    """Datagrams from a port to a port."""
    return [match(field("udp", "sport"), source), match(field("udp", "dport"), destination)]


def add(kind: str, family: str, **attributes: Any) -> Command:
    """Add an object to our table of a family."""
    return {"add": {kind: {"family": family, "table": TABLE, **attributes}}}


def absent(family: str, name: str) -> list[Command]:
    """Remove a table. One that is not there cannot be deleted, one that is there can be added."""
    table = {"table": {"family": family, "name": name}}
    return [{"add": table}, {"delete": table}]


def anew(family: str, name: str) -> list[Command]:
    """Replace a table, or what is not there, by an empty one."""
    return [*absent(family, name), {"add": {"table": {"family": family, "name": name}}}]


def digest(rules: Any) -> str:
    """Give 16 hexadecimal digits by which rules are known again: the kernel keeps them as part of a chain's name."""
    return blake2s(json.dumps(rules).encode(), digest_size=8).hexdigest()
