"""Hosts that serve images to each other over real TLS, and the API that they ask."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kumulus_agent.images.exchange import ImageExchange
from kumulus_agent.images.held import HeldImages
from kumulus_agent.images.kept import KeptImages
from kumulus_agent.migration.certificate_request import make_request
from kumulus_agent.migration.credentials import Contexts
from kumulus_agent.migration.host_port import HostPort
from kumulus_agent.storage.image_cache import CachedImage
from kumulus_agent.storage.image_store import ImageStore
from kumulus_agent.storage.qemu_img import qemu_img
from kumulus_api import API_VERSION, FINALIZER, Host, Image, Server, Volume
from kumulus_operator.migration.authority import make_authority, sign

AUTHORITY = make_authority(datetime.now(UTC))
ADDRESS = "kumulus-image:///demo/golden"
OWNER = "demo/golden"
KEY = ("demo", "golden")
LIMIT = 1 << 30
SERVER_SOURCE = {"server": {"name": "web", "host": "h1", "action": "1", "instanceID": "1"}}


class HostCredentials:
    """A host's certificate, made out at once."""

    def __init__(self, folder: Path, node: str) -> None:
        made = make_request(node)
        certificate = sign({**AUTHORITY, "request": made["request"], "node": node}, datetime.now(UTC))
        self.file = folder / f"{node}.pem"
        self.file.write_text(made["key"] + certificate)

    async def contexts(self) -> Contexts:
        """Give both contexts."""
        out = []
        for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
            context = ssl.SSLContext(protocol)
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=AUTHORITY["authority"])
            context.load_cert_chain(self.file)
            out.append(context)
        return Contexts(*out)


@dataclass
class Api:
    """The objects that all agents read."""

    objects: dict[tuple[type, str], dict[str, Any]] = field(default_factory=dict)
    servers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    coming: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    volumes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)

    async def get(self, kind: type, name: str, _namespace: str = "") -> dict[str, Any] | None:
        """Give an object."""
        return self.objects.get((kind, name))

    async def list(self, kind: type, field_selector: str = "", **_: Any) -> tuple[list[dict[str, Any]], str]:
        """Give the servers or volumes of a host, or what migrates to it."""
        field, host = field_selector.split("=", 1)
        if kind is Server:
            return self.servers.get(host, []), "1"
        if kind is Volume:
            return self.volumes.get(host, []), "1"
        return (self.coming.get(host, []) if field == "status.target" else []), "1"

    async def apply_status(self, kind: type, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Note it."""
        self.told.append(body["status"])
        return {"kind": kind.__name__, "apiVersion": API_VERSION} | body

    async def remove_finalizer(self, _kind: type, name: str, *_: Any, **__: Any) -> bool:
        """Note it."""
        self.released.append(name)
        return True


@dataclass
class Events:
    """The Events that were posted."""

    posted: list[str] = field(default_factory=list)

    def post(self, _about: Any, reason: str, message: str, **_: Any) -> None:
        """Note one."""
        self.posted.append(f"{reason}: {message}")


@dataclass
class Side:
    """One host."""

    cache: ImageStore
    port: HostPort
    exchange: ImageExchange
    kept: KeptImages
    held: HeldImages
    events: Events
    looked: asyncio.Event

    async def look(self, body: dict[str, Any]) -> None:
        """Have an Image looked at, until nothing is fetched any more."""
        self.held._seen[KEY] = body  # noqa: SLF001 - the watch's part
        await self.held.reconcile(KEY)
        while self.kept._fetching:  # noqa: SLF001 - the queue's part
            await asyncio.wait(self.kept._fetching.values())  # noqa: SLF001
            await self.held.reconcile(KEY)

    def tells(self) -> list[str]:
        """Give the digests that the host says it keeps."""
        return [item.digest for item in self.kept.told() or ()]


class Pair:
    """Two hosts and more: h1 holds, h2 fetches."""

    def __init__(self, folder: Path) -> None:
        self.api = Api()
        self.folder = folder
        self.used: set[str] = set()
        self.sides: list[Side] = []
        self.h1, self.h2 = self.side("h1"), self.side("h2")

    def side(self, name: str, number: int = 0) -> Side:
        """Make a host."""
        api: Any = self.api
        port = HostPort("127.0.0.1", number, HostCredentials(self.folder, name))  # type: ignore[arg-type]
        found = ImageExchange(api, name, port)
        cache = ImageStore(self.folder / name, LIMIT, in_use=lambda: self.used, from_host=found.fetch)
        found.serve(cache)
        events: Any = Events()
        kept = KeptImages(api, name, cache, events, LIMIT)
        kept.host = lambda: self.api.objects.get((Host, name)) or {}
        held = HeldImages(api, cache, port, kept, lambda _key: False)
        self.sides.append(Side(cache, port, found, kept, held, events, asyncio.Event()))
        return self.sides[-1]

    async def made(self, name: str = "part") -> Path:
        """Make a qcow2 image."""
        part = self.folder / name
        (self.folder / "raw").write_bytes(bytes(range(256)) * (1 << 14))
        await qemu_img("convert", "-f", "raw", "-O", "qcow2", str(self.folder / "raw"), str(part))
        return part

    async def hold(self) -> CachedImage:
        """Have h1 hold an image, and both the API and h2's servers say so."""
        image = await self.h1.cache.adopt(await self.made(), ADDRESS, OWNER, LIMIT)
        await self.serves(self.h1)
        self.say(image)
        self.api.servers["h2"] = [{"spec": {"assignment": {"image": {"digest": image.digest}}}}]
        return image

    async def serves(self, side: Side, name: str = "h1") -> None:
        """Open a host's port, and have the others find it."""
        await side.port.need("test")
        for other in self.sides:
            other.port.port = side.port._listener.port  # noqa: SLF001 - of the kernel's choice
        self.api.objects[Host, name] = {"metadata": {"name": name}, "status": {"tunnelAddress": "127.0.0.1"}}

    def say(
        self, image: CachedImage, *, hosts: tuple[str, ...] = (), replicas: tuple[str, ...] = (), **metadata: Any
    ) -> dict[str, Any]:
        """Have the API tell of the image; give the object.

        Args:
            image: its bytes.
            hosts: that are named to keep it.
            replicas: that say that they do.
            metadata: more of it.
        """
        found = {"namespace": "demo", "name": "golden", "uid": "1", "generation": 1, "finalizers": [FINALIZER]}
        found |= metadata
        spec: dict[str, Any] = {"source": SERVER_SOURCE, "format": "qcow2"}
        if hosts:
            spec["assignment"] = {"store": "Hosts", "hosts": list(hosts)}
        ready = {"type": "Ready", "status": "True", "reason": "Copied"}
        status = {"importHost": "h1", "digest": image.digest, "replicas": list(replicas), "conditions": [ready]}
        body = {"metadata": found, "spec": spec, "status": status}
        self.api.objects[Image, "golden"] = body
        return body

    async def fetch(self, digest: str, address: str = ADDRESS) -> CachedImage:
        """Have h2 need it."""
        return await self.h2.cache.ensure(address, digest, "qcow2", LIMIT)

    async def close(self) -> None:
        """End all hosts."""
        for side in self.sides:
            await side.kept.close()
            await side.port.close()
            await side.cache.close()
