"""The NoCloud seed: what cloud-init reads at a guest's first boot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kumulus_agent.storage.atomic import write_file
from kumulus_agent.storage.iso9660 import iso_image

LABEL: Final = "cidata"


@dataclass(frozen=True, slots=True)
class SeedRoute:
    """A static route: destination and next hop, both in text form (``10.0.0.0/8``, ``10.1.0.1``)."""

    to: str
    via: str


@dataclass(frozen=True, slots=True)
class SeedNic:
    """How the guest configures one NIC.

    Attributes:
        name: name in the guest's configuration, ``eth0`` ….
        mac: lower-case MAC by which the guest finds it.
        mtu: bytes.
        addresses: ``address/prefix`` each; empty means DHCP.
        dhcp6: ask by DHCPv6 as well; only meaningful without addresses.
        dns: name servers.
        search: search domains.
        routes: static routes, the default route included.
    """

    name: str
    mac: str
    mtu: int
    addresses: tuple[str, ...] = ()
    dhcp6: bool = False
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    routes: tuple[SeedRoute, ...] = ()


@dataclass(frozen=True, slots=True)
class Seed:
    """The content of a seed.

    ``user_data`` is handed to the guest byte by byte as the user gave it; ``metadata`` is the user's own, as ``meta``.
    """

    instance_id: str
    hostname: str
    nics: tuple[SeedNic, ...] = ()
    ssh_keys: tuple[str, ...] = ()
    user_data: bytes = b""
    metadata: Mapping[str, str] = field(default_factory=dict)


def meta_data(seed: Seed) -> dict[str, Any]:
    """Return cloud-init's meta-data."""
    document: dict[str, Any] = {"instance-id": seed.instance_id, "local-hostname": seed.hostname}
    if seed.ssh_keys:
        document["public-keys"] = list(seed.ssh_keys)
    if seed.metadata:
        document["meta"] = dict(seed.metadata)
    return document


def network_config(nics: tuple[SeedNic, ...]) -> dict[str, Any]:
    """Return cloud-init's network configuration, version 2."""
    return {"version": 2, "ethernets": {nic.name: _ethernet(nic) for nic in nics}}


def seed_files(seed: Seed) -> dict[str, bytes]:
    """Return the seed's files by name. Documents are JSON, which is YAML."""
    return {
        "meta-data": _json(meta_data(seed)),
        # Without any user-data cloud-init treats the seed as incomplete.
        "user-data": seed.user_data or b"#cloud-config\n{}\n",
        "network-config": _json(network_config(seed.nics)),
    }


def seed_iso(files: dict[str, bytes]) -> bytes:
    """Pack files into an ISO 9660 image labelled ``cidata``, with Joliet and Rock Ridge names."""
    return iso_image(LABEL, files)


async def write_seed(path: Path, seed: Seed) -> None:
    """Write the seed's image; it may hold secrets and is readable by its owner alone."""
    await asyncio.to_thread(lambda: write_file(path, seed_iso(seed_files(seed)), mode=0o600))


async def delete_seed(path: Path) -> None:
    """Remove a seed; absent is success."""
    await asyncio.to_thread(path.unlink, missing_ok=True)


def _ethernet(nic: SeedNic) -> dict[str, Any]:
    config: dict[str, Any] = {"match": {"macaddress": nic.mac}, "set-name": nic.name, "mtu": nic.mtu}
    if not nic.addresses:
        return config | {"dhcp4": True} | ({"dhcp6": True} if nic.dhcp6 else {})
    config |= {"dhcp4": False, "addresses": list(nic.addresses)}
    if nic.dns or nic.search:
        config["nameservers"] = {"addresses": list(nic.dns), "search": list(nic.search)}
    if nic.routes:
        config["routes"] = [{"to": route.to, "via": route.via} for route in nic.routes]
    return config


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
