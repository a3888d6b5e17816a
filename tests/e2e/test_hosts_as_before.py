"""A server that was there and is gone has changed nothing on any host."""

from kumulus_api import Network, Project, Server
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud
from kumulus_lab.testing.traces import as_before, traces

RELEASE_SECONDS = 30
"""How long a host may keep a network that its last guest has left."""


async def test_hosts_are_exactly_as_before(cloud: Cloud, lab: LabSettings) -> None:
    """Links, namespaces, rules, domains, processes and files of each host are the same before and after a server."""
    before = await traces(lab)
    async with cloud.project() as project:
        await cloud.make_network(project)
        for host in before:
            user_data = {"inline": "#!/bin/sh\nuntil ping -c 1 -W 1 on-h1; do :; done; echo heard-first\n"}
            await cloud.make_server(project, f"on-{host}", placement={"host": host}, userData=user_data)
        for host in before:
            server = await cloud.server_ready(project, f"on-{host}")
            await console.says(console.path(lab, server), "heard-first", 90)
        during = await traces(lab)
        for host in before:
            assert any("dnsmasq" in line for line in during[host] - before[host])
            assert any("qemu-system" in line for line in during[host] - before[host])
            await cloud.delete(Server, f"on-{host}", project)
        await as_before(lab, before, RELEASE_SECONDS)
        await cloud.delete(Network, "private", project)
    await cloud.gone(Project, project)
    await as_before(lab, before, RELEASE_SECONDS)
