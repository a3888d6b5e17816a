"""What surrounds a process: logs, endpoints, events, the store, kopf's settings, imports, signals."""

import asyncio
import base64
import json
import logging
import os
import signal
import ssl
import subprocess
import sys
from asyncio.sslproto import SSLProtocol
from datetime import UTC, datetime
from typing import Any

import kopf
import pytest
import structlog
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from kumulus_runtime import kopf_settings, logs, process
from kumulus_runtime.api_client import EVENT, Resource
from kumulus_runtime.errors import Retryable
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.kopf_login import _expiration
from kumulus_runtime.metrics_server import build_app
from kumulus_runtime.settings import BaseProcessSettings
from kumulus_runtime.store import Store

SERVER = Resource("kumulus.dev", "v1alpha1", "servers", "Server")


def make_server(name="web", version="1", **spec):
    """A Server as the API server gives it."""
    return {
        "apiVersion": "kumulus.dev/v1alpha1",
        "kind": "Server",
        "metadata": {"name": name, "namespace": "demo", "uid": f"u-{name}", "resourceVersion": version},
        "spec": spec,
    }


@pytest.fixture
def log_lines(capsys):
    """Gives the JSON lines written so far; logging is restored afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_each_line_names_its_object(log_lines):
    """A line is one JSON object with the fixed message, the fields and the object's reference."""
    logs.configure("json", "INFO")
    logs.log(make_server()).info("domain started", vcpus=2)
    logging.getLogger("kopf.objects").warning("from %s", "kopf", extra={"k8s_ref": {"name": "web"}})
    ours, kopfs = log_lines()
    assert (ours["event"], ours["object"], ours["vcpus"], ours["level"]) == (
        "domain started",
        "Server demo/web",
        2,
        "info",
    )
    assert (kopfs["event"], kopfs["k8s_ref"]) == ("from kopf", {"name": "web"})


@given(st.text("abcdefgh0123456789", min_size=12, max_size=30))
def test_secrets_never_reach_a_line(secret):
    """Fields with telling names at any depth, bearer tokens, URL passwords and private keys are blanked."""
    event = {
        "event": f"asked with Bearer {secret}",
        "token": secret,
        "url": f"https://user:{secret}@example.org/",
        "spec": {"userData": secret, "list": [{"password": secret}]},
        "pem": f"-----BEGIN RSA PRIVATE KEY-----\n{secret}\n-----END RSA PRIVATE KEY-----",
        "headers": {"Authorization": f"Basic {secret}"},
        "exception": f"KeyError: 'bearer {secret}'",
    }
    assert secret not in json.dumps(logs.redact(None, "", event))


def test_harmless_fields_stay():
    """What only looks a little like a secret is written unchanged."""
    event = {"event": "image imported", "digest": "sha256:ab", "url": "https://example.org/a@b", "tokens": 3}
    assert logs.redact(None, "", dict(event)) == event


async def test_probes_say_what_is_wrong():
    """/healthz fails for health checks only, /readyz for both kinds, each with the reason; metrics are served."""
    app = build_app({"lease": lambda: None}, {"cache": lambda: "not synced"})
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/healthz")).status == 200
        ready = await client.get("/readyz")
        assert (ready.status, await ready.text()) == (503, "cache: not synced\n")
        assert "rest_client_requests_total" in await (await client.get("/metrics")).text()


class Recording:
    """Remembers what is created."""

    def __init__(self):
        self.bodies = []
        self.error = None

    async def create(self, kind, body):
        """Record, or fail as told."""
        assert kind is EVENT
        if self.error:
            raise self.error
        self.bodies.append(body)


async def test_an_event_is_not_repeated_for_ten_minutes():
    """The same object, reason and message give one Event in ten minutes; anything different gives its own."""
    now, api = [0.0], Recording()
    recorder = EventRecorder(api, "kumulus.dev/agent", clock=lambda: now[0])
    assert await recorder.event(make_server(), "Started", "runs")
    assert not await recorder.event(make_server(), "Started", "runs")
    assert await recorder.event(make_server(), "Started", "runs again", warning=True)
    assert await recorder.event(make_server("db"), "Started", "runs")
    now[0] = 601.0
    assert await recorder.event(make_server(), "Started", "runs")
    first, second = api.bodies[:2]
    assert first["regarding"]["uid"] == "u-web"
    assert (first["type"], second["type"]) == ("Normal", "Warning")
    assert first["metadata"]["namespace"] == "demo"


async def test_a_posted_event_is_written_later_and_again_where_it_happened_again():
    """Posting returns at once; what happened once more is written once more, and a flood is cut off."""
    api = Recording()
    recorder = EventRecorder(api, "kumulus.dev/agent")
    recorder.post(make_server(), "Stopped", "off")
    assert api.bodies == []
    await asyncio.sleep(0)
    recorder.post(make_server(), "Stopped", "off")
    recorder.post(make_server(), "Stopped", "off", again=True)
    await asyncio.sleep(0.01)
    assert len(api.bodies) == 2
    for number in range(100):
        recorder.post(make_server(), "Failed", f"{number}")
    await asyncio.sleep(0.01)
    assert len(api.bodies) == 2 + 64


async def test_an_event_never_fails_its_caller():
    """An unreachable API server costs the Event only, which may be written later."""
    api = Recording()
    recorder = EventRecorder(api, "kumulus.dev/agent")
    api.error = Retryable(503, "", "")
    assert not await recorder.event(make_server(), "Started", "x" * 5000)
    api.error = None
    assert await recorder.event(make_server(), "Started", "x" * 5000)
    assert len(api.bodies[0]["note"]) == 1024


