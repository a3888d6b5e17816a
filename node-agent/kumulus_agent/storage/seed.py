"""The NoCloud seed: what cloud-init reads at a guest's first boot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any, Final, Literal

from kumulus_agent.storage.atomic import write_file
from kumulus_agent.storage.iso9660 import iso_files, iso_image
from kumulus_api.addresses import eui64

LABEL: Final = "cidata"
_NO_USER_DATA: Final = b"#cloud-config\n{}\n"
"""Without any user-data cloud-init treats the seed as incomplete."""
AddressWay = Literal["dhcp4", "dhcp6", "slaac"]
"""How a guest comes by an address."""


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
        addresses: ``address/prefix`` each; empty means that it asks.
        told: without addresses, those that its port has: by them it is seen how it is to ask.
        dns: name servers.
        search: search domains.
        routes: static routes, the default route included.
    """

    name: str
    mac: str
    mtu: int
    addresses: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    routes: tuple[SeedRoute, ...] = ()

    @property
    def ways(self) -> tuple[tuple[AddressWay, str], ...]:
        """How it comes by each address that its port has; by DHCP by a port of which none is known."""
        return tuple((_way(address, self.mac), address) for address in self.told) or (("dhcp4", ""),)


def _way(address: str, mac: str) -> AddressWay:
    given = ip_address(address)
    if isinstance(given, IPv4Address):
        return "dhcp4"
    return "slaac" if given == eui64(IPv6Network((given, 64), strict=False), mac) else "dhcp6"


@dataclass(frozen=True, slots=True)
class Seed:
    """The content of a seed.

    ``user_data`` is handed to the guest byte by byte as the user gave it; ``metadata`` is the user's own, as ``meta``.
    ``project`` and ``zone``, the availability zone that was asked for, are told in OpenStack's form only.
    """

    instance_id: str
    hostname: str
    nics: tuple[SeedNic, ...] = ()
    ssh_keys: tuple[str, ...] = ()
    user_data: bytes = b""
    metadata: Mapping[str, str] = field(default_factory=dict)
    project: str = ""
    zone: str = ""


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
        "user-data": seed.user_data or _NO_USER_DATA,
        "network-config": _json(network_config(seed.nics)),
    }


def seed_iso(files: dict[str, bytes]) -> bytes:
    """Pack files into an ISO 9660 image labelled ``cidata``, with Joliet and Rock Ridge names."""
    return iso_image(LABEL, files)


async def write_seed(path: Path, seed: Seed) -> None:
    """Write the seed's image; it may hold secrets and is readable by its owner alone."""
    await asyncio.to_thread(lambda: write_file(path, seed_iso(seed_files(seed)), mode=0o600))


def read_seed(image: bytes) -> Seed:
    """Read back a seed whose NICs ask for their addresses, as agents make them; which these are it does not say.

    Raises:
        ValueError: it is no seed of ours.
    """
    files = iso_files(image)
    try:
        meta, network = json.loads(files["meta-data"]), json.loads(files["network-config"])
        nics = [SeedNic(name, nic["match"]["macaddress"], nic["mtu"]) for name, nic in network["ethernets"].items()]
        return Seed(
            instance_id=meta["instance-id"],
            hostname=meta["local-hostname"],
            # eth10 comes after eth9.
            nics=tuple(sorted(nics, key=lambda nic: (len(nic.name), nic.name))),
            ssh_keys=tuple(meta.get("public-keys", ())),
            user_data=b"" if files["user-data"] == _NO_USER_DATA else files["user-data"],
            metadata=meta.get("meta", {}),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the seed lacks {error}") from error


async def delete_seed(path: Path) -> None:
    """Remove a seed; absent is success."""
    await asyncio.to_thread(path.unlink, missing_ok=True)


def _ethernet(nic: SeedNic) -> dict[str, Any]:
    config: dict[str, Any] = {"match": {"macaddress": nic.mac}, "set-name": nic.name, "mtu": nic.mtu}
    if not nic.addresses:
        ways = {way for way, _ in nic.ways}
        config |= {"dhcp4": "dhcp4" in ways}
        if "dhcp6" in ways:
            config["dhcp6"] = True
        return config | ({"accept-ra": True} if ways - {"dhcp4"} else {})
    config |= {"dhcp4": False, "addresses": list(nic.addresses)}
    if nic.dns or nic.search:
        config["nameservers"] = {"addresses": list(nic.dns), "search": list(nic.search)}
    if nic.routes:
        config["routes"] = [{"to": route.to, "via": route.via} for route in nic.routes]
    return config


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
