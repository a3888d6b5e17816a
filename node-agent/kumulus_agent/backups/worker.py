"""Makes, reads back, restores or removes a backup, in a process of its own: `python -m kumulus_agent.backups.worker`.

What it is to do stands on standard input as JSON (see `backups/apart.py`). It says how far it is, line by line as
JSON, and at last its answer. It ends with the agent that started it: the next one begins anew what it finds undone.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from obstore.store import S3Store

from kumulus_agent.backups.chunks import Objects
from kumulus_agent.backups.manifest import CHUNK, HOLE, Damaged, Head, Manifest, pack
from kumulus_agent.backups.marks import mark_of
from kumulus_agent.backups.nbd import Disk
from kumulus_agent.backups.seals import OVERHEAD, Seal, WrongSeal
from kumulus_agent.storage.bucket import Object, Refused, Verb, answer
from kumulus_agent.storage.room import leave_reserve
from kumulus_agent.volumes.drivers.encrypted import OBJECT, in_memory, opened

T = TypeVar("T")
_AT_ONCE: Final = 4
"""Chunks that are on their way: what bounds the memory."""
_SERVED_SECONDS: Final = 30.0
_TELL_SECONDS: Final = 2.0
_ZEROS: Final = bytes(CHUNK)
_PR_SET_PDEATHSIG: Final = 1
_BOUND: Final = (
    f"import ctypes, os, sys; ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGKILL)}); "
    "os.getppid() == int(sys.argv[1]) and os.execvp(sys.argv[2], sys.argv[2:])"
)
"""Becomes a program that ends with the process that is named, also if that has ended before this was said."""


class Teller:
    """Says how far the work is, now and then.

    Args:
        total: bytes of the volume.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._last = time.monotonic()

    def tell(self, done: int, stored: int = 0) -> None:
        """Say how many bytes are done, and how many were put into the bucket."""
        if time.monotonic() - self._last >= _TELL_SECONDS:
            self._last = time.monotonic()
            sys.stdout.write(json.dumps({"done": done, "total": self._total, "stored": stored}) + "\n")
            sys.stdout.flush()


def backup(store: S3Store, request: Object) -> Object:
    """Put what a disk has; the manifest is the last. A backup that is there is left."""
    head = Head(**({"chunk": CHUNK} | request["head"]))
    objects = _objects(store, request)
    manifest = objects.manifest(head.backup_id, head.chain)
    stored, seal = 0, _seal(request, head.chain)
    if manifest is None:
        source = request["source"]
        try:
            with _disk(source, _key(request)) as disk:
                whole = replace(head, size=disk.size, seal=seal.mark if seal is not None else "")
                manifest, stored = _put_chunks(objects, disk, whole, partial(_check, source), seal)
        except OSError:
            _check(source)  # what is written meanwhile may be unreadable, too
            raise
        _check(source)
        objects.put_manifest(manifest)
    return _told(manifest) | {"stored": stored}


def _key(request: Object) -> bytes:
    return base64.b64decode(request.get("key") or "")


def _seal(request: Object, chain: str) -> Seal | None:
    key = _key(request)
    return Seal(key, chain) if key else None


def _check(source: Object) -> None:
    """See that a file which everybody may write to was not written to."""
    if "mark" not in source:
        return
    try:
        same = mark_of(Path(source["file"])) == source["mark"]
    except FileNotFoundError:
        same = False
    if not same:
        raise Refused("Changed", "the disk was written to while it was read; transient: it is read anew")


