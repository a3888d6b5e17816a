"""One HTTP download to a file, resumed where a former one stopped."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Final

import aiohttp

from kumulus_agent.storage.errors import SMALLER, CacheFull, DownloadFailed, SourceRefused, TooLarge
from kumulus_agent.storage.room import leave_reserve

_CHUNK_BYTES: Final = 1 << 20
_AGAIN: Final = "it is tried again, so see that hosts can fetch it from there"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=15, sock_read=60)
_PACKERS: Final = ("gzip", "deflate", "br", "zstd", "compress")
# Answers that stay the same however often one asks; 404 and 403 are often a mirror that lags.
_REFUSALS: Final = frozenset({HTTPStatus.GONE, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS})


@dataclass(frozen=True, slots=True)
class Validators:
    """What identifies one version of a URL's content."""

    url: str
    etag: str = ""
    last_modified: str = ""
    mixed: bool = False
    """The bytes before those of this URL are another's: only their checksum can tell whether they belong together."""

    @property
    def if_range(self) -> str:
        """The value of If-Range; empty if no strong validator is known, for then nothing may be resumed."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


@dataclass(slots=True)
class Digests:
    """Running hashes of a stream."""

    sha256: Any = field(default_factory=hashlib.sha256)
    sha512: Any = field(default_factory=hashlib.sha512)
    size: int = 0

    def update(self, chunk: bytes) -> None:
        """Add the next bytes."""
        self.sha256.update(chunk)
        self.sha512.update(chunk)
        self.size += len(chunk)


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A complete file, not yet inspected; ``not_modified`` if the server said that ``known`` is still valid.

    ``owner`` keeps it here, where it cannot be had again.
    """

    validators: Validators
    size: int = 0
    sha256: str = ""
    sha512: str = ""
    not_modified: bool = False
    owner: str = ""


