"""The operator process against a real API server; only what agents report is written by the tests."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kumulus_api import (
    FINALIZER,
    AddressClaim,
    Flavor,
    Host,
    Image,
    Kind,
    Network,
    NetworkEndpoints,
    NetworkIDClaim,
    Port,
    Project,
    Server,
    Volume,
)
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.audit import AuditLog
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.conditions import get_condition, set_condition
from kumulus_runtime.lease import Heartbeat
from kumulus_runtime.resources import NAMESPACE

CRDS = Path(__file__).parents[2] / "crds"
AGENT = "kumulus-agent"
LIMIT = 20.0


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running API server with our kinds."""
    with ControlPlane.temporary(tmp_path_factory.mktemp("plane")) as plane:
        plane.kubectl("apply", "--server-side", "-f", str(CRDS))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        plane.kubectl("create", "namespace", "kumulus-system")
        yield plane


@pytest.fixture
async def client(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeClient]:
    """The administrator's client."""
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    client = await KubeClient.connect("kumulus-test")
    yield client
    await client.close()


def _pool(first: int, last: int) -> dict[str, str]:
    return {"start": f"10.0.0.{first}", "end": f"10.0.0.{last}"}


class Operator:
    """The operator's process."""

    def __init__(self, kubeconfig: Path, log: Path, **settings: str) -> None:
        names = {f"KUMULUS_{name.upper()}": value for name, value in settings.items()}
        fixed = {"KUBECONFIG": str(kubeconfig), "KUMULUS_METRICS_PORT": "0", "KUMULUS_BOOT_DATA_PORT": "0"}
        self._environment = {**os.environ, **fixed, **names}
        self.log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "kumulus_operator.main", env=self._environment, stderr=log
            )

    async def stop(self) -> int:
        """Stop it gracefully; give the exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self._process.wait(), LIMIT)


@pytest.fixture
async def operator(plane: ControlPlane, tmp_path: Path) -> AsyncIterator[Operator]:
    """A running operator with short times."""
    operator = Operator(plane.kubeconfig, tmp_path / "operator.log", claim_quarantine="1", host_silence="3")
    await operator.start()
    yield operator
    code = await operator.stop()
    log = operator.log.read_text()
    print(log)
    assert code == 0
    assert "Traceback" not in log


async def eventually(look: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Give the first true answer."""
    async with asyncio.timeout(LIMIT):
        while not (found := await look()):  # noqa: ASYNC110 - it is the API server that is asked
            await asyncio.sleep(0.01)
    assert found, what
    return found


