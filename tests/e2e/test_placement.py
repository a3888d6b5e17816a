"""Placement on real hosts: groups and traits decide, and the plugin says why."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from kumulus_api import Flavor, Host, HostAggregate, Image, Server, ServerGroup
from kumulus_lab import builds
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.cloud import Cloud, condition, refused

pytestmark = pytest.mark.tenant

FLAVOR = {"vcpus": 1, "memory": "128Mi", "rootDisk": "1Gi"}


async def explained(lab: LabSettings, project: str, name: str) -> str:
    """Give what `kubectl kumulus explain-placement` prints."""
    plugins = Path(sys.executable).parent
    path = os.pathsep.join([str(plugins), str(builds.bin_directory(lab)), os.environ["PATH"]])
    process = await asyncio.create_subprocess_exec(
        "kubectl", "kumulus", "explain-placement", name, "--namespace", project,
        env={**os.environ, "PATH": path, "KUBECONFIG": str(lab.kubeconfig)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def test_servers_of_a_group_run_apart(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """As many servers of an anti-affinity group run as there are hosts; the next waits until one of them is gone."""
    hosts = [body["metadata"]["name"] for body in (await cloud.client.list(Host))[0]]
    await cloud.make_network(project)
    await cloud.make(ServerGroup, "apart", {"policy": "AntiAffinity"}, project)
    names = [f"s{number}" for number in range(len(hosts))]
    group = {"group": {"name": "apart"}}
    await asyncio.gather(*(cloud.make_server(project, name, placement=group) for name in names))
    running = await asyncio.gather(*(cloud.server_ready(project, name) for name in names))
    assert sorted(body["spec"]["assignment"]["host"] for body in running) == sorted(hosts)
    await cloud.make_server(project, "late", placement=group)
    waiting = await cloud.until(Server, "late", refused("NoValidHost"), namespace=project)
    assert f"{len(hosts)} with a server of group apart" in condition(waiting, "Scheduled")["message"]
    text = await explained(lab, project, "late")
    assert "The operator says NoValidHost" in text
    assert f"None of {len(hosts)} hosts fits." in text
    freed = running[0]["spec"]["assignment"]["host"]
    await cloud.delete(Server, names[0], project)
    late = await cloud.server_ready(project, "late")
    assert late["spec"]["assignment"]["host"] == freed
    assert f"{freed} (here)" in await explained(lab, project, "late")


async def test_what_hosts_can_do_decides(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """Agents report the CPUs' features as traits; a server goes to a host of its zone that has what it asks for."""
    body = (await cloud.client.list(Host))[0][0]
    name, traits = body["metadata"]["name"], body["status"]["traits"]
    assert {"HW_ARCH_X86_64", "HW_CPU_X86_SSE2", "COMPUTE_NODE"} <= set(traits)
    await cloud.make_network(project)
    specs = {"trait:HW_CPU_X86_SSE2": "required", "trait:CUSTOM_NEVER": "forbidden"}
    flavor, zone = f"{project}-sse", {"hostSelector": {"names": [name]}, "zone": project}
    await cloud.make(Flavor, flavor, FLAVOR | {"extraSpecs": specs})
    await cloud.make(HostAggregate, project, zone)
    try:
        await cloud.make_server(project, "a", flavor={"name": flavor}, placement={"zone": project})
        assert (await cloud.server_ready(project, "a"))["spec"]["assignment"]["host"] == name
        await cloud.make_server(project, "b", placement={"zone": "nowhere"})
        waiting = await cloud.until(Server, "b", refused("NoValidHost"), namespace=project)
        assert "outside zone nowhere" in condition(waiting, "Scheduled")["message"]
        source = {"url": f"http://{lab.gateway}:8098/tiny.qcow2"}
        image = {"source": source, "format": "qcow2", "architecture": "s390x"}
        await cloud.make(Image, "foreign", image, project)
        await cloud.make_server(project, "c", image={"name": "foreign"})
        waiting = await cloud.until(Server, "c", refused("NoValidHost"), namespace=project)
        assert "of x86_64, the image is for s390x" in condition(waiting, "Scheduled")["message"]
    finally:
        await cloud.client.delete(HostAggregate, project)
        await cloud.client.delete(Flavor, flavor)
