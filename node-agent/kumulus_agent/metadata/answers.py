"""Which answer a path has: a pure function of the guest that asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from kumulus_agent.metadata import ec2, openstack
from kumulus_agent.metadata.ec2 import Guest

TEXT: Final = "text/plain; charset=UTF-8"
JSON: Final = "application/json"
PASSWORD: Final = "password"  # noqa: S105 - the name of a file
PASSWORD_VERSIONS: Final = frozenset((*openstack.VERSIONS[1:], openstack.LATEST))
BYTES: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Content:
    """What is at a path."""

    body: bytes
    kind: str


def names(target: str) -> tuple[str, ...]:
    """Give the names of a request's path; doubled and trailing slashes count for nothing, as in Nova.

    Args:
        target: of an HTTP request: a path, or a whole URL, with or without a query.
    """
    try:
        path = urlsplit(target).path if not target.startswith("/") else target.partition("?")[0].partition("#")[0]
    except ValueError:
        return ("",)  # a name that nothing has
    return tuple(name for name in path.split("/") if name)


def is_password(path: tuple[str, ...]) -> bool:
    """Tell whether a path is that to which a guest tells its password."""
    return len(path) == 3 and path[0] == "openstack" and path[1] in PASSWORD_VERSIONS and path[2] == PASSWORD


def answer(guest: Guest, path: tuple[str, ...], random_seed: bytes) -> Content | None:
    """Give what a guest finds at a path.

    Args:
        guest: what it is told.
        path: the names of the path.
        random_seed: bytes for its random number generator.

    Returns:
        None if there is nothing.
    """
    if path[:1] == ("openstack",):
        return _openstack(guest, path[1:], random_seed)
    if path[:1] == ("ec2",):
        path = path[1:]
    if not path:
        return _text("\n".join((*ec2.VERSIONS, openstack.LATEST)))
    if path[0] not in (*ec2.VERSIONS, openstack.LATEST):
        return None
    found = ec2.item(guest, path[1:])
    if isinstance(found, bytes):
        return Content(found, BYTES)
    return _text(found) if found is not None else None


def _openstack(guest: Guest, path: tuple[str, ...], random_seed: bytes) -> Content | None:
    if not path:
        return _text("\n".join((*openstack.VERSIONS, openstack.LATEST)))
    try:
        found = openstack.documents(guest.seed, random_seed, path[0])
    except KeyError:
        return None
    if path[0] in PASSWORD_VERSIONS:
        found[PASSWORD] = guest.password.encode()
    if len(path) == 1:
        return _text("\n".join(found))
    if len(path) > 2 or path[1] not in found:
        return None
    kind = TEXT if path[1] == PASSWORD else JSON if path[1].endswith(".json") else BYTES
    return Content(found[path[1]], kind)


def _text(text: str) -> Content:
    return Content(text.encode(), TEXT)
