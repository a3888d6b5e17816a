"""Security groups: each project has its default, ports are put into theirs, and many members are few writes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kumulus_api import IN_USE, NetworkEndpoints, Port, Project, SecurityGroup, Server
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.audit import AuditLog
from kumulus_lab.testing.site import OperatorProcess, Site, condition_of

WEB = {"ingress": [{"protocol": "TCP", "port": 80}]}
SERVERS, PORTS = 32, 16
SLICES = SERVERS * PORTS // 32


def eth(*groups: str, name: str = "eth0") -> dict[str, Any]:
    """Give an interface on the network, in these groups."""
    named = {"securityGroups": [{"name": group} for group in groups]} if groups else {}
    return {"name": name, "network": {"name": "net"}} | named


async def in_groups(site: Site, server: str, groups: list[str] | None) -> None:
    """Wait until a server's first port is assigned with these groups."""

    def holds(body: dict[str, Any]) -> bool:
        given = body["spec"].get("assignment")
        return given is not None and given["ports"][0].get("securityGroups") == groups

    await site.until(Server, server, holds)


async def members(site: Site) -> dict[str, list[str]]:
    """Give the groups of each endpoint of the network, by its port."""
    return members_of((await site.client.list(NetworkEndpoints, site.name))[0])


def members_of(slices: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Give the same of slices."""
    return {item["port"]: item["groups"] for body in slices for item in body["spec"].get("endpoints", [])}


async def test_a_project_has_a_default_group(site: Site, operator: OperatorProcess) -> None:
    """It is there when the project is Ready, its rules are the users' to change, and one that is lost is made again."""
    await site.basics()
    first = await site.get(SecurityGroup, "default")
    assert [rule["remoteGroup"] for rule in first["spec"]["ingress"]] == [{"name": "default"}] * 2
    assert [rule["etherType"] for rule in first["spec"]["egress"]] == ["IPv4", "IPv6"]
    await site.condition(SecurityGroup, "default", "Ready", "True", "Admitted")
    await site.client.patch_merge(SecurityGroup, "default", {"spec": WEB}, site.name)
    await asyncio.to_thread(operator.stop)
    operator.start()
    await site.client.patch_merge(Project, site.name, {"spec": {"description": "looked at again"}})
    await site.until(Project, site.name, lambda body: body["status"].get("observedGeneration") == 2)
    edited = await site.get(SecurityGroup, "default")
    assert [rule["port"] for rule in edited["spec"]["ingress"]] == [80]
    await site.client.delete(SecurityGroup, "default", site.name)
    uid = edited["metadata"]["uid"]
    again = await site.until(SecurityGroup, "default", lambda body: body["metadata"]["uid"] != uid)
    assert again["spec"] == first["spec"]


async def test_a_group_that_is_absent_is_waited_for(site: Site) -> None:
    """A server, and a user's port, that name an absent group say so, and go on when it is made."""
    await site.host("g1")
    await site.basics()
    await site.port("mine", securityGroups=[{"name": "web"}])
    await site.server("web", networks=[eth("web")])
    words = "reference: security group web was not found; transient: goes on when it is made"
    assert await site.refused("web", "SecurityGroupNotFound") == words
    told = await site.condition(Port, "mine", "Ready", "False", "SecurityGroupNotFound")
    assert told["message"] == words
    await site.create(SecurityGroup, "web", WEB)
    given = await site.assigned(Server, "web")
    assert given["ports"][0]["securityGroups"] == ["web"]
    assert (await site.get(Port, "web-eth0"))["spec"]["securityGroups"] == [{"name": "web"}]
    await site.assigned(Port, "mine")
    await site.until(NetworkEndpoints, "net-0", lambda body: body["spec"]["endpoints"][0]["groups"] == ["web"])


async def test_ports_change_their_groups(site: Site) -> None:
    """A server's interfaces and a user's port change theirs while they are used; an absent group changes nothing."""
    await site.host("g2")
    await site.basics()
    await site.port("mine")
    await site.server("own", networks=[eth()])
    await site.server("theirs", networks=[{"name": "eth0", "port": {"name": "mine"}}])
    for name in ("own", "theirs"):
        await in_groups(site, name, None)
    await site.client.patch_merge(Server, "own", {"spec": {"networks": [eth("web", "default")]}}, site.name)
    told = await site.condition(Server, "own", "DevicesApplied", "False", "SecurityGroupNotFound")
    assert "security group web was not found" in told["message"]
    await in_groups(site, "own", None)
    await site.create(SecurityGroup, "web", WEB)
    await in_groups(site, "own", ["default", "web"])
    await site.condition(Server, "own", "DevicesApplied", "True")
    port = await site.get(Port, "own-eth0")
    assert port["spec"]["securityGroups"] == [{"name": "default"}, {"name": "web"}]
    await site.client.patch_merge(Port, "mine", {"spec": {"securityGroups": [{"name": "web"}]}}, site.name)
    await in_groups(site, "theirs", ["web"])
    await site.client.patch_merge(Server, "own", {"spec": {"networks": [eth()]}}, site.name)
    await in_groups(site, "own", None)
    await site.until(Port, "own-eth0", lambda body: not body["spec"]["securityGroups"])
    wanted = {"own-eth0": ["default"], "mine": ["web"]}
    await site.until(NetworkEndpoints, "net-0", lambda body: members_of([body]) == wanted)


async def test_a_group_in_use_stays(site: Site) -> None:
    """One that ports are in says which, and goes with the last of them; it takes no further port meanwhile."""
    await site.host("g3")
    await site.basics()
    await site.create(SecurityGroup, "web", WEB, (IN_USE,))
    await site.server("web", networks=[eth("web")])
    await site.assigned(Server, "web")
    await site.client.delete(SecurityGroup, "web", site.name)
    told = await site.condition(SecurityGroup, "web", "Ready", "False", "InUse")
    assert told["message"] == "deletion: 1 port (web-eth0) is in it; transient: the group goes when they have left it"
    await site.server("late", networks=[eth("web")])
    await site.refused("late", "SecurityGroupNotFound")
    await site.client.patch_merge(Server, "web", {"spec": {"networks": [eth()]}}, site.name)
    await site.gone(SecurityGroup, "web")
    await site.create(SecurityGroup, "unused", WEB, (IN_USE,))
    await site.client.delete(SecurityGroup, "unused", site.name)
    await site.gone(SecurityGroup, "unused")


async def test_groups_and_rules_count(site: Site) -> None:
    """A group beyond the quota says so and takes no port, until there is room; the project shows both numbers."""
    await site.host("g4")
    await site.basics(quota={"securityGroups": 2, "securityGroupRules": 8})
    await site.create(SecurityGroup, "web", WEB)
    await site.condition(SecurityGroup, "web", "Ready", "True")
    await site.create(SecurityGroup, "db", WEB)
    told = await site.condition(SecurityGroup, "db", "Ready", "False", "QuotaExceeded")
    assert "3 security groups are asked for, 2 are allowed; transient" in told["message"]
    await site.server("db", networks=[eth("db")])
    await site.refused("db", "SecurityGroupNotReady")
    shown = {"securityGroups": "2/2", "securityGroupRules": "7/8"}
    await site.until(Project, site.name, lambda body: shown.items() <= (body["status"].get("quota") or {}).items())
    await site.client.patch_merge(Project, site.name, {"spec": {"quota": {"securityGroups": 3}}}, None)
    told = await site.condition(SecurityGroup, "db", "Ready", "False", "QuotaExceeded")
    await site.until(SecurityGroup, "db", lambda body: "10 rules" in str(condition_of(body, "Ready")))
    await site.client.delete(SecurityGroup, "web", site.name)
    await site.condition(SecurityGroup, "db", "Ready", "True")
    assert (await site.assigned(Server, "db"))["ports"][0]["securityGroups"] == ["db"]


async def test_a_remote_group_that_is_absent_is_told(site: Site) -> None:
    """A rule about members of an absent group is told of until the group is made, and when it goes."""
    await site.basics()
    spec = {"ingress": [{"remoteGroup": {"name": "app"}}]}
    await site.create(SecurityGroup, "db", spec)
    told = await site.condition(SecurityGroup, "db", "Ready", "False", "RemoteGroupNotFound")
    assert "rules speak of app, not found" in told["message"]
    await site.create(SecurityGroup, "app", WEB)
    await site.condition(SecurityGroup, "db", "Ready", "True")
    await site.client.delete(SecurityGroup, "app", site.name)
    await site.condition(SecurityGroup, "db", "Ready", "False", "RemoteGroupNotFound")


@pytest.mark.timeout(300)
async def test_many_members_are_few_writes(site: Site, plane: ControlPlane) -> None:
    """512 ports that come, and that change their group, are told to all hosts slice by slice, not one by one."""
    await site.host("g5", memory="256Gi", vcpus=64)
    await site.basics(cidr="10.0.0.0/22")
    await site.create(SecurityGroup, "web", WEB)
    audit = AuditLog(plane.audit_log)
    interfaces = [f"eth{number}" for number in range(PORTS)]
    names = [f"s{number}" for number in range(SERVERS)]
    for name in names:
        await site.server(name, networks=[eth(name=interface) for interface in interfaces])
    await asyncio.gather(*(site.assigned(Server, name) for name in names))
    await _all_in(site, "default")
    came = [write for write in audit.writes(site.name) if write.resource == "networkendpoints"]
    audit = AuditLog(plane.audit_log)
    patch = {"spec": {"networks": [eth("web", name=interface) for interface in interfaces]}}
    await asyncio.gather(*(site.client.patch_merge(Server, name, patch, site.name) for name in names))
    await _all_in(site, "web")
    changed = [write for write in audit.writes(site.name) if write.resource == "networkendpoints"]
    print(f"{len(came)} writes for {SERVERS * PORTS} ports that came, {len(changed)} for those that changed")
    assert len(came) <= 5 * SLICES
    assert len(changed) <= 8 * SLICES


async def _all_in(site: Site, group: str) -> None:
    """Watch the endpoints until all are told as members of a group."""
    async for event, _ in site.client.watch(NetworkEndpoints, namespace=site.name):
        if event != "BOOKMARK":
            found = await members(site)
            if len(found) == SERVERS * PORTS and all(groups == [group] for groups in found.values()):
                return
