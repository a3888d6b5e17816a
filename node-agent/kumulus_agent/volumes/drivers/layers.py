"""What the files of volumes say (pure but for reading): records, layers, and which of them nothing needs.

A layer is named by its path below the driver's folder: ``<volume id>/<name>.qcow2``, ``<volume id>/first.raw`` for a
volume that several hosts may write, or ``<volume id>.raw`` for one of before there were layers. A qcow2 layer tells in
its header what it lies on, by a path from its own folder.
"""

from __future__ import annotations

import json
import posixpath
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from kumulus_agent.storage.errors import Terminal
from kumulus_agent.volumes.drivers.protocol import Format, Unreadable

RECORD: Final = "volume.json"
FIRST: Final = "first.qcow2"
"""Name of the layer that a volume begins with."""
FIRST_RAW: Final = "first.raw"
"""Name of the only layer of a volume that several hosts may write."""
MOST_LAYERS: Final = 32
_MAGIC: Final = b"QFI\xfb"
_LONGEST_NAME: Final = 1023
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@dataclass(frozen=True, slots=True)
class Record:
    """What a volume is made of.

    Attributes:
        active: the layer that is written; empty when the volume was removed and copies lie on its layers.
        snapshots: layers of snapshots by their id.
        pending: snapshot that was begun, and the layer that becomes active with it; both empty if none was. Without a
            snapshot and an active layer: see `arriving`.
        reverted: request of the last revert.
    """

    active: str
    snapshots: Mapping[str, str] = field(default_factory=dict)
    pending: tuple[str, str] = ("", "")
    reverted: str = ""

    @property
    def roots(self) -> frozenset[str]:
        """The layers that are needed for their own sake."""
        return frozenset({self.active, self.pending[1], *self.snapshots.values()} - {""})

    @property
    def arriving(self) -> str:
        """The layer into which a guest's volume is being copied, which does not lie here yet; empty if none is."""
        return self.pending[1] if not self.active and not self.pending[0] else ""

    def dump(self) -> bytes:
        """Give it as it stands in the file."""
        return json.dumps(asdict(self), sort_keys=True).encode()


@dataclass(frozen=True, slots=True)
class Shelf:
    """All volumes of a folder.

    Attributes:
        records: by the volume's id.
        below: what each layer lies on, empty for nothing.
        empty: ids of which an empty folder is left.
    """

    records: Mapping[str, Record]
    below: Mapping[str, str]
    empty: frozenset[str] = frozenset()

    def chain(self, layer: str) -> list[str]:
        """Give a layer and all that it lies on, from the top.

        Raises:
            Unreadable: a layer below is missing, or the layers lie on each other in a ring.
        """
        found = [layer]
        while below := self.below.get(found[-1], ""):
            if below not in self.below or below in found:
                raise Unreadable(f"layer {found[-1]} lies on {below}, which is not there: put it back")
            found.append(below)
        return found


def check_name(name: str) -> str:
    """Give an id back that is fit for a file name.

    Raises:
        Terminal: it could lead elsewhere.
    """
    if not 0 < len(name) <= 128 or not set(name) <= _PLAIN or name[0] in ".-_":
        raise Terminal(f"volume id {name!r} is not a plain name")
    return name


def raw_layer(volume_id: str) -> str:
    """Give the layer of a volume of before."""
    return f"{volume_id}.raw"


def is_for_several(layer: str) -> bool:
    """Give whether several hosts may write to a layer."""
    return layer.endswith(f"/{FIRST_RAW}")


def layer_format(layer: str) -> Format:
    """Give the format of a layer: never guessed from what a guest can write."""
    return "raw" if layer.endswith(".raw") else "qcow2"


def owner(layer: str) -> str:
    """Give the id of the volume in whose folder a layer is."""
    return layer.partition("/")[0].removesuffix(".raw")


def below_name(layer: str) -> str:
    """Give what stands in a header for lying on a layer: all folders lie side by side."""
    return f"../{layer}"


