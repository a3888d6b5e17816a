"""Images go from the host that holds them to those whose servers need them, over the port between agents."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from asyncio import StreamReader
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from kumulus_agent.images.kept import digest_of, is_for
from kumulus_agent.migration.channels import Channel, Denied, Hello
from kumulus_agent.migration.credentials import NoCredentials
from kumulus_agent.migration.host_port import HostPort
from kumulus_agent.migration.listener import Serve
from kumulus_agent.migration.relay import Connection, close
from kumulus_agent.migration.tunnel import Peer, dial
from kumulus_agent.storage.download import Digests, Downloaded, Validators, begun, note, store
from kumulus_agent.storage.errors import CacheFull, HolderAway, TooLarge
from kumulus_agent.storage.held_address import hosts_of, key_of, without_hosts
from kumulus_agent.storage.image_cache import ImageCache
from kumulus_agent.storage.room import leave_reserve
from kumulus_api import Host, Image, Server, ServerAction, Volume
from kumulus_api.server_action import ActionPhase
from kumulus_runtime.api_client import ApiError, KubeClient

Key = tuple[str, str]
Object = dict[str, Any]
_BLOCK: Final = 1 << 20
_SILENCE_SECONDS: Final = 60.0

_log = structlog.stdlib.get_logger(__name__)


class ImageExchange:
    """Fetches images from other hosts, and serves to them what is here.

    Args:
        client: to reach the API server.
        node: this host's name.
        port: where hosts meet.
    """

    def __init__(self, client: KubeClient, node: str, port: HostPort) -> None:
        self._client = client
        self._node = node
        self._port = port
        self._fetched: Callable[[Key], None] = lambda _key: None

    def serve(self, cache: ImageCache, fetched: Callable[[Key], None] = lambda _key: None) -> None:
        """Let other hosts have what is in a cache.

        Args:
            cache: what is here.
            fetched: called with the Image of which this host has a copy from now on.
        """
        self._fetched = fetched
        self._port.serve((Channel.IMAGE,), partial(self._admit, cache))

    async def fetch(self, address: str, digest: str, part: Path, size_limit: int) -> Downloaded:
        """Fetch an image into a file, from where a former attempt stopped.

        Args:
            address: of the image.
            digest: of its bytes; whoever calls compares.
            part: the file.
            size_limit: bytes; more is refused.

        Raises:
            HolderAway: no host serves it now.
            TooLarge: more than ``size_limit``.
            CacheFull: no room.
        """
        bare = without_hosts(address)
        said = []
        for host in await self._holders(address, digest):
            try:
                done = await self._from(host, Validators(bare, etag=digest), part, size_limit)
            except (Denied, OSError, EOFError, TimeoutError, NoCredentials, ApiError) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise CacheFull(f"image {bare}: no space left for {part.name}", delay=60.0) from error
                said.append(f"host {host}, which holds it, does not serve it ({error or type(error).__name__})")
            else:
                self._fetched(key_of(bare))
                return done
        namespace, name = key_of(bare)
        why = "; ".join(said) or "no host holds it any more"
        raise HolderAway(f"image {namespace}/{name}: {why}; transient: goes on when it does", delay=10.0)

    async def _holders(self, address: str, digest: str) -> list[str]:
        namespace, name = key_of(address)
        try:
            found = await self._client.get(Image, name, namespace) or {}
            status = found.get("status") or {}
        except ApiError as error:
            raise HolderAway(f"image {namespace}/{name}: the API server cannot be asked: {error}") from error
        named: list[str] = []
        if digest in (status.get("digest"), (status.get("stored") or {}).get("digest")):
            told, given = status.get("replicas") or [], (found.get("spec") or {}).get("assignment") or {}
            # Not all hosts ask the same one first.
            told = sorted(told, key=lambda host: hashlib.blake2s(f"{self._node} {host}".encode()).digest())
            named = [*told, *filter(None, (status.get("importHost"),)), *(given.get("hosts") or [])]
        return [host for host in dict.fromkeys((*named, *hosts_of(address))) if host != self._node]

    async def _from(self, host: str, version: Validators, part: Path, size_limit: int) -> Downloaded:
        digests, _ = await asyncio.to_thread(begun, part, version.url)
        await asyncio.to_thread(note, part, version)
        found = (await self._client.get(Host, host) or {}).get("status") or {}
        peer = Peer(host, found.get("tunnelAddress", ""), self._port.port)
        hello = Hello(*key_of(version.url), "", "", Channel.IMAGE, version.etag, digests.size)
        reader, writer = await dial(peer, await self._port.contexts(), hello)
        try:
            size = int.from_bytes(await reader.readexactly(8), "big")
            if size > size_limit:
                raise TooLarge(f"image {version.url} has {size} bytes, {size_limit} are allowed; use a smaller image")
            await asyncio.to_thread(leave_reserve, part.parent, max(0, size - digests.size))
            await _receive(reader, part, digests, size)
        finally:
            await close(writer)
        return Downloaded(version, digests.size, digests.sha256.hexdigest(), digests.sha512.hexdigest())

    async def _admit(self, cache: ImageCache, peer: str, hello: Hello) -> Serve:
        """Judge by what the API says now: a host has only the images of servers that it has, or gets."""
        try:
            needed = await keeps(self._client, peer, (hello.namespace, hello.action), hello.file)
            needed = needed or await entitled(self._client, peer, hello.file)
        except ApiError as error:
            raise Denied(f"the API server cannot be asked: {error}") from error
        path = await cache.path_of(hello.file)
        if not needed or path is None:
            why = f"no server of host {peer} needs image {hello.file}, nor is it to keep it"
            raise Denied(why if path else "the image is not here")
        _log.info("image served", digest=hello.file, to=peer, offset=hello.size)
        return partial(_send, path)


async def keeps(client: KubeClient, host: str, image: Key, digest: str) -> bool:
    """Ask the API whether a host is to keep an Image, whose file has a digest.

    Raises:
        ApiError: it does not answer.
    """
    body = await client.get(Image, image[1], image[0]) if all(image) else None
    if body is None or "deletionTimestamp" in body["metadata"] or digest_of(body) != digest:
        return False
    found = await client.get(Host, host) if "prePull" in body["spec"] else None
    return is_for(body, host, ((found or {}).get("metadata") or {}).get("labels") or {})


async def entitled(client: KubeClient, host: str, digest: str) -> bool:
    """Ask the API whether a host has, or gets, a server of an image, or makes a volume of it.

    What an action brings is read first: when it has ended the server shows where it is.

    Raises:
        ApiError: it does not answer.
    """
    for field in ("host", "target"):
        actions, _ = await client.list(ServerAction, field_selector=f"status.{field}={host}")
        for action in actions:
            status = action["status"]
            if status.get("phase") != ActionPhase.RUNNING:
                continue
            if (status.get("image") or {}).get("digest") == digest:
                return True
            name, namespace = action["spec"]["server"]["name"], action["metadata"]["namespace"]
            server = await client.get(Server, name, namespace) if field == "target" else None
            if server is not None and digest in digests_of(server):
                return True
    servers, _ = await client.list(Server, field_selector=f"spec.assignment.host={host}")
    if any(digest in digests_of(server) for server in servers):
        return True
    volumes, _ = await client.list(Volume, field_selector=f"spec.assignment.host={host}")
    return any(_made_of(volume) == digest for volume in volumes)


def _made_of(volume: Object) -> str | None:
    """Give the digest of the image that a volume is to be made of; None once it is."""
    origin = (volume["spec"].get("assignment") or {}).get("origin") or {}
    made = "sizeBytes" in (volume.get("status") or {})
    return None if made else (origin.get("image") or {}).get("digest")


def digests_of(server: Object) -> set[str]:
    """Give the digests of the images that a server's disks lie on (pure)."""
    given = server["spec"].get("assignment") or {}
    images = (given.get("image") or {}, (given.get("rescue") or {}).get("image") or {})
    return {str(image["digest"]) for image in images if "digest" in image}


async def _receive(reader: StreamReader, part: Path, digests: Digests, size: int) -> None:
    with await asyncio.to_thread(part.open, "ab" if digests.size else "wb") as file:
        while digests.size < size:
            async with asyncio.timeout(_SILENCE_SECONDS):
                data = await reader.read(min(_BLOCK, size - digests.size))
            if not data:
                raise Denied(f"the other host ended after {digests.size} of {size} bytes")
            await asyncio.to_thread(store, file, digests, data)


async def _send(path: Path, connection: Connection, hello: Hello) -> None:
    _, writer = connection
    # Open, it can be sent to its end even if it is removed meanwhile.
    with await asyncio.to_thread(path.open, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(min(hello.size, size))
        writer.write(b"ok\n" + size.to_bytes(8, "big"))
        while data := await asyncio.to_thread(file.read, _BLOCK):
            writer.write(data)
            await writer.drain()
