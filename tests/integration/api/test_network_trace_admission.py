"""Who may trace what, and what an agent may say of a trace, judged by a real API server."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import NetworkTrace
from kumulus_api.testing import make_object
from kumulus_lab.commands import wait_until
from kumulus_lab.testing.objects import status_body
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import Forbidden, Invalid

PACKET = {"source": "10.0.0.11", "destination": "10.0.0.12", "protocol": 6, "first": 49152, "second": 80}
LEG = {"number": 1, "start": "Port", "port": "p", "packet": PACKET}
HOP = {"host": "h1", "what": "EgressRules", "verdict": "Dropped", "message": "no rule"}
REPORT = {"leg": 1, "outcome": "Dropped", "hops": [HOP], "packet": PACKET}


async def asked(connect: Any, name: str, host: str) -> dict[str, Any]:
    """Make a trace about which a host is asked."""
    admin, operator = await connect("admin"), await connect("operator")
    body = await admin.create(NetworkTrace, make_object(NetworkTrace, name))
    status = {"host": host, "leg": LEG, "askedAt": "2026-01-01T00:00:00Z", "message": "asked"}
    return await operator.apply_status(NetworkTrace, status_body(body, status), manager="kumulus-operator")


async def tell(client: KubeClient, body: dict[str, Any], **status: Any) -> dict[str, Any]:
    """Write of a trace as an agent does."""
    return await client.apply_status(NetworkTrace, status_body(body, status), manager="kumulus-agent")


async def test_an_agent_reports_its_own_leg_and_no_more(connect: Any) -> None:
    """The host that is asked reports the leg that it was asked; another, or about more than its report, is refused."""
    agent, other, nameless = [await connect(user) for user in ("agent@h1", "agent@h2", "agent")]
    body = await asked(connect, "own", "h1")
    for stranger in (other, nameless):
        with pytest.raises(Forbidden):
            await tell(stranger, body, report=REPORT)
    with pytest.raises(Forbidden, match="the leg that it was asked"):
        await tell(agent, body, report=REPORT | {"leg": 2})
    for more in (
        {"verdict": "Passed"},
        {"hops": [HOP]},
        {"host": "h2"},
        {"answer": {"verdict": "Passed"}},
        {"message": "all is well"},
    ):
        with pytest.raises(Forbidden, match="its report and nothing else"):
            await tell(agent, body, report=REPORT, **more)
    told = await tell(agent, body, report=REPORT)
    assert told["status"]["report"]["hops"] == [HOP]
    assert told["status"]["leg"]["port"] == "p"
    with pytest.raises(Forbidden):
        await agent.patch_merge(NetworkTrace, "own", {"metadata": {"labels": {"a": "b"}}}, "demo")
    with pytest.raises(Forbidden):
        await agent.delete(NetworkTrace, "own", "demo")


async def test_the_operator_keeps_what_agents_report(connect: Any) -> None:
    """Server-side apply of the operator's part leaves the report, and a host that is asked no more cannot add to it."""
    agent, operator = await connect("agent@h1"), await connect("operator")
    body = await asked(connect, "kept", "h1")
    await tell(agent, body, report=REPORT)
    closed = {"verdict": "Dropped", "message": "no rule", "hops": [HOP]}
    done = await operator.apply_status(NetworkTrace, status_body(body, closed), manager="kumulus-operator")
    assert "host" not in done["status"]
    assert done["status"]["report"]["outcome"] == "Dropped"
    with pytest.raises(Forbidden):
        await tell(agent, body, report=REPORT | {"outcome": "Delivered"})
    assert await operator.delete(NetworkTrace, "kept", "demo")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"port": None}, "TCP and UDP need a port"),
        ({"protocol": "ICMP"}, "TCP and UDP need a port"),
        ({"protocol": None, "port": None, "destination": {}}, "one of server, port, floatingIP and address"),
        ({"destination": {"address": "::1", "port": {"name": "p"}}}, "one of server, port, floatingIP and address"),
        ({"destination": {"address": "1.2.3"}}, "not an IP address"),
        ({"source": {}}, "one of server and port"),
        ({"source": {"server": {"name": "a"}, "port": {"name": "b"}}}, "one of server and port"),
    ],
)
async def test_a_packet_that_cannot_be_is_refused(admin: KubeClient, spec: dict[str, Any], message: str) -> None:
    """An end too many or too few, a port that does not fit: each is refused with its sentence."""
    with pytest.raises(Invalid, match=message):
        await admin.create(NetworkTrace, make_object(NetworkTrace, "bad", **spec))


async def test_a_trace_asks_one_thing(admin: KubeClient) -> None:
    """What was asked cannot be changed; protocol ICMP is what is asked if nothing is said."""
    made = await admin.create(NetworkTrace, make_object(NetworkTrace, "plain", protocol=None, port=None))
    assert made["spec"]["protocol"] == "ICMP"
    with pytest.raises(Invalid, match="cannot change"):
        await admin.patch_merge(NetworkTrace, "plain", {"spec": {"destination": {"address": "192.0.2.2"}}}, "demo")


async def test_members_trace_and_readers_read(connect: Any, cluster: Any) -> None:
    """A project's member makes and deletes traces, a reader sees them; neither writes what came of them."""
    plane = cluster.plane
    for user, role in (("tracy", "member"), ("rene", "reader")):
        binding = [f"trace-{user}", f"--clusterrole=kumulus-project-{role}", f"--user={user}"]
        plane.kubectl("create", "rolebinding", *binding, "-n", "demo")

        def allowed(user: str = user) -> bool:
            question = ["get", "networktraces.kumulus.dev", f"--as={user}", "-n", "demo"]
            return plane.kubectl("auth", "can-i", *question, check=False).returncode == 0

        wait_until(allowed, what=f"the rights of {user}", limit=30)
    member, reader = await connect("tracy"), await connect("rene")
    body = await member.create(NetworkTrace, make_object(NetworkTrace, "hers"))
    assert await reader.get(NetworkTrace, "hers", "demo")
    with pytest.raises(Forbidden):
        await reader.create(NetworkTrace, make_object(NetworkTrace, "his"))
    with pytest.raises(Forbidden):
        await member.apply_status(NetworkTrace, status_body(body, {"verdict": "Passed"}), manager="me")
    with pytest.raises(Forbidden):
        await reader.delete(NetworkTrace, "hers", "demo")
    assert await member.delete(NetworkTrace, "hers", "demo")
