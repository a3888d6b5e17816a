"""The Debian base of the lab's container images, made with debootstrap instead of pulled from a registry."""

import hashlib
import os
import shutil
from pathlib import Path

from kumulus_lab import commands

SUITE = "bookworm"
_MIRROR = "http://deb.debian.org/debian"
_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_CA_IN_IMAGE = "/etc/ssl/host-ca.crt"
_CA_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
_LIMIT = 600


def key() -> str:
    """Hex digest of what the base is made from."""
    bundle = _CA_BUNDLE.read_bytes() if _CA_BUNDLE.exists() else b""
    return hashlib.sha256(Path(__file__).read_bytes() + bundle).hexdigest()[:12]


def ensure(cache: Path) -> str:
    """Make the base image, or find it in buildah's store.

    The machine may trust a private CA, which pip needs to reach its index: its bundle goes into the image, with the
    variables that point at it (`buildah bud --env` does not reach RUN).

    Args:
        cache: Directory that outlives the lab; holds the bootstrapped tree as an archive.

    Returns:
        The image's name for `BASE`.

    Raises:
        CommandFailed: debootstrap or buildah failed.
    """
    name = f"localhost/kumulus-base:{key()}"
    if exists(name):
        return name
    archive = _bootstrap(cache)
    container = commands.run(["buildah", "from", "scratch"]).stdout.strip()
    try:
        commands.run(["buildah", "add", "-q", container, str(archive), "/"], timeout=_LIMIT)
        if _CA_BUNDLE.exists():
            commands.run(["buildah", "copy", "-q", container, str(_CA_BUNDLE), _CA_IN_IMAGE])
            variables = [f"--env={variable}={_CA_IN_IMAGE}" for variable in _CA_VARIABLES]
            commands.run(["buildah", "config", *variables, container])
        commands.run(["buildah", "commit", "-q", container, name], timeout=_LIMIT)
    finally:
        commands.run(["buildah", "rm", container], check=False)
    return name


def exists(name: str) -> bool:
    """Whether buildah's store has an image of that name."""
    return commands.run(["buildah", "inspect", "--type=image", name], check=False).returncode == 0


def _bootstrap(cache: Path) -> Path:
    archive = cache / "containers" / f"debian-{SUITE}.tar"
    if archive.exists():
        return archive
    tree = archive.with_suffix(".tree")
    shutil.rmtree(tree, ignore_errors=True)
    tree.parent.mkdir(parents=True, exist_ok=True)
    mirror = os.environ.get("KUMULUS_DEBIAN_MIRROR", _MIRROR)
    commands.run(["debootstrap", "--variant=minbase", SUITE, str(tree), mirror], timeout=_LIMIT)
    for spare in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(tree / spare, ignore_errors=True)
    for needed in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):
        (tree / needed).mkdir(parents=True)
    draft = archive.with_suffix(".new")
    commands.run(["tar", "-C", str(tree), "--numeric-owner", "-cf", str(draft), "."], timeout=_LIMIT)
    draft.rename(archive)
    shutil.rmtree(tree)
    return archive
