"""Debian packages as raw material: resolved, downloaded and unpacked below the cache, never installed.

Nothing here changes the machine: `apt-get download` reads the machine's own package lists (so its mirrors, keys and
proxies are honoured) and `dpkg-deb --extract` unpacks into a directory.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kumulus_lab import commands
from kumulus_lab.errors import CommandFailed, Unsuitable

_APT_OPTIONS = ("-o", "APT::Sandbox::User=root", "-q")
_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class PackageSet:
    """Debian packages at the versions the machine's package lists name.

    Attributes:
        names: The package names, sorted.
        fingerprint: Hex digest that changes when any version or file changes.
    """

    names: tuple[str, ...]
    fingerprint: str


def run(argv: Sequence[str | Path], *, cwd: Path | None = None) -> str:
    """Run a tool of an image build to its end and return what it wrote to its standard output.

    Raises:
        CommandFailed: it failed; the message holds the end of what it said.
        TimedOut: it took longer than any such step should.
    """
    return commands.run(argv, cwd=cwd, timeout=_TIMEOUT_SECONDS).stdout


def kernel_package(meta_package: str) -> str:
    """Name the package behind a kernel's meta package, such as `linux-image-6.1.0-30-cloud-amd64`.

    Raises:
        CommandFailed: The meta package is unknown to apt.
        Unsuitable: It depends on no kernel.
    """
    for line in _ask(["apt-cache", "depends", meta_package]).splitlines():
        relation, _, name = line.strip().partition(": ")
        if relation == "Depends" and name.startswith("linux-image-"):
            return name
    raise Unsuitable(f"{meta_package} depends on no linux-image package; run apt-get update and look again")


def resolve(names: Iterable[str]) -> PackageSet:
    """Ask apt which files it would download, without downloading.

    Raises:
        CommandFailed: apt knows no such package.
    """
    wanted = tuple(sorted(names))
    uris = _ask(["apt-get", *_APT_OPTIONS, "--print-uris", "download", *wanted])
    # Only the file name and its digest count: a mirror's address does not change the content.
    facts = sorted(" ".join(line.split()[1:]) for line in uris.splitlines() if line.startswith("'"))
    return PackageSet(wanted, hashlib.sha256("\n".join(facts).encode()).hexdigest())


def unpack(packages: PackageSet, cache: Path) -> Path:
    """Download and unpack packages into one tree below the cache, once for each fingerprint.

    Returns:
        The root of the unpacked tree.

    Raises:
        CommandFailed: apt or dpkg refused.
    """
    tree = cache / "packages" / packages.fingerprint[:16]
    if tree.exists():
        return tree
    scratch = tree.with_suffix(".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "debs").mkdir(parents=True)
    run(["apt-get", *_APT_OPTIONS, "download", *packages.names], cwd=scratch / "debs")
    for archive in sorted((scratch / "debs").glob("*.deb")):
        run(["dpkg-deb", "--extract", archive, scratch / "root"])
    (scratch / "root").rename(tree)
    shutil.rmtree(scratch)
    return tree


def _ask(argv: Sequence[str]) -> str:
    """Ask apt, and once more with fresh package lists if it refuses (new machines and containers have none)."""
    try:
        return run(argv)
    except CommandFailed:
        run(["apt-get", "update", "-q"])
        return run(argv)
