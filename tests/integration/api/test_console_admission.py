"""Who may make a console session for what, judged by a real API server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kumulus_api import ConsoleSession
from kumulus_api.testing import make_object
from kumulus_lab.commands import wait_until
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import ApiError, Forbidden, Invalid


@pytest.fixture(scope="module")
def roles(cluster: Any) -> None:
    """Carol is a member of the project demo, rita a reader, and leo may open the console of one server alone."""
    plane = cluster.plane
    for user, role in (("carol", "member"), ("rita", "reader")):
        binding = [f"console-{user}", f"--clusterrole=kumulus-project-{role}", f"--user={user}"]
        plane.kubectl("create", "rolebinding", *binding, "-n", "demo")
    plane.kubectl("create", "role", "sessions", "--verb=create", "--resource=consolesessions.kumulus.dev", "-n", "demo")
    plane.kubectl("create", "rolebinding", "sessions", "--role=sessions", "--user=leo", "-n", "demo")
    one = ["--verb=create", "--resource=servers.kumulus.dev/console", "--resource-name=one"]
    plane.kubectl("create", "role", "one", *one, "-n", "demo")
    plane.kubectl("create", "rolebinding", "one", "--role=one", "--user=leo", "-n", "demo")
    for question in (
        ["create", "servers.kumulus.dev/console", "--as=carol"],
        ["get", "servers.kumulus.dev/log", "--as=rita"],
        ["create", "servers.kumulus.dev/one", "--subresource=console", "--as=leo"],
        ["create", "consolesessions.kumulus.dev", "--as=leo"],
    ):

        def allowed(question: list[str] = question) -> bool:
            return plane.kubectl("auth", "can-i", *question, "-n", "demo", check=False).returncode == 0

        wait_until(allowed, what=f"the right to {question}", limit=30)


async def make(client: KubeClient, name: str, server: str = "web", **spec: Any) -> dict[str, Any]:
    """Make a session, or see it refused; for some seconds after a kind's birth the API server cannot mutate it."""
    body = make_object(ConsoleSession, name, server={"name": server}, **spec)
    async with asyncio.timeout(30):
        while True:
            try:
                return await client.create(ConsoleSession, body)
            except ApiError as error:
                if error.status != 500:
                    raise
                await asyncio.sleep(0.5)


@pytest.mark.usefixtures("roles")
async def test_a_session_bears_the_name_of_who_made_it(connect: Any) -> None:
    """Whatever name somebody gives, the session is theirs; and it cannot be changed later."""
    carol, admin = await connect("carol"), await connect("admin")
    made = await make(carol, "theirs", user="admin")
    assert made["spec"]["user"] == "carol"
    with pytest.raises(Invalid, match="cannot change"):
        await admin.patch_merge(ConsoleSession, "theirs", {"spec": {"user": "admin"}}, "demo")
    with pytest.raises(Forbidden):
        await carol.patch_merge(ConsoleSession, "theirs", {"spec": {"tokenHash": "1" * 64}}, "demo")
    with pytest.raises(Forbidden):
        await carol.patch_merge(ConsoleSession, "theirs", {"status": {"openedAt": None}}, "demo", subresource="status")


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize(
    ("user", "console", "allowed"),
    [
        ("carol", "VNC", True),
        ("carol", "Serial", True),
        ("carol", "Log", True),
        ("rita", "Log", True),
        ("rita", "VNC", False),
        ("rita", "Serial", False),
    ],
)
async def test_members_open_consoles_readers_read_logs(connect: Any, user: str, console: str, allowed: bool) -> None:
    """A member may have each console of a server, a reader its log; the refusal names the right that is missing."""
    client = await connect(user)
    if allowed:
        await make(client, f"{user}-{console.lower()}", type=console)
    else:
        with pytest.raises(Forbidden, match=rf"{user} may not open the console of server web .*servers/console"):
            await make(client, f"{user}-{console.lower()}", type=console)


@pytest.mark.usefixtures("roles")
async def test_a_right_may_be_for_one_server(connect: Any) -> None:
    """A role that names one server opens the console of that one."""
    leo = await connect("leo")
    await make(leo, "leo-one", server="one")
    with pytest.raises(Forbidden, match="may not open the console of server two"):
        await make(leo, "leo-two", server="two")
    with pytest.raises(Forbidden, match="may not read the console log of server one"):
        await make(leo, "leo-log", server="one", type="Log")


@pytest.mark.usefixtures("roles")
async def test_strangers_and_agents_make_no_sessions(connect: Any) -> None:
    """Nobody without a role in a project makes a session there, be it a user, an agent or the operator."""
    for user in ("mallory", "agent@h1", "operator"):
        with pytest.raises(Forbidden):
            await make(await connect(user), f"by-{user.partition('@')[0]}")
