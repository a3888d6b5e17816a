"""An operator with nothing to decide writes nothing."""

from __future__ import annotations

import asyncio

from kumulus_api import FINALIZER, Server, Volume
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.audit import AuditLog
from kumulus_lab.testing.site import OperatorProcess, Site

SERVERS = 20
LEADER = ("leases", "kumulus-operator")
AUTHORITY = ("configmaps", "kumulus-boot-data-ca")


def _written(audit: AuditLog, site: Site) -> set[tuple[str, str]]:
    """Give what was written of the site and of the operator itself.

    The heartbeats of hosts are the test's. In the projects of former tests a network may still be told that the last
    addresses of it were released.
    """
    what = {(write.resource, write.name) for write in audit.writes("", site.name, "kumulus-system")}
    return {item for item in what if item[0] != "leases" or item == LEADER}


async def test_twenty_servers_cost_no_writes(site: Site, operator: OperatorProcess, plane: ControlPlane) -> None:
    """With 20 Ready servers nothing but the Lease is written in a minute, and the authority besides on a restart."""
    for host in ("i1", "i2"):
        await site.host(host, memory="64Gi", vcpus=32)
    await site.basics()
    await site.port("mine")
    names = [f"s{number}" for number in range(SERVERS)]
    await asyncio.gather(*(site.server(name) for name in names))
    assigned = await asyncio.gather(*(site.assigned(Server, name) for name in names))
    await asyncio.gather(*(site.report(name, given["host"]) for name, given in zip(names, assigned, strict=True)))
    await site.create(Volume, "data", {"size": "1Gi"}, (FINALIZER,))
    await site.condition(Volume, "data", "Ready", "False", "WaitingForFirstServer")
    await asyncio.sleep(3)
    audit = AuditLog(plane.audit_log)
    await asyncio.sleep(60)
    assert _written(audit, site) == {LEADER}
    audit = AuditLog(plane.audit_log)
    await asyncio.to_thread(operator.stop)
    operator.start()
    await site.server("after-restart")
    await site.assigned(Server, "after-restart")
    await asyncio.sleep(5)
    ours = {item for item in _written(audit, site) if "after-restart" not in item[1]}
    # The usage of the project is another with the new server.
    batches = ("networkendpoints", "addressclaims", "projects")
    assert {item for item in ours if item[0] not in batches} == {LEADER, AUTHORITY}
    assert [write.resource for write in audit.writes("") if write.name == site.name] == ["projects"]
