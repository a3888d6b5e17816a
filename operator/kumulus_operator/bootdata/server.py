"""The TLS server from which node agents fetch servers' boot data and passwords, and load balancers' certificates."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web

from kumulus_api import Image, KeyPair, LoadBalancer, Server, ServerAction, Volume, VPNConnection
from kumulus_api.server_action import ActionPhase, ActionReason
from kumulus_api.volume import VolumeAssignment
from kumulus_operator.actions.password import password_of
from kumulus_operator.bodies import MANAGER
from kumulus_operator.cloud import Cloud
from kumulus_operator.images.source_keys import imports, source_keys
from kumulus_operator.load_balancers.certificates import certificate_of
from kumulus_operator.metrics import BOOT_DATA_REQUESTS
from kumulus_operator.refusal import Refused
from kumulus_operator.servers.userdata import LARGEST, content_of, selector_of
from kumulus_operator.volumes.keys import key_content
from kumulus_operator.vpn_connections.keys import key_of
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.certificates.issuing import issue_apart, server_context
from kumulus_runtime.errors import ApiError
from kumulus_runtime.resources import CONFIGMAP, TOKENREVIEW

AUDIENCE = "kumulus-boot-data"
CA_CONFIG_MAP = "kumulus-boot-data-ca"
CA_KEY = "ca.crt"
_NODE_NAME = "authentication.kubernetes.io/node-name"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")

_LOG = structlog.stdlib.get_logger(__name__)


class Denied(Exception):
    """A request is answered with an error."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class BootData:
    """Answers agents. What it reads is live, and none of it is kept or logged.

    Args:
        client: to reach the API server.
    """

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a request for boot data."""
        return await self._answer(request, self.boot_data)

    async def handle_password(self, request: web.Request) -> web.Response:
        """Answer a request for a password."""
        return await self._answer(request, self.password)

    async def handle_certificates(self, request: web.Request) -> web.Response:
        """Answer a request for a load balancer's certificates."""
        return await self._answer(request, self.certificates)

    async def handle_vpn_key(self, request: web.Request) -> web.Response:
        """Answer a request for a VPN connection's key."""
        return await self._answer(request, self.vpn_key)

    async def handle_volume_key(self, request: web.Request) -> web.Response:
        """Answer a request for the key of an encrypted volume."""
        return await self._answer(request, self.volume_key)

    async def handle_image_keys(self, request: web.Request) -> web.Response:
        """Answer a request for the keys of the bucket that an image comes from."""
        return await self._answer(request, self.image_keys)

    async def _answer(
        self, request: web.Request, give: Callable[[str, str, str], Awaitable[dict[str, Any]]]
    ) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        try:
            node = await self._node_of(request.headers.get("Authorization", ""))
            _check_names(node, namespace, name)
            body = await give(node, namespace, name)
            status = HTTPStatus.OK
        except Denied as denied:
            body, status = {"error": str(denied)}, denied.status
            _LOG.info("boot data denied", namespace=namespace, name=name, status=int(status))
        except ApiError as error:
            body, status = {"error": "the API server cannot be asked now"}, HTTPStatus.SERVICE_UNAVAILABLE
            _LOG.warning("boot data not served", namespace=namespace, name=name, status=error.status)
        BOOT_DATA_REQUESTS.labels(code=str(int(status))).inc()
        return web.json_response(body, status=int(status))

    async def _node_of(self, authorization: str) -> str:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Denied(HTTPStatus.UNAUTHORIZED, "a ServiceAccount token is needed")
        review = await self._client.create(
            TOKENREVIEW, {"metadata": {}, "spec": {"token": token.strip(), "audiences": [AUDIENCE]}}
        )
        status = review.get("status", {})
        if not status.get("authenticated") or AUDIENCE not in (status.get("audiences") or []):
            raise Denied(HTTPStatus.UNAUTHORIZED, f"the token is not valid for the audience {AUDIENCE}")
        nodes = (status.get("user", {}).get("extra") or {}).get(_NODE_NAME) or []
        if len(nodes) != 1:
            raise Denied(HTTPStatus.FORBIDDEN, "the token is not bound to a node")
        return str(nodes[0])

    async def boot_data(self, node: str, namespace: str, name: str) -> dict[str, Any]:
        """Give user data and SSH keys of a server that is assigned to a node.

        Returns:
            `userData` in base64 or None, and `sshKeys`.

        Raises:
            Denied: 403 if the server is not that node's (whether it exists is not told), 404 if its data is missing.
        """
        server = await self._server(namespace, name)
        assigned = server.spec.assignment if server is not None else None
        if server is None or assigned is None or node not in (assigned.host, assigned.target):
            raise Denied(HTTPStatus.FORBIDDEN, f"{namespace}/{name} is not assigned to node {node}")
        return {"userData": await self._user_data(server), "sshKeys": await self._keys(server)}

    async def password(self, node: str, namespace: str, name: str) -> dict[str, Any]:
        """Give the password of a SetPassword that a node carries out now.

        Returns:
            It, as `password`.

        Raises:
            Denied: 403 if no such action is open for a guest of that node (whether it exists is not told), 404 if its
                Secret is missing, 422 if that holds no password.
        """
        found = await self._client.get(ServerAction, name, namespace)
        action = ServerAction.model_validate(found) if found is not None else None
        told = action.status if action is not None else None
        if action is None or told is None or (told.phase, told.host) != (ActionPhase.RUNNING, node):
            raise Denied(HTTPStatus.FORBIDDEN, f"no password of {namespace}/{name} is for node {node}")
        server = await self._server(namespace, action.spec.server.name)
        given = server.spec.assignment if server is not None else None
        if given is None or (given.host, given.instance_id) != (node, told.instance_id):
            raise Denied(HTTPStatus.FORBIDDEN, f"no password of {namespace}/{name} is for node {node}")
        try:
            return {"password": await password_of(self._client, action)}
        except Refused as error:
            invalid = error.refusal.reason == ActionReason.PASSWORD_INVALID
            status = HTTPStatus.UNPROCESSABLE_ENTITY if invalid else HTTPStatus.NOT_FOUND
            raise Denied(status, error.refusal.message) from None

    async def certificates(self, node: str, namespace: str, name: str) -> dict[str, Any]:
        """Give the certificates, with their keys, of a load balancer that a node has or is to take over.

        Returns:
            `certificates`: PEM by the name of the listener; those that cannot be had are in `faults`, with the reason.

        Raises:
            Denied: 403 if the load balancer is not that node's (whether it exists is not told).
        """
        found = await self._client.get(LoadBalancer, name, namespace)
        given = LoadBalancer.model_validate(found).spec.assignment if found is not None else None
        if given is None or node not in (given.host, given.standby):
            raise Denied(HTTPStatus.FORBIDDEN, f"load balancer {namespace}/{name} is not assigned to node {node}")
        certificates, faults = {}, {}
        for listener in given.listeners:
            if listener.tls is None:
                continue
            part = f"listener {listener.name}"
            try:
                certificate = await certificate_of(self._client, namespace, listener.tls.secret.name, part)
                certificates[listener.name] = certificate.pem
            except Refused as refused:
                faults[listener.name] = refused.refusal.message
        return {"certificates": certificates, "faults": faults}

    async def vpn_key(self, node: str, namespace: str, name: str) -> dict[str, Any]:
        """Give the key of a VPN connection whose router a node leads out, or is to take over.

        Returns:
            It, as `key` in base64.

        Raises:
            Denied: 403 if the connection is not that node's (whether it exists is not told), 404 if its Secret is
                missing or holds no key.
        """
        found = await self._client.get(VPNConnection, name, namespace)
        connection = VPNConnection.model_validate(found) if found is not None else None
        given = connection.spec.assignment if connection is not None else None
        if connection is None or given is None or node not in (given.host, given.standby):
            raise Denied(HTTPStatus.FORBIDDEN, f"VPN connection {namespace}/{name} is not assigned to node {node}")
        try:
            key = await key_of(self._client, namespace, connection.spec.psk)
        except Refused as refused:
            raise Denied(HTTPStatus.NOT_FOUND, refused.refusal.message) from None
        return {"key": base64.b64encode(key.content).decode()}

    async def volume_key(self, node: str, namespace: str, name: str) -> dict[str, Any]:
        """Give the key of an encrypted volume that a node has, or whose server it has or gets.

        Returns:
            It, as `key` in base64.

        Raises:
            Denied: 403 if the volume is not that node's (whether it exists is not told), 404 if its Secret is missing
                or holds no key.
        """
        found = await self._client.get(Volume, name, namespace)
        place = Volume.model_validate(found).spec.assignment if found is not None else None
        if place is None or place.encryption is None or node not in await self._hosts_of(namespace, place):
            raise Denied(HTTPStatus.FORBIDDEN, f"no key of volume {namespace}/{name} is for node {node}")
        try:
            content = await key_content(self._client, namespace, place.encryption.secret)
        except Refused as refused:
            raise Denied(HTTPStatus.NOT_FOUND, refused.refusal.message) from None
        return {"key": base64.b64encode(content).decode()}

    async def _hosts_of(self, namespace: str, place: VolumeAssignment) -> set[str]:
        """Give the hosts that work with a volume: its own, and those of the server that holds it."""
        hosts = {place.host}
        server = await self._server(namespace, place.attached_to) if place.attached_to is not None else None
        given = server.spec.assignment if server is not None else None
        if given is not None and any(item.volume_id == place.volume_id for item in given.volumes):
            hosts |= {given.host, given.target or given.host}
        return hosts

    async def image_keys(self, node: str, namespace: str, name: str) -> dict[str, Any]:
        """Give the keys of the bucket that an image comes from, which a node imports now.

        Returns:
            `accessKeyID` and `secretAccessKey`.

        Raises:
            Denied: 403 if the node does not import the image (whether it exists is not told), 404 if its Secret is
                missing or holds no keys.
        """
        found = await self._client.get(Image, name, namespace)
        image = Image.model_validate(found) if found is not None else None
        if image is None or not imports(image, node):
            raise Denied(HTTPStatus.FORBIDDEN, f"image {namespace}/{name} is not imported by node {node}")
        try:
            return await source_keys(self._client, image)
        except Refused as refused:
            raise Denied(HTTPStatus.NOT_FOUND, refused.refusal.message) from None

    async def _server(self, namespace: str, name: str) -> Server | None:
        body = await self._client.get(Server, name, namespace)
        return Server.model_validate(body) if body is not None else None

    async def _user_data(self, server: Server) -> str | None:
        data = server.spec.user_data
        if data is not None and data.inline is not None:
            return base64.b64encode(data.inline.encode()).decode()
        found = selector_of(server)
        if found is None:
            return None
        resource, selector = found
        body = await self._client.get(resource, selector.name, server.metadata.namespace)
        content = content_of(body, resource.kind, selector.key) if body is not None else None
        if content is None:
            where = f"key {selector.key} of {resource.kind} {selector.name}"
            raise Denied(HTTPStatus.NOT_FOUND, f"{where} was not found in {server.metadata.namespace}")
        if len(content) > LARGEST:
            raise Denied(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"user data is larger than {LARGEST} bytes")
        return base64.b64encode(content).decode()

    async def _keys(self, server: Server) -> list[str]:
        if server.spec.key_pair is None:
            return []
        body = await self._client.get(KeyPair, server.spec.key_pair.name, server.metadata.namespace)
        if body is None:
            raise Denied(HTTPStatus.NOT_FOUND, f"key pair {server.spec.key_pair.name} was not found")
        return [str(body["spec"]["publicKey"])]


