"""Devices of placed servers: what is given and taken back, and when; the agent's word is the test's."""

from __future__ import annotations

import signal
from collections import Counter
from typing import Any

from kumulus_api import FINALIZER, Port, Server, Volume
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.audit import AuditLog
from kumulus_lab.testing.site import AGENT, OperatorProcess, Site

Object = dict[str, Any]
DATA = [{"name": "data", "volume": {"name": "data"}}]
ONE = [{"name": "a", "network": {"name": "net"}}]
TWO = [*ONE, {"name": "b", "network": {"name": "net"}}]


async def volume(site: Site, name: str = "data") -> None:
    """Make a volume."""
    await site.create(Volume, name, {"size": "1Gi"}, (FINALIZER,))
    await site.condition(Volume, name, "Ready", "False", "WaitingForFirstServer")


async def change(site: Site, server: str, **spec: Any) -> Object:
    """Change the spec as its user does."""
    return await site.client.patch_merge(Server, server, {"spec": spec}, site.name)


async def unplugged(site: Site, server: str) -> None:
    """Tell, as the agent does, that all that was taken away is unplugged as of the newest spec."""
    body = await site.get(Server, server)
    spec, given = body["spec"], body["spec"]["assignment"]
    named = {item["name"] for item in [*spec.get("networks", []), *spec.get("volumes", [])]}
    items = [*given.get("ports", []), *given.get("volumes", [])]
    gone = [item.get("portID") or item["volumeID"] for item in items if item["name"] not in named]
    status = (body.get("status") or {}) | {"observedGeneration": body["metadata"]["generation"], "detached": gone}
    at = {"metadata": {"name": server, "namespace": site.name}, "status": status}
    await site.client.apply_status(Server, at, manager=AGENT)


def names(body: Object, kind: str) -> list[str]:
    """Give the names of the ports or volumes that a server was given."""
    return [item["name"] for item in body["spec"]["assignment"].get(kind, [])]


async def witness(site: Site) -> None:
    """Have a port of another server given and taken back: the operator has looked by then at all that was asked before.

    It goes the same way, through the same queue, and began later.
    """
    await site.server("witness", networks=TWO)
    await site.assigned(Server, "witness")
    await change(site, "witness", networks=ONE)
    await unplugged(site, "witness")
    await site.until(Server, "witness", lambda b: names(b, "ports") == ["a"])


async def test_a_placed_server_is_given_and_gives_back(site: Site, plane: ControlPlane) -> None:
    """A volume and a port are claimed and given; they are released when the agent has said so, and not before."""
    await site.host("v1", memory="16Gi")
    await site.basics()
    await volume(site)
    await site.server("web", networks=ONE)
    await site.assigned(Server, "web")
    await site.report("web", "v1")
    audit = AuditLog(plane.audit_log)
    await change(site, "web", networks=TWO, volumes=DATA)
    given = await site.until(
        Server, "web", lambda b: (names(b, "ports"), names(b, "volumes")) == (["a", "b"], ["data"])
    )
    place = (await site.get(Volume, "data"))["spec"]["assignment"]
    assert (place["attachedTo"], place["host"]) == ("web", "v1")
    assert given["spec"]["assignment"]["volumes"][0]["volumeID"] == place["volumeID"]
    assert (await site.get(Port, "web-b"))["spec"]["assignment"]["host"] == "v1"
    await audit.caught_up(site.client)
    written = Counter((write.verb, write.resource) for write in audit.writes(site.name) if not write.subresource)
    expected = {("patch", "servers"): 2, ("patch", "volumes"): 1, ("create", "ports"): 1}
    assert {what: written[what] for what in expected} == expected, "the user's own write, and one for each object"

    await change(site, "web", networks=ONE, volumes=[])
    await witness(site)
    held = await site.get(Server, "web")
    assert (names(held, "ports"), names(held, "volumes")) == (["a", "b"], ["data"])
    assert (await site.get(Volume, "data"))["spec"]["assignment"]["attachedTo"] == "web"
    await unplugged(site, "web")
    await site.until(Server, "web", lambda b: (names(b, "ports"), names(b, "volumes")) == (["a"], []))
    await site.condition(Volume, "data", "Ready", "True", "Available")
    assert (await site.get(Volume, "data"))["spec"]["assignment"] == {
        "volumeID": place["volumeID"],
        "host": "v1",
        "size": place["size"],
    }
    await site.gone(Port, "web-b")


