"""An OCI image layout whose layers are kept uncompressed, so that images share them and only new ones are written.

buildah compresses each layer that the layout lacks under the digest of its *content*; compressing all of them again
for a changed line of source takes half a minute. So after each push the compressed layers are unpacked, under the
digests that buildah looks for, and a second push finds them all.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"
_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
_CHUNK = 1 << 20


class Layout:
    """A folder of images, as `image-spec/image-layout.md` of OCI describes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def has(self, reference: str) -> bool:
        """Whether an image of that name is there, and complete."""
        entry = self._entry(reference)
        return entry is not None and all(self._blob(digest).exists() for digest in self._blobs(entry))

    def add(self, reference: str, push: Callable[[], None]) -> None:
        """Add an image, its layers uncompressed.

        Args:
            reference: its name.
            push: writes the image into this layout under that name.
        """
        push()
        if self._unpack(reference):
            push()

    def prune(self, prefix: str, keep: int) -> list[str]:
        """Drop all but the newest images whose names begin with a prefix, and what no image needs any more.

        Returns:
            The names dropped.
        """
        index = self._index()
        # buildah appends, so the oldest come first.
        names = [entry["annotations"][_NAME] for entry in index["manifests"] if _named(entry).startswith(prefix)]
        dropped = names[:-keep]
        # Those without a name were replaced by others of theirs.
        index["manifests"] = [entry for entry in index["manifests"] if _named(entry) not in ("", *dropped)]
        draft = self.path / "index.json.new"
        draft.write_text(json.dumps(index))
        draft.replace(self.path / "index.json")
        needed = {digest for entry in index["manifests"] for digest in self._blobs(entry)}
        for blob in (self.path / "blobs" / "sha256").iterdir():
            if f"sha256:{blob.name}" not in needed:
                blob.unlink()
        return dropped

    def write_archive(self, target: Path, reference: str, without: frozenset[str] = frozenset()) -> None:
        """Write an image as a tar archive for `ctr images import`.

        Args:
            target: the archive.
            reference: the image's name.
            without: digests that the importing side has already.
        """
        entry = self._entry(reference)
        if entry is None:
            raise KeyError(reference)
        named = {**entry, "annotations": {_NAME: reference, _CONTAINERD_NAME: reference}}
        with tarfile.open(target, "w") as archive:
            _add(archive, "oci-layout", {"imageLayoutVersion": "1.0.0"})
            _add(archive, "index.json", {"schemaVersion": 2, "manifests": [named]})
            for digest in self._blobs(entry):
                if digest not in without:
                    archive.add(self._blob(digest), f"blobs/{digest.replace(':', '/')}")

    def _unpack(self, reference: str) -> bool:
        """Put the content of the image's compressed layers beside them; whether there were any."""
        entry = self._entry(reference)
        manifest = self._read(entry["digest"]) if entry else {"layers": []}
        packed = [layer["digest"] for layer in manifest["layers"] if layer["mediaType"] == _GZIP]
        for digest in packed:
            draft = self.path / "unpacked.new"
            with gzip.open(self._blob(digest)) as source, draft.open("wb") as sink:
                shutil.copyfileobj(source, sink, _CHUNK)
            with draft.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            draft.replace(self._blob(f"sha256:{content}"))
        return bool(packed)

    def _index(self) -> dict[str, Any]:
        try:
            index: dict[str, Any] = json.loads((self.path / "index.json").read_text())
        except FileNotFoundError:
            return {"manifests": []}
        return index

    def _entry(self, reference: str) -> dict[str, Any] | None:
        return next((entry for entry in self._index()["manifests"] if _named(entry) == reference), None)

    def _blobs(self, entry: dict[str, Any]) -> list[str]:
        """Digests of all that an image consists of, its manifest first."""
        if not self._blob(entry["digest"]).exists():
            return [entry["digest"]]
        manifest = self._read(entry["digest"])
        return [entry["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]

    def _read(self, digest: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._blob(digest).read_text())
        return content

    def _blob(self, digest: str) -> Path:
        return self.path / "blobs" / digest.replace(":", "/")


def _named(entry: dict[str, Any]) -> str:
    name: str = entry.get("annotations", {}).get(_NAME, "")
    return name


def _add(archive: tarfile.TarFile, name: str, content: dict[str, Any]) -> None:
    data = json.dumps(content).encode()
    header = tarfile.TarInfo(name)
    header.size = len(data)
    archive.addfile(header, io.BytesIO(data))
