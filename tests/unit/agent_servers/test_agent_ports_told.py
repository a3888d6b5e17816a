"""What the agent tells of a server's ports."""

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
        self.statuses: dict[str, dict[str, object]] = {}
        self.writes = 0

    async def get(self, kind: object, name: str, namespace: str) -> dict[str, object] | None:
        """Give a Port."""
        return {"status": self.statuses[name]} if name in self.statuses else None

    async def apply_status(self, kind: object, body: dict[str, dict[str, object]], *, manager: str) -> None:
        """Write the status of a Port that exists."""
        name = str(body["metadata"]["name"])
        if name not in self.statuses:
            raise NotFound(404, "NotFound", name)
        self.writes += 1
        self.statuses[name] = body["status"]


def make_desired(uid: str) -> Desired:
    """Give an instance of the Server object with this uid."""
    return Desired(
        ("demo", "web"), uid, 3, INSTANCE, 2, 1, 1, 1, None, (PORT,), (), True, False, "", "", False, False, True
    )


async def test_port_of_a_restored_server_is_told_again() -> None:
    """A Port that came anew with its Server is told that it is wired as soon as it is there, and then no more."""
    ports = Ports()
    reporter = Reporter(ports, Store(), "h1", EventRecorder(ports, "test"))  # type: ignore[arg-type]
    ports.statuses["web-eth0"] = {}
    assert await reporter.ports(make_desired("before"), wired=True, new=True)
    del ports.statuses["web-eth0"]
    assert not await reporter.ports(make_desired("after"), wired=True, new=False)
    ports.statuses["web-eth0"] = {}
    assert await reporter.ports(make_desired("after"), wired=True, new=False)
    assert await reporter.ports(make_desired("after"), wired=True, new=False)
    assert ports.statuses["web-eth0"] == {"wired": True, "host": "h1"}
    assert ports.writes == 2
