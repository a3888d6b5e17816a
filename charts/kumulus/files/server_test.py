"""What `helm test` runs: a real Server is made, becomes Ready, and goes again."""

import asyncio
import os
import sys
import time
import uuid

from kumulus_api import API_VERSION, PUBLIC_NAMESPACE, Flavor, Image, Kind, Network, Project, Server
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import ApiError, Forbidden, NotFound

NAME = f"helm-test-{uuid.uuid4().hex[:6]}"
LIMIT = float(os.environ["TEST_TIMEOUT_SECONDS"])


def say(text: str) -> None:
    """Print a line with the time since the start."""
    sys.stdout.write(f"{time.monotonic() - STARTED:6.1f} s  {text}\n")
    sys.stdout.flush()


async def make(client: KubeClient, kind: type[Kind], name: str, spec: dict, namespace: str | None = None) -> None:
    """Create an object; wait for the operator where its namespace or our role in it is not there yet."""
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    body = {"apiVersion": API_VERSION, "kind": kind.__name__, "metadata": metadata, "spec": spec}
    while True:
        try:
            await client.create(kind, body)
        except (NotFound, Forbidden):
            if namespace is None:
                raise
            await asyncio.sleep(0.5)
            continue
        return say(f"made {kind.__name__} {name}")


async def until_ready(client: KubeClient, kind: type[Kind], name: str, namespace: str) -> dict:
    """Watch an object until its condition Ready is true; say each reason why it is not."""
    said = ""
    async for event, body in client.watch(kind, namespace=namespace, field_selector=f"metadata.name={name}"):
        if event in ("SYNCED", "DELETED"):
            continue
        conditions = body.get("status", {}).get("conditions", [])
        for condition in conditions:
            text = f"{condition['type']}={condition['status']} {condition['reason']}: {condition.get('message', '')}"
            if condition["type"] == "Ready" and text != said:
                said = text
                say(f"{kind.__name__} {name}: {text}")
            if condition["type"] == "Ready" and condition["status"] == "True":
                return body
    raise AssertionError("a watch never ends")


async def remove(client: KubeClient, kind: type[Kind], name: str, namespace: str | None = None) -> None:
    """Delete an object and wait until it is gone."""
    await client.delete(kind, name, namespace)
    seen = False
    async for event, _ in client.watch(kind, namespace=namespace, field_selector=f"metadata.name={name}"):
        if event == "DELETED" or (event == "SYNCED" and not seen):
            break
        seen = True
    say(f"{kind.__name__} {name} is gone")


async def run(client: KubeClient) -> None:
    """Make project, flavor, image, network and server, and wait for the last to be Ready."""
    await make(client, Flavor, NAME, {"vcpus": 1, "memory": "128Mi", "rootDisk": "1Gi"})
    await make(client, Project, NAME, {"description": "helm test"})
    image = {"name": "tiny", "namespace": PUBLIC_NAMESPACE}
    if url := os.environ["TEST_IMAGE_URL"]:
        image = {"name": "test"}
        spec = {"source": {"url": url}, "format": os.environ["TEST_IMAGE_FORMAT"]}
        await make(client, Image, "test", spec, NAME)
        await until_ready(client, Image, "test", NAME)
    subnet = {"name": "v4", "cidr": "10.250.0.0/24", "gateway": "10.250.0.1"}
    await make(client, Network, "test", {"subnets": [subnet]}, NAME)
    networks = [{"name": "eth0", "network": {"name": "test"}}]
    await make(client, Server, "test", {"flavor": {"name": NAME}, "image": image, "networks": networks}, NAME)
    server = await until_ready(client, Server, "test", NAME)
    say(f"it runs on {server['spec']['assignment']['host']} with {server['status'].get('addresses', [])}")


async def clean_up(client: KubeClient) -> None:
    """Remove what was made, servers first: a project that has some is not empty."""
    await remove(client, Server, "test", NAME)
    await remove(client, Network, "test", NAME)
    await remove(client, Image, "test", NAME)
    await remove(client, Project, NAME)
    await remove(client, Flavor, NAME)


async def main() -> int:
    """Run the test and clean up after it, whatever came out."""
    client = await KubeClient.connect("kumulus-helm-test")
    code = 1
    try:
        async with asyncio.timeout(LIMIT):
            await run(client)
        code = 0
    except TimeoutError:
        say(f"not Ready after {LIMIT:g} s")
    except ApiError as error:
        say(f"the API server refused: {error}")
    try:
        async with asyncio.timeout(LIMIT):
            await clean_up(client)
    except TimeoutError:
        say(f"not gone after {LIMIT:g} s")
        code = 1
    await client.close()
    return code


STARTED = time.monotonic()

if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
