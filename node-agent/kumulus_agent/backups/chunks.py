"""The objects of a project's backups in a bucket. Blocks.

::

    <prefix>volume_backups/<namespace>/manifests/<backup>/<chain>    a backup; without it there is none
    <prefix>volume_backups/<namespace>/chunks/<chain>/<digest>       what the backups of a chain share

No project has a name with an underscore, so images of none lie there (`kumulus_agent.images.stores`).
Nothing is removed from a chain while a backup is being added to it: the operator sees to that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import obstore
from obstore.exceptions import NotFoundError
from obstore.store import S3Store

from kumulus_agent.backups.manifest import Damaged, Manifest, decode, open_chunk
from kumulus_agent.storage.bucket import Refused

_AT_ONCE: Final = 500


class Objects:
    """What a project has in the bucket.

    Args:
        store: the bucket.
        prefix: what the keys of all objects begin with.
        namespace: of the project.
    """

    def __init__(self, store: S3Store, prefix: str, namespace: str) -> None:
        self._store = store
        self._root = f"{prefix}volume_backups/{namespace}"

    def chunks(self, chain: str) -> set[bytes]:
        """Give the digests of the chunks that a chain has."""
        return {digest for part in self._keys(f"{self._root}/chunks/{chain}") for digest in _digests(part)}

    def put_chunk(self, chain: str, digest: bytes, content: bytes) -> None:
        """Put a chunk; the service compares its bytes."""
        obstore.put(self._store, self._chunk(chain, digest), content, use_multipart=False)

    def get_chunk(self, chain: str, digest: bytes, length: int) -> bytes:
        """Give the bytes of a chunk.

        Raises:
            Damaged: it is missing, or is another.
        """
        try:
            content = bytes(obstore.get(self._store, self._chunk(chain, digest)).bytes())
        except (NotFoundError, FileNotFoundError) as error:
            raise Damaged("it is missing") from error
        return open_chunk(content, digest, length)

    def put_manifest(self, manifest: Manifest) -> None:
        """Make a backup of what was put, and see that it is there."""
        key = self._manifest(manifest.head.backup_id, manifest.head.chain)
        content = manifest.encode()
        obstore.put(self._store, key, content, use_multipart=False)
        if bytes(obstore.get(self._store, key).bytes()) != content:
            obstore.delete(self._store, key)
            raise Refused("Failed", f"what {key} has in the bucket is not what was put there")

    def manifest(self, backup_id: str, chain: str) -> Manifest | None:
        """Give a backup; None if there is none.

        Raises:
            Refused: its manifest is damaged.
        """
        try:
            content = bytes(obstore.get(self._store, self._manifest(backup_id, chain)).bytes())
        except (NotFoundError, FileNotFoundError):
            return None
        try:
            return decode(content)
        except Damaged as error:
            raise Refused("Damaged", f"the manifest of backup {backup_id} is damaged: {error}") from error

    def chain_of(self, backup_id: str) -> str | None:
        """Give the chain of a backup of which only the id is known."""
        return next((chain for _, chain in self._backups(f"{self._root}/manifests/{backup_id}")), None)

    def backups(self, chain: str) -> list[str]:
        """Give the ids of all backups of a chain, of which the API may know fewer."""
        return [backup_id for backup_id, its in self._backups(f"{self._root}/manifests") if its == chain]

    def remove_manifest(self, backup_id: str, chain: str) -> None:
        """Make a backup none; absent is success."""
        self._remove([self._manifest(backup_id, chain)])

    def remove_chunks(self, chain: str, needed: set[bytes]) -> int:
        """Remove the chunks of a chain that are not needed; give how many."""
        removed = 0
        for part in self._keys(f"{self._root}/chunks/{chain}"):
            going = [self._chunk(chain, digest) for digest in _digests(part) if digest not in needed]
            self._remove(going)
            removed += len(going)
        return removed

    def _remove(self, keys: list[str]) -> None:
        for key in keys:
            try:
                obstore.delete(self._store, key)
            except (NotFoundError, FileNotFoundError):
                continue

    def _backups(self, below: str) -> Iterator[tuple[str, str]]:
        for part in self._keys(below):
            for key in part:
                backup_id, _, chain = key.removeprefix(f"{self._root}/manifests/").partition("/")
                yield backup_id, chain

    def _keys(self, below: str) -> Iterator[list[str]]:
        for items in obstore.list(self._store, below, chunk_size=_AT_ONCE):
            yield [item["path"] for item in items]

    def _chunk(self, chain: str, digest: bytes) -> str:
        return f"{self._root}/chunks/{chain}/{digest.hex()}"

    def _manifest(self, backup_id: str, chain: str) -> str:
        return f"{self._root}/manifests/{backup_id}/{chain}"


def _digests(keys: list[str]) -> Iterator[bytes]:
    """Give the digests in keys of chunks; a key that is none of ours is left alone."""
    for key in keys:
        name = key.rpartition("/")[2]
        if len(name) == 64 and set(name) <= _HEX:
            yield bytes.fromhex(name)


_HEX: Final = frozenset("0123456789abcdef")
