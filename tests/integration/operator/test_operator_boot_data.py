"""Boot data over TLS against a real API server: only the node that a server is assigned to gets it."""

from __future__ import annotations

import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from kumulus_api import FINALIZER, Image, LoadBalancer, Server, ServerAction, Volume, VPNConnection
from kumulus_api.testing import make_assigned
from kumulus_lab.control_plane import ControlPlane
from kumulus_operator.bootdata.server import AUDIENCE, application
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.certificates.issuing import issue_apart, server_context
from kumulus_runtime.conditions import set_condition
from kumulus_runtime.errors import AlreadyExists
from kumulus_runtime.resources import NAMESPACE, NODE, SECRET, SERVICEACCOUNT

NAME = "localhost"
INSTANCE = "11111111-2222-4333-8444-555555555555"


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


@dataclass(frozen=True)
class Service:
    """The boot data service with a server of node b1, and who asks it."""

    plane: ControlPlane
    url: str
    trust: ssl.SSLContext

    def token(self, node: str, audience: str = AUDIENCE) -> str:
        """Give a token of a node's agent."""
        bound = ("--bound-object-kind=Node", f"--bound-object-name={node}")
        made = self.plane.kubectl("create", "token", "agent", "-n", "demo", f"--audience={audience}", *bound)
        return made.stdout.strip()

    async def ask(self, credential: str, path: str) -> tuple[int, dict[str, object]]:
        """Ask, and give status and answer."""
        headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}/v1/{path}", headers=headers, ssl=self.trust) as answer,
        ):
            return answer.status, await answer.json()


