"""Releases of the chart in a real API server: installed, upgraded by the other Helm, uninstalled."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kumulus_lab import builds
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.settings import LabSettings

from .conftest import CHART

NAMESPACE = "kumulus-system"
KINDS = {path.stem for path in (CHART / "files" / "crds").iterdir()}
FLAVOR = {
    "apiVersion": "kumulus.dev/v1alpha1",
    "kind": "Flavor",
    "metadata": {"name": "kept"},
    "spec": {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"},
}

pytestmark = pytest.mark.timeout(300)


class Cluster:
    """An API server and both versions of Helm."""

    def __init__(self, plane: ControlPlane, programs: Path) -> None:
        self.plane = plane
        self.programs = programs

    def helm(self, version: str, *arguments: str) -> str:
        """Run Helm in the system namespace; it must succeed."""
        argv = [str(self.programs / version), f"--kubeconfig={self.plane.kubeconfig}", f"--namespace={NAMESPACE}"]
        done = subprocess.run([*argv, *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def upgrade(self, version: str, *options: str) -> None:
        """Install or upgrade the release; nothing is waited for, as nothing runs its pods here."""
        self.helm(version, "upgrade", "--install", "kumulus", str(CHART), "--create-namespace", *options)

    def kinds(self) -> set[str]:
        """The kinds of ours that the API server knows, those aside that are on their way out."""
        crds = json.loads(self.plane.kubectl("get", "crd", "-o", "json").stdout)["items"]
        staying = [crd for crd in crds if "deletionTimestamp" not in crd["metadata"]]
        return {crd["spec"]["names"]["plural"] for crd in staying if crd["spec"]["group"] == "kumulus.dev"}

    def apply(self, manifest: dict[str, object] | Path) -> None:
        """Apply an object, or a folder of them, and wait until our kinds are served."""
        if isinstance(manifest, Path):
            self.plane.kubectl("apply", "--server-side", "-f", str(manifest))
        else:
            self.plane.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def log_level(self) -> str | None:
        """The operator's log level, as its Deployment says."""
        answer = self.plane.kubectl("get", "deployment", "kumulus-operator", "-n", NAMESPACE, "-o", "json")
        (container,) = json.loads(answer.stdout)["spec"]["template"]["spec"]["containers"]
        levels = [entry["value"] for entry in container["env"] if entry["name"] == "KUMULUS_LOG_LEVEL"]
        return levels[0] if levels else None

    def established(self) -> None:
        """Wait until all our kinds are served."""
        names = [f"crd/{kind}.kumulus.dev" for kind in sorted(KINDS)]
        self.plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server of the module's own, without pods or controllers."""
    cache = LabSettings.from_environment().cache
    for build in (builds.HELM3, builds.HELM4):
        builds.ensure(build, cache)
    with ControlPlane.temporary(tmp_path_factory.mktemp("plane")) as plane:
        yield Cluster(plane, cache / "bin")


def test_life_of_a_release(cluster: Cluster) -> None:
    """Both versions of Helm install, upgrade each other's release and uninstall it; kinds stay until told."""
    # Kinds that were applied from crds/ are left alone, also at the end.
    cluster.apply(CHART.parents[1] / "crds")
    cluster.upgrade("helm3", "--set=crds.enabled=false", "--set=crds.keep=false")
    cluster.helm("helm3", "uninstall", "kumulus")
    assert cluster.kinds() == KINDS
    # Or they become the chart's own.
    cluster.upgrade("helm3", "--take-ownership")
    cluster.upgrade("helm4", "--set=operator.settings.logLevel=DEBUG")
    assert cluster.log_level() == "DEBUG"
    # They and their objects outlive the release, and the next one takes them over.
    cluster.established()
    cluster.apply(FLAVOR)
    cluster.helm("helm4", "uninstall", "kumulus")
    assert cluster.kinds() == KINDS
    cluster.upgrade("helm4")
    cluster.plane.kubectl("get", "flavors.kumulus.dev", "kept")
    cluster.upgrade("helm3", "--set=operator.settings.logLevel=ERROR")
    assert cluster.log_level() == "ERROR"
    # Until that is no longer wanted.
    cluster.upgrade("helm4", "--set=crds.keep=false")
    cluster.helm("helm3", "uninstall", "kumulus")
    assert cluster.kinds() == set()
