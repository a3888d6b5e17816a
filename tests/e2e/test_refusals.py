"""What cannot be done is refused with a reason that names the stage, and nothing is left behind."""

import asyncio
import re

import pytest

from kumulus_api import AddressClaim, Image, KeyPair, Port, Server
from kumulus_api.base import Kind
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.cloud import Cloud, condition, refused

pytestmark = pytest.mark.tenant

NIC = [{"name": "eth0", "network": {"name": "private"}}]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"image": {"name": "absent"}}, "ImageNotFound"),
        ({"image": {"name": "tiny", "namespace": "kube-system"}}, "ImageNotFound"),
        ({"flavor": {"name": "absent"}}, "FlavorNotFound"),
        ({"networks": [{"name": "eth0", "network": {"name": "absent"}}]}, "NetworkNotFound"),
        ({"networks": [{"name": "eth0", "port": {"name": "absent"}}]}, "PortNotFound"),
        ({"networks": [{**NIC[0], "address": "192.0.2.1"}]}, "AddressInvalid"),
        ({"networks": [{**NIC[0], "address": "10.10.0.254"}]}, "AddressInvalid"),
        ({"volumes": [{"name": "data", "volume": {"name": "absent"}}]}, "VolumeNotFound"),
        ({"keyPair": {"name": "absent"}}, "KeyPairNotFound"),
        ({"userData": {"secret": {"name": "absent"}}}, "UserDataNotFound"),
    ],
)
async def test_bad_references_are_refused(cloud: Cloud, project: str, spec: dict, reason: str) -> None:  # type: ignore[type-arg]
    """A server that asks for what is not there waits with a typed reason, holds nothing, and can be deleted."""
    await cloud.make_network(project)
    await cloud.make_server(project, "a", **({"networks": NIC} | spec))
    server = await cloud.until(Server, "a", refused(reason), namespace=project, seconds=20)
    assert condition(server, "Scheduled")["message"]
    assert "assignment" not in server["spec"]
    await cloud.delete(Server, "a", project, seconds=20)
    left = await asyncio.gather(*(_names(cloud, kind, project) for kind in (Port, KeyPair)))
    claims, _ = await cloud.client.list(AddressClaim)
    held = [c for c in claims if c["spec"]["claimRef"]["namespace"] == project]
    assert (left, held) == ([[], []], [])


async def test_missing_image_that_comes_lifts_the_refusal(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A server that waits for an image is placed as soon as the image is Ready, without being touched."""
    await cloud.make_network(project)
    await cloud.make_server(project, "a", image={"name": "mine"})
    await cloud.until(Server, "a", refused("ImageNotFound"), namespace=project)
    source = {"url": f"http://{lab.gateway}:8098/tiny.qcow2"}
    await cloud.make(Image, "mine", {"source": source, "format": "qcow2"}, project)
    await cloud.server_ready(project, "a")


async def test_checksum_mismatch(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """An image whose bytes hash to something else is never Ready, and says both sums."""
    source = {"url": f"http://{lab.gateway}:8098/tiny.qcow2"}
    spec = {"source": source, "format": "qcow2", "checksum": "sha256:" + "0" * 64}
    await cloud.make(Image, "bad", spec, project)
    image = await cloud.until(
        Image, "bad", lambda i: condition(i, "Ready")["reason"] == "ChecksumMismatch", namespace=project, seconds=30
    )
    message = condition(image, "Ready")["message"]
    assert f"asks for {'0' * 64}" in message
    assert re.search(r"has sha256 [0-9a-f]{64},", message)


async def test_quota_is_kept_under_parallel_creates(cloud: Cloud) -> None:
    """Of six servers made at once in a project for two, exactly two are placed and four say QuotaExceeded."""
    async with cloud.project(quota={"servers": 2}) as project:
        await cloud.make_network(project)
        names = [f"s{i}" for i in range(6)]
        await asyncio.gather(*(cloud.make_server(project, name) for name in names))
        decided = await asyncio.gather(
            *(
                cloud.until(
                    Server,
                    name,
                    lambda s: "assignment" in s["spec"] or refused("QuotaExceeded")(s),
                    namespace=project,
                )
                for name in names
            )
        )
        placed = [s["metadata"]["name"] for s in decided if "assignment" in s["spec"]]
        assert len(placed) == 2
        waiting = [name for name in names if name not in placed]
        await cloud.delete(Server, placed[0], project)
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            first = asyncio.Event()
            watchers = [tasks.create_task(_placed(cloud, project, name, first)) for name in waiting]
            await first.wait()
            for watcher in watchers:
                watcher.cancel()


async def _placed(cloud: Cloud, project: str, name: str, first: asyncio.Event) -> None:
    await cloud.until(Server, name, lambda s: "assignment" in s["spec"], namespace=project)
    first.set()


async def _names(cloud: Cloud, kind: type[Kind], namespace: str) -> list[str]:
    items, _ = await cloud.client.list(kind, namespace=namespace)
    return [item["metadata"]["name"] for item in items]
