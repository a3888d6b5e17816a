"""The tokens of a host's agent as a thief would have them: read from the pod, used from elsewhere."""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.cloud import Cloud
from kumulus_runtime.resources import CONFIGMAP, POD

SYSTEM = "kumulus-system"
_SERVICE = f"kumulus-boot-data.{SYSTEM}.svc"
_API_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path
_BOOT_DATA_TOKEN = "/var/run/secrets/kumulus/boot-data/token"  # noqa: S105 - a path


@dataclass(frozen=True)
class Loot:
    """What was read from the agent's pod.

    Attributes:
        api: the token for the API server.
        boot_data: the token for the operator's boot data.
    """

    api: str
    boot_data: str


async def steal(cloud: Cloud, lab: LabSettings, host: str) -> Loot:
    """Read the projected tokens of the agent that runs on a host."""
    selector = "app.kubernetes.io/component=agent"
    pods, _ = await cloud.client.list(POD, SYSTEM, label_selector=selector, field_selector=f"spec.nodeName={host}")
    name = next(pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"])
    plane = ControlPlane.of_lab(lab)
    read = [
        asyncio.to_thread(plane.kubectl, "exec", f"--namespace={SYSTEM}", name, "--", "cat", path)
        for path in (_API_TOKEN, _BOOT_DATA_TOKEN)
    ]
    api, boot_data = await asyncio.gather(*read)
    return Loot(api.stdout.strip(), boot_data.stdout.strip())


def kubeconfig(lab: LabSettings, token: str, path: Path) -> Path:
    """Write a kubeconfig that shows a token to the lab's API server, and give its path."""
    authority = str(lab.state / "control-plane" / "pki" / "ca.crt")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": lab.api_url, "certificate-authority": authority}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))
    return path


async def ask_boot_data(cloud: Cloud, token: str, namespace: str, server: str) -> tuple[int, str]:
    """Ask the operator for a server's boot data; give the answer's status and text."""
    selector = "app.kubernetes.io/component=operator"
    pods, _ = await cloud.client.list(POD, SYSTEM, label_selector=selector)
    address = next(pod["status"]["podIP"] for pod in pods if "deletionTimestamp" not in pod["metadata"])
    trusted = await cloud.client.get(CONFIGMAP, "kumulus-boot-data-ca", SYSTEM)
    context = ssl.create_default_context(cadata=(trusted or {})["data"]["ca.crt"])
    url = f"https://{address}:8443/v1/boot-data/{namespace}/{server}"
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers=headers, ssl=context, server_hostname=_SERVICE) as answer,
    ):
        return answer.status, await answer.text()
