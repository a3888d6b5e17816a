"""The client, leases and events against a real API server."""

import asyncio
import gc
import uuid
import warnings

import pytest

from kumulus_lab.control_plane import ControlPlane
from kumulus_runtime import errors
from kumulus_runtime.api_client import CONFIGMAP, EVENT, LEASE, NAMESPACE, KubeClient
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.lease import Heartbeat, Leadership, LeaseTiming

FINALIZER = "kumulus.dev/agent"


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory):
    """A running etcd and API server."""
    with ControlPlane.temporary(tmp_path_factory.mktemp("control-plane")) as plane:
        yield plane


@pytest.fixture
async def client(control_plane, monkeypatch):
    """An administrator's client."""
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    async with await KubeClient.connect("kumulus-test/1") as connected:
        yield connected


@pytest.fixture
async def namespace(client):
    """A namespace of its own for each test."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    await client.create(NAMESPACE, {"metadata": {"name": name}})
    return name


def make_configmap(namespace, name="c", **data):
    """A ConfigMap with string data."""
    return {"metadata": {"name": name, "namespace": namespace}, "data": data}


async def test_an_object_lives_and_dies(client, namespace):
    """Create, read, guarded update and deletion behave as documented, and absence is an answer."""
    assert await client.get(CONFIGMAP, "c", namespace) is None
    made = await client.create(CONFIGMAP, make_configmap(namespace, a="1"))
    with pytest.raises(errors.AlreadyExists):
        await client.create(CONFIGMAP, make_configmap(namespace))
    await client.update(CONFIGMAP, made | {"data": {"a": "2"}})
    with pytest.raises(errors.Conflict):
        await client.update(CONFIGMAP, made | {"data": {"a": "3"}})
    merged = await client.patch_merge(CONFIGMAP, "c", {"data": {"a": None, "b": "1"}}, namespace)
    assert merged["data"] == {"b": "1"}
    with pytest.raises(errors.Invalid):
        await client.create(CONFIGMAP, make_configmap(namespace, name="Not A Name"))
    assert not await client.delete(CONFIGMAP, "c", namespace, uid=str(uuid.uuid4()))
    assert await client.delete(CONFIGMAP, "c", namespace, uid=made["metadata"]["uid"])
    assert not await client.delete(CONFIGMAP, "c", namespace)


async def test_managers_own_their_fields(client, namespace):
    """Two managers apply different fields side by side; the same field conflicts unless it is forced."""
    await client.apply(CONFIGMAP, make_configmap(namespace, a="1"), manager="one")
    both = await client.apply(CONFIGMAP, make_configmap(namespace, b="1"), manager="two")
    assert both["data"] == {"a": "1", "b": "1"}
    with pytest.raises(errors.Conflict):
        await client.apply(CONFIGMAP, make_configmap(namespace, a="2"), manager="two", force=False)
    taken = await client.apply(CONFIGMAP, make_configmap(namespace, a="2"), manager="two")
    assert taken["data"] == {"a": "2"}
    again = await client.apply(CONFIGMAP, make_configmap(namespace, a="2"), manager="two")
    assert again["metadata"]["resourceVersion"] == taken["metadata"]["resourceVersion"]


async def test_the_status_is_applied_apart(client, namespace):
    """apply_status changes the status only, and an absent object is not created by it."""
    body = {"metadata": {"name": namespace}, "status": {"phase": "Active"}}
    found = await client.apply_status(NAMESPACE, body, manager="one")
    assert found["status"]["phase"] == "Active"
    with pytest.raises(errors.NotFound):
        await client.apply_status(NAMESPACE, {"metadata": {"name": "absent"}, "status": {}}, manager="one")


async def test_only_our_finalizer_goes(client, namespace):
    """A deleting object loses our finalizer, keeps the other, and is gone when that is removed too."""
    body = make_configmap(namespace)
    body["metadata"]["finalizers"] = ["example.org/other", FINALIZER]
    made = await client.create(CONFIGMAP, body)
    uid = made["metadata"]["uid"]
    await client.delete(CONFIGMAP, "c", namespace)
    assert await client.remove_finalizer(CONFIGMAP, "c", FINALIZER, namespace, uid=uid)
    assert not await client.remove_finalizer(CONFIGMAP, "c", FINALIZER, namespace, uid=uid)
    left = await client.get(CONFIGMAP, "c", namespace)
    assert left["metadata"]["finalizers"] == ["example.org/other"]
    assert await client.remove_finalizer(CONFIGMAP, "c", "example.org/other", namespace, uid=uid)
    assert await client.get(CONFIGMAP, "c", namespace) is None


async def test_long_lists_are_complete(client, namespace):
    """A list of more than a page has every object once, each with its kind."""
    for number in range(510):
        await client.create(CONFIGMAP, make_configmap(namespace, name=f"c{number}"))
    items, version = await client.list(CONFIGMAP, namespace)
    assert {item["metadata"]["name"] for item in items} >= {f"c{number}" for number in range(510)}
    assert {item["kind"] for item in items} == {"ConfigMap"}
    assert int(version) > 0


async def test_a_watch_shows_every_change(client, namespace):
    """After SYNCED each change comes in order, restricted to the selector."""
    await client.create(CONFIGMAP, make_configmap(namespace, name="a"))
    seen = []

    async def follow():
        async for kind, obj in client.watch(CONFIGMAP, namespace=namespace, field_selector="metadata.name=a"):
            seen.append(kind)
            if kind == "SYNCED":
                await client.create(CONFIGMAP, make_configmap(namespace, name="b"))
                await client.patch_merge(CONFIGMAP, "a", {"data": {"x": "1"}}, namespace)
                await client.delete(CONFIGMAP, "a", namespace)
            if kind == "DELETED":
                assert obj["metadata"]["name"] == "a"
                return

    await asyncio.wait_for(follow(), 20)
    assert seen == ["ADDED", "SYNCED", "MODIFIED", "DELETED"]


async def test_a_watch_misses_no_deletion(client, namespace, control_plane):
    """What is made and deleted while nobody watches, and too long ago for the API server, comes from a new list."""
    await client.create(CONFIGMAP, make_configmap(namespace, name="a"))
    seen, lists = [], []

    async def follow():
        watch = client.watch(CONFIGMAP, namespace=namespace, listed_again=lambda: lists.append(len(seen)))
        async for kind, obj in watch:
            seen.append((kind, obj.get("metadata", {}).get("name")))
            if kind == "SYNCED":
                await client.delete(CONFIGMAP, "a", namespace)
                await client.create(CONFIGMAP, make_configmap(namespace, name="b"))
                # It remembers nothing that was before its start.
                await asyncio.to_thread(control_plane.stop, gently=False)
                await asyncio.to_thread(control_plane.start)
            elif seen[-1] == ("ADDED", "b"):
                await client.create(CONFIGMAP, make_configmap(namespace, name="c"))
            elif seen[-1] == ("ADDED", "c"):
                return

    await asyncio.wait_for(follow(), 90)
    assert seen == [("ADDED", "a"), ("SYNCED", None), ("DELETED", "a"), ("ADDED", "b"), ("ADDED", "c")]
    assert lists == [4]


async def test_leadership_passes_on(client, namespace):
    """A released Lease is taken at once, by one process only, and the API server accepts every field of it."""
    timing = LeaseTiming(duration=6, renew=0.5, retry=0.2, margin=2.0)
    first = Leadership(client, namespace, timing=timing)
    second = Leadership(client, namespace, timing=timing)
    follower: asyncio.Task[None]

    async def lead():
        nonlocal follower
        follower = asyncio.create_task(second.acquire())
        await asyncio.sleep(2)
        assert first.valid
        assert not second.valid

    await first.run(lead)
    await asyncio.wait_for(follower, 2)
    assert second.valid
    lease = await client.get(LEASE, "kumulus-operator", namespace)
    assert lease["spec"]["holderIdentity"] == second.identity


async def test_a_heartbeat_is_stored(client, namespace):
    """The agent's Lease is made by the first beat and changed by the second."""
    heartbeat = Heartbeat(client, "h1", namespace=namespace)
    await heartbeat.beat()
    first = await client.get(LEASE, "host-h1", namespace)
    await heartbeat.beat()
    second = await client.get(LEASE, "host-h1", namespace)
    assert first["metadata"]["resourceVersion"] != second["metadata"]["resourceVersion"]


