"""Container images made of a few files, without a container engine: an archive that ``ctr images import`` takes."""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from kumulus_lab import builds, commands
from kumulus_lab.settings import LabSettings

BUSYBOX = "kumulus.local/busybox:1"
"""Serves as the pods' pause container and as a shell for tests."""
COREDNS = "kumulus.local/coredns:2"
"""The tag counts with what the program can do: a lab that has an older one gets the new one beside it."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_archive(
    target: Path,
    reference: str,
    files: Mapping[str, Path],
    *,
    links: Mapping[str, str] | None = None,
    entrypoint: Sequence[str] = (),
) -> None:
    """Write an image of one layer as a docker-archive.

    Args:
        target: the archive; replaced when it exists.
        reference: the image's name and tag.
        files: path in the image (without a leading slash) to file; each becomes executable.
        links: path in the image to the target of a symbolic link.
        entrypoint: what a container runs.
    """
    layer = target.with_suffix(".layer")
    _write_layer(layer, files, links or {})
    with layer.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Entrypoint": list(entrypoint), "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]
    draft = target.with_suffix(".new")
    with tarfile.open(draft, "w") as archive:
        _add_bytes(archive, "config.json", config)
        _add_bytes(archive, "manifest.json", json.dumps(manifest).encode())
        archive.add(layer, "layer.tar")
    layer.unlink()
    draft.replace(target)


def _write_layer(target: Path, files: Mapping[str, Path], links: Mapping[str, str]) -> None:
    with tarfile.open(target, "w") as layer:
        for folder in ("bin", "etc", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            layer.addfile(entry)
        for name, source in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = source.stat().st_size, 0o755
            with source.open("rb") as stream:
                layer.addfile(entry, stream)
        for name, destination in sorted(links.items()):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, destination
            layer.addfile(entry)


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def ensure_busybox(settings: LabSettings) -> Path:
    """The archive of the busybox image, with a link for each of its programs."""
    target = settings.state / "images" / "busybox.tar"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        programs = commands.run(["busybox", "--list"]).stdout.split()
        write_archive(
            target,
            BUSYBOX,
            {"bin/busybox": Path("/bin/busybox").resolve()},
            links={f"bin/{name}": "busybox" for name in programs if name != "busybox"},
            entrypoint=("/bin/sleep", "2147483647"),
        )
    return target


def ensure_coredns(settings: LabSettings) -> Path:
    """The archive of the CoreDNS image."""
    target = settings.state / "images" / f"coredns-{COREDNS.rpartition(':')[2]}.tar"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        binary = Path(builds.program(settings, "coredns")).resolve()
        write_archive(target, COREDNS, {"bin/coredns": binary}, entrypoint=("/bin/coredns",))
    return target