@dataclass(slots=True)
class Progress:
    """How far the making of a cached image is; `total` is 0 where the source does not tell."""

    received: int = 0
    total: int = 0
    converting: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is known of the bytes beforehand.

    Attributes:
        size_limit: bytes; more is refused.
        checksum: ``sha256:<hex>`` or ``sha512:<hex>``; None if it is not known.
        known: a version that is at hand already; the server may answer that it is still the current one.
        anywhere: goes on with what another URL has sent; only with a checksum.
        progress: is kept up to date.
    """

    size_limit: int
    checksum: str | None = None
    known: Validators | None = None
    anywhere: bool = False
    progress: Progress = field(default_factory=Progress)


async def download(session: aiohttp.ClientSession, url: str, part: Path, wanted: Wanted) -> Downloaded:
    """Fetch ``url`` into ``part``.

    Args:
        session: an open client session.
        url: http or https.
        part: grows by what arrives and stays after a failure; beside it ``<part>.json`` says which version it is of.
        wanted: see there.

    Raises:
        DownloadFailed: retryable; the next call resumes.
        SourceRefused: the URL or the server's answer is final.
        TooLarge: more than the limit.
        CacheFull: no room.
    """
    known, size_limit = wanted.known, wanted.size_limit
    try:
        digests, begun_by = await asyncio.to_thread(begun, part, url, anywhere=wanted.anywhere)
        if begun_by is not None and matches(digests, wanted.checksum):
            return _downloaded(begun_by, digests)
        headers = _range(digests, begun_by, url)
        if known is not None and not digests.size:
            headers |= _conditions(known)
        async with session.get(url, headers=headers, timeout=_TIMEOUT) as response:
            if response.status == HTTPStatus.NOT_MODIFIED and known is not None:
                return Downloaded(known, not_modified=True)
            await _check_status(response, url, part)
            if response.status == HTTPStatus.OK:
                digests, begun_by = Digests(), None
            _check_content(response, url, digests.size)
            validators = _validators(response, url, begun_by if digests.size else None)
            total = digests.size + (response.content_length or 0)
            if size_limit < total:
                raise TooLarge(f"{url} has {total} bytes, {size_limit} are allowed; {SMALLER}")
            wanted.progress.total = total if response.content_length is not None else 0
            await asyncio.to_thread(leave_reserve, part.parent, response.content_length or 0)
            await asyncio.to_thread(note, part, validators)
            await _receive(response, part, digests, wanted)
    except aiohttp.InvalidURL as error:
        raise SourceRefused(f"{url!r} is not a URL that can be fetched; use another") from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise DownloadFailed(f"download {url}: {type(error).__name__}: {error}; {_AGAIN}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CacheFull(f"download {url}: no space left for {part.name}", delay=60.0) from error
        raise
    return _downloaded(validators, digests)


def _downloaded(validators: Validators, digests: Digests) -> Downloaded:
    return Downloaded(validators, digests.size, digests.sha256.hexdigest(), digests.sha512.hexdigest())


def matches(digests: Digests, checksum: str | None) -> bool:
    """Give whether bytes have a checksum that is known."""
    algorithm, _, expected = (checksum or "").partition(":")
    return bool(expected) and expected == (digests.sha512 if algorithm == "sha512" else digests.sha256).hexdigest()


def discard(part: Path) -> None:
    """Throw a partial download away."""
    forget_version(part)
    part.unlink(missing_ok=True)


def forget_version(part: Path) -> None:
    """Throw away what is known of the version of a partial file."""
    _sidecar(part).unlink(missing_ok=True)


def resumable(part: Path) -> bool:
    """Tell whether a later download can go on with a partial file: it knows a version that the server confirms."""
    validators = _read_validators(part)
    return validators is not None and bool(validators.if_range)


def _sidecar(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def note(part: Path, validators: Validators) -> None:
    """Write down of which version a partial file is."""
    _sidecar(part).write_text(json.dumps(asdict(validators)))


def version_of(part: Path) -> Validators | None:
    """Give of which version a partial file is, if there is one that may be gone on with. Blocks."""
    return _read_validators(part)


def begun(part: Path, url: str, *, anywhere: bool = False) -> tuple[Digests, Validators | None]:
    """Give what there is of a partial file that may be gone on with, and its version. Blocks.

    Args:
        part: the file.
        url: where the rest is to come from.
        anywhere: whether what another URL has sent may be gone on with.
    """
    validators = _read_validators(part)
    if validators is None or not (anywhere or (validators.url == url and validators.if_range)):
        return Digests(), None
    return hash_file(part), validators


def _range(digests: Digests, begun_by: Validators | None, url: str) -> dict[str, str]:
    if begun_by is None or not digests.size:
        return {}
    same = {"If-Range": begun_by.if_range} if begun_by.url == url and begun_by.if_range else {}
    return {"Range": f"bytes={digests.size}-", **same}


def _read_validators(part: Path) -> Validators | None:
    if not part.exists():
        return None
    try:
        return Validators(**json.loads(_sidecar(part).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def hash_file(path: Path) -> Digests:
    """Read a file and give its hashes. Blocks."""
    digests = Digests()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digests.update(chunk)
    return digests


def _conditions(known: Validators) -> dict[str, str]:
    if known.etag:
        return {"If-None-Match": known.etag}
    return {"If-Modified-Since": known.last_modified} if known.last_modified else {}


async def _check_status(response: aiohttp.ClientResponse, url: str, part: Path) -> None:
    status = response.status
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        # The partial file is as long as the whole or longer: it is not of this version.
        await asyncio.to_thread(discard, part)
        raise DownloadFailed(f"download {url}: cannot be resumed, starts anew", status, delay=0.0)
    if status in _REFUSALS:
        raise SourceRefused(f"download {url}: the server answers {status} {response.reason}; use another URL")
    raise DownloadFailed(f"download {url}: the server answers {status} {response.reason}; {_AGAIN}", status)


def _check_content(response: aiohttp.ClientResponse, url: str, offset: int) -> None:
    """Refuse what is not the file's own bytes from an offset on."""
    coding = response.headers.get("Content-Encoding", "").lower()
    if any(packer in coding for packer in _PACKERS):
        # Unpacked here, a small answer would be a large file, and the checksum that of other bytes.
        raise SourceRefused(
            f"download {url}: the server sends it compressed ({coding[:64]}) though it was asked not to;"
            " have it serve the file as it is, without Content-Encoding"
        )
    found = response.headers.get("Content-Range")
    if offset and found is not None and not found.startswith(f"bytes {offset}-"):
        raise DownloadFailed(f"download {url}: bytes from {offset} on were asked for, {found[:64]} came; {_AGAIN}")


def _validators(response: aiohttp.ClientResponse, url: str, begun_by: Validators | None) -> Validators:
    mixed = begun_by is not None and (begun_by.mixed or begun_by.url != url or not begun_by.if_range)
    return Validators(url, response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""), mixed)


async def _receive(response: aiohttp.ClientResponse, part: Path, digests: Digests, wanted: Wanted) -> None:
    size_limit = wanted.size_limit
    with await asyncio.to_thread(part.open, "ab" if digests.size else "wb") as file:
        async for chunk in _blocks(response):
            if digests.size + len(chunk) > size_limit:
                raise TooLarge(f"{response.url} sends more than the {size_limit} bytes that are allowed; {SMALLER}")
            await asyncio.to_thread(store, file, digests, chunk)
            wanted.progress.received = digests.size


def store(file: BinaryIO, digests: Digests, chunk: bytes) -> None:
    """Write the next bytes of a file and hash them. Blocks.

    Raises:
        OSError: as of a full disk, also if only the reserve is left.
    """
    leave_reserve(file.fileno(), len(chunk))
    file.write(chunk)
    digests.update(chunk)


async def _blocks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Gather the network's small reads: each block costs a change of thread. What came before a failure counts."""
    gathered = bytearray()
    try:
        async for chunk in response.content.iter_any():
            gathered += chunk
            if len(gathered) >= _CHUNK_BYTES:
                yield bytes(gathered)
                gathered.clear()
    except aiohttp.ClientError:
        if gathered:
            yield bytes(gathered)
        raise
    if gathered:
        yield bytes(gathered)
