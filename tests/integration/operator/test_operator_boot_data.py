"""Boot data over TLS against a real API server: only the node that a server is assigned to gets it."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from kumulus_api import FINALIZER, Server
from kumulus_lab.control_plane import ControlPlane
from kumulus_operator.bootdata.server import AUDIENCE, application
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.certificates.issuing import issue_apart, server_context
from kumulus_runtime.resources import NAMESPACE, NODE, SECRET, SERVICEACCOUNT

NAME = "localhost"


@pytest.fixture
async def address(client: KubeClient) -> AsyncIterator[tuple[str, ssl.SSLContext]]:
    """The URL of a running boot data server, and trust in its authority alone."""
    issued = await issue_apart([NAME])
    runner = web.AppRunner(application(client), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, NAME, 0, ssl_context=server_context(issued)).start()
    trust = ssl.create_default_context(cadata=issued[0].decode())
    yield f"https://{NAME}:{runner.addresses[0][1]}", trust
    await runner.cleanup()


async def test_only_the_assigned_node_gets_boot_data(
    plane: ControlPlane, client: KubeClient, address: tuple[str, ssl.SSLContext]
) -> None:
    """The right node gets the Secret's content; another node, a wrong audience and no token get nothing."""
    await client.create(NAMESPACE, {"metadata": {"name": "demo"}})
    await client.create(SERVICEACCOUNT, {"metadata": {"name": "agent", "namespace": "demo"}})
    for node in ("b1", "b2"):
        await client.create(NODE, {"metadata": {"name": node}})
    content = b"#cloud-config\n"
    encoded = base64.b64encode(content).decode()
    await client.create(SECRET, {"metadata": {"name": "s", "namespace": "demo"}, "data": {"userData": encoded}})
    spec = {"flavor": {"name": "f"}, "image": {"name": "i"}, "userData": {"secret": {"name": "s"}}}
    assigned = {
        "instanceID": "11111111-2222-4333-8444-555555555555",
        "host": "b1",
        "epoch": 1,
        "resources": {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"},
    }
    metadata = {"name": "web", "namespace": "demo", "finalizers": [FINALIZER]}
    await client.create(Server, {"metadata": metadata, "spec": spec | {"assignment": assigned}})

    def token(audience: str, node: str) -> str:
        bound = ("--bound-object-kind=Node", f"--bound-object-name={node}")
        return plane.kubectl("create", "token", "agent", "-n", "demo", f"--audience={audience}", *bound).stdout.strip()

    url, trust = address
    async with aiohttp.ClientSession() as session:

        async def ask(credential: str, name: str = "web") -> tuple[int, dict[str, object]]:
            headers = {"Authorization": f"Bearer {credential}"} if credential else {}
            path = f"{url}/v1/boot-data/demo/{name}"
            async with session.get(path, headers=headers, ssl=trust) as answer:
                return answer.status, await answer.json()

        right = token(AUDIENCE, "b1")
        assert await ask(right) == (200, {"userData": encoded, "sshKeys": []})
        assert (await ask(token(AUDIENCE, "b2")))[0] == 403
        assert (await ask(right, "absent"))[0] == 403
        assert (await ask(token("other", "b1")))[0] == 401
        assert (await ask(""))[0] == 401
        await client.delete(SECRET, "s", "demo")
        assert (await ask(right))[0] == 404
