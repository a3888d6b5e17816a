"""A real API server with the chart installed, and clients of the users that its policies tell apart."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from kumulus_api import (
    FloatingIP,
    Image,
    LoadBalancer,
    Network,
    Port,
    Project,
    Router,
    Server,
    Volume,
    VolumeSnapshot,
    VPNConnection,
)
from kumulus_api.testing import make_object
from kumulus_lab import builds
from kumulus_lab.commands import wait_until
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.pki import Identity
from kumulus_lab.settings import LabSettings
from kumulus_runtime.api_client import KubeClient

CHART = Path(__file__).parents[3] / "charts" / "kumulus"
NAMESPACE = "kumulus-system"

Connect = Callable[[str], Awaitable[KubeClient]]


@dataclass(frozen=True)
class Cluster:
    """The API server and a folder of kubeconfigs, one per user."""

    plane: ControlPlane
    directory: Path

    def kubeconfig(self, user: str) -> Path:
        """Give the kubeconfig of a user.

        Args:
            user: `admin`; `operator`; `console`; `agent@h1`, the agent's token bound to node h1; `agent`, its token
                without node; or any other name, with its groups behind slashes: `alice/members`.
        """
        if user == "admin":
            return self.plane.kubeconfig
        # KUBECONFIG is a list of paths with colons between them.
        path = self.directory / f"{user.replace('/', '_').replace(':', '_')[:200]}.conf"
        if path.exists():
            return path
        account, _, node = user.partition("@")
        if account in ("operator", "agent", "console"):
            return self.plane.token_kubeconfig(path, NAMESPACE, f"kumulus-{account}", node=node)
        name, *groups = user.split("/")
        # The same name with other groups is another user.
        return self.plane.authority().ensure_kubeconfig(Identity(path.stem, name, tuple(groups)), self.plane.url)


@pytest.fixture(scope="session")
def helm() -> Path:
    """Give the Helm program."""
    lab = LabSettings.from_environment()
    builds.ensure(builds.HELM3, lab.cache)
    return Path(builds.program(lab, "helm3"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, helm: Path) -> Iterator[Cluster]:
    """Give an API server with the chart, nodes h1 and h2 and the namespace demo; nothing runs there."""
    directory = tmp_path_factory.mktemp("cluster")
    with ControlPlane.temporary(directory / "plane") as plane:
        for name in (NAMESPACE, "demo"):
            plane.kubectl("create", "namespace", name)
        for name in ("h1", "h2"):
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
            plane.kubectl("create", "-f", "-", stdin=json.dumps(node))
        command = [str(helm), "install", "kumulus", str(CHART), f"--namespace={NAMESPACE}"]
        subprocess.run([*command, f"--kubeconfig={plane.kubeconfig}"], check=True, timeout=120)
        crds = ["--for=condition=Established", "crd", "--all", "--timeout=120s"]
        plane.kubectl("wait", *crds)
        for kind in (
            Server,
            Volume,
            VolumeSnapshot,
            Image,
            Port,
            Network,
            Router,
            FloatingIP,
            LoadBalancer,
            VPNConnection,
            Project,
        ):
            body = json.dumps(make_object(kind))
            wait_until(partial(_accepted, plane, body), what=f"the mutating policy for {kind.__name__}", limit=60)
        _await_validating_policies(plane)
        users = directory / "users"
        users.mkdir()
        yield Cluster(plane, users)


def _accepted(plane: ControlPlane, body: str) -> bool:
    """Whether the API server would take the object: for some seconds after a kind's birth it cannot mutate it."""
    return plane.kubectl("create", "--dry-run=server", "-f", "-", stdin=body, check=False).returncode == 0


def _await_validating_policies(plane: ControlPlane) -> None:
    """Wait until the API server obeys every validating policy that there is: until it obeys one that was made last."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}
    policy = {
        "matchConstraints": {"resourceRules": [rule]},
        "matchConditions": [{"name": "last", "expression": "object.metadata.name == 'last-policy'"}],
        "validations": [{"expression": "false"}],
    }
    binding = {"policyName": "last-policy", "validationActions": ["Deny"]}
    for kind, spec in (("ValidatingAdmissionPolicy", policy), ("ValidatingAdmissionPolicyBinding", binding)):
        metadata = {"name": "last-policy"}
        body = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec}
        plane.kubectl("create", "-f", "-", stdin=json.dumps(body))
    body = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "last-policy"}})
    wait_until(lambda: not _accepted(plane, body), what="the validating policies", limit=60)
    for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
        plane.kubectl("delete", kind, "last-policy")


@pytest.fixture
async def connect(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connect]:
    """Give a function that connects as a user; what it opened is closed after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def as_user(user: str) -> KubeClient:
            monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(user)))
            return await stack.enter_async_context(await KubeClient.connect("kumulus-tests"))

        yield as_user


@pytest.fixture
async def admin(connect: Connect) -> KubeClient:
    """Give the cluster administrator's client."""
    return await connect("admin")
