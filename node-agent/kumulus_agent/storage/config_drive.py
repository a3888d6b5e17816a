"""OpenStack's config drive: what a guest finds on it, as Nova's documentation of metadata describes it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final

from kumulus_agent.storage.atomic import write_file
from kumulus_agent.storage.iso9660 import iso_image
from kumulus_agent.storage.seed import Seed, SeedNic

LABEL: Final = "config-2"
_FOLDER: Final = "openstack/latest"


def config_drive_files(seed: Seed) -> dict[str, bytes]:
    """Give the drive's files by path; user data only where there is some, byte by byte."""
    documents: dict[str, Any] = {
        "meta_data.json": _meta_data(seed),
        "network_data.json": _network_data(seed.nics),
        "vendor_data.json": {},
    }
    files = {f"{_FOLDER}/{name}": json.dumps(what, sort_keys=True).encode() for name, what in documents.items()}
    return files | ({f"{_FOLDER}/user_data": seed.user_data} if seed.user_data else {})


async def write_config_drive(path: Path, seed: Seed) -> None:
    """Write the drive's image; it may hold secrets and is readable by its owner alone."""
    await asyncio.to_thread(lambda: write_file(path, iso_image(LABEL, config_drive_files(seed)), mode=0o600))


def _meta_data(seed: Seed) -> dict[str, Any]:
    document: dict[str, Any] = {
        "uuid": seed.instance_id,
        "name": seed.hostname,
        "hostname": seed.hostname,
        "launch_index": 0,
        "meta": dict(seed.metadata),
    }
    if seed.ssh_keys:
        names = {f"key-{number}": key for number, key in enumerate(seed.ssh_keys)}
        document["public_keys"] = names
        document["keys"] = [{"name": name, "type": "ssh", "data": key} for name, key in names.items()]
    return document


def _network_data(nics: tuple[SeedNic, ...]) -> dict[str, Any]:
    return {
        "links": [
            {"id": nic.name, "type": "phy", "ethernet_mac_address": nic.mac, "mtu": nic.mtu, "vif_id": nic.name}
            for nic in nics
        ],
        "networks": [
            {"id": f"{nic.name}-v4", "link": nic.name, "type": "ipv4_dhcp", "network_id": nic.name} for nic in nics
        ],
        "services": [],
    }
