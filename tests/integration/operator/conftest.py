"""A real API server with our kinds, the operator's process, and a site for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.site import OperatorProcess, Site
from kumulus_runtime.api_client import KubeClient

CRDS = Path(__file__).parents[3] / "crds"
CLUSTER = {"pod_cidrs": "10.251.0.0/16", "service_cidrs": "10.96.0.0/16"}
"""Where pods and Services would be."""


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running API server with our kinds."""
    with ControlPlane.temporary(tmp_path_factory.mktemp("plane")) as plane:
        plane.kubectl("apply", "--server-side", "-f", str(CRDS))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=120s")
        plane.kubectl("create", "namespace", "kumulus-system")
        yield plane


@pytest.fixture
async def client(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeClient]:
    """The administrator's client."""
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    client = await KubeClient.connect("kumulus-test")
    yield client
    await client.close()


@pytest.fixture(scope="session")
def process(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """A running operator with short times, which must end well."""
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    process = OperatorProcess(
        plane.kubeconfig,
        log,
        claim_quarantine="1",
        host_silence="5",
        image_replica_grace="2",
        zone_shards="4",
        **CLUSTER,
    )
    process.start()
    yield process
    assert process.stop() == 0


@pytest.fixture
def operator(process: OperatorProcess) -> Iterator[OperatorProcess]:
    """The running operator, which must not show a traceback; a test that stops it starts it again."""
    start = process.log.stat().st_size
    yield process
    log = process.log.read_bytes()[start:].decode()
    print(log)
    assert "Traceback" not in log


@pytest.fixture
async def site(client: KubeClient, operator: OperatorProcess, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A project of the test's own."""
    site = Site(client, f"p{abs(hash(request.node.nodeid)) % 10**8}")
    yield site
    await site.close()
