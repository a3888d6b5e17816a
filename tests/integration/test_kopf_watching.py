"""kopf with our login and settings against a real API server."""

import asyncio
import uuid

import kopf
import pytest

from kumulus_lab.control_plane import ControlPlane
from kumulus_runtime import kopf_login, kopf_settings, kopf_watching
from kumulus_runtime.api_client import CONFIGMAP, KubeClient
from kumulus_runtime.store import Store


@pytest.fixture
def control_plane(tmp_path, monkeypatch):
    """A running etcd and API server, named by KUBECONFIG."""
    with ControlPlane.temporary(tmp_path) as plane:
        monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
        yield plane


async def test_kopf_feeds_the_store_and_writes_nothing(control_plane):
    """Kopf logs in with our credentials, shows old and new objects, and leaves their version as it was."""
    registry, store, stop, changed = kopf.OperatorRegistry(), Store(), asyncio.Event(), asyncio.Condition()
    kopf_login.register(registry)

    @kopf.on.startup(registry=registry)
    async def startup(settings, **_):
        kopf_settings.configure(settings, field_selectors={("", "configmaps"): "metadata.namespace=default"})

    @kopf.on.event("", "v1", "configmaps", registry=registry)
    async def seen(event, **_):
        async with changed:
            store.apply(event["type"], event["object"])
            changed.notify_all()

    async with await KubeClient.connect("kumulus-test/1") as client:

        async def shown(name, present):
            async with asyncio.timeout(20), changed:
                await changed.wait_for(lambda: (store.get(CONFIGMAP, name, "default") is not None) == present)

        names = [f"c-{uuid.uuid4().hex[:8]}" for _ in range(2)]
        made = [await client.create(CONFIGMAP, {"metadata": {"name": names[0], "namespace": "default"}})]
        operator = asyncio.create_task(
            kopf.operator(registry=registry, clusterwide=True, standalone=True, stop_flag=stop)
        )
        await shown(names[0], present=True)
        made.append(await client.create(CONFIGMAP, {"metadata": {"name": names[1], "namespace": "default"}}))
        await shown(names[1], present=True)
        found = [await client.get(CONFIGMAP, name, "default") for name in names]
        assert found == made
        await client.delete(CONFIGMAP, names[0], "default")
        await shown(names[0], present=False)
        stop.set()
        await asyncio.wait_for(operator, 20)


async def test_it_may_be_ended_while_it_begins(control_plane):
    """A process that is told to end while kopf looks at the API server for the first time ends without a failure."""
    for step in range(20):
        registry, stop = kopf.OperatorRegistry(), asyncio.Event()
        kopf_login.register(registry)
        kopf.on.startup(registry=registry)(lambda settings, **_: kopf_settings.configure(settings))
        kopf.on.event("", "v1", "configmaps", registry=registry)(lambda **_: None)
        watching = asyncio.create_task(kopf_watching.watch(registry, stop, ends_with_stop=True))
        asyncio.get_running_loop().call_later(step * 0.01, stop.set)
        await asyncio.wait_for(watching, 20)
