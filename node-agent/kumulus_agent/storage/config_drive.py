"""OpenStack's config drive: what a guest finds on it is what it could ask the metadata service."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from kumulus_agent.metadata.openstack import LATEST, documents
from kumulus_agent.storage.atomic import write_file
from kumulus_agent.storage.iso9660 import iso_image
from kumulus_agent.storage.seed import Seed

LABEL: Final = "config-2"
RANDOM_BYTES: Final = 512
"""For the guest's random number generator, as many as Nova gives."""


def config_drive_files(seed: Seed, random_seed: bytes = b"") -> dict[str, bytes]:
    """Give the drive's files by path."""
    return {f"openstack/{LATEST}/{name}": content for name, content in documents(seed, random_seed).items()}


async def write_config_drive(path: Path, seed: Seed) -> None:
    """Write the drive's image; it may hold secrets and is readable by its owner alone."""
    files = config_drive_files(seed, os.urandom(RANDOM_BYTES))
    await asyncio.to_thread(lambda: write_file(path, iso_image(LABEL, files), mode=0o600))