async def test_a_users_own_port_stays_and_another_server_gets_it(site: Site) -> None:
    """A port that was made by its user goes from one server to the next with its address and MAC."""
    await site.host("v2", memory="16Gi")
    await site.basics()
    await site.port("mine")
    before = await site.assigned(Port, "mine")
    mine = [{"name": "m", "port": {"name": "mine"}}]
    for name in ("first", "second"):
        await site.server(name, networks=ONE)
        await site.assigned(Server, name)
    await change(site, "first", networks=[*ONE, *mine])
    await site.until(Server, "first", lambda b: names(b, "ports") == ["a", "m"])
    await change(site, "second", networks=[*ONE, *mine])
    refusal = await site.condition(Server, "second", "DevicesApplied", "False", "PortInUse")
    assert "server first" in refusal["message"]
    await change(site, "first", networks=ONE)
    await witness(site)
    assert names(await site.get(Server, "second"), "ports") == ["a"]
    await unplugged(site, "first")
    after = await site.until(Server, "second", lambda b: names(b, "ports") == ["a", "m"])
    assert after["spec"]["assignment"]["ports"][1]["mac"] == before["mac"]
    await site.condition(Server, "second", "DevicesApplied", "True")
    assert (await site.get(Port, "mine"))["spec"]["assignment"]["addresses"] == before["addresses"]


async def test_what_cannot_be_attached_is_told(site: Site) -> None:
    """A volume of another host and a port beyond the quota are refused with the reason; the server stays as it is."""
    await site.host("v3", memory="1Gi")
    await site.host("v4", memory="1Gi")
    await site.basics(quota={"ports": 2})
    await volume(site)
    await site.server("one", networks=ONE, volumes=DATA)
    host = (await site.assigned(Server, "one"))["host"]
    await site.server("two", networks=ONE)
    assert (await site.assigned(Server, "two"))["host"] != host
    await change(site, "one", volumes=[])
    await unplugged(site, "one")
    await site.condition(Volume, "data", "Ready", "True", "Available")
    await change(site, "two", volumes=DATA)
    refusal = await site.condition(Server, "two", "DevicesApplied", "False", "VolumeOnAnotherHost")
    assert host in refusal["message"]
    await change(site, "two", volumes=[], networks=TWO)
    await site.condition(Server, "two", "DevicesApplied", "False", "QuotaExceeded")
    await change(site, "two", networks=ONE)
    await site.condition(Server, "two", "DevicesApplied", "True")


async def test_what_a_killed_operator_has_left_is_released(site: Site, operator: OperatorProcess) -> None:
    """A volume and a port that say they are a server's, which is not given them, are free after the next start."""
    await site.host("v5", memory="16Gi")
    await site.basics()
    await volume(site)
    await site.server("web", networks=TWO, volumes=DATA)
    await site.assigned(Server, "web")
    operator.stop(signal.SIGKILL)
    # It was killed when it had taken them out of the assignment.
    await change(site, "web", networks=ONE, volumes=[])
    body = await site.get(Server, "web")
    given = body["spec"]["assignment"]
    patch = {"assignment": {"ports": [port for port in given["ports"] if port["name"] == "a"], "volumes": []}}
    await site.client.patch_merge(Server, "web", {"spec": patch}, site.name)
    operator.start()
    await site.condition(Volume, "data", "Ready", "True", "Available")
    await site.gone(Port, "web-b")
    assert names(await site.get(Server, "web"), "ports") == ["a"]


async def test_each_owner_attaches_and_detaches_its_own(site: Site) -> None:
    """A driver that applies its own entry of `spec.volumes` has it attached and detached, and leaves others' alone."""
    await site.host("v9", memory="16Gi")
    await site.basics()
    for name in ("data", "claimed"):
        await volume(site, name)
    await site.server("web", networks=ONE, volumes=DATA)
    await site.assigned(Server, "web")
    await site.report("web", "v9")
    mine: Object = {"metadata": {"name": "web", "namespace": site.name}, "spec": {}}
    claimed = [{"name": "claimed", "volume": {"name": "claimed"}}]
    await site.client.apply(Server, mine | {"spec": {"volumes": claimed}}, manager="csi", force=False)
    await site.until(Server, "web", lambda b: sorted(names(b, "volumes")) == ["claimed", "data"])
    await site.client.apply(Server, mine, manager="csi", force=False)
    body = await site.get(Server, "web")
    assert [item["name"] for item in body["spec"]["volumes"]] == ["data"]
    await unplugged(site, "web")
    await site.until(Server, "web", lambda b: names(b, "volumes") == ["data"])
    await site.until(Volume, "claimed", lambda b: "attachedTo" not in b["spec"]["assignment"])
    assert (await site.get(Volume, "data"))["spec"]["assignment"]["attachedTo"] == "web"