@pytest.fixture
async def service(plane: ControlPlane, client: KubeClient, address: tuple[str, ssl.SSLContext]) -> Service:
    """The service, the agents' account, their nodes, and the server `web` with a Secret of its own."""
    everything: tuple[tuple[Any, dict[str, Any]], ...] = (
        (NAMESPACE, {"metadata": {"name": "demo"}}),
        (SERVICEACCOUNT, {"metadata": {"name": "agent", "namespace": "demo"}}),
        *((NODE, {"metadata": {"name": node}}) for node in ("b1", "b2")),
    )
    for kind, body in everything:
        with contextlib.suppress(AlreadyExists):
            await client.create(kind, body)
    spec = {"flavor": {"name": "f"}, "image": {"name": "i"}, "userData": {"secret": {"name": "s"}}}
    assigned = {
        "instanceID": INSTANCE,
        "host": "b1",
        "epoch": 1,
        "resources": {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"},
    }
    metadata = {"name": "web", "namespace": "demo", "finalizers": [FINALIZER]}
    with contextlib.suppress(AlreadyExists):
        await client.create(Server, {"metadata": metadata, "spec": spec | {"assignment": assigned}})
    return Service(plane, *address)


def secret(name: str, key: str, content: bytes) -> dict[str, Any]:
    """Give a Secret."""
    metadata = {"name": name, "namespace": "demo"}
    return {"metadata": metadata, "data": {key: base64.b64encode(content).decode()}}


async def test_only_the_assigned_node_gets_boot_data(client: KubeClient, service: Service) -> None:
    """The right node gets the Secret's content; another node, a wrong audience and no token get nothing."""
    body = secret("s", "userData", b"#cloud-config\n")
    await client.create(SECRET, body)
    right = service.token("b1")
    given = {"userData": body["data"]["userData"], "sshKeys": []}
    assert await service.ask(right, "boot-data/demo/web") == (200, given)
    assert (await service.ask(service.token("b2"), "boot-data/demo/web"))[0] == 403
    assert (await service.ask(right, "boot-data/demo/absent"))[0] == 403
    assert (await service.ask(service.token("b1", "other"), "boot-data/demo/web"))[0] == 401
    assert (await service.ask("", "boot-data/demo/web"))[0] == 401
    await client.delete(SECRET, "s", "demo")
    assert (await service.ask(right, "boot-data/demo/web"))[0] == 404


async def test_a_password_is_given_while_its_action_is_open(client: KubeClient, service: Service) -> None:
    """The host that carries a SetPassword out gets the password, for as long as that is open; no other gets it."""
    await client.create(SECRET, secret("root", "password", b"correct horse"))
    act = {"server": {"name": "web"}, "type": "SetPassword", "setPassword": {"secret": {"name": "root"}}}
    await client.create(ServerAction, {"metadata": {"name": "act", "namespace": "demo"}, "spec": act})
    right, path = service.token("b1"), "passwords/demo/act"
    assert (await service.ask(right, path))[0] == 403, "it is not open yet"

    async def told(phase: str, host: str = "b1", instance: str = INSTANCE) -> None:
        status = {"phase": phase, "host": host, "instanceID": instance}
        body = {"metadata": {"name": "act", "namespace": "demo"}, "status": status}
        await client.apply_status(ServerAction, body, manager="test")

    await told("Running")
    assert await service.ask(right, path) == (200, {"password": "correct horse"})
    assert (await service.ask(service.token("b2"), path))[0] == 403
    assert (await service.ask(right, "passwords/demo/absent"))[0] == 403
    assert (await service.ask(service.token("b1", "other"), path))[0] == 401
    assert (await service.ask("", path))[0] == 401
    await told("Running", "b2")
    assert (await service.ask(service.token("b2"), path))[0] == 403, "the server is not that node's"
    await told("Running", instance=INSTANCE.replace("1", "2"))
    assert (await service.ask(right, path))[0] == 403, "the action was for another guest"
    await told("Running")
    await client.patch_merge(SECRET, "root", secret("root", "password", b"two\nlines"), "demo")
    status, answer = await service.ask(right, path)
    assert status == 422
    assert "lines" not in str(answer)
    await client.delete(SECRET, "root", "demo")
    assert (await service.ask(right, path))[0] == 404
    await told("Succeeded")
    assert (await service.ask(right, path))[0] == 403


async def test_certificates_are_given_to_the_hosts_of_a_load_balancer(client: KubeClient, service: Service) -> None:
    """The host of a load balancer and its standby get the certificates of its listeners; no other host gets any."""
    _, chain, key = await issue_apart(["lb.test"])
    pair = secret("cert", "tls.crt", chain)
    pair["data"] |= secret("cert", "tls.key", key)["data"]
    await client.create(SECRET, pair)
    body = make_assigned(LoadBalancer, "lb", "b1")
    (listener,) = body["spec"]["assignment"]["listeners"]
    ends = {"protocol": "HTTPS", "certificateVersion": "1"}
    body["spec"]["assignment"]["listeners"] = [
        listener,
        listener | ends | {"name": "good", "port": 443, "tls": {"secret": {"name": "cert"}}},
        listener | ends | {"name": "bad", "port": 444, "tls": {"secret": {"name": "absent"}}},
    ]
    body["spec"]["assignment"]["standby"] = "b2"
    await client.create(LoadBalancer, body)
    path = "certificates/demo/lb"
    status, given = await service.ask(service.token("b1"), path)
    assert status == 200
    certificates, faults = given["certificates"], given["faults"]
    assert certificates == {"good": f"{chain.decode().strip()}\n{key.decode().strip()}\n"}
    assert isinstance(faults, dict)
    assert "Secret absent was not found" in faults["bad"]
    assert (await service.ask(service.token("b2"), path))[0] == 200
    assert (await service.ask(service.token("b1", "other"), path))[0] == 401
    assert (await service.ask("", path))[0] == 401
    assert (await service.ask(service.token("b1"), "certificates/demo/absent"))[0] == 403
    alone = {"spec": {"assignment": body["spec"]["assignment"] | {"host": "b2", "standby": None}}}
    await client.patch_merge(LoadBalancer, "lb", alone, "demo")
    assert (await service.ask(service.token("b1"), path))[0] == 403
    await client.delete(LoadBalancer, "lb", "demo")
    await client.delete(SECRET, "cert", "demo")


async def test_a_vpn_key_is_given_to_the_hosts_of_its_router(client: KubeClient, service: Service) -> None:
    """The gateway's host and its standby get the key of a VPN connection; no other host gets it, nor learns of it."""
    await client.create(SECRET, secret("office", "psk", b"as long as it should be\n"))
    body = make_assigned(VPNConnection, "office", "b1")
    body["spec"]["assignment"]["standby"] = "b2"
    await client.create(VPNConnection, body)
    path = "vpn-keys/demo/office"
    for node in ("b1", "b2"):
        status, given = await service.ask(service.token(node), path)
        assert (status, base64.b64decode(str(given["key"]))) == (200, b"as long as it should be")
    assert (await service.ask(service.token("b1", "other"), path))[0] == 401
    assert (await service.ask(service.token("b1"), "vpn-keys/demo/absent"))[0] == 403
    alone = {"spec": {"assignment": body["spec"]["assignment"] | {"host": "b2", "standby": None}}}
    await client.patch_merge(VPNConnection, "office", alone, "demo")
    assert (await service.ask(service.token("b1"), path))[0] == 403
    await client.delete(SECRET, "office", "demo")
    status, given = await service.ask(service.token("b2"), path)
    assert (status, "Secret office was not found" in str(given["error"])) == (404, True)
    await client.delete(VPNConnection, "office", "demo")


async def test_a_volume_key_is_given_to_the_hosts_of_its_volume(client: KubeClient, service: Service) -> None:
    """The volume's host gets the key; no other host gets it, nor learns of it."""
    content = b"thirty-two bytes, or some more of them"
    await client.create(SECRET, secret("volume-key-1", "key", content + b"\n"))
    body = make_assigned(Volume, "sealed", "b1")
    how = {"cipher": "aes-xts-plain64", "keySize": 512, "secret": {"name": "volume-key-1"}, "made": True}
    body["spec"]["assignment"]["encryption"] = how
    await client.create(Volume, body)
    path = "volume-keys/demo/sealed"
    status, given = await service.ask(service.token("b1"), path)
    assert (status, base64.b64decode(str(given["key"]))) == (200, content)
    assert (await service.ask(service.token("b2"), path))[0] == 403
    assert (await service.ask(service.token("b1", "other"), path))[0] == 401
    assert (await service.ask("", path))[0] == 401
    assert (await service.ask(service.token("b1"), "volume-keys/demo/absent"))[0] == 403
    await client.delete(SECRET, "volume-key-1", "demo")
    status, given = await service.ask(service.token("b1"), path)
    assert (status, "Secret volume-key-1 was not found" in str(given["error"])) == (404, True)
    await client.patch_merge(Volume, "sealed", {"metadata": {"finalizers": []}}, "demo")
    await client.delete(Volume, "sealed", "demo")


async def test_the_keys_of_a_source_are_given_to_who_imports(client: KubeClient, service: Service) -> None:
    """The host that imports an image gets the keys of its bucket, until it has; no other host, and never without."""
    pair = secret("disks", "AWS_ACCESS_KEY_ID", b"access")
    pair["data"] |= secret("disks", "AWS_SECRET_ACCESS_KEY", b"not told\n")["data"]
    await client.create(SECRET, pair)
    where = {"endpoint": "https://s3.test", "bucket": "disks", "key": "a.qcow2", "secret": {"name": "disks"}}
    spec = {"source": {"s3": where}, "format": "qcow2"}
    metadata = {"name": "of-a-bucket", "namespace": "demo"}
    await client.create(Image, {"metadata": metadata, "spec": spec})
    path = "image-keys/demo/of-a-bucket"
    assert (await service.ask(service.token("b1"), path))[0] == 403, "nobody imports it yet"
    await client.apply_status(Image, {"metadata": metadata, "status": {"importHost": "b1"}}, manager="test")
    given = {"accessKeyID": "access", "secretAccessKey": "not told"}
    assert await service.ask(service.token("b1"), path) == (200, given)
    assert (await service.ask(service.token("b2"), path))[0] == 403
    assert (await service.ask(service.token("b1", "other"), path))[0] == 401
    assert (await service.ask(service.token("b1"), "image-keys/demo/absent"))[0] == 403
    await client.delete(SECRET, "disks", "demo")
    status, answer = await service.ask(service.token("b1"), path)
    assert (status, "not told" in str(answer)) == (404, False)
    ready = {"importHost": "b1", "conditions": set_condition([], "Ready", True, "Imported", "", 1)}
    await client.apply_status(Image, {"metadata": metadata, "status": ready}, manager="test")
    assert (await service.ask(service.token("b1"), path))[0] == 403, "it is imported"
    await client.delete(Image, "of-a-bucket", "demo")
