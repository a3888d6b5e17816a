"""Volumes as folders of layers: what both drivers do alike.

The record of a volume is what commits a step: a layer that no record names, and on which none lies that one names, is
not there for anybody, and the next step removes it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from kumulus_agent.storage.errors import Retryable
from kumulus_agent.storage.root_disk import virtual_size
from kumulus_agent.volumes.drivers.encrypted import EncryptedFiles
from kumulus_agent.volumes.drivers.files import Files
from kumulus_agent.volumes.drivers.keys import VolumeKey
from kumulus_agent.volumes.drivers.layers import (
    FIRST,
    FIRST_RAW,
    MOST_LAYERS,
    RECORD,
    Record,
    Shelf,
    below_name,
    check_name,
    garbage,
    is_for_several,
    layer_format,
    mergeable,
    owner,
    raw_layer,
    read_below,
    read_record,
    read_shelf,
)
from kumulus_agent.volumes.drivers.lock import locked
from kumulus_agent.volumes.drivers.protocol import (
    DataGone,
    Found,
    ImageOrigin,
    Origin,
    OriginGone,
    SizeTooSmall,
    SnapshotMissing,
    SnapshotOrigin,
    TooManyLayers,
    WrittenBySeveral,
)
from kumulus_agent.volumes.drivers.raw import fill_raw

_SECTOR: Final = 512


class FolderDriver:
    """A `VolumeDriver` for one folder.

    Args:
        root: the folder of the volumes; QEMU and libvirt know them by it.
        files: what changes files.
        check: raises if the folder is not what it should be.
        works: locks of volumes, where another driver of the folder has some.
    """

    def __init__(
        self,
        root: Path,
        files: Files | None = None,
        check: Callable[[], None] = lambda: None,
        *,
        works: WeakValueDictionary[str, asyncio.Lock] | None = None,
    ) -> None:
        self._root = root
        self._files = files or Files()
        self._check = check
        self._works: WeakValueDictionary[str, asyncio.Lock] = works if works is not None else WeakValueDictionary()
        self.key: VolumeKey | None = None

    def with_key(self, key: VolumeKey, files: Files | None = None) -> FolderDriver:
        """See `VolumeDriver`; `files` is what changes files."""
        keyed = FolderDriver(self._root, files or EncryptedFiles(key), self._check, works=self._works)
        keyed.key = key
        return keyed

    async def look(self, volume_id: str) -> Found | None:
        """See `VolumeDriver`."""
        await asyncio.to_thread(self._check)
        return await asyncio.to_thread(self._look, check_name(volume_id))

    async def make(
        self,
        volume_id: str,
        size_bytes: int,
        origin: Origin | None = None,
        *,
        known: bool = False,
        raw: bool = False,
    ) -> Found:
        """See `VolumeDriver`."""
        async with self._at(volume_id):
            await self._files.make_folder(self._root)
            if await asyncio.to_thread(self._look, volume_id) is None:
                await self._make(volume_id, _whole(size_bytes), origin, known=known, raw=raw)
            await self._end_snapshot(volume_id)
            await self._grow(volume_id, _whole(size_bytes))
            found = await asyncio.to_thread(self._look, volume_id)
            assert found is not None  # noqa: S101 - else growing it has raised
            return found

    async def grow(self, volume_id: str, size_bytes: int) -> None:
        """See `VolumeDriver`."""
        async with self._at(volume_id):
            await self._end_snapshot(volume_id)
            await self._grow(volume_id, _whole(size_bytes))

    async def begin_snapshot(self, volume_id: str, snapshot_id: str) -> Path | None:
        """See `VolumeDriver`."""
        async with self._at(volume_id):
            return await self._begin_snapshot(volume_id, check_name(snapshot_id))

    async def end_snapshot(self, volume_id: str) -> None:
        """See `VolumeDriver`."""
        async with self._at(volume_id):
            await self._end_snapshot(volume_id)

    async def cancel_snapshot(self, volume_id: str) -> None:
        """See `VolumeDriver`."""
        async with self._at(volume_id), self._held():
            record = await self._record(volume_id)
            if record.pending[1]:
                await self._write(volume_id, replace(record, pending=("", "")))
            await self._collect(volume_id)

    async def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """See `VolumeDriver`."""
        async with self._at(volume_id):
            await self._end_snapshot(volume_id)  # one for a guest that is off by now
            await self._begin_snapshot(volume_id, check_name(snapshot_id))
            await self._end_snapshot(volume_id)

    async def revert(self, volume_id: str, snapshot_id: str, request: str) -> None:
        """See `VolumeDriver`."""
        async with self._at(volume_id):
            await self._end_snapshot(volume_id)
            async with self._held():
                record = await self._record(volume_id)
                if record.reverted != request:
                    layer = record.snapshots.get(snapshot_id)
                    if layer is None:
                        raise SnapshotMissing(f"volume {volume_id} has no snapshot {snapshot_id}: revert it to another")
                    size = await asyncio.to_thread(_size, self._root / record.active)
                    fresh = await self._layer_on(volume_id, layer, size)
                    await self._write(volume_id, replace(record, active=fresh, reverted=request))
                await self._collect(volume_id)

    async def remove_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """See `VolumeDriver`."""
        async with self._at(volume_id):
            record = await asyncio.to_thread(read_record, self._root, volume_id)
            if record is None:
                return
            async with self._held():
                record = await asyncio.to_thread(read_record, self._root, volume_id) or record
                if snapshot_id in record.snapshots:
                    kept = {known: layer for known, layer in record.snapshots.items() if known != snapshot_id}
                    await self._write(volume_id, replace(record, snapshots=kept))
                await self._collect(volume_id)

    async def merge(self, volume_id: str) -> int:
        """See `VolumeDriver`."""
        async with self._at(volume_id):
            await self._end_snapshot(volume_id)
            for merged in range(MOST_LAYERS):
                async with self._held():
                    await self._collect(volume_id)
                    shelf = await self._shelf()
                found = next(mergeable(shelf, volume_id), None)
                if found is None:
                    return merged
                layer, below = found
                # Not under the lock, as it copies data: QEMU's own locks keep guests from a layer that changes.
                lies_on = (below_name(below), layer_format(below)) if below else None
                await self._files.lower(self._root / layer, lies_on)
        return MOST_LAYERS

    async def adopt(self, volume_id: str, file: Path) -> None:
        """See `VolumeDriver`."""
        async with self._at(volume_id), self._held():
            await self._clear_parts(volume_id, but=file)
            part = self._root / f".{volume_id}.{uuid.uuid4().hex}"
            await self._files.make_folder(part)
            await self._files.write(part / RECORD, Record(f"{volume_id}/{FIRST}").dump())
            await self._files.move(file, part / FIRST)
            await self._files.publish_folder(part, self._root / volume_id)

    async def remove(self, volume_id: str) -> None:
        """See `VolumeDriver`."""
        async with self._at(volume_id):
            if not await asyncio.to_thread(self._root.exists):
                return
            async with self._held():
                await self._clear_parts(volume_id)
                if await asyncio.to_thread((self._root / volume_id).exists):
                    record = await asyncio.to_thread(read_record, self._root, volume_id)
                    if record is not None and (record.active or record.arriving):
                        await self._write(volume_id, Record(""))
                else:
                    await self._files.remove_file(self._root / raw_layer(volume_id))
                await self._collect(volume_id)

    async def _begin_snapshot(self, volume_id: str, snapshot_id: str) -> Path | None:
        async with self._held():
            record = await self._record(volume_id)
            if is_for_several(record.active):
                raise WrittenBySeveral(f"volume {volume_id} is for several servers: give it another class first")
            if snapshot_id in record.snapshots:
                return None
            if record.pending[1]:
                if record.pending[0] != snapshot_id:
                    raise Retryable(f"snapshot {record.pending[0]} of volume {volume_id} was begun and has not ended")
                return self._root / record.pending[1]
            shelf = await self._collect(volume_id)
            if len(shelf.chain(record.active)) >= MOST_LAYERS:
                raise TooManyLayers(
                    f"volume {volume_id} lies on {MOST_LAYERS} files already: delete snapshots of it, and detach it "
                    "for a while, so that they are merged"
                )
            layer = await self._layer_on(volume_id, record.active)
            await self._write(volume_id, replace(record, pending=(snapshot_id, layer)))
            return self._root / layer

    async def _end_snapshot(self, volume_id: str) -> None:
        record = await self._record(volume_id)
        if not record.pending[1]:
            return
        async with self._held():
            await self._clear_parts(volume_id)
            snapshot_id, layer = record.pending
            snapshots = {**record.snapshots, snapshot_id: record.active}
            await self._write(volume_id, replace(record, active=layer, snapshots=snapshots, pending=("", "")))

    async def _grow(self, volume_id: str, size: int) -> None:
        record = await self._record(volume_id)
        path = self._root / record.active
        if await asyncio.to_thread(_size, path) < size:
            async with self._held():
                # Another host may have made it larger still; a raw file would become shorter.
                if await asyncio.to_thread(_size, path) < size:
                    await self._files.resize(path, layer_format(record.active), size)

    async def _make(self, volume_id: str, size: int, origin: Origin | None, *, known: bool, raw: bool) -> None:
        record = await asyncio.to_thread(read_record, self._root, volume_id)
        if known or record is not None:
            raise DataGone(
                f"the data of volume {volume_id} is gone: put {self._root / volume_id} back, or delete the Volume"
            )
        # Nobody else is at work on a volume that is not there yet.
        await self._clear_parts(volume_id)
        part = self._root / f".{volume_id}.{uuid.uuid4().hex}"
        if isinstance(origin, ImageOrigin):
            _check_size(origin, size)
        if raw:
            await fill_raw(self._files, part, volume_id, origin, size)
            async with self._held():
                await self._files.publish_folder(part, self._root / volume_id)
            return
        if isinstance(origin, ImageOrigin):
            await self._files.make_folder(part)
            await self._files.copy_image(origin.path, origin.format, part / FIRST, size)
        async with self._held():
            below = await self._below(origin, size) if isinstance(origin, SnapshotOrigin) else None
            await self._files.make_folder(part)
            if not isinstance(origin, ImageOrigin):
                lies_on = (below_name(below), layer_format(below)) if below is not None else None
                await self._files.make_layer(part / FIRST, size, lies_on)
            await self._files.write(part / RECORD, Record(f"{volume_id}/{FIRST}").dump())
            await self._files.publish_folder(part, self._root / volume_id)

    async def _below(self, origin: SnapshotOrigin, size: int) -> str:
        record = await asyncio.to_thread(read_record, self._root, check_name(origin.volume_id))
        layer = record.snapshots.get(origin.snapshot_id) if record is not None else None
        if layer is None:
            what = f"snapshot {origin.snapshot_id} of volume {origin.volume_id}"
            raise OriginGone(f"{what} is not in {self._root}: make the Volume of another source")
        shelf = await self._shelf()
        if len(shelf.chain(layer)) >= MOST_LAYERS:
            raise TooManyLayers(f"the snapshot lies on {MOST_LAYERS} files already: use one of another volume")
        needed = await asyncio.to_thread(_size, self._root / layer)
        if needed > size:
            raise _too_small("the snapshot", needed, size)
        return layer

    async def _layer_on(self, volume_id: str, below: str, size: int = 0) -> str:
        """Make a layer that lies on one, with its size or a larger one; give it. The lock is held."""
        size = max(size, await asyncio.to_thread(_size, self._root / below))
        name = f"{uuid.uuid4().hex}.qcow2"
        lies_on = (below_name(below), layer_format(below))
        folder = self._root / volume_id
        if await asyncio.to_thread(folder.exists):
            await self._files.make_layer(folder / name, size, lies_on)
            return f"{volume_id}/{name}"
        # A raw volume of before: its folder comes with a record that says what it was.
        part = self._root / f".{volume_id}.{uuid.uuid4().hex}"
        await self._files.make_folder(part)
        await self._files.make_layer(part / name, size, lies_on)
        await self._files.write(part / RECORD, Record(raw_layer(volume_id)).dump())
        await self._files.publish_folder(part, folder)
        return f"{volume_id}/{name}"

    async def _collect(self, volume_id: str) -> Shelf:
        """Remove what nothing needs any more; give what was there. The lock is held."""
        await self._clear_parts(volume_id)
        shelf = await self._shelf()
        unneeded = garbage(shelf, volume_id)
        for layer in unneeded:
            await self._files.remove_file(self._root / layer)
        kept = {owner(layer) for layer in shelf.below if layer not in unneeded}
        removed = {known for known, record in shelf.records.items() if not record.active}
        for known in sorted((removed - kept) | shelf.empty):
            await self._files.remove_folder(self._root / known)
        return shelf

    async def _clear_parts(self, volume_id: str, but: Path | None = None) -> None:
        """Remove what half steps on a volume have left, but one file: one host at a time works on it."""
        for part in await asyncio.to_thread(_parts, self._root, volume_id):
            if part == but:
                continue
            if part.is_dir():
                await self._files.remove_folder(part)
            else:
                await self._files.remove_file(part)

    async def _record(self, volume_id: str) -> Record:
        record = await asyncio.to_thread(read_record, self._root, check_name(volume_id))
        if record is None or not record.active or not (self._root / record.active).exists():
            raise DataGone(f"the data of volume {volume_id} is not in {self._root}: put it back, or delete the Volume")
        return record

    async def _write(self, volume_id: str, record: Record) -> None:
        await self._files.write(self._root / volume_id / RECORD, record.dump())

    async def _shelf(self) -> Shelf:
        return await asyncio.to_thread(read_shelf, self._root)

    @asynccontextmanager
    async def _at(self, volume_id: str) -> AsyncIterator[None]:
        """Be the only one in this process who works on a volume."""
        async with self._works.setdefault(check_name(volume_id), asyncio.Lock()):
            await asyncio.to_thread(self._check)
            yield

    def _held(self) -> AbstractAsyncContextManager[None]:
        """Be the only one on any host who changes what lies on what."""
        return locked(self._root)

    def _look(self, volume_id: str) -> Found | None:
        record = read_record(self._root, volume_id)
        if record is None or not record.active:
            return None
        path = self._root / record.active
        if not path.exists():
            return None
        folder = self._root / volume_id
        own = [*folder.glob("*.qcow2"), folder / FIRST_RAW, self._root / raw_layer(volume_id)]
        return Found(
            path=path,
            format=layer_format(record.active),
            size=_size(path),
            used=sum(file.stat().st_blocks * 512 for file in own if file.exists()),
            snapshots={known: _size(self._root / layer) for known, layer in record.snapshots.items()},
            pending=record.pending[0],
            layers=_depth(self._root, record.active),
            reverted=record.reverted,
        )


def _whole(size: int) -> int:
    """Give a size in whole sectors, which is what QEMU can offer."""
    return -(-size // _SECTOR) * _SECTOR


def _size(path: Path, file_format: str = "") -> int:
    if (file_format or layer_format(path.name)) == "raw":
        return path.stat().st_size
    return virtual_size(path)


def _check_size(image: ImageOrigin, size: int) -> None:
    needed = _size(image.path, image.format)
    if needed > size:
        raise _too_small("the image", needed, size)


def _depth(root: Path, layer: str) -> int:
    depth = 1
    while layer_format(layer) == "qcow2" and depth <= 2 * MOST_LAYERS and (layer := read_below(root / layer, root)):
        depth += 1
    return depth


def _parts(root: Path, volume_id: str) -> list[Path]:
    arrived = root / f"{volume_id}.qcow2"  # and was not adopted
    return [*root.glob(f".{volume_id}.*"), *(root / volume_id).glob(".*"), *([arrived] if arrived.exists() else [])]


def _too_small(what: str, needed: int, size: int) -> SizeTooSmall:
    return SizeTooSmall(f"{what} needs {needed} bytes, the volume has {size}: make it larger")
