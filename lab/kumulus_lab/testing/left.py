"""What hosts hold, so that a test can say that nothing of what it did is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from kumulus_api import AddressClaim, Port
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.cloud import Breach, Cloud


@dataclass(frozen=True)
class Holdings:
    """Names of what the hosts and the API hold for servers.

    Attributes:
        files: below each host's /var/lib/kumulus, as `h1/images/…`, without directories.
        domains: as `h1/k-…`.
    """

    files: frozenset[str]
    domains: frozenset[str]


async def holdings(lab: LabSettings) -> Holdings:
    """Look at every host."""
    found = await asyncio.gather(*(asyncio.to_thread(_of_host, lab, host.name) for host in lab.host_specs))
    return Holdings(
        frozenset(name for files, _ in found for name in files),
        frozenset(name for _, domains in found for name in domains),
    )


async def beyond(lab: LabSettings, before: Holdings) -> frozenset[str]:
    """Give what hosts hold now and did not hold before."""
    now = await holdings(lab)
    return (now.files - before.files) | (now.domains - before.domains)


@asynccontextmanager
async def nothing_left_of_images(lab: LabSettings, half: str) -> AsyncIterator[set[str]]:
    """Give a set for digests; at the end no host holds a file of one of them, or one that is half made.

    Args:
        lab: whose hosts.
        half: what names of half made files have in them.

    Raises:
        Breach: files are left after half a minute.
    """
    digests: set[str] = set()
    yield digests
    left: list[str] = []
    for _ in range(30):
        files = (await holdings(lab)).files
        left = [name for name in files if half in name or any(digest in name for digest in digests)]
        if not left:
            return
        await asyncio.sleep(1)
    raise Breach(f"left on hosts: {sorted(left)}")


async def ports_of(cloud: Cloud, namespace: str) -> list[str]:
    """Give the ports of a namespace and the addresses that it holds.

    A released address is held until its quarantine is over, so this is for what was never given.
    """
    ports, _ = await cloud.client.list(Port, namespace=namespace)
    claims, _ = await cloud.client.list(AddressClaim)
    held = [claim for claim in claims if claim["spec"]["claimRef"]["namespace"] == namespace]
    return sorted(item["metadata"]["name"] for item in (*ports, *held))


def _of_host(lab: LabSettings, host: str) -> tuple[list[str], list[str]]:
    root = lab.host(host).directory / "kumulus"
    files = [f"{host}/{path.relative_to(root)}" for path in root.rglob("*") if _is_file(path)]
    listed = Hosts(lab).run(host, ["virsh", "--connect", "qemu:///system", "list", "--all", "--name"], check=True)
    return files, [f"{host}/{name}" for name in listed.stdout.split()]


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.name.endswith(".log")
