"""Images between two hosts over TLS: who gets them, from where, and what comes of a broken transfer."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.images import exchange
from kumulus_agent.images.exchange import ImageExchange
from kumulus_agent.images.held import HeldImages
from kumulus_agent.migration.certificate_request import make_request
from kumulus_agent.migration.credentials import Contexts
from kumulus_agent.migration.host_port import HostPort
from kumulus_agent.storage.errors import HolderAway
from kumulus_agent.storage.held_address import also_on
from kumulus_agent.storage.image_cache import CachedImage, ImageCache
from kumulus_agent.storage.qemu_img import qemu_img
from kumulus_api import FINALIZER, Host, Image, Server
from kumulus_operator.migration.authority import make_authority, sign
from kumulus_runtime.errors import ApiError

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
AUTHORITY = make_authority(datetime.now(UTC))
ADDRESS = "kumulus-image:///demo/golden"
OWNER = "demo/golden"
LIMIT = 1 << 30


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
    """The objects that both agents read."""

    objects: dict[tuple[type, str], dict[str, Any]] = field(default_factory=dict)
    servers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    coming: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)

    async def get(self, kind: type, name: str, namespace: str = "") -> dict[str, Any] | None:
        """Give an object."""
        return self.objects.get((kind, name))

    async def list(self, kind: type, field_selector: str = "", **_: Any) -> tuple[list[dict[str, Any]], str]:
        """Give the servers of a host, or what migrates to it."""
        field, _, host = field_selector.partition("=")
        if kind is Server:
            return self.servers.get(host, []), "1"
        return (self.coming.get(host, []) if field == "status.target" else []), "1"

    async def remove_finalizer(self, kind: type, name: str, *_: Any, **__: Any) -> bool:
        """Note it."""
        self.released.append(name)
        return True


@dataclass
class Side:
    """One host."""

    cache: ImageCache
    port: HostPort
    exchange: ImageExchange


class Pair:
    """Two hosts: h1 holds, h2 fetches."""

    def __init__(self, folder: Path) -> None:
        self.api = Api()
        self.folder = folder
        self.used: set[str] = set()
        self.h1, self.h2 = self.side("h1"), self.side("h2")

    def side(self, name: str, number: int = 0) -> Side:
        """Make a host."""
        port = HostPort("127.0.0.1", number, HostCredentials(self.folder, name))  # type: ignore[arg-type]
        found = ImageExchange(self.api, name, port)  # type: ignore[arg-type]
        cache = ImageCache(self.folder / name, LIMIT, in_use=lambda: self.used, from_host=found.fetch)
        found.serve(cache)
        return Side(cache, port, found)

    async def hold(self) -> CachedImage:
        """Have h1 hold an image, and both the API and h2's servers say so."""
        part = self.folder / "part"
        (self.folder / "raw").write_bytes(bytes(range(256)) * (1 << 14))
        await qemu_img("convert", "-f", "raw", "-O", "qcow2", str(self.folder / "raw"), str(part))
        image = await self.h1.cache.adopt(part, ADDRESS, OWNER, LIMIT)
        await self.h1.port.need("test")
        self.h2.port.port = self.h1.port._listener.port
        self.api.objects[Host, "h1"] = {"status": {"tunnelAddress": "127.0.0.1"}}
        self.say(image)
        self.api.servers["h2"] = [{"spec": {"assignment": {"image": {"digest": image.digest}}}}]
        return image

    def say(self, image: CachedImage, **metadata: Any) -> None:
        """Have the API tell of the image."""
        body = {"metadata": {"uid": "1", "finalizers": [FINALIZER], **metadata}}
        self.api.objects[Image, "golden"] = body | {"status": {"importHost": "h1", "digest": image.digest}}

    async def fetch(self, digest: str, address: str = ADDRESS) -> CachedImage:
        """Have h2 need it."""
        return await self.h2.cache.ensure(address, digest, "qcow2", LIMIT)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    made = Pair(tmp_path)
    yield made
    for side in (made.h1, made.h2):
        await side.port.close()
        await side.cache.close()


async def test_a_host_gets_the_image_of_its_server(pair: Pair) -> None:
    """What h1 holds h2 has afterwards, byte for byte, and several who need it at once share one transfer."""
    image = await pair.hold()
    fetched = await asyncio.gather(*(pair.fetch(image.digest) for _ in range(5)))
    assert {item.digest for item in fetched} == {image.digest}
    assert fetched[0].path.read_bytes() == image.path.read_bytes()
    assert not list((pair.folder / "h2/partial").iterdir())


async def test_who_has_no_server_of_it_gets_nothing(pair: Pair) -> None:
    """A host whose servers do not lie on an image is refused, whatever its certificate; it hears who was asked."""
    image = await pair.hold()
    pair.api.servers["h2"] = []
    with pytest.raises(HolderAway, match=r"image demo/golden: host h1.*no server of host h2 needs"):
        await pair.fetch(image.digest)


async def test_a_holder_that_is_away_is_named(pair: Pair) -> None:
    """Without its holder an image cannot be had now: the reason is typed and names the host."""
    image = await pair.hold()
    await pair.h1.port.close()
    with pytest.raises(HolderAway, match="host h1, which holds it") as caught:
        await pair.fetch(image.digest)
    assert caught.value.reason == "ImageHostAway"