def _put_chunks(
    objects: Objects, disk: Disk, head: Head, check: Callable[[], None], seal: Seal | None
) -> tuple[Manifest, int]:
    known = objects.chunks(head.chain)
    digests, stored = bytearray(), 0
    teller = Teller(head.size)

    def put(digest: bytes, data: bytes | bytearray) -> int:
        content = pack(data)
        objects.put_chunk(head.chain, digest, content)
        return len(content)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        going: deque[Future[int]] = deque()
        for offset in range(0, head.size, head.chunk):
            data = disk.read(offset, min(head.chunk, head.size - offset))
            check()
            if data is None or data == memoryview(_ZEROS)[: len(data)]:
                digests += HOLE
            else:
                content = seal.close(offset // head.chunk, data) if seal is not None else data
                digest = hashlib.sha256(content).digest()
                digests += digest
                if digest not in known:
                    known.add(digest)
                    going.append(pool.submit(put, digest, content))
            while len(going) >= _AT_ONCE:
                stored += going.popleft().result()
            teller.tell(offset, stored)
        stored += sum(item.result() for item in going)
    return Manifest(head, bytes(digests)), stored


def verify(store: S3Store, request: Object) -> Object:
    """Read back all chunks of a backup."""
    objects = _objects(store, request)
    manifest = _existing(objects, request)
    teller, head = Teller(manifest.head.size), manifest.head
    first: dict[bytes, int] = {}
    for index, digest in enumerate(manifest.chunks()):
        if digest != HOLE:
            first.setdefault(digest, index)

    def get(index: int, digest: bytes) -> int:
        _chunk(objects, manifest, index, digest)
        return index

    for index in _ahead(get, ((index, digest) for digest, index in first.items())):
        teller.tell(index * head.chunk)
    return _told(manifest)


def restore(store: S3Store, request: Object) -> Object:
    """Have a qcow2 file with what a backup has: each chunk is compared when it comes, and the whole at the end."""
    objects = _objects(store, request)
    manifest, file, key = _existing(objects, request), Path(request["file"]), _key(request)
    seal = _fitting(manifest, key)
    needed = sum(manifest.length(index) for index, digest in enumerate(manifest.chunks()) if digest != HOLE)
    leave_reserve(file, max(0, needed - file.stat().st_blocks * 512))
    with _disk({"file": request["file"], "format": "qcow2", "writable": True}, key) as disk:
        if disk.size < manifest.head.size:
            raise Refused("Failed", f"the volume has {disk.size} bytes, the backup {manifest.head.size}")
        _fill(objects, manifest, disk, seal)
        disk.flush()
    with _disk({"file": request["file"], "format": "qcow2"}, key) as disk:
        for index, digest in enumerate(manifest.chunks()):
            offset = index * manifest.head.chunk
            if _has(disk, manifest, index, seal) != digest:
                raise Refused("Unlike", f"bytes from {offset} on are not on the disk what was written there")
    return _told(manifest)


def _fitting(manifest: Manifest, key: bytes) -> Seal | None:
    """Give what opens the chunks of a backup, which is that of the volume's key or of none."""
    seal = Seal(key, manifest.head.chain) if key else None
    if (seal.mark if seal is not None else "") != manifest.head.seal:
        message = "it was sealed with another key than the volume has; transient: put the right one into its Secret"
        raise Refused("WrongKey", message)
    return seal


def _fill(objects: Objects, manifest: Manifest, disk: Disk, seal: Seal | None) -> None:
    """Write what the disk has not yet: an earlier attempt may have written some."""
    teller, size = Teller(manifest.head.size), manifest.head.chunk

    def missing() -> Iterator[tuple[int, bytes]]:
        for index, digest in enumerate(manifest.chunks()):
            if _has(disk, manifest, index, seal) != digest:
                yield index, digest

    def get(index: int, digest: bytes) -> tuple[int, bytes]:
        content = _chunk(objects, manifest, index, digest)
        if seal is None or digest == HOLE:
            return index, content
        try:
            return index, seal.open(index, content)
        except WrongSeal as error:
            raise Refused("Damaged", f"{error}: backup {manifest.head.backup_id}") from error

    for index, data in _ahead(get, missing()):
        disk.write(index * size, data)
        teller.tell(index * size)


def _has(disk: Disk, manifest: Manifest, index: int, seal: Seal | None) -> bytes:
    length = manifest.length(index)
    data = disk.read(index * manifest.head.chunk, length)
    if data is None or data == memoryview(_ZEROS)[:length]:
        return HOLE
    return hashlib.sha256(seal.close(index, data) if seal is not None else data).digest()


def remove(store: S3Store, request: Object) -> Object:
    """Make a backup none, and remove what no other of its chain names. Absent is success.

    A manifest that is damaged names nobody knows what: while it is there all chunks stay.
    """
    objects, chain = _objects(store, request), str(request["chain"])
    objects.remove_manifest(request["backupID"], chain)
    needed: set[bytes] = set()
    for other in objects.backups(chain):
        try:
            manifest = objects.manifest(other, chain)
        except Refused:
            return {"removed": 0}
        needed |= manifest.named() if manifest is not None else set()
    return {"removed": objects.remove_chunks(chain, needed)}


def find(store: S3Store, request: Object) -> Object:
    """Give what a backup says of itself of which only the id is known."""
    objects = _objects(store, request)
    chain = objects.chain_of(request["backupID"])
    return _told(_existing(objects, request | {"chain": chain or ""}))


def _objects(store: S3Store, request: Object) -> Objects:
    return Objects(store, request["prefix"], request["namespace"])


def _existing(objects: Objects, request: Object) -> Manifest:
    manifest = objects.manifest(request["backupID"], request["chain"]) if request["chain"] else None
    if manifest is None:
        raise Refused("Absent", f"the bucket has no backup {request['backupID']}: its manifest is missing")
    if request.get("digest") and manifest.digest != request["digest"]:
        raise Refused("Damaged", f"backup {request['backupID']} is another one than was made: {manifest.digest}")
    return manifest


def _chunk(objects: Objects, manifest: Manifest, index: int, digest: bytes) -> bytes:
    length = manifest.length(index)
    if digest == HOLE:
        return bytes(length)
    try:
        sealed = OVERHEAD if manifest.head.seal else 0
        return objects.get_chunk(manifest.head.chain, digest, length + sealed)
    except Damaged as error:
        where = f"chunk {digest.hex()} (bytes from {index * manifest.head.chunk} on)"
        raise Refused("Damaged", f"{where} of backup {manifest.head.backup_id} is damaged: {error}") from error


def _told(manifest: Manifest) -> Object:
    head, named = manifest.head, manifest.named()
    return {
        "digest": manifest.digest,
        "size": head.size,
        "chunks": len(named),
        "head": {name: getattr(head, name) for name in head.__slots__},
    }


def _ahead(work: Callable[[int, bytes], T], items: Iterable[tuple[int, bytes]]) -> Iterator[T]:
    """Give what work gives, in order, a few items ahead."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        going: deque[Future[T]] = deque()
        for item in items:
            going.append(pool.submit(work, *item))
            if len(going) >= _AT_ONCE:
                yield going.popleft().result()
        while going:
            yield going.popleft().result()


@contextmanager
def _disk(source: Object, key: bytes = b"") -> Iterator[Disk]:
    """Give a disk that QEMU serves already, or have a file served; `file` is opened read-only unless it is writable."""
    if "socket" in source:
        with Disk(Path(source["socket"]), source["export"]) as disk:
            yield disk
        return
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kumulus-nbd-"))
        secret = stack.enter_context(in_memory(key)) if key else None
        path = Path(folder) / "socket"
        mode = ("--cache=writeback", "--discard=unmap") if source.get("writable") else ("--read-only",)
        what = _what(source, secret)
        server = subprocess.Popen(
            (sys.executable, "-ISc", _BOUND, str(os.getpid()),
             "qemu-nbd", f"--socket={path}", *mode, *what),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            pass_fds=() if secret is None else (secret,),
        )  # fmt: skip
        try:
            with _served(server, path) as disk:
                yield disk
            server.wait(_SERVED_SECONDS)
        finally:
            server.kill()
            server.wait()


def _what(source: Object, secret: int | None) -> tuple[str, ...]:
    """Give what tells qemu-nbd the disk; one with a mark is not locked, so that a guest may start on it."""
    file: str = source["file"]
    if secret is not None:
        return "--object", f"secret,id={OBJECT},file=/proc/self/fd/{secret}", "--", opened(Path(file))
    if "mark" not in source:
        return f"--format={source['format']}", "--", file
    name = file.replace(",", ",,")
    return "--image-opts", f"driver={source['format']},file.driver=file,file.filename={name},file.locking=off"


def _served(server: subprocess.Popen[bytes], path: Path) -> Disk:
    until = time.monotonic() + _SERVED_SECONDS
    while True:
        try:
            return Disk(path)
        except (FileNotFoundError, ConnectionRefusedError):
            if server.poll() is not None:
                said = server.stderr.read().decode(errors="replace").strip() if server.stderr is not None else ""
                raise Refused("Unreadable", f"qemu-nbd cannot serve the volume: {said}") from None
            if time.monotonic() > until:
                raise Refused("Failed", "qemu-nbd does not serve the volume") from None
            time.sleep(0.02)


_VERBS: Final[dict[str, Verb]] = {
    "backup": backup, "verify": verify, "restore": restore, "remove": remove, "find": find,
}  # fmt: skip


def main() -> None:
    """Do what is asked, and not outlive whoever asks."""
    request: dict[str, Any] = json.load(sys.stdin)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != request["agent"]:
        return
    os.nice(10)  # guests come first
    sys.stdout.write(json.dumps({"answer": answer(request, _VERBS)}) + "\n")


if __name__ == "__main__":
    main()
