"""Build both images with buildah, keyed by what they are made from, and import them into each host's containerd.

A base of Debian's own packages (debootstrap) stands in for a registry. It trusts what this machine trusts, so that
package clients work behind a private certificate authority.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from kumulus_lab import commands
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings

REPOSITORY = Path(__file__).resolve().parents[3]
TARGETS = ("operator", "agent")
SUITE = "bookworm"
_BASE = "localhost/kumulus-base"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_DEPENDENCIES = ("Dockerfile", ".dockerignore", "docker", "requirements/{target}.lock")
_SOURCES = {
    "operator": ("api/kumulus_api", "runtime/kumulus_runtime", "operator/kumulus_operator"),
    "agent": ("api/kumulus_api", "runtime/kumulus_runtime", "node-agent/kumulus_agent"),
}
_BUILD_LIMIT = 1200


def build_and_import(lab: LabSettings) -> dict[str, str]:
    """Have both images in every host, building what changed.

    Returns:
        Target (`operator`, `agent`) to image reference; the tag is a hash of all that went in.

    Raises:
        CommandFailed: a build or an import failed; the message ends with its output.
    """
    hosts = Hosts(lab)
    references = {}
    for target in TARGETS:
        reference = f"kumulus.local/{target}:{_key(target)}"
        archive = _build(lab.cache / "images", target, reference)
        for host in lab.host_specs:
            if not _has(hosts, host.name, reference):
                hosts.import_image(archive, [host.name])
        references[target] = reference
    return references


def _key(target: str) -> str:
    names = (name.format(target=target) for name in (*_DEPENDENCIES, *_SOURCES[target]))
    return _digest(REPOSITORY / name for name in names)


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(str(file.relative_to(REPOSITORY)).encode() + b"\0")
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _build(folder: Path, target: str, reference: str) -> Path:
    archive = folder / f"{target}-{reference.rsplit(':', 1)[1]}.tar"
    if archive.exists():
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{target}-*.tar"):
        old.unlink()
    storage = _storage(folder)
    base = _base(folder, storage)
    commands.run(
        [
            "buildah", *storage, "build", "--quiet", "--layers", "--isolation", "chroot", "--network", "host",
            "--build-arg", f"BASE={base}", "--target", target, "--tag", reference, "--file", REPOSITORY / "Dockerfile",
            REPOSITORY,
        ],
        timeout=_BUILD_LIMIT,
    )  # fmt: skip
    draft = archive.with_suffix(".new")
    draft.unlink(missing_ok=True)
    commands.run(
        ["buildah", *storage, "push", "--quiet", reference, f"docker-archive:{draft}:{reference}"], timeout=300
    )
    draft.replace(archive)
    return archive


def _base(folder: Path, storage: list[str]) -> str:
    """The base image: Debian's minimal system, this machine's certificates in it."""
    key = hashlib.sha256(_CERTIFICATES.read_bytes() + SUITE.encode()).hexdigest()[:16]
    reference = f"{_BASE}:{key}"
    if commands.run(["buildah", *storage, "inspect", "--type", "image", reference], check=False).returncode == 0:
        return reference
    root = folder / "base"
    shutil.rmtree(root, ignore_errors=True)
    commands.run(["debootstrap", "--variant=minbase", SUITE, root], timeout=_BUILD_LIMIT)
    (root / "etc" / "ssl").mkdir(exist_ok=True)
    shutil.copy(_CERTIFICATES, root / "etc" / "ssl" / "host-ca.crt")
    container = commands.run(["buildah", *storage, "from", "scratch"]).stdout.strip()
    commands.run(["buildah", *storage, "add", "--quiet", container, root, "/"], timeout=300)
    variables = [f"--env={name}=/etc/ssl/host-ca.crt" for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
    commands.run(["buildah", *storage, "config", *variables, container])
    commands.run(["buildah", *storage, "commit", "--quiet", "--rm", container, reference], timeout=300)
    shutil.rmtree(root)
    return reference


def _storage(folder: Path) -> list[str]:
    """Options that keep buildah's storage in the cache, apart from what else uses it on this machine."""
    return ["--root", str(folder / "storage"), "--runroot", str(folder / "run"), "--storage-driver", "overlay"]


def _has(hosts: Hosts, host: str, reference: str) -> bool:
    listing = hosts.run(host, ["ctr", "--namespace", "k8s.io", "images", "list", "--quiet", f"name=={reference}"])
    return reference in listing.stdout
