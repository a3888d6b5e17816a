"""Build both images with buildah, keyed by what they are made from, and import them into each host's containerd.

A base of Debian's own packages (debootstrap) stands in for a registry. It trusts what this machine trusts, so that
package clients work behind a private certificate authority.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kumulus_lab import commands
from kumulus_lab.cache import locked
from kumulus_lab.containers.layout import Layout
from kumulus_lab.hosts import Hosts
from kumulus_lab.machine import unmount_below
from kumulus_lab.progress import detail
from kumulus_lab.settings import LabSettings

REPOSITORY = Path(__file__).resolve().parents[3]
TARGETS = ("operator", "agent")
SUITE = "bookworm"
REPOSITORY_NAME = "kumulus.local"
_BASE = "localhost/kumulus-base"
_BASE_VERSION = 2
"""Counted up when what is made of Debian's packages below changes."""
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_DEPENDENCIES = ("Dockerfile", ".dockerignore", "docker", "requirements/{target}.lock")
_SOURCES = {
    "operator": (
        "api/kumulus_api",
        "runtime/kumulus_runtime",
        "operator/kumulus_operator",
        "console-proxy/kumulus_console",
    ),
    "agent": ("api/kumulus_api", "runtime/kumulus_runtime", "node-agent/kumulus_agent"),
}
_BUILD_LIMIT = 1200
_KEPT = 10
"""Images of each kind that stay in the cache: people switch between branches, and trees share it."""
# As in Debian's official slim images: what packages install there is not wanted in a container.
_UNWANTED = ("doc", "groff", "info", "linda", "lintian", "locale", "man")
_KEPT_DOCUMENTS = "/usr/share/doc/*/copyright"


def build_and_import(lab: LabSettings) -> dict[str, str]:
    """Have both images in every host, building what changed.

    Returns:
        Target (`operator`, `agent`) to image reference; the tag is a hash of all that went in.

    Raises:
        CommandFailed: a build or an import failed; the message ends with its output.
    """
    references = {target: f"{REPOSITORY_NAME}/{target}:{key(target)}" for target in TARGETS}
    hosts = Hosts(lab)
    with _cached(lab.cache) as folder:
        for target, reference in references.items():
            ensure(folder, target, reference)
        with ThreadPoolExecutor() as pool:
            # Each host by itself; results are asked for so that an error is raised.
            list(pool.map(lambda host: _import(hosts, host.name, folder, references), lab.host_specs))
    return references


def build_and_push(cache: Path, registry: str) -> dict[str, str]:
    """Have both images in a registry, under ``<registry>/operator`` and ``<registry>/agent``.

    Returns:
        Target to image reference.

    Raises:
        CommandFailed: a build failed or the registry refused; the message ends with its output.
    """
    references = {}
    with _cached(cache) as folder:
        for target in TARGETS:
            local = f"{REPOSITORY_NAME}/{target}:{key(target)}"
            ensure(folder, target, local)
            references[target] = f"{registry.rstrip('/')}/{target}:{key(target)}"
            detail(f"pushing {references[target]}")
            push = ["push", "--quiet", local, f"docker://{references[target]}"]
            commands.run([*buildah(folder), *push], timeout=_BUILD_LIMIT)
    return references


@contextlib.contextmanager
def _cached(cache: Path) -> Iterator[Path]:
    """Give the locked cache of images; buildah mounts its storage onto itself, which goes at the end."""
    with locked(cache / "images") as folder:
        try:
            yield folder
        finally:
            unmount_below(folder / "storage")


def ensure(folder: Path, target: str, reference: str) -> None:
    """Have an image in the folder's layout and in buildah's storage, building it if it is in neither.

    Args:
        folder: the locked cache of images.
        target: which stage of the Dockerfile.
        reference: its name and tag.
    """
    layout = Layout(folder / "layout")
    if layout.has(reference):
        return
    tool = buildah(folder)
    base = _base(folder, tool)
    detail(f"building {target}")
    commands.run(
        [
            *tool, "build", "--quiet", "--layers", "--isolation", "chroot", "--network", "host",
            "--build-arg", f"BASE={base}", "--target", target, "--tag", reference, "--file", REPOSITORY / "Dockerfile",
            REPOSITORY,
        ],
        timeout=_BUILD_LIMIT,
    )  # fmt: skip
    layout.add(reference, lambda: _push(tool, reference, layout))
    for old in layout.prune(f"{REPOSITORY_NAME}/{target}:", _KEPT):
        commands.run([*tool, "rmi", old], check=False)


