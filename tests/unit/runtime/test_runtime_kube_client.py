"""The client against a small real HTTP server: paths, content types, errors, credentials, watches."""

import asyncio
import json

import kopf
import pytest
import yaml
from aiohttp import web

from kumulus_runtime import errors
from kumulus_runtime.api_client import LEASE, NAMESPACE, KubeClient, Resource
from kumulus_runtime.kopf_login import login

SERVER = Resource("kumulus.dev", "v1alpha1", "servers", "Server")
SERVERS = "/apis/kumulus.dev/v1alpha1/namespaces/demo/servers"


class ApiServer:
    """Answers from a script and remembers what it was asked."""

    def __init__(self):
        self.requests = []
        self.answers = []

    def answer(self, status, body=None, headers=None, lines=None):
        """Append one answer to the script."""
        self.answers.append((status, body, headers or {}, lines))

    async def handle(self, request):
        """Answer as the script says."""
        self.requests.append(
            {
                "method": request.method,
                "path": request.path,
                "query": dict(request.query),
                "headers": request.headers,
                "body": json.loads(await request.text() or "null"),
            }
        )
        status, body, headers, lines = self.answers.pop(0)
        if lines is None:
            return web.json_response(body, status=status, headers=headers)
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(line)
            await asyncio.sleep(0)
        return response


@pytest.fixture
async def api():
    """The server's script and memory."""
    return ApiServer()


@pytest.fixture
async def kubeconfig(api, tmp_path, monkeypatch):
    """A running server and the kubeconfig that names it."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    token = tmp_path / "token"
    token.write_text("first")
    path = tmp_path / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [{"name": "k", "cluster": {"server": f"http://{host}:{port}"}}],
                "users": [{"name": "u", "user": {"tokenFile": str(token)}}],
            }
        )
    )
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield path
    await runner.cleanup()


@pytest.fixture
async def client(kubeconfig):
    """A connected client."""
    async with await KubeClient.connect("test/1") as connected:
        yield connected


def status(code, reason):
    """A Status object."""
    return {"kind": "Status", "code": code, "reason": reason, "message": "told so"}


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (400, "BadRequest", errors.Invalid),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.NotFound),
        (409, "AlreadyExists", errors.AlreadyExists),
        (409, "Conflict", errors.Conflict),
        (410, "Expired", errors.Expired),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.Retryable),
        (503, "ServiceUnavailable", errors.Retryable),
    ],
)
async def test_each_refusal_has_its_error(api, client, code, reason, error):
    """Each status becomes its error, which keeps status, reason, the server's message and what was asked."""
    api.answer(code, status(code, reason), {"Retry-After": "7"})
    with pytest.raises(error, match=r"POST /api/v1/namespaces: told so") as caught:
        await client.create(NAMESPACE, {"metadata": {"name": "x"}})
    assert (caught.value.status, caught.value.reason) == (code, reason)
    if error is errors.Retryable:
        assert caught.value.delay == 7


async def test_no_server_is_retryable(client, kubeconfig, unused_tcp_port):
    """Without an answer the error is retryable and says what was asked."""
    client._client.configuration.host = f"http://127.0.0.1:{unused_tcp_port}"
    with pytest.raises(errors.Retryable, match="GET /api/v1/namespaces/x: no answer"):
        await client.get(NAMESPACE, "x")


async def test_absence_is_an_answer(api, client):
    """Reading what is absent gives None and deleting it gives False."""
    api.answer(404, status(404, "NotFound"))
    api.answer(404, status(404, "NotFound"))
    assert await client.get(SERVER, "web", "demo") is None
    assert await client.delete(SERVER, "web", "demo") is False


async def test_another_incarnation_is_not_deleted(api, client):
    """Deletion with a uid carries it as precondition, and a mismatch counts as absent."""
    api.answer(409, status(409, "Conflict"))
    assert await client.delete(SERVER, "web", "demo", uid="u1") is False
    assert api.requests[0]["body"]["preconditions"] == {"uid": "u1"}


async def test_apply_is_server_side(api, client):
    """Apply and apply_status patch the right path as the manager, with type fields filled in."""
    body = {"metadata": {"name": "web", "namespace": "demo"}, "spec": {}}
    for _ in range(2):
        api.answer(200, body)
    await client.apply(SERVER, body, manager="kumulus-operator", force=False)
    await client.apply_status(SERVER, body, manager="kumulus-agent")
    first, second = api.requests
    assert (first["method"], first["path"]) == ("PATCH", f"{SERVERS}/web")
    assert first["query"] == {"fieldManager": "kumulus-operator", "force": "false"}
    assert first["headers"]["Content-Type"] == "application/apply-patch+yaml"
    assert first["headers"]["User-Agent"] == "test/1"
    assert first["body"] == {"apiVersion": "kumulus.dev/v1alpha1", "kind": "Server"} | body
    assert second["path"] == f"{SERVERS}/web/status"
    assert second["query"] == {"fieldManager": "kumulus-agent", "force": "true"}


async def test_lists_are_paged_and_typed(api, client):
    """All pages are joined, each item knows its kind, and the version is that of the list."""
    api.answer(200, {"metadata": {"resourceVersion": "5", "continue": "t"}, "items": [{"metadata": {"name": "a"}}]})
    api.answer(200, {"metadata": {"resourceVersion": "5"}, "items": [{"metadata": {"name": "b"}}]})
    items, version = await client.list(SERVER, field_selector="spec.assignment.host=h1")
    assert [(item["kind"], item["metadata"]["name"]) for item in items] == [("Server", "a"), ("Server", "b")]
    assert version == "5"
    assert api.requests[0]["query"] == {"fieldSelector": "spec.assignment.host=h1", "limit": "500"}
    assert api.requests[1]["query"]["continue"] == "t"


