"""The running lab that the tests act on. `make up` has made it; without one the tests fail, they do not skip."""

from collections.abc import AsyncIterator

import pytest

from kumulus_api import Server
from kumulus_lab import commands, machine
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.cloud import OWN_PROJECTS, PROJECTS, Cloud
from kumulus_runtime.api_client import KubeClient


@pytest.fixture(scope="session")
def lab() -> LabSettings:
    """Settings of the running lab."""
    settings = LabSettings.from_environment()
    assert settings.kubeconfig.exists(), f"no lab runs here ({settings.kubeconfig} is missing): start it with `make up`"
    return settings


@pytest.fixture
async def cloud(lab: LabSettings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cloud]:
    """The lab's cloud, with the tiny flavor and image."""
    monkeypatch.setenv("KUBECONFIG", str(lab.kubeconfig))
    client = await KubeClient.connect("kumulus-tests")
    cloud = Cloud(client)
    await cloud.base(f"http://{lab.gateway}:8098/tiny.qcow2")
    try:
        yield cloud
    finally:
        await client.close()


@pytest.fixture
async def outside(lab: LabSettings) -> AsyncIterator[str]:
    """A machine of the outside, with an address on the hosts' second network: the name of its namespace."""
    name, veth = f"{lab.name}-outside", f"{lab.name}-out"
    commands.run(["ip", "netns", "add", name])
    try:
        machine.ensure_link(veth, "type", "veth", "peer", "name", "eth0", "netns", name)
        commands.run(["ip", "link", "set", veth, "master", lab.physical_bridge, "up"])
        commands.run(["ip", "-n", name, "address", "add", "192.168.77.1/24", "dev", "eth0"])
        commands.run(["ip", "-n", name, "link", "set", "eth0", "up"])
        yield name
    finally:
        machine.remove_link(veth)
        commands.run(["ip", "netns", "delete", name])


@pytest.fixture(autouse=True)
async def nothing_of_ours_ends(cloud: Cloud, request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Operator and agents run through every test that does not end them itself."""
    before = await cloud.restarts()
    yield
    if request.node.get_closest_marker("disturbs") is None:
        assert await cloud.restarts() == before, "one of our processes ended: see `kubectl logs --previous`"


@pytest.fixture(autouse=True)
async def nothing_is_left(cloud: Cloud) -> AsyncIterator[None]:
    """A test leaves no server behind, and takes none away that was there: the next one would meet it.

    Those of a test that runs beside it come and go.
    """
    before = await _servers(cloud)
    yield
    assert await _servers(cloud) == before


@pytest.fixture
async def project(cloud: Cloud) -> AsyncIterator[str]:
    """An empty project of the test's own."""
    async with cloud.project() as name:
        yield name


async def _servers(cloud: Cloud) -> set[tuple[str, str]]:
    found, _ = await cloud.client.list(Server)
    keys = {(server["metadata"]["namespace"], server["metadata"]["name"]) for server in found}
    return {key for key in keys if not key[0].startswith(PROJECTS) or key[0].startswith(OWN_PROJECTS)}
