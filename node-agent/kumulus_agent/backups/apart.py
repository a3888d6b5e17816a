"""Backups in a bucket, each piece of work in a process of its own (`worker.py`)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from kumulus_agent.storage.bucket_apart import BucketAddress
from kumulus_agent.storage.errors import DiskFull, Retryable, Terminal
from kumulus_agent.volumes.drivers.keys import KeyWrong

_MODULE: Final = "kumulus_agent.backups.worker"
_LONGEST_LINE: Final = 1 << 16
_AT_ONCE: Final = 2


class BackupDamaged(Terminal):
    """A chunk or the manifest of a backup is missing or is another."""

    reason = "BackupDamaged"


class BackupAbsent(Terminal):
    """The bucket has no such backup."""

    reason = "BackupNotFound"


class RestoreUnlike(Terminal):
    """What was written to the disk is not what it reads."""

    reason = "RestoreUnlike"


class DiskChanged(Retryable):
    """Somebody wrote to a disk that was read without a guest: what was read is of no moment."""

    reason = "DiskChanged"


class WorkFailed(Retryable):
    """The bucket, the volume or the process failed; it is tried again."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a piece of work is: bytes of the volume, and of what was put into the bucket."""

    done: int
    total: int
    stored: int


Tell = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Made:
    """A backup as its manifest says: identity of the whole, bytes of the volume, chunks, bytes that were put, head."""

    digest: str
    size: int
    chunks: int
    stored: int
    head: dict[str, Any]


class BackupBucket:
    """The backups in a bucket; no more than two pieces of work at once.

    Args:
        address: of the bucket.
        prefix: what the keys of all objects begin with.
    """

    def __init__(self, address: BucketAddress, prefix: str) -> None:
        self._address = address
        self._prefix = prefix
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def backup(
        self, namespace: str, head: dict[str, Any], source: dict[str, Any], tell: Tell, key: bytes = b""
    ) -> Made:
        """Make a backup.

        Args:
            namespace: of the project.
            head: see `kumulus_agent.backups.manifest.Head`; the size is the disk's.
            source: `file` and `format`, or `socket` and `export` of an NBD server. With `mark` (see
                `kumulus_agent.backups.marks`) nobody is kept from writing to the file, and it must have that mark still
                when all was read.
            tell: is told how far it is.
            key: of a volume that is encrypted; what is put is sealed with it, and a file is opened.

        Raises:
            DiskChanged: the file has another mark.
            WorkFailed: it is not made; what is in the bucket is used by the next attempt.
        """
        return _made(await self._ask("backup", namespace, tell, head=head | {"size": 0}, source=source, key=_text(key)))

    async def verify(self, namespace: str, backup_id: str, chain: str, digest: str, tell: Tell) -> Made:
        """Read back a whole backup.

        Raises:
            BackupDamaged, BackupAbsent: it is not what was made.
            WorkFailed: nobody knows.
        """
        return _made(await self._ask("verify", namespace, tell, backupID=backup_id, chain=chain, digest=digest))

    async def restore(self, namespace: str, of: tuple[str, str, str], file: str, tell: Tell, key: bytes = b"") -> Made:
        """Fill a qcow2 file that is at least as large as the volume was; one that is half filled is filled up.

        Args:
            namespace: of the project.
            of: id, chain and digest of the backup.
            file: which.
            tell: is told how far it is.
            key: that the file is encrypted with; the backup must be sealed with the same.

        Raises:
            KeyWrong: the backup is sealed with another key, or with none.
            BackupDamaged, BackupAbsent: it is not what was made.
            RestoreUnlike: the disk does not give what was written.
            DiskFull: there is no room for it.
            WorkFailed: it is tried again.
        """
        backup_id, chain, digest = of
        asked = {"backupID": backup_id, "chain": chain, "digest": digest, "file": file, "key": _text(key)}
        return _made(await self._ask("restore", namespace, tell, **asked))

    async def remove(self, namespace: str, backup_id: str, chain: str) -> None:
        """Remove a backup and what no other names; nobody adds to its chain meanwhile.

        Raises:
            WorkFailed, BackupDamaged: not done.
        """
        await self._ask("remove", namespace, _nobody, backupID=backup_id, chain=chain)

    async def find(self, namespace: str, backup_id: str) -> Made:
        """Find a backup of a project by its id.

        Raises:
            BackupAbsent: there is none.
            WorkFailed: nobody knows.
        """
        return _made(await self._ask("find", namespace, _nobody, backupID=backup_id))

    async def _ask(self, verb: str, namespace: str, tell: Tell, **of: Any) -> dict[str, Any]:
        asked = {"verb": verb, "namespace": namespace, "prefix": self._prefix, "agent": os.getpid()}
        async with self._slots:
            answer = await _work(json.dumps(self._address.request() | asked | of).encode(), tell)
        if "refused" in answer:
            message = f"bucket {self._address.bucket}: {answer['message']}"
            raise _REFUSALS.get(str(answer["refused"]), WorkFailed)(message)
        return answer


_REFUSALS: Final[dict[str, Callable[[str], Exception]]] = {
    "Damaged": BackupDamaged,
    "Absent": BackupAbsent,
    "Unlike": RestoreUnlike,
    "NoRoom": DiskFull,
    "Changed": DiskChanged,
    "WrongKey": KeyWrong,
}


async def _work(request: bytes, tell: Tell) -> dict[str, Any]:
    """Run a process to its end, which comes with ours at the latest; give its answer."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", _MODULE, stdin=pipe, stdout=pipe, limit=_LONGEST_LINE
    )
    answer: dict[str, Any] = {}
    try:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - they are pipes
        with contextlib.suppress(ConnectionError):
            process.stdin.write(request)
            await process.stdin.drain()
        process.stdin.close()
        async for line in process.stdout:
            said = json.loads(line)
            if "answer" in said:
                answer = said["answer"]
            else:
                tell(Progress(int(said["done"]), int(said["total"]), int(said["stored"])))
        await process.wait()
    except ValueError as error:
        raise WorkFailed(f"a backup's process says what cannot be understood: {error}") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return answer or {"refused": "Failed", "message": f"the process ended with {process.returncode} and no answer"}


def _made(answer: dict[str, Any]) -> Made:
    return Made(
        str(answer["digest"]), int(answer["size"]), int(answer["chunks"]), int(answer.get("stored", 0)), answer["head"]
    )


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _nobody(_: Progress) -> None:
    """Hear nothing."""