events = st.lists(
    st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED", None]), st.sampled_from("ab"), st.sampled_from("xyz"))
)


@given(events)
def test_the_store_shows_the_latest_and_indexes_it(history):
    """After any history the store and its index show exactly the last state of each object that was not deleted."""
    store, expected = Store(), {}
    store.add_index(SERVER, "network", lambda obj: [obj["spec"]["network"]])
    for number, (kind, name, network) in enumerate(history):
        obj = make_server(name, str(number), network=network)
        store.apply(kind, obj)
        expected.pop(name, None)
        if kind != "DELETED":
            expected[name] = obj
    assert store.list("Server") == [expected[name] for name in sorted(expected)]
    for network in "xyz":
        found = [obj["metadata"]["name"] for obj in store.by_index(SERVER, "network", network)]
        assert found == sorted(name for name, obj in expected.items() if obj["spec"]["network"] == network)


def test_the_store_ignores_what_is_older():
    """An event that comes late does not bring back an older state."""
    store = Store()
    store.apply("MODIFIED", make_server(version="10", state="new"))
    store.apply("MODIFIED", make_server(version="9", state="old"))
    assert store.get(SERVER, "web", "demo")["spec"] == {"state": "new"}


def test_kopf_writes_nothing():
    """After configure kopf posts no events, joins no peers and stores neither progress nor a copy of the spec."""
    settings = kopf.OperatorSettings()
    selector = "spec.assignment.host=h1"
    kopf_settings.configure(settings, field_selectors={("kumulus.dev", "servers"): selector})
    assert not settings.posting.enabled
    assert settings.peering.standalone
    assert settings.networking.enforce_retry_after
    assert (settings.watching.chunk_size, settings.watching.inactivity_timeout) == (500, 70)
    patch = kopf.Patch()
    body = kopf.Body(make_server())
    essence = settings.persistence.diffbase_storage.build(body=body)
    settings.persistence.diffbase_storage.store(body=body, patch=patch, essence=essence)
    settings.persistence.progress_storage.store(key="k", record={}, body=body, patch=patch)
    settings.persistence.progress_storage.touch(body=body, patch=patch, value="x")
    assert not patch


def jwt(**claims):
    """An unsigned token."""
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"h.{payload}.s"


@given(st.floats(0, 3700), st.booleans())
def test_a_token_is_read_again_before_it_ends(age, is_jwt):
    """The next reading lies ahead, within half an hour, and before the token's end while that is possible."""
    issued = 1_700_000_000
    token = jwt(iat=issued, exp=issued + 3600) if is_jwt else "opaque"
    now = issued + age
    again = _expiration(token, now)
    assert datetime.fromtimestamp(now, UTC) < again <= datetime.fromtimestamp(now + 1800.001, UTC)
    if is_jwt and age < 3540:
        assert again.timestamp() <= issued + 3540


def test_settings_come_from_the_environment(monkeypatch):
    """A variable with the prefix sets its field, and the settings cannot be changed afterwards."""
    monkeypatch.setenv("KUMULUS_LOG_LEVEL", "DEBUG")
    settings = BaseProcessSettings()
    assert settings.log_level == "DEBUG"
    with pytest.raises(ValueError, match="frozen"):
        settings.log_level = "INFO"


def test_the_synchronous_client_is_not_loaded():
    """A process that imports kumulus_runtime first gets kopf and kubernetes.aio without the synchronous client."""
    code = (
        "import kumulus_runtime, kopf, sys\n"
        "import kumulus_runtime.api_client, kumulus_runtime.kopf_login\n"
        "loaded = [m for m in sys.modules if m.startswith('kubernetes.') and not m.startswith('kubernetes.aio')]\n"
        "assert not loaded, loaded\n"
        "assert len([m for m in sys.modules if '.models.' in m]) < 10\n"
        "import kubernetes.client\n"
        "assert kubernetes.client.V1Pod\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_agents_have_nothing_of_tests_in_memory():
    """An agent loads neither `unittest` nor `lxml`, and who wants `unittest` afterwards gets the real one."""
    code = (
        "import sys, kumulus_agent.agent\n"
        "assert not {'unittest', 'lxml'} & set(sys.modules)\n"
        "from unittest import mock\n"
        "assert mock.Mock(return_value=1)() == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("signals", [1, 2])
def test_signals_stop_gracefully_then_at_once(signals):
    """The first signal sets the event and ends with 0; the second one cancels and ends with 1."""
    seen = []

    async def main(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        seen.append("asked to stop")
        if signals == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(60)

    assert process.run(main) == signals - 1
    assert seen == ["asked to stop"]


def test_a_failure_is_the_exit_code():
    """An exception that leaves main is logged and ends the process with 1."""

    async def main(_stop):
        raise ZeroDivisionError

    assert process.run(main) == 1


def test_a_tls_connection_takes_little_memory() -> None:
    """What asyncio keeps for each TLS connection of a process is as small as it was set, and has room for a record."""
    found: list[int] = []

    async def main(_stop: asyncio.Event) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        loop = asyncio.get_running_loop()
        connection: Any = SSLProtocol(loop, asyncio.Protocol(), context, None, server_hostname="test")
        found.append(len(connection.get_buffer(-1)))
        connection._app_transport._closed = True  # there was never a connection

    assert process.run(main) == 0
    assert found == [process.TLS_BUFFER]
    assert process.TLS_BUFFER >= 16384 + 256 + 5, "a record in cipher, RFC 8446, section 5.2"
