"""A real S3 server that the hosts of the lab reach, and agents that were told of it as the chart's `images.s3` does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import obstore

from kumulus_agent.storage.bucket import open_bucket
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.cloud import SYSTEM_NAMESPACE
from kumulus_lab.testing.s3_server import ACCESS_KEY, SECRET_KEY, S3Server

_AGENTS: Final = "daemonset/kumulus-agent"
_SECRET: Final = "backup-keys"  # noqa: S105 - its name
_BUCKET: Final = "backups"


@asynccontextmanager
async def bucket_of_hosts(lab: LabSettings, folder: Path) -> AsyncIterator[None]:
    """Have the server, with its data in a folder, and roll the agents out with it; in the end without it."""
    with S3Server(folder) as s3:
        asked = {"endpoint": s3.endpoint, "bucket": _BUCKET, "region": "us-east-1", "pathStyle": True}
        store = open_bucket(asked | {"keys": str(s3.keys)})
        await obstore.put_async(store, "other", b"the server makes its bucket for it")
        inside = int(s3.endpoint.rpartition(":")[2])
        server = await asyncio.start_server(lambda *connection: _relay(inside, *connection), lab.gateway, 0)
        keys = (f"--from-literal=AWS_ACCESS_KEY_ID={ACCESS_KEY}", f"--from-literal=AWS_SECRET_ACCESS_KEY={SECRET_KEY}")
        await _kubectl(lab, "create", "secret", "generic", _SECRET, *keys)
        pod = _pod(f"http://{lab.gateway}:{server.sockets[0].getsockname()[1]}")
        try:
            await _kubectl(lab, "patch", _AGENTS, "--patch", json.dumps({"spec": {"template": {"spec": pod}}}))
            await _kubectl(lab, "rollout", "status", _AGENTS, "--timeout=180s")
            yield
        finally:
            await _kubectl(lab, "rollout", "undo", _AGENTS)
            await _kubectl(lab, "rollout", "status", _AGENTS, "--timeout=180s")
            await _kubectl(lab, "delete", "secret", _SECRET)
            server.close()


def _pod(endpoint: str) -> dict[str, object]:
    mounts = [{"name": _SECRET, "mountPath": "/var/run/secrets/kumulus/s3", "readOnly": True}]
    env = {"KUMULUS_S3_ENDPOINT": endpoint, "KUMULUS_S3_BUCKET": _BUCKET, "KUMULUS_S3_PREFIX": "lab/"}
    container = {"name": "agent", "env": [{"name": name, "value": value} for name, value in env.items()]}
    volumes = [{"name": _SECRET, "secret": {"secretName": _SECRET}}]
    return {"containers": [container | {"volumeMounts": mounts}], "volumes": volumes}


async def _relay(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass a connection on to the S3 server, which listens on loopback only."""
    own_reader, own_writer = await asyncio.open_connection("127.0.0.1", port)

    async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(1 << 16):
                to.write(data)
                await to.drain()
        to.close()

    await asyncio.gather(copy(reader, own_writer), copy(own_reader, writer))


async def _kubectl(lab: LabSettings, *arguments: str) -> None:
    """Run kubectl in the namespace of the system."""
    plane = ControlPlane.of_lab(lab)
    await asyncio.to_thread(plane.kubectl, *arguments, f"--namespace={SYSTEM_NAMESPACE}", timeout=200)