async def test_hosts_meet_while_the_api_server_is_away(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that cannot ask for its authorities goes by those that it knows, as a migration under way needs."""
    image = await pair.hold()
    asked = []

    async def away() -> Contexts:
        asked.append(1)
        raise ApiError(0, "Unreachable", "no answer")

    monkeypatch.setattr(pair.h1.port._credentials, "contexts", away)
    await pair.h1.port.need("a migration")
    assert (await pair.fetch(image.digest)).digest == image.digest
    assert asked


async def test_a_broken_transfer_goes_on_where_it_stopped(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second attempt asks only for what the first has not brought."""
    image = await pair.hold()
    offsets = []
    half = (await asyncio.to_thread(image.path.read_bytes))[: image.size // 2]
    send = exchange._send

    async def breaks(path: Path, connection: Any, hello: Any) -> None:
        offsets.append(hello.size)
        if len(offsets) == 1:
            connection[1].write(b"ok\n" + image.size.to_bytes(8, "big") + half)
            await connection[1].drain()
            return
        await send(path, connection, hello)

    monkeypatch.setattr(exchange, "_send", breaks)
    with pytest.raises(HolderAway):
        await pair.fetch(image.digest)
    assert (await pair.fetch(image.digest)).path.read_bytes() == image.path.read_bytes()
    assert offsets == [0, image.size // 2]


async def test_the_only_copy_is_never_evicted(pair: Pair) -> None:
    """What an Image owns stays however full the cache is, also for the agent that comes next."""
    image = await pair.hold()
    again = ImageCache(pair.folder / "h1", 0)
    assert await again.evict() == []
    assert not await again.unneeded(image.digest)
    found = await again.owned(OWNER)
    assert found is not None
    assert found.path.exists()


async def test_a_deleted_image_goes_from_both_hosts(pair: Pair) -> None:
    """The holder removes its bytes and then the finalizer, the other host its copy; both close their ports."""
    image = await pair.hold()
    await pair.fetch(image.digest)
    held = {
        name: HeldImages(pair.api, name, side.cache, side.port, lambda _key: False)  # type: ignore[arg-type]
        for name, side in (("h1", pair.h1), ("h2", pair.h2))
    }
    pair.say(image, deletionTimestamp="2026-01-01T00:00:00Z")
    pair.api.servers["h2"] = []
    for images in held.values():
        await images.reconcile(("demo", "golden"))
    assert pair.api.released == ["golden"]
    for name in held:
        assert not [path for path in (pair.folder / name).rglob("*") if path.is_file()]


async def test_a_guest_that_migrates_to_here_keeps_what_it_lies_on(pair: Pair) -> None:
    """A copy of a deleted image stays for a server that another host still has, until that does not come any more."""
    image = await pair.hold()
    await pair.fetch(image.digest)
    pair.api.objects[Server, "b"] = pair.api.servers["h2"].pop()
    action = {"metadata": {"namespace": "demo"}, "spec": {"server": {"name": "b"}}, "status": {"phase": "Running"}}
    pair.api.coming["h2"] = [action]
    held = HeldImages(pair.api, "h2", pair.h2.cache, pair.h2.port, lambda _key: False)  # type: ignore[arg-type]
    del pair.api.objects[Image, "golden"]
    await held.reconcile(("demo", "golden"))
    assert await pair.h2.cache.path_of(image.digest) is not None
    action["status"] = {"phase": "Failed"}
    await held.reconcile(("demo", "golden"))
    assert await pair.h2.cache.path_of(image.digest) is None


async def test_what_a_disk_lies_on_outlives_its_image(pair: Pair) -> None:
    """Bytes below a guest's disk stay until the disk is gone; another host that gets the server has them from there."""
    image = await pair.hold()
    held = HeldImages(pair.api, "h1", pair.h1.cache, pair.h1.port, lambda _key: False)  # type: ignore[arg-type]
    pair.used = {image.digest}
    pair.say(image, deletionTimestamp="2026-01-01T00:00:00Z")
    await held.reconcile(("demo", "golden"))
    assert pair.api.released == ["golden"]
    del pair.api.objects[Image, "golden"]
    await held.reconcile(("demo", "golden"))
    assert (await pair.fetch(image.digest, also_on(ADDRESS, "h1"))).digest == image.digest
    pair.used = set()
    held.disks_changed()
    await held.reconcile(("demo", "golden"))
    assert not image.path.exists()


async def test_that_an_image_is_absent_proves_nothing(pair: Pair) -> None:
    """The only copy stays when its object is not found: only a live deletion removes it."""
    image = await pair.hold()
    held = HeldImages(pair.api, "h1", pair.h1.cache, pair.h1.port, lambda _key: False)  # type: ignore[arg-type]
    del pair.api.objects[Image, "golden"]
    await held.reconcile(("demo", "golden"))
    assert image.path.exists()


async def test_the_same_disk_twice_is_one_file_with_two_owners(pair: Pair) -> None:
    """Two images of equal bytes share the file, and it stays until both are deleted."""
    image = await pair.hold()
    part = pair.folder / "again"
    shutil.copyfile(image.path, part)
    again = await pair.h1.cache.adopt(part, "kumulus-image:///demo/second", "demo/second", LIMIT)
    assert (again.digest, again.path) == (image.digest, image.path)
    assert not part.exists()
    await pair.h1.cache.disown(OWNER)
    assert not await pair.h1.cache.unneeded(image.digest)
    await pair.h1.cache.disown("demo/second")
    assert await pair.h1.cache.unneeded(image.digest)
