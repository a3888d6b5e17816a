"""Every example does what it says."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import yaml

from kumulus_api import (
    DNSRecord,
    DNSZone,
    FirewallGroup,
    FloatingIP,
    Kind,
    LoadBalancer,
    Router,
    Server,
    VolumeSnapshot,
    VPNConnection,
)
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.cloud import Cloud, ready
from kumulus_lab.testing.shares import mounted_folder

EXAMPLES = Path(__file__).parents[2] / "examples"
FIRST = "quickstart.yaml"  # applied by `make up`; the others use its project
READY: dict[str, type[Kind]] = {
    kind.__name__: kind
    for kind in (
        *(DNSRecord, DNSZone, FirewallGroup, FloatingIP, LoadBalancer, Router, VPNConnection),
        VolumeSnapshot,
    )
}
OTHERS = sorted(file.name for file in EXAMPLES.glob("*.yaml") if file.name != FIRST)


def servers(example: str) -> list[tuple[str, str]]:
    """Names and namespaces of the Servers in an example."""
    objects = yaml.safe_load_all((EXAMPLES / example).read_text())
    return [(o["metadata"]["name"], o["metadata"]["namespace"]) for o in objects if o["kind"] == "Server"]


def shares(example: str) -> list[str]:
    """Names of the classes in an example whose folder its hosts have to mount."""
    objects = yaml.safe_load_all((EXAMPLES / example).read_text())
    return [o["metadata"]["name"] for o in objects if o["kind"] == "VolumeClass" and "shared" in o["spec"]]


@pytest.mark.parametrize("example", OTHERS)
async def test_example(cloud: Cloud, lab: LabSettings, example: str) -> None:
    """What an example describes is accepted, becomes Ready, and can be deleted as it was applied."""
    plane = ControlPlane.of_lab(lab)
    file = str(EXAMPLES / example)
    async with AsyncExitStack() as stack:
        for name in shares(example):
            await stack.enter_async_context(mounted_folder(lab, name))
        delete = ("delete", "--ignore-not-found", "--timeout=60s", "--filename", file)
        stack.push_async_callback(asyncio.to_thread, plane.kubectl, *delete)
        await asyncio.to_thread(plane.kubectl, "apply", "--filename", file)
        for name, namespace in servers(example):
            await cloud.server_ready(namespace, name)
        for body in yaml.safe_load_all((EXAMPLES / example).read_text()):
            if kind := READY.get(body["kind"]):
                await cloud.until(kind, body["metadata"]["name"], ready, namespace=body["metadata"]["namespace"])


async def test_quickstart(cloud: Cloud) -> None:
    """The quickstart's servers run since `make up`."""
    assert servers(FIRST)
    for name, namespace in servers(FIRST):
        assert (await cloud.server_ready(namespace, name))["spec"]["assignment"]["host"]
    assert await cloud.client.list(Server, namespace="demo")
