"""Boot data on its way: from a Secret through the operator's endpoint to the guest, and nowhere else."""

import asyncio
import base64
import json
import subprocess
import uuid
from pathlib import Path

from kumulus_api import KeyPair, Server
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.audit import AuditLog
from kumulus_lab.testing.cloud import Cloud, Object, ready
from kumulus_lab.testing.shown import places_with
from kumulus_runtime.resources import EVENT, SECRET

SYSTEM = "kumulus-system"


def script(marker: str, word: str) -> str:
    """User-data that says a word, whether the SSH key came along, and never its marker."""
    return f"#!/bin/sh\n# {marker}\necho word={word}\necho keys=$(grep -c 'ssh-ed25519 AAAA' /run/meta-data)\n"


def encoded(text: str) -> dict[str, str]:
    """The data of a Secret that holds user-data under the default key."""
    return {"userData": base64.b64encode(text.encode()).decode()}


def public_key(folder: Path) -> str:
    """Make a key pair with ssh-keygen and give the public half."""
    private = folder / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", private], check=True, timeout=30)
    return private.with_suffix(".pub").read_text().strip()


async def power(cloud: Cloud, project: str, name: str, state: str) -> None:
    """Ask for a power state and wait until the server has it."""
    changed = await cloud.client.patch_merge(Server, name, {"spec": {"powerState": state}}, project)
    wanted = changed["metadata"]["generation"]

    def holds(body: Object) -> bool:
        status = body.get("status", {})
        return status.get("powerState") == state and status.get("observedGeneration", 0) >= wanted

    await cloud.until(Server, name, holds, namespace=project)


async def test_user_data_of_a_secret_reaches_the_guest_alone(
    cloud: Cloud, project: str, lab: LabSettings, tmp_path: Path
) -> None:
    """Each start hands the guest what the Secret holds then, through the operator; no log, object or XML shows it."""
    first, second = f"hush-{uuid.uuid4().hex}", f"hush-{uuid.uuid4().hex}"
    await cloud.make_network(project)
    await cloud.make(KeyPair, "mine", {"publicKey": public_key(tmp_path)}, project)
    body = {"metadata": {"name": "boot", "namespace": project}, "data": encoded(script(first, "one"))}
    await cloud.client.create(SECRET, body)
    audit = AuditLog(lab.audit_log)
    await cloud.make_server(project, "a", keyPair={"name": "mine"}, userData={"secret": {"name": "boot"}})
    server = await cloud.server_ready(project, "a")
    log = console.path(lab, server)
    await console.says(log, r"^word=one$")
    await console.says(log, r"^keys=1$")
    reviews = [w for w in audit.writes() if w.resource == "tokenreviews" and w.user.endswith(":kumulus-operator")]
    assert reviews, "the operator has checked no agent's token: the data came another way"

    await cloud.client.patch_merge(SECRET, "boot", {"data": encoded(script(second, "two"))}, project)
    await console.says(log, "kumulus-guest: ready")
    await power(cloud, project, "a", "Stopped")
    await power(cloud, project, "a", "Running")
    await console.says(log, r"^word=two$")

    server = await cloud.until(Server, "a", ready, namespace=project)
    for marker in (first, second):
        assert await asyncio.to_thread(places_with, lab, server, marker) == []
        events, _ = await cloud.client.list(EVENT)
        assert marker not in json.dumps([server, events])


async def test_agents_cannot_read_secrets(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """The agents' account has no verb on Secrets, in a project or in the system's namespace."""
    plane = ControlPlane.of_lab(lab)
    agent = f"--as=system:serviceaccount:{SYSTEM}:kumulus-agent"
    for namespace in (project, SYSTEM):
        for verb in ("get", "list", "watch", "create", "delete"):
            words = ["auth", "can-i", verb, "secrets", "--namespace", namespace, agent]
            answer = await asyncio.to_thread(plane.kubectl, *words, check=False)
            assert answer.stdout.strip() == "no", f"{verb} secrets in {namespace}: {answer.stdout}{answer.stderr}"
