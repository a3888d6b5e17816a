"""Where a host gets an image from, by what the API says of it then: other hosts, a bucket, or its source in one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import structlog

from kumulus_agent.images.exchange import ImageExchange
from kumulus_agent.images.kept import digest_of
from kumulus_agent.servers.boot_data import boot_data_source, fetch_image_keys
from kumulus_agent.servers.errors import StepFailed
from kumulus_agent.settings import AgentSettings
from kumulus_agent.storage.bucket_apart import Bucket, BucketAddress
from kumulus_agent.storage.download import Downloaded
from kumulus_agent.storage.errors import DownloadFailed, HolderAway, StoreFailed
from kumulus_agent.storage.held_address import key_of, without_hosts
from kumulus_agent.storage.image_cache import CachedImage
from kumulus_api import Image
from kumulus_runtime.api_client import ApiError, KubeClient

Key = tuple[str, str]
Object = dict[str, Any]
Keys = Callable[[Key], Awaitable[tuple[str, str]]]
"""Gives the keys that a project's Secret holds for the source of an Image."""

_S3: Final = "S3"

_log = structlog.stdlib.get_logger(__name__)


class ImageStores:
    """The ways to an image's bytes.

    Args:
        client: to reach the API server.
        node: this host's name.
        exchange: with other hosts.
        bucket: of the store S3, or None where there is none; with what the keys of all objects begin with.
        keys: asks the operator for what opens the source of an Image.
    """

    def __init__(
        self, client: KubeClient, node: str, exchange: ImageExchange, bucket: tuple[Bucket, str] | None, keys: Keys
    ) -> None:
        self._client = client
        self._node = node
        self._exchange = exchange
        self._bucket: Bucket | None = bucket[0] if bucket is not None else None
        self._prefix = bucket[1] if bucket is not None else ""
        self._keys = keys
        self.fetched: Callable[[Key], None] = lambda _key: None
        """Called with the Image of which this host has a copy from now on."""

    async def fetch(self, address: str, digest: str, part: Path, size_limit: int) -> Downloaded:
        """Fetch an image into a file, from where a former attempt stopped; arguments as of `ImageExchange.fetch`.

        Raises:
            HolderAway, DownloadFailed: it cannot be had now.
            TooLarge: more than ``size_limit``.
            CacheFull: no room.
        """
        bare = without_hosts(address)
        key = key_of(bare)
        try:
            body = await self._client.get(Image, key[1], key[0]) or {}
        except ApiError as error:
            raise HolderAway(f"image {'/'.join(key)}: the API server cannot be asked: {error}") from error
        source = ((body.get("spec") or {}).get("source") or {}).get("s3")
        if source is not None and digest_of(body) is None:
            done = await self._from_source(key, source, bare, part, size_limit)
        elif self._in_bucket(body):
            done = await self._from_bucket(key, address, digest, part, size_limit)
        else:
            return await self._exchange.fetch(address, digest, part, size_limit)
        self.fetched(key)
        return done

    async def put(self, key: Key, image: CachedImage) -> None:
        """Put an image that is here where its Image says that it is kept, unless hosts keep it.

        Raises:
            StoreFailed: it is not there; later it may be.
        """
        body = await self._live(key)
        if body is None or not self._in_bucket(body):
            return
        if self._bucket is None:
            raise StoreFailed(f"image {'/'.join(key)}: host {self._node} knows no bucket: see the chart's images.s3")
        await self._bucket.put(image.path, self._object(key, image.digest), image.digest)
        _log.info("image put into the bucket", namespace=key[0], name=key[1], digest=image.digest)
        live = await self._live(key)
        if live is None or "deletionTimestamp" in live["metadata"]:
            await self._bucket.remove(self._folder(key))  # whoever removes it has been there already

    async def find(self, key: Key, body: Object) -> str | None:
        """Give the digest of what the bucket has of an Image, of which the API tells nothing after a restore.

        Raises:
            StoreFailed: it does not tell.
        """
        if not self._in_bucket(body):
            return None
        if self._bucket is None:
            raise StoreFailed(f"image {'/'.join(key)}: host {self._node} knows no bucket: see the chart's images.s3")
        names = [Path(name).name for name in await self._bucket.names(self._folder(key))]
        return next((f"sha256:{name.removesuffix('.img')}" for name in names if name.endswith(".img")), None)

    async def remove(self, key: Key, body: Object) -> None:
        """Remove the objects of an Image that is being deleted, if it had any.

        Raises:
            StoreFailed: not done.
        """
        if not self._in_bucket(body):
            return
        if self._bucket is None:
            raise StoreFailed(f"image {'/'.join(key)}: host {self._node} knows no bucket: see the chart's images.s3")
        await self._bucket.remove(self._folder(key))

    async def _live(self, key: Key) -> Object | None:
        try:
            return await self._client.get(Image, key[1], key[0])
        except ApiError as error:
            raise StoreFailed(f"image {'/'.join(key)}: the API server cannot be asked: {error}") from error

    async def _from_source(self, key: Key, source: Object, bare: str, part: Path, size_limit: int) -> Downloaded:
        keys = await self._keys(key) if source.get("secret") else None
        address = BucketAddress(
            source["endpoint"], source["bucket"], source.get("region", "us-east-1"), source.get("pathStyle", True), keys
        )
        return await Bucket(address).fetch(bare, source["key"], part, size_limit)

    async def _from_bucket(self, key: Key, address: str, digest: str, part: Path, size_limit: int) -> Downloaded:
        if self._bucket is None:
            raise HolderAway(f"image {'/'.join(key)} is in a bucket, of which host {self._node} was told nothing")
        try:
            return await self._bucket.fetch(
                without_hosts(address), self._object(key, digest), part, size_limit, etag=digest
            )
        except DownloadFailed as error:
            try:
                return await self._exchange.fetch(address, digest, part, size_limit)
            except HolderAway as other:
                raise HolderAway(f"{error}; {other}", delay=10.0) from error

    @staticmethod
    def _in_bucket(body: Object) -> bool:
        return ((body.get("spec") or {}).get("assignment") or {}).get("store") == _S3

    def _folder(self, key: Key) -> str:
        return f"{self._prefix}{key[0]}/{key[1]}/"

    def _object(self, key: Key, digest: str) -> str:
        return f"{self._folder(key)}{digest.partition(':')[2]}.img"


def stores_of(settings: AgentSettings, client: KubeClient, exchange: ImageExchange) -> ImageStores:
    """Put the ways to images together, as the settings say."""
    bucket = None
    if settings.s3_bucket:
        style = settings.s3_path_style
        where = settings.s3_endpoint, settings.s3_bucket, settings.s3_region
        bucket = Bucket(BucketAddress(*where, path_style=style, keys=settings.s3_keys)), settings.s3_prefix

    async def keys(image: Key) -> tuple[str, str]:
        try:
            return await fetch_image_keys(client, boot_data_source(settings), image)
        except StepFailed as error:
            raise DownloadFailed(f"the keys of its source: {error}") from error

    return ImageStores(client, settings.node_name, exchange, bucket, keys)