def _check_names(node: str, *names: str) -> None:
    if not all(_NAME.fullmatch(name) for name in names):
        raise Denied(HTTPStatus.FORBIDDEN, f"nothing of that name is for node {node}")


def application(client: KubeClient) -> web.Application:
    """Give the web application."""
    app = web.Application()
    served = BootData(client)
    app.router.add_get("/v1/boot-data/{namespace}/{name}", served.handle)
    app.router.add_get("/v1/certificates/{namespace}/{name}", served.handle_certificates)
    app.router.add_get("/v1/image-keys/{namespace}/{name}", served.handle_image_keys)
    app.router.add_get("/v1/passwords/{namespace}/{name}", served.handle_password)
    app.router.add_get("/v1/volume-keys/{namespace}/{name}", served.handle_volume_key)
    app.router.add_get("/v1/vpn-keys/{namespace}/{name}", served.handle_vpn_key)
    return app


async def serve_boot_data(cloud: Cloud) -> None:
    """Make a certificate, publish its authority, serve until cancelled."""
    settings = cloud.settings
    service, namespace = settings.boot_data_service, settings.system_namespace
    issued = await issue_apart([f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local"])
    runner = web.AppRunner(application(cloud.client), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, None, settings.boot_data_port, ssl_context=server_context(issued)).start()
        body = {
            "metadata": {"name": CA_CONFIG_MAP, "namespace": namespace},
            "data": {CA_KEY: issued[0].decode()},
        }
        await cloud.client.apply(CONFIGMAP, body, manager=MANAGER)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
