"""What a backup is made of (pure): the digests of its chunks in order, and a head.

A volume is cut into chunks of `CHUNK` bytes, the last of which may be shorter. A chunk is known by the SHA-256 of its
bytes; one of zeros only is a hole: 32 zero bytes stand for it, and no object.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import zstandard

CHUNK: Final = 4 << 20
"""Bytes of a chunk."""
DIGEST: Final = 32
HOLE: Final = bytes(DIGEST)
_MAGIC: Final = b"KVB1"
_LEVEL: Final = 3
_MOST: Final = 1 << 30
"""Bytes that a manifest may have: that of 64 TiB has half of it."""


class Damaged(Exception):
    """Bytes of a backup are not those that were put there."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a backup says of itself.

    Attributes:
        backup_id: its identity.
        chain: id of the full backup from which its chunks are shared.
        parent: id of the backup that it followed; empty for a full one.
        volume_id: of the volume.
        name: of the VolumeBackup that it was made for.
        size: bytes of the volume.
        chunk: bytes of a chunk.
        consistency: what its data is like; see `kumulus_api.volume_snapshot.Consistency`.
        taken_at: the moment that it shows, RFC 3339.
        root_disk: of what server's root disk it is, if it is of none's volume; see
            `kumulus_api.volume_backup.BackedUpRootDisk`.
        seal: tells the key that its chunks are sealed with; empty if they are not. See `kumulus_agent.backups.seals`.
    """

    backup_id: str
    chain: str
    parent: str
    volume_id: str
    name: str
    size: int
    chunk: int
    consistency: str
    taken_at: str
    root_disk: dict[str, Any] | None = None
    seal: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A backup: its head and the digests of its chunks, one after the other."""

    head: Head
    digests: bytes

    @property
    def digest(self) -> str:
        """What the whole volume is known by: size, chunks and their order."""
        whole = hashlib.sha256(struct.pack(">QQ", self.head.size, self.head.chunk) + self.digests)
        return f"sha256:{whole.hexdigest()}"

    def chunks(self) -> Iterator[bytes]:
        """Give the digest of each chunk in order."""
        for start in range(0, len(self.digests), DIGEST):
            yield self.digests[start : start + DIGEST]

    def named(self) -> set[bytes]:
        """Give the digests that objects are needed for."""
        return set(self.chunks()) - {HOLE}

    def length(self, index: int) -> int:
        """Give the bytes of a chunk."""
        return min(self.head.chunk, self.head.size - index * self.head.chunk)

    def encode(self) -> bytes:
        """Give it as it stands in the bucket."""
        head = json.dumps(asdict(self.head), sort_keys=True).encode()
        packed = struct.pack(">I", len(head)) + head + self.digests
        return _MAGIC + hashlib.sha256(packed).digest() + zstandard.ZstdCompressor(_LEVEL).compress(packed)


def decode(content: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        Damaged: these are not the bytes that were put there.
    """
    try:
        if content[:4] != _MAGIC:
            raise Damaged("it is no manifest of a backup")
        packed = unpack(content[36:], _MOST)
        if hashlib.sha256(packed).digest() != content[4:36]:
            raise Damaged("its bytes are others than were put there")
        length = struct.unpack_from(">I", packed)[0]
        said: dict[str, Any] = json.loads(packed[4 : 4 + length])
        manifest = Manifest(Head(**said), packed[4 + length :])
        expected = -(-manifest.head.size // manifest.head.chunk)
    except (struct.error, ValueError, TypeError, ZeroDivisionError) as error:
        raise Damaged(f"it cannot be read: {error}") from error
    if len(manifest.digests) != expected * DIGEST:
        raise Damaged(f"it names {len(manifest.digests) // DIGEST} chunks, the volume has {expected}")
    return manifest


def pack(data: bytes | bytearray) -> bytes:
    """Give a chunk as it stands in the bucket: compressed, if that makes it smaller."""
    smaller = zstandard.ZstdCompressor(_LEVEL).compress(data)
    return b"z" + smaller if len(smaller) < len(data) else b"r" + bytes(data)


def open_chunk(content: bytes, digest: bytes, length: int) -> bytes:
    """Give the bytes of a chunk.

    Args:
        content: as it stands in the bucket.
        digest: of its bytes.
        length: how many they are.

    Raises:
        Damaged: they are others.
    """
    data = unpack(content[1:], length) if content[:1] == b"z" else content[1:] if content[:1] == b"r" else b""
    if len(data) != length or hashlib.sha256(data).digest() != digest:
        raise Damaged("its bytes are others than were put there")
    return data


def unpack(content: bytes, most: int) -> bytes:
    """Decompress no more than `most` bytes.

    Raises:
        Damaged: it cannot be, or there are more.
    """
    try:
        parameters = zstandard.get_frame_parameters(content)
        if parameters.content_size > most:
            raise Damaged(f"it has more than {most} bytes")
        return zstandard.ZstdDecompressor().decompress(content)
    except zstandard.ZstdError as error:
        raise Damaged(f"it cannot be decompressed: {error}") from error
