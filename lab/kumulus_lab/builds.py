"""Go programs of the lab: built once, kept in the cache under a hash of all that goes into them."""

import hashlib
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kumulus_lab import commands, go_tool
from kumulus_lab.cache import locked
from kumulus_lab.settings import LabSettings

KUBERNETES = "v1.36.3"
CONTAINERD = "v2.4.2"
_SOURCES = Path(__file__).resolve().parent.parent
_KUBE_NAMES = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
_LIMIT = 1800
_VERSION_VARIABLES = {
    "gitVersion": KUBERNETES,
    "gitMajor": KUBERNETES.split(".", maxsplit=1)[0].removeprefix("v"),
    "gitMinor": KUBERNETES.split(".")[1],
    "gitTreeState": "clean",
    "gitCommit": KUBERNETES,
}


@dataclass(frozen=True)
class Build:
    """One call of the Go tool.

    Attributes:
        name: for the progress line and the cache.
        packages: what ``go install`` is told, ``path@version``; empty for the source in ``source``.
        programs: names of the binaries that come out.
        flags: further flags of the Go tool.
        source: folder of a module of our own, built with ``go build``.
        links: names under which the (only) binary is to be found besides.
        rename: the binary's final name, where two builds yield the same.
    """

    name: str
    packages: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    source: Path | None = None
    links: tuple[str, ...] = field(default=())
    rename: str | None = None

    @property
    def key(self) -> str:
        """Changes whenever the result could."""
        digest = hashlib.sha256(repr((self.packages, self.flags, self.links, self.rename)).encode())
        if self.source is not None:
            for path in sorted(self.source.iterdir()):
                digest.update(path.name.encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()[:16]


KUBE = Build(
    name=f"kubernetes {KUBERNETES}",
    source=_SOURCES / "kube",
    programs=("kube",),
    links=_KUBE_NAMES,
    flags=("-ldflags", " ".join(f"-X k8s.io/component-base/version.{k}={v}" for k, v in _VERSION_VARIABLES.items())),
)
CONTAINERD_BUILD = Build(
    name=f"containerd {CONTAINERD}",
    packages=tuple(
        f"github.com/containerd/containerd/v2/cmd/{program}@{CONTAINERD}"
        for program in ("containerd", "containerd-shim-runc-v2", "ctr")
    ),
    programs=("containerd", "containerd-shim-runc-v2", "ctr"),
    flags=(
        *("-tags", "no_btrfs,no_devmapper,no_zfs,no_aufs"),
        *("-ldflags", f"-s -w -X github.com/containerd/containerd/v2/version.Version={CONTAINERD}"),
    ),
)
COREDNS = Build(
    name="coredns v1.15.0",
    source=_SOURCES / "coredns",
    programs=("coredns",),
    flags=("-ldflags", "-s -w"),
)
# Without these `helm template` and `helm lint` take the cluster for a 1.20 and refuse charts that want a newer one.
_HELM3_VERSIONS = " ".join(
    f"-X helm.sh/helm/v3/pkg/{package}.k8sVersion{part}={_VERSION_VARIABLES[f'git{part}']}"
    for package in ("chartutil", "lint/rules")
    for part in ("Major", "Minor")
)
HELM3 = Build(
    name="helm v3.22.0",
    packages=("helm.sh/helm/v3/cmd/helm@v3.22.0",),
    programs=("helm",),
    flags=("-ldflags", f"-s -w {_HELM3_VERSIONS}"),
    rename="helm3",
)
HELM4 = Build(
    name="helm v4.3.1",
    packages=("helm.sh/helm/v4/cmd/helm@v4.3.1",),
    programs=("helm",),
    flags=("-ldflags", "-s -w"),
    rename="helm4",
)
FOR_A_LAB = (KUBE, CONTAINERD_BUILD, COREDNS, HELM3)
ALL = (*FOR_A_LAB, HELM4)
"""With what only tests use."""


def bin_directory(settings: LabSettings) -> Path:
    """The folder with a link to each built program, to be put on PATH."""
    return settings.cache / "bin"


def program(settings: LabSettings, name: str) -> str:
    """The path of a built program."""
    return str(bin_directory(settings) / name)


def ensure(build: Build, cache: Path) -> bool:
    """Build unless the cache has it, and link its programs into ``<cache>/bin``; return whether it was built.

    Raises:
        Unsuitable: there is no Go tool, and none could be fetched.
        CommandFailed: the compiler says why.
    """
    target = cache / "builds" / f"{build.name.split()[0]}-{build.key}"
    made = False
    if not target.exists():
        with locked(cache / "builds"):
            made = not target.exists()  # somebody else may have built it meanwhile
            if made:
                _build_into(build, target, cache)
    _link(build, target, cache / "bin")
    return made


def missing(wanted: Sequence[Build], settings: LabSettings) -> tuple[Build, ...]:
    """Those of the builds that the cache lacks."""
    return tuple(b for b in wanted if not (settings.cache / "builds" / f"{b.name.split()[0]}-{b.key}").exists())


def _build_into(build: Build, target: Path, cache: Path) -> None:
    go = go_tool.ensure(cache)
    draft = target.with_name(f"{target.name}.new")
    shutil.rmtree(draft, ignore_errors=True)  # of one that was interrupted
    draft.mkdir()
    env = {"CGO_ENABLED": "0", "GOBIN": str(draft), "GOFLAGS": "-buildvcs=false"}
    if build.source is not None:
        argv = [go, "build", *build.flags, "-o", str(draft / build.programs[0]), "."]
    else:
        argv = [go, "install", *build.flags, *build.packages]
    commands.run(argv, timeout=_LIMIT, env=env, cwd=build.source or cache)
    if build.rename is not None:
        (draft / build.programs[0]).rename(draft / build.rename)
    draft.replace(target)


def _link(build: Build, target: Path, links: Path) -> None:
    links.mkdir(parents=True, exist_ok=True)
    programs = (build.rename,) if build.rename is not None else build.programs
    for name in programs:
        _point(links / name, target / name)
    for name in build.links:
        _point(links / name, target / programs[0])


def _point(link: Path, target: Path) -> None:
    """Make ``link`` a symbolic link to ``target`` without a moment in which it is absent."""
    if link.is_symlink() and link.readlink() == target:
        return
    draft = link.with_name(f"{link.name}.{os.getpid()}-{threading.get_ident()}.new")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    draft.replace(link)