async def test_a_list_torn_by_compaction_starts_over(api, client):
    """If the history between two pages is gone, the list is read again in one piece."""
    api.answer(200, {"metadata": {"resourceVersion": "5", "continue": "t"}, "items": [{"metadata": {"name": "a"}}]})
    api.answer(410, status(410, "Expired"))
    api.answer(200, {"metadata": {"resourceVersion": "9"}, "items": []})
    assert await client.list(SERVER) == ([], "9")
    assert api.requests[2]["query"] == {}


async def test_update_needs_a_version(client):
    """An update that nothing would guard is refused before it is sent."""
    with pytest.raises(ValueError, match=r"needs metadata\.resourceVersion"):
        await client.update(LEASE, {"metadata": {"name": "x", "namespace": "y"}})


async def test_removing_a_finalizer_survives_a_race(api, client):
    """A finalizer list that changed in between is read again, and only our entry of our object is removed."""
    found = {"metadata": {"name": "web", "uid": "u", "finalizers": ["a", "kumulus.dev/agent"]}}
    api.answer(200, found)
    api.answer(422, status(422, "Invalid"))
    api.answer(200, {"metadata": found["metadata"] | {"finalizers": ["kumulus.dev/agent"]}})
    api.answer(200, {})
    assert await client.remove_finalizer(SERVER, "web", "kumulus.dev/agent", "demo", uid="u")
    assert api.requests[3]["body"] == [
        {"op": "test", "path": "/metadata/uid", "value": "u"},
        {"op": "test", "path": "/metadata/finalizers/0", "value": "kumulus.dev/agent"},
        {"op": "remove", "path": "/metadata/finalizers/0"},
    ]
    assert api.requests[3]["headers"]["Content-Type"] == "application/json-patch+json"


async def test_another_incarnation_keeps_its_finalizer(api, client):
    """A finalizer of an object with another uid is left alone."""
    api.answer(200, {"metadata": {"name": "web", "uid": "new", "finalizers": ["f"]}})
    assert await client.remove_finalizer(SERVER, "web", "f", "demo", uid="old") is False


async def test_an_expired_token_is_read_again(api, client, kubeconfig):
    """After a 401 the token file is read again and the request is repeated once."""
    (kubeconfig.parent / "token").write_text("second")
    api.answer(401, status(401, "Unauthorized"))
    api.answer(200, {"metadata": {"name": "x"}})
    await client.get(NAMESPACE, "x")
    sent = [request["headers"]["Authorization"] for request in api.requests]
    assert sent == ["Bearer first", "Bearer second"]


async def test_a_bad_token_is_tried_twice_only(api, client):
    """Credentials that stay bad end in Forbidden, not in a loop."""
    api.answer(401, status(401, "Unauthorized"))
    api.answer(401, status(401, "Unauthorized"))
    with pytest.raises(errors.Forbidden):
        await client.get(NAMESPACE, "x")


def item(name, version):
    """A minimal object."""
    return {"metadata": {"name": name, "namespace": "demo", "uid": f"u-{name}", "resourceVersion": version}}


def line(kind, body):
    """One line of a watch."""
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


async def test_a_watch_survives_silence_compaction_and_splits(api, client, monkeypatch):
    """A watch resumes where it ended, lists again after 410, says so, and reports what vanished meanwhile."""
    monkeypatch.setattr("kumulus_runtime.watch._FIRST_DELAY", 0.001)
    api.answer(200, {"metadata": {"resourceVersion": "5"}, "items": [item("a", "4"), item("b", "5")]})
    whole = line("MODIFIED", item("a", "6")) + line("BOOKMARK", item("", "8"))
    api.answer(200, lines=[whole[:30], whole[30:]])
    api.answer(200, lines=[line("ERROR", status(410, "Expired"))])
    api.answer(200, {"metadata": {"resourceVersion": "20"}, "items": [item("a", "19")]})
    api.answer(200, lines=[line("ADDED", item("c", "21"))])
    events, again = [], []
    async for kind, obj in client.watch(SERVER, namespace="demo", listed_again=lambda: again.append(len(events))):
        events.append((kind, obj.get("metadata", {}).get("name")))
        if events[-1] == ("ADDED", "c"):
            break
    assert again == [6]
    assert events == [
        ("ADDED", "a"),
        ("ADDED", "b"),
        ("SYNCED", None),
        ("MODIFIED", "a"),
        ("DELETED", "b"),
        ("MODIFIED", "a"),
        ("ADDED", "c"),
    ]
    assert [request["query"].get("resourceVersion") for request in api.requests] == [None, "5", "8", None, "20"]


async def test_a_long_list_lets_others_work(api, client):
    """While thousands of objects are shown, what else the process does has its turns: the Lease is renewed."""
    names = [f"s{number}" for number in range(1000)]
    api.answer(200, {"metadata": {"resourceVersion": "5"}, "items": [item(name, "4") for name in names]})
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    watching = client.watch(SERVER)
    await anext(watching)
    task = asyncio.create_task(others())
    async for kind, _ in watching:
        if kind == "SYNCED":
            break
    task.cancel()
    assert turns >= 9


async def test_kopf_logs_in_with_the_same_files(kubeconfig):
    """Kopf gets address and token from the kubeconfig, and has to ask again in time."""
    info = await login(kopf.OperatorSettings())
    assert (info.scheme, info.token) == ("Bearer", "first")
    assert info.server.startswith("http://127.0.0.1:")
    assert info.expiration is not None
