"""Buckets of S3 services, each transfer in a process of its own (`bucket.py`)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kumulus_agent.execution import execute
from kumulus_agent.storage.download import Downloaded, Validators, discard, note, version_of
from kumulus_agent.storage.errors import CacheFull, DownloadFailed, StoreFailed, TooLarge

_DEADLINE_SECONDS: Final = 86400.0
_AT_ONCE: Final = 2
_MODULE: Final = "kumulus_agent.storage.bucket"


class _Refused(Exception):
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """Where a bucket is, and what opens it.

    Attributes:
        endpoint: base URL of the service.
        bucket: its name.
        region: as requests are signed for.
        path_style: the bucket stands in the path of URLs.
        keys: folder of the files AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or both keys themselves; None for a
            bucket that everybody may read.
    """

    endpoint: str
    bucket: str
    region: str = "us-east-1"
    path_style: bool = True
    keys: Path | tuple[str, str] | None = None

    def request(self) -> dict[str, Any]:
        """Give what each request begins with."""
        out: dict[str, Any] = {
            "endpoint": self.endpoint,
            "bucket": self.bucket,
            "region": self.region,
            "pathStyle": self.path_style,
        }
        if isinstance(self.keys, Path):
            return out | {"keys": str(self.keys)}
        return out | dict(zip(("accessKeyID", "secretAccessKey"), self.keys or (), strict=False))


class Bucket:
    """Transfers with one bucket; no more than two at once.

    Args:
        address: of the bucket.
    """

    def __init__(self, address: BucketAddress) -> None:
        self._address = address
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def put(self, file: Path, key: str, digest: str) -> None:
        """Put a file there, whole or not at all, and see by reading that it is there.

        Raises:
            StoreFailed: it is not; later it may be.
        """
        try:
            await self._ask("put", file=str(file), key=key, digest=digest)
        except _Refused as error:
            raise StoreFailed(f"bucket {self._address.bucket}: {error}") from error

    async def fetch(self, url: str, key: str, part: Path, size_limit: int, etag: str = "") -> Downloaded:
        """Fetch an object into a file, from where a former attempt stopped.

        Args:
            url: by which the partial file is known.
            key: of the object.
            part: the file.
            size_limit: bytes; more is refused.
            etag: what the object is known by if its key does not change with its bytes; asked for if it is empty.

        Raises:
            DownloadFailed: the service did not deliver; the next call resumes.
            TooLarge: more than ``size_limit``.
            CacheFull: no room.
        """
        try:
            wanted = etag or (await self._ask("head", key=key))["etag"]
            version = Validators(url, etag=wanted)
            if await asyncio.to_thread(version_of, part) != version:
                await asyncio.to_thread(discard, part)
            await asyncio.to_thread(part.touch)
            await asyncio.to_thread(note, part, version)
            own = {} if etag else {"etag": wanted}
            found = await self._ask("get", key=key, file=str(part), limit=size_limit, **own)
        except _Refused as error:
            message = f"bucket {self._address.bucket}: {error}"
            if error.kind == "Changed":
                await asyncio.to_thread(discard, part)
            if error.kind == "TooLarge":
                raise TooLarge(message) from error
            raise CacheFull(message, 60.0) if error.kind == "NoRoom" else DownloadFailed(message) from error
        return Downloaded(version, int(found["size"]), str(found["sha256"]), str(found["sha512"]))

    async def names(self, prefix: str) -> list[str]:
        """Give the keys of all objects below a prefix.

        Raises:
            StoreFailed: the service does not tell.
        """
        try:
            return list((await self._ask("names", prefix=prefix))["keys"])
        except _Refused as error:
            raise StoreFailed(f"bucket {self._address.bucket}: {error}") from error

    async def remove(self, prefix: str) -> None:
        """Remove all objects below a prefix.

        Raises:
            StoreFailed: not done; to be tried again.
        """
        try:
            await self._ask("remove", prefix=prefix)
        except _Refused as error:
            raise StoreFailed(f"bucket {self._address.bucket}: {error}") from error

    async def _ask(self, verb: str, **of: Any) -> Mapping[str, Any]:
        request = json.dumps(self._address.request() | {"verb": verb} | of).encode()
        async with self._slots:
            try:
                done = await execute((sys.executable, "-m", _MODULE), deadline=_DEADLINE_SECONDS, stdin=request)
                answer: dict[str, Any] = json.loads(done.output)
            except (TimeoutError, ValueError) as error:
                raise _Refused("Failed", f"the transfer ended without a word: {error}") from error
        if "refused" in answer:
            raise _Refused(str(answer["refused"]), str(answer["message"]))
        return answer