def read_record(root: Path, volume_id: str) -> Record | None:
    """Give what a volume is made of; None if it is not here and was not.

    Raises:
        Unreadable: it cannot be told.
    """
    try:
        said = json.loads((root / volume_id / RECORD).read_bytes())
        pending = said["pending"]
        return Record(str(said["active"]), dict(said["snapshots"]), (pending[0], pending[1]), str(said["reverted"]))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise Unreadable(f"the record {root / volume_id / RECORD} cannot be read ({error}): put it back") from error
    return Record(raw_layer(volume_id)) if (root / raw_layer(volume_id)).exists() else None


def read_below(path: Path, root: Path) -> str:
    """Give the layer that a qcow2 layer lies on; empty if none.

    Raises:
        Unreadable: it is no qcow2 file of ours.
    """
    try:
        with path.open("rb") as file:
            head = file.read(32)
            if len(head) < 32 or head[:4] != _MAGIC:
                raise Unreadable(f"layer {path} is no qcow2 file: put it back")
            offset, length = struct.unpack_from(">QI", head, 8)
            if not offset:
                return ""
            file.seek(offset)
            name = file.read(min(length, _LONGEST_NAME)).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"layer {path} cannot be read: {error}") from error
    return posixpath.normpath(posixpath.join(path.parent.relative_to(root).as_posix(), name))


def read_shelf(root: Path) -> Shelf:
    """Read all records and headers of a folder. Blocks.

    Raises:
        Unreadable: one of them cannot be read; nothing may be removed then.
    """
    records: dict[str, Record] = {}
    below: dict[str, str] = {}
    empty: set[str] = set()
    for entry in sorted(root.iterdir() if root.exists() else ()):
        if entry.name.startswith("."):
            continue
        if entry.suffix == ".raw" and entry.is_file():
            below[entry.name] = ""
        elif not entry.is_dir():
            continue
        elif not any(entry.iterdir()):
            empty.add(entry.name)
        volume_id = entry.name.removesuffix(".raw")
        record = read_record(root, volume_id)
        if record is not None:
            records[volume_id] = record
        if entry.is_dir() and (entry / FIRST_RAW).exists():
            below[f"{volume_id}/{FIRST_RAW}"] = ""
        for layer in sorted(entry.glob("[!.]*.qcow2")) if entry.is_dir() else ():
            below[f"{volume_id}/{layer.name}"] = read_below(layer, root)
    return Shelf(records, below, frozenset(empty))


def garbage(shelf: Shelf, volume_id: str) -> list[str]:
    """Give the layers that go, upper ones first: no record names them and nothing lies on them.

    Looked at are those of one volume and those of removed ones, which copies may have been lying on.
    """
    roots = {root for record in shelf.records.values() for root in record.roots}
    gone = {known for known, record in shelf.records.items() if not record.active} | {volume_id}
    candidates = {layer for layer in shelf.below if owner(layer) in gone and layer not in roots}
    found: list[str] = []
    while True:
        lain_on = {below for layer, below in shelf.below.items() if layer not in found}
        free = sorted(candidates - lain_on - set(found))
        if not free:
            return found
        found += free


def mergeable(shelf: Shelf, volume_id: str) -> Iterator[tuple[str, str]]:
    """Give the layers of a volume that can take in what they lie on, each with what it lies on then.

    What is taken in is needed by nothing else; on the layer itself lies nothing of another volume, which a guest may be
    reading.
    """
    record = shelf.records.get(volume_id)
    roots = {root for known in shelf.records.values() for root in known.roots}
    for layer in sorted(record.roots) if record is not None else ():
        below = shelf.below.get(layer, "")
        foreign = any(
            layer in shelf.chain(other)[1:] and owner(other) != volume_id for other in shelf.below if other != layer
        )
        if not below or foreign or layer_format(layer) == "raw" or below in roots:
            continue
        if sum(lies_on == below for lies_on in shelf.below.values()) == 1:
            yield layer, shelf.below.get(below, "")