async def test_events_are_accepted(client, namespace):
    """The API server stores our Events, about namespaced and about cluster-scoped objects."""
    recorder = EventRecorder(client, "kumulus.dev/operator")
    made = await client.create(CONFIGMAP, make_configmap(namespace))
    assert await recorder.event(made, "Made", "for a test")
    assert await recorder.event(await client.get(NAMESPACE, namespace), "Made", "for a test", warning=True)
    items, _version = await client.list(EVENT, namespace)
    assert [item["note"] for item in items] == ["for a test"]


async def test_a_watch_of_metadata_shows_no_data(client, namespace):
    """What is listed and watched by metadata has the object's name and version, and neither data nor values."""
    await client.create(CONFIGMAP, make_configmap(namespace, name="first", a="secret"))
    seen = []
    async with asyncio.timeout(20):
        async for event, body in client.watch_metadata(CONFIGMAP, namespace=namespace):
            if event == "SYNCED":
                await client.create(CONFIGMAP, make_configmap(namespace, name="second", a="secret"))
                continue
            seen.append(body)
            if body["metadata"]["name"] == "second":
                break
    assert [body["metadata"]["name"] for body in seen if body["metadata"]["name"] != "kube-root-ca.crt"] == [
        "first",
        "second",
    ]
    assert all(body["kind"] == "PartialObjectMetadata" and "data" not in body for body in seen)


@pytest.mark.parametrize("tenths", range(0, 100, 2))
def test_requests_that_are_given_up_leave_no_socket(control_plane, monkeypatch, tenths):
    """Whenever a request is given up, the client's end closes its connection, though the loop ends at once."""
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))

    async def give_up() -> None:
        client = await KubeClient.connect("kumulus-test/1")
        asked = asyncio.create_task(client.list(NAMESPACE))
        await asyncio.wait({asked}, timeout=tenths / 10_000)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await client.close()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(give_up())
        gc.collect()
