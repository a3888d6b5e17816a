"""OpenStack's form of metadata, as Nova's documentation describes it: for the config drive and for the service."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from kumulus_agent.storage.seed import Seed, SeedNic

VERSIONS: Final = (
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "2020-10-14",
)
"""Those of Nova; what has changed since, such as tagged devices, is nothing that guests here have."""
LATEST: Final = "latest"


@dataclass(frozen=True, slots=True)
class Document:
    """A file of the tree: the first version that has it, and what is in it; None where there is none."""

    since: str
    content: Callable[[Seed, bytes], bytes | None]


def documents(seed: Seed, random_seed: bytes, version: str = LATEST) -> dict[str, bytes]:
    """Give the files of a version by name; user data only where there is some, byte by byte.

    Args:
        seed: what the guest is told.
        random_seed: bytes for the guest's random number generator; none are told if it is empty.
        version: one of VERSIONS, or `latest`.

    Raises:
        KeyError: there is no such version.
    """
    number = len(VERSIONS) - 1 if version == LATEST else _number(version)
    found = {
        name: document.content(seed, random_seed)
        for name, document in _DOCUMENTS.items()
        if _number(document.since) <= number
    }
    return {name: content for name, content in found.items() if content is not None}


def _number(version: str) -> int:
    if version not in VERSIONS:
        raise KeyError(version)
    return VERSIONS.index(version)


def _json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _meta_data(seed: Seed, random_seed: bytes) -> bytes:
    document: dict[str, Any] = {
        "uuid": seed.instance_id,
        "name": seed.hostname,
        "hostname": seed.hostname,
        "launch_index": 0,
        "meta": dict(seed.metadata),
    }
    if seed.project:
        document["project_id"] = seed.project
    if seed.zone:
        document["availability_zone"] = seed.zone
    if random_seed:
        document["random_seed"] = base64.b64encode(random_seed).decode()
    if seed.ssh_keys:
        names = {f"key-{number}": key for number, key in enumerate(seed.ssh_keys)}
        document["public_keys"] = names
        document["keys"] = [{"name": name, "type": "ssh", "data": key} for name, key in names.items()]
    return _json(document)


def _network_data(nics: tuple[SeedNic, ...]) -> bytes:
    links = [
        {"id": nic.name, "type": "phy", "ethernet_mac_address": nic.mac, "mtu": nic.mtu, "vif_id": nic.name}
        for nic in nics
    ]
    networks = [
        {"id": f"{nic.name}-{suffix}", "link": nic.name, "type": kind, "network_id": nic.name} | told
        for nic in nics
        for suffix, kind, told in _networks(nic)
    ]
    return _json({"links": links, "networks": networks, "services": []})


_TYPES: Final = {"dhcp4": "ipv4_dhcp", "dhcp6": "ipv6_dhcpv6-stateful", "slaac": "ipv6_slaac"}
"""OpenStack's words."""


def _networks(nic: SeedNic) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield for each address of a NIC: its number by family, how it is come by, and itself if it is known."""
    counts: Counter[str] = Counter()
    for way, address in nic.ways:
        family = "v4" if way == "dhcp4" else "v6"
        counts[family] += 1
        number = f"-{counts[family]}" if counts[family] > 1 else ""
        yield f"{family}{number}", _TYPES[way], {"ip_address": address} if address else {}


_DOCUMENTS: Final = {
    "meta_data.json": Document("2012-08-10", _meta_data),
    "user_data": Document("2012-08-10", lambda seed, _: seed.user_data or None),
    "vendor_data.json": Document("2013-10-17", lambda _seed, _: b"{}"),
    "network_data.json": Document("2015-10-15", lambda seed, _: _network_data(seed.nics)),
    "vendor_data2.json": Document("2016-10-06", lambda _seed, _: b"{}"),
}
