"""The same bytes from one of several addresses: the first that delivers them, gone on with where another stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import aiohttp

from kumulus_agent.storage.download import Downloaded, Wanted, discard, download
from kumulus_agent.storage.errors import (
    CacheFull,
    ChecksumMismatch,
    DownloadFailed,
    Retryable,
    SourceRefused,
    StorageError,
    Terminal,
)

_REMEDY: Final = "make a new image with the right spec.checksum"


async def fetch(session: aiohttp.ClientSession, urls: Sequence[str], part: Path, wanted: Wanted) -> Downloaded:
    """Fetch a file and compare its checksum.

    Args:
        session: an open client session.
        urls: of the same bytes, in the order in which they are tried.
        part: as of `download`.
        wanted: as of `download`; several URLs need a checksum, for nothing else tells that they have the same.

    Raises:
        DownloadFailed: none delivers now; what came is kept and resumed.
        ChecksumMismatch, SourceRefused, TooLarge: none delivers ever.
        CacheFull: no room.
    """
    wanted = replace(wanted, anywhere=len(urls) > 1 and wanted.checksum is not None)
    failed: list[StorageError] = []
    for url in urls:
        try:
            return await _one(session, url, part, wanted)
        except CacheFull:
            raise
        except (Retryable, Terminal) as error:
            failed.append(error)
    raise _of_all(failed)


async def _one(session: aiohttp.ClientSession, url: str, part: Path, wanted: Wanted) -> Downloaded:
    done = await download(session, url, part, wanted)
    try:
        verify(done, wanted.checksum, url)
    except ChecksumMismatch:
        await asyncio.to_thread(discard, part)
        if not done.validators.mixed:
            raise
    else:
        return done
    # Bytes of two sources do not belong together; which of them is right shows when one has sent all.
    done = await download(session, url, part, wanted)
    try:
        verify(done, wanted.checksum, url)
    except ChecksumMismatch:
        await asyncio.to_thread(discard, part)
        raise
    return done


def verify(done: Downloaded, checksum: str | None, url: str) -> None:
    """Compare what came with a checksum, if there is one.

    Raises:
        ChecksumMismatch: it is other bytes.
    """
    if checksum is None or done.not_modified:
        return
    algorithm, _, expected = checksum.partition(":")
    found = done.sha256 if algorithm == "sha256" else done.sha512
    if found != expected:
        raise ChecksumMismatch(f"{url} has {algorithm} {found}, the image asks for {expected}; {_REMEDY}")


def _of_all(failed: list[StorageError]) -> StorageError:
    """Give one error that says what each source has said; it is final if all of them are."""
    if len(failed) == 1:
        return failed[0]
    message = f"none of {len(failed)} sources delivers: " + "; ".join(str(error) for error in failed)
    if any(isinstance(error, Retryable) for error in failed):
        return DownloadFailed(message)
    kind = type(failed[0])
    return kind(message) if all(type(error) is kind for error in failed) else SourceRefused(message)
