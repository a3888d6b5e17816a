"""Budgets that a release must keep, counted by the API server's audit log."""

import pytest

from kumulus_api import Port, Server
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.audit import AuditLog, of_servers, summary
from kumulus_lab.testing.cloud import Cloud


@pytest.mark.smoke
async def test_api_writes_of_one_server(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A server with one automatic interface costs at most 6 writes to Ready and 5 to be gone."""
    network = await cloud.make_network(project)
    vni = network["status"]["vni"]
    log = AuditLog(lab.audit_log)
    await cloud.make_server(project, "counted")
    await cloud.server_ready(project, "counted")
    created = of_servers(log.writes(), vni)
    assert len(created) <= 6, summary(created)

    ports, _ = await cloud.client.list(Port, namespace=project)
    log = AuditLog(lab.audit_log)
    await cloud.delete(Server, "counted", project)
    await cloud.gone(Port, ports[0]["metadata"]["name"], project)
    deleted = of_servers(log.writes(), vni)
    assert len(deleted) <= 4, f"one of 5 is left for the deferred release of the claim: {summary(deleted)}"
