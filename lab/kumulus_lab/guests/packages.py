"""Debian packages as raw material: resolved, downloaded and unpacked below the cache, never installed.

Nothing here changes the machine: `apt-get download` reads the machine's own package lists (so its mirrors, keys and
proxies are honoured) and `dpkg-deb --extract` unpacks into a directory.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_APT_OPTIONS = ("-o", "APT::Sandbox::User=root", "-q")
_TIMEOUT_SECONDS = 300


class PackageError(RuntimeError):
    """A Debian package could not be resolved, downloaded or unpacked."""


@dataclass(frozen=True)
class PackageSet:
    """Debian packages at the versions the machine's package lists name.

    Attributes:
        names: The package names, sorted.
        fingerprint: Hex digest that changes when any version or file changes.
    """

    names: tuple[str, ...]
    fingerprint: str


def run(arguments: Iterable[str | Path], *, cwd: Path | None = None, timeout: float = _TIMEOUT_SECONDS) -> str:
    """Run a command to its end.

    Args:
        arguments: The command and its arguments; no shell is involved.
        cwd: Directory to run in.
        timeout: Limit in seconds.

    Returns:
        What it wrote to its standard output.

    Raises:
        PackageError: It failed; the message holds the end of what it said.
    """
    command = [str(argument) for argument in arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise PackageError(f"{' '.join(command[:6])} ended with {done.returncode}: {said}")
    return done.stdout


def kernel_package(meta_package: str) -> str:
    """Name the package behind a kernel's meta package, such as `linux-image-6.1.0-30-cloud-amd64`.

    Raises:
        PackageError: The meta package is unknown to apt or depends on no kernel.
    """
    _ensure_lists(meta_package)
    for line in run(["apt-cache", "depends", meta_package]).splitlines():
        relation, _, name = line.strip().partition(": ")
        if relation == "Depends" and name.startswith("linux-image-"):
            return name
    raise PackageError(f"{meta_package} depends on no linux-image package; run apt-get update and look again")


def resolve(names: Iterable[str]) -> PackageSet:
    """Ask apt which files it would download, without downloading.

    Raises:
        PackageError: apt knows no such package.
    """
    wanted = tuple(sorted(names))
    for name in wanted:
        _ensure_lists(name)
    uris = run(["apt-get", *_APT_OPTIONS, "--print-uris", "download", *wanted])
    # Only the file name and its digest count: a mirror's address does not change the content.
    facts = sorted(" ".join(line.split()[1:]) for line in uris.splitlines() if line.startswith("'"))
    return PackageSet(wanted, hashlib.sha256("\n".join(facts).encode()).hexdigest())


def unpack(packages: PackageSet, cache: Path) -> Path:
    """Download and unpack packages into one tree below the cache, once for each fingerprint.

    Returns:
        The root of the unpacked tree.

    Raises:
        PackageError: apt or dpkg refused.
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


def _ensure_lists(name: str) -> None:
    """Fetch the package lists if apt does not know a package yet (fresh machines and containers have none)."""
    try:
        run(["apt-cache", "show", "--no-all-versions", name])
    except PackageError:
        run(["apt-get", "update", "-q"])