class Site:
    """Objects of one test, and the agents' part of them."""

    def __init__(self, client: KubeClient, name: str) -> None:
        self.client = client
        self.name = name
        self._beats: list[asyncio.Task[None]] = []

    async def host(self, name: str, memory: str = "2Gi", vcpus: int = 8) -> None:
        """Make a Ready host that renews its Lease."""
        heartbeat = Heartbeat(self.client, name, interval=0.5)
        await heartbeat.beat()
        self._beats.append(asyncio.create_task(heartbeat.run()))
        await self.client.apply(Host, {"metadata": {"name": name}, "spec": {}}, manager=AGENT)
        status = {
            "tunnelAddress": "192.0.2.1",
            "inventory": {"vcpus": vcpus, "memory": memory, "disk": "100Gi"},
            "conditions": set_condition([], "Ready", True, "SelfTestPassed", "", 1),
        }
        await self.client.apply_status(Host, {"metadata": {"name": name}, "status": status}, manager=AGENT)

    async def basics(self) -> None:
        """Make a project, a flavor, a network and an imported image."""
        await self.client.create(Project, {"metadata": {"name": self.name}, "spec": {}})
        await eventually(lambda: self.client.get(NAMESPACE, self.name), "namespace")
        spec = {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"}
        await self.client.apply(Flavor, {"metadata": {"name": "small"}, "spec": spec}, manager="test")
        subnet = {"name": "v4", "cidr": "10.0.0.0/24", "gateway": "10.0.0.1"}
        await self.create(Network, "net", {"subnets": [subnet]})
        await self.create(Image, "tiny", {"source": {"url": "http://images.test/tiny"}, "format": "qcow2"})
        status = {
            "digest": "sha256:" + "0" * 64,
            "size": 1024,
            "virtualSize": 1024,
            "conditions": set_condition([], "Ready", True, "Imported", "", 1),
        }
        body = {"metadata": {"name": "tiny", "namespace": self.name}, "status": status}
        await self.client.apply_status(Image, body, manager=AGENT)
        await eventually(lambda: self.condition(Network, "net", "Ready", "True"), "network Ready")

    async def create(self, kind: type[Kind], name: str, spec: dict[str, Any], finalizers: tuple[str, ...] = ()) -> None:
        """Create a namespaced object."""
        metadata = {"name": name, "namespace": self.name, "finalizers": list(finalizers)}
        await self.client.create(kind, {"metadata": metadata, "spec": spec})

    async def server(self, name: str, **spec: Any) -> None:
        """Create a server as the user and the admission policy would."""
        wanted = {"flavor": {"name": "small"}, "image": {"name": "tiny"}} | spec
        await self.create(Server, name, wanted, (FINALIZER,))

    async def condition(self, kind: type[Kind], name: str, of: str, status: str) -> dict[str, Any] | None:
        """Give the object's condition if it has this status."""
        body = await self.client.get(kind, name, self.name) or {}
        found = get_condition((body.get("status") or {}).get("conditions") or [], of)
        return found if found and found["status"] == status else None

    async def assignment(self, name: str) -> dict[str, Any] | None:
        """Give a server's assignment."""
        body = await self.client.get(Server, name, self.name)
        return body["spec"].get("assignment") if body else None

    async def delete_server(self, name: str) -> None:
        """Delete a server; then do the agent's and the garbage collector's part."""
        assigned = await self.assignment(name)
        await self.client.delete(Server, name, self.name)
        await self.client.remove_finalizer(Server, name, FINALIZER, self.name)
        for port in (assigned or {}).get("ports", []):
            await self.client.delete(Port, port["port"], self.name)

    async def close(self) -> None:
        """Stop the heartbeats and remove the hosts."""
        for beat in self._beats:
            beat.cancel()
        await asyncio.gather(*self._beats, return_exceptions=True)
        for host in (await self.client.list(Host))[0]:
            await self.client.delete(Host, host["metadata"]["name"])


@pytest.fixture
async def site(client: KubeClient, operator: Operator, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A project of the test's own."""
    site = Site(client, f"p{abs(hash(request.node.name)) % 10**8}")
    yield site
    await site.close()


async def test_a_server_is_placed_with_four_writes(site: Site, plane: ControlPlane) -> None:
    """A network gets a VNI; a server's creation costs claim, port and assignment besides the user's own write."""
    await site.host("h1")
    await site.basics()
    network = await site.client.get(Network, "net", site.name)
    assert 4096 <= network["status"]["vni"] <= 1048575
    await site.server("warm-up")
    await eventually(lambda: site.assignment("warm-up"), "assignment")
    await asyncio.sleep(0.5)
    audit = AuditLog(plane.audit_log)
    started = time.monotonic()
    await site.server("web")
    assigned = await eventually(lambda: site.assignment("web"), "assignment")
    elapsed = time.monotonic() - started
    await asyncio.sleep(0.5)
    writes = Counter(
        (write.verb, write.resource) for write in audit.writes() if write.resource not in ("leases", "networkendpoints")
    )
    assert writes == {
        ("create", "servers"): 1,
        ("create", "addressclaims"): 1,
        ("create", "ports"): 1,
        ("patch", "servers"): 1,
    }
    assert elapsed < 0.5
    print(f"apply to assignment: {elapsed * 1000:.0f} ms")
    (port,) = assigned["ports"]
    assert port["vni"] == network["status"]["vni"]
    assert port["port"] == "web-default"
    endpoints = await site.client.get(NetworkEndpoints, "net-0", site.name)
    assert {item["port"] for item in endpoints["spec"]["endpoints"]} == {"warm-up-default", "web-default"}


@pytest.mark.parametrize(
    ("subnet", "reason", "said"),
    [
        ({"pools": [_pool(10, 20), _pool(20, 30)]}, "PoolsInvalid", "10.0.0.10-10.0.0.20 and 10.0.0.20-10.0.0.30"),
        ({"pools": [_pool(20, 10)]}, "PoolsInvalid", "ends before it starts"),
        ({"gateway": "10.0.0.255"}, "GatewayInvalid", "network or broadcast address of 10.0.0.0/24"),
    ],
)
async def test_a_network_with_a_fault_gets_nothing(site: Site, subnet: dict[str, Any], reason: str, said: str) -> None:
    """What no schema can see is said in the network's status; it holds no VNI until it is corrected."""
    await site.client.create(Project, {"metadata": {"name": site.name}, "spec": {}})
    await eventually(lambda: site.client.get(NAMESPACE, site.name), "namespace")
    plain = {"name": "v4", "cidr": "10.0.0.0/24"}
    await site.create(Network, "net", {"subnets": [plain | subnet]})
    refusal = await eventually(lambda: site.condition(Network, "net", "Ready", "False"), reason)
    assert (refusal["reason"], said in refusal["message"]) == (reason, True)
    claims = [c for c in (await site.client.list(NetworkIDClaim))[0] if c["spec"]["claimRef"]["namespace"] == site.name]
    assert claims == []
    await site.client.patch_merge(Network, "net", {"spec": {"subnets": [plain]}}, site.name)
    await eventually(lambda: site.condition(Network, "net", "Ready", "True"), "network Ready")


async def test_a_server_beyond_capacity_waits_for_room(site: Site) -> None:
    """The third server on a host for two says why it waits, and is placed when another goes."""
    await site.host("h2")
    await site.basics()
    await asyncio.gather(*(site.server(f"s{number}") for number in range(3)))
    waiting = await eventually(lambda: _waiting(site, 3), "a waiting server")
    name, condition = waiting
    assert condition["reason"] == "NoValidHost"
    assert "no valid host out of 1: 1 without enough memory" in condition["message"]
    placed = next(f"s{number}" for number in range(3) if f"s{number}" != name)
    await site.delete_server(placed)
    await eventually(lambda: site.assignment(name), "assignment")
    condition = await eventually(lambda: site.condition(Server, name, "Scheduled", "True"), "Scheduled")
    assert condition["reason"] == "Assigned"


async def _waiting(site: Site, count: int) -> tuple[str, dict[str, Any]] | None:
    found = [
        (f"s{number}", await site.condition(Server, f"s{number}", "Scheduled", "False")) for number in range(count)
    ]
    assigned = [await site.assignment(f"s{number}") for number in range(count)]
    waits = [(name, condition) for name, condition in found if condition]
    return waits[0] if len(waits) == 1 and sum(item is not None for item in assigned) == count - 1 else None


async def test_claims_are_released_after_the_quarantine(site: Site) -> None:
    """The address of a deleted server's port stays held for the quarantine and is then free."""
    await site.host("h3")
    await site.basics()
    await site.server("web")
    assigned = await eventually(lambda: site.assignment("web"), "assignment")
    address, vni = assigned["ports"][0]["addresses"][0], assigned["ports"][0]["vni"]
    claim = f"vni-{vni}-{address.replace('.', '-')}"
    assert await site.client.get(AddressClaim, claim) is not None
    await site.delete_server("web")
    started = time.monotonic()

    async def released() -> bool:
        return await site.client.get(AddressClaim, claim) is None

    await eventually(released, "released claim")
    assert time.monotonic() - started > 0.9


async def test_a_silent_host_is_said_once(site: Site, plane: ControlPlane) -> None:
    """When a host's Lease stops, its servers become Unknown by one write; they are not moved."""
    await site.host("h4")
    await site.basics()
    await site.server("web")
    await eventually(lambda: site.assignment("web"), "assignment")
    audit = AuditLog(plane.audit_log)
    for beat in site._beats:
        beat.cancel()
    condition = await eventually(lambda: site.condition(Server, "web", "Ready", "Unknown"), "HostSilent")
    assert condition["reason"] == "HostSilent"
    await asyncio.sleep(1)
    assert [str(write) for write in audit.writes() if write.resource == "servers"] == [
        f"patch servers/status {site.name}/web (admin)"
    ]


async def test_an_instance_that_runs_is_adopted(site: Site) -> None:
    """A server without assignment whose instance a host reports is assigned there under that instance's id."""
    await site.host("h5")
    await site.host("h6", memory="64Gi")
    await site.basics()
    instance = {
        "instanceID": "11111111-2222-4333-8444-555555555555",
        "namespace": site.name,
        "name": "old",
        "epoch": 3,
        "running": True,
    }
    status = {"unclaimedInstances": [instance]}
    await site.client.apply_status(Host, {"metadata": {"name": "h5"}, "status": status}, manager="test-report")
    await asyncio.sleep(0.3)
    await site.server("old")
    assigned = await eventually(lambda: site.assignment("old"), "assignment")
    assert (assigned["host"], assigned["instanceID"], assigned["epoch"]) == ("h5", instance["instanceID"], 3)
    condition = await eventually(lambda: site.condition(Server, "old", "Scheduled", "True"), "Scheduled")
    assert condition["reason"] == "Adopted"


async def test_a_volume_has_one_holder_until_its_server_is_gone(site: Site) -> None:
    """A second server that asks for a volume waits, and gets it when the first one is gone."""
    await site.host("h7", memory="64Gi")
    await site.basics()
    await site.create(Volume, "data", {"size": "1Gi"}, (FINALIZER,))
    await eventually(lambda: site.condition(Volume, "data", "Ready", "False"), "WaitingForFirstServer")
    wanted = [{"name": "data", "volume": {"name": "data"}}]
    await site.server("first", volumes=wanted)
    first = await eventually(lambda: site.assignment("first"), "assignment")
    await site.server("second", volumes=wanted)
    condition = await eventually(lambda: site.condition(Server, "second", "Scheduled", "False"), "VolumeInUse")
    assert condition["reason"] == "VolumeInUse"
    await site.delete_server("first")
    second = await eventually(lambda: site.assignment("second"), "assignment")
    assert second["volumes"][0]["volumeID"] == first["volumes"][0]["volumeID"]
    volume = await site.client.get(Volume, "data", site.name)
    assert volume["spec"]["assignment"]["attachedTo"] == "second"


async def test_foreign_and_reserved_namespaces_are_refused(site: Site) -> None:
    """A project never takes over a namespace that was there, nor a reserved name."""
    foreign = f"{site.name}-foreign"
    await site.client.create(NAMESPACE, {"metadata": {"name": foreign}})
    for name, reason in ((foreign, "NamespaceForeign"), ("kube-mine", "NamespaceReserved")):
        await site.client.create(Project, {"metadata": {"name": name}, "spec": {}})

        async def refused(name: str = name) -> dict[str, Any] | None:
            body = await site.client.get(Project, name)
            return get_condition((body or {}).get("status", {}).get("conditions", []), "Ready")

        condition = await eventually(refused, reason)
        assert (condition["status"], condition["reason"]) == ("False", reason)
    assert await site.client.get(NAMESPACE, "kube-mine") is None


async def test_a_restart_writes_nothing(site: Site, operator: Operator, plane: ControlPlane) -> None:
    """A restarted operator finds all as it left it: nothing but its Lease and its authority is written."""
    await site.host("h8")
    await site.basics()
    await site.server("web")
    await eventually(lambda: site.assignment("web"), "assignment")
    await asyncio.sleep(1)
    assert await operator.stop() == 0
    audit = AuditLog(plane.audit_log)
    await operator.start()
    await site.server("next")
    await eventually(lambda: site.assignment("next"), "assignment")
    ours = Counter((write.resource, write.name) for write in audit.writes())
    assert {name for resource, name in ours if resource == "servers"} == {"next"}
    assert not [name for resource, name in ours if resource in ("networks", "projects", "images", "volumes")]