def _push(tool: list[str], reference: str, layout: Layout) -> None:
    commands.run([*tool, "push", "--quiet", reference, f"oci:{layout.path}:{reference}"], timeout=300)


def key(target: str) -> str:
    """A hash of all that goes into an image: its tag."""
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


def _import(hosts: Hosts, host: str, folder: Path, references: dict[str, str]) -> None:
    """Import what a host lacks, without the layers that it has from earlier images."""
    layout = Layout(folder / "layout")
    listing = hosts.run(host, ["ctr", "--namespace", "k8s.io", "images", "list", "--quiet"], check=True).stdout.split()
    wanted = [reference for reference in references.values() if reference not in listing]
    for reference in wanted:
        detail(f"importing {reference.split('/')[1]} into {host}")
        stored = hosts.run(host, ["ctr", "--namespace", "k8s.io", "content", "list", "--quiet"], check=True).stdout
        archive = folder / f"import-{hosts.lab.name}-{host}.tar"
        try:
            layout.write_archive(archive, reference, without=frozenset(stored.split()))
            hosts.import_image(archive, [host])
        finally:
            archive.unlink(missing_ok=True)


def _base(folder: Path, tool: list[str]) -> str:
    """The base image: Debian's minimal system as its slim images have it, this machine's certificates in it."""
    made_of = _CERTIFICATES.read_bytes() + f"{SUITE}{_BASE_VERSION}".encode()
    reference = f"{_BASE}:{hashlib.sha256(made_of).hexdigest()[:16]}"
    if commands.run([*tool, "inspect", "--type", "image", reference], check=False).returncode == 0:
        return reference
    detail("making the base image")
    root = folder / "base"
    shutil.rmtree(root, ignore_errors=True)
    commands.run(["debootstrap", "--variant=minbase", SUITE, root], timeout=_BUILD_LIMIT)
    _slim(root)
    (root / "etc" / "ssl").mkdir(exist_ok=True)
    shutil.copy(_CERTIFICATES, root / "etc" / "ssl" / "host-ca.crt")
    container = commands.run([*tool, "from", "scratch"]).stdout.strip()
    commands.run([*tool, "add", "--quiet", container, root, "/"], timeout=300)
    variables = [f"--env={name}=/etc/ssl/host-ca.crt" for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
    commands.run([*tool, "config", *variables, container])
    commands.run([*tool, "commit", "--quiet", "--rm", container, reference], timeout=300)
    shutil.rmtree(root)
    return reference


def _slim(root: Path) -> None:
    """Remove downloads and documents, and tell dpkg and apt to leave them out from now on."""
    for folder in ("var/cache/apt", "var/lib/apt/lists", "var/log"):
        for path in (root / folder).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in _UNWANTED:
        for path in sorted((root / "usr/share" / name).rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with contextlib.suppress(OSError):  # not empty: a licence is in it
                    path.rmdir()
            elif path.name != "copyright":
                path.unlink()
    rules = [*(f"path-exclude /usr/share/{name}/*" for name in _UNWANTED), f"path-include {_KEPT_DOCUMENTS}"]
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text("".join(f"{rule}\n" for rule in rules))
    (root / "etc/apt/apt.conf.d/slim").write_text('Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n')


def buildah(folder: Path) -> list[str]:
    """The command whose storage and settings are in the cache, apart from what else uses it on this machine."""
    settings = folder / "containers.conf"
    # Otherwise it leaves a lock in /etc/cni/net.d, though no network is made for a build.
    settings.write_text(f'[network]\nnetwork_config_dir = "{folder / "networks"}"\n')
    storage = ["--root", str(folder / "storage"), "--runroot", str(folder / "run"), "--storage-driver", "overlay"]
    return ["env", f"CONTAINERS_CONF={settings}", "buildah", *storage]
