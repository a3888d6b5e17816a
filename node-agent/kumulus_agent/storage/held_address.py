"""The address of an image that hosts hold (pure): `kumulus-image:///<namespace>/<name>`."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from kumulus_api.image import HELD_SCHEME


def is_held(address: str) -> bool:
    """Give whether an address is that of an image which hosts hold."""
    return address.startswith(f"{HELD_SCHEME}:")


def key_of(address: str) -> tuple[str, str]:
    """Give namespace and name of the Image."""
    _, _, path = urlsplit(address).path.partition("/")
    namespace, _, name = path.partition("/")
    return namespace, name


def also_on(address: str, host: str) -> str:
    """Give the address with another host that has the image, too: it serves it if the Image is no more."""
    return f"{address}?host={host}"


def without_hosts(address: str) -> str:
    """Give the address as it is in the Image."""
    return address.partition("?")[0]


def hosts_of(address: str) -> list[str]:
    """Give the hosts that `also_on` has named."""
    return parse_qs(urlsplit(address).query).get("host", [])
