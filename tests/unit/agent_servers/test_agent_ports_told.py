"""What the agent tells of a server's ports."""

from typing import Any

import pytest

from kumulus_agent.servers.desired import Desired, DesiredPort, NetworkKey
from kumulus_agent.servers.report import Reporter
from kumulus_runtime.api_client import NotFound
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.store import Store

INSTANCE = "22222222-2222-4222-8222-222222222222"
PORT = DesiredPort("eth0", "web-eth0", NetworkKey("demo", "net", 5000), "02:00:00:00:00:01", ("10.0.0.2",), "kt0")


class Ports:
    """An API server that knows Ports by name."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.writes = 0

    def make(self, host: str | None, mac: str = PORT.mac) -> None:
        """Put the Port there anew, bound to a host."""
        assignment = {"mac": mac} | ({"host": host} if host else {})
        self.objects[PORT.port] = {
            "kind": "Port",
            "metadata": {"name": PORT.port, "namespace": "demo"},
            "spec": {"assignment": assignment},
        }

    async def get(self, kind: object, name: str, namespace: str) -> dict[str, Any] | None:
        """Give a Port."""
        return self.objects.get(name)

    async def apply_status(self, kind: object, body: dict[str, Any], *, manager: str) -> dict[str, Any]:
        """Write the status of a Port that exists."""
        name = str(body["metadata"]["name"])
        if name not in self.objects:
            raise NotFound(404, "NotFound", name)
        self.writes += 1
        self.objects[name] = self.objects[name] | {"status": body["status"]}
        return self.objects[name]


def make_desired(uid: str) -> Desired:
    """Give an instance of the Server object with this uid."""
    return Desired(
        ("demo", "web"), uid, 3, INSTANCE, 2, 1, 1, 1, None, (PORT,), (), True, False, "", "", False, False, True
    )


def make_reporter(ports: Ports) -> tuple[Reporter, Store]:
    """Give a reporter of host h1 and what its watch has shown."""
    store = Store()
    return Reporter(ports, store, "h1", EventRecorder(ports, "test")), store  # type: ignore[arg-type]


async def test_port_of_a_restored_server_is_told_again() -> None:
    """A Port that came anew with its Server is told that it is wired as soon as it is there, and then no more."""
    ports = Ports()
    reporter, store = make_reporter(ports)
    ports.make("h1")
    await reporter.ports(make_desired("before"), [PORT], wired=True, new=True)
    store.apply("DELETED", ports.objects.pop(PORT.port))
    await reporter.ports(make_desired("after"), [PORT], wired=True, new=False)
    assert ports.writes == 1
    ports.make("h1")
    await reporter.ports(make_desired("after"), [PORT], wired=True, new=False)
    await reporter.ports(make_desired("after"), [PORT], wired=True, new=False)
    assert ports.objects[PORT.port]["status"] == {"wired": True, "host": "h1"}
    assert ports.writes == 2


@pytest.mark.parametrize(("host", "mac"), [("h2", PORT.mac), (None, PORT.mac), ("h1", "02:00:00:00:00:99")])
async def test_port_of_another_is_not_spoken_for(host: str | None, mac: str) -> None:
    """Of a Port that is bound to another host, to none, or that is another one of the same name nothing is told."""
    ports = Ports()
    reporter, store = make_reporter(ports)
    ports.make(host, mac)
    store.apply("ADDED", ports.objects[PORT.port])
    await reporter.ports(make_desired("before"), [PORT], wired=True, new=False)
    assert ports.writes == 0
