"""1,000 Hosts and 10,000 Servers on a real API server, a real operator and simulated agents.

Method: etcd and API server alone, and one operator, on the cores of this machine. Operator and agents have the chart's
rights and their ServiceAccounts' tokens, as in a cluster. The agents of all hosts are one task that watches Servers and
writes the status of each that is assigned; their Leases are written once. Servers are created in 50 projects of one
network each, 400 at most between creation and assignment, and timed from the first request to the event that shows the
last assignment. Then the operator is restarted, and timed until it has placed one server more. What a server costs is
told besides: CPU of operator, API server with etcd, and this process, and writes by the audit log. Other sizes: `python
tests/bench/scale.py HOSTS SERVERS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kumulus_api import FINALIZER, Flavor, Host, Image, Network, Project, Server
from kumulus_lab import builds, commands
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.processes import running as pid_of
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import processes
from kumulus_lab.testing.audit import AuditLog, summary
from kumulus_lab.testing.site import AGENT, OperatorProcess
from kumulus_lab.testing.tasks import end
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.conditions import get_condition, set_condition
from kumulus_runtime.lease import Heartbeat

HOSTS = 1_000
PROJECTS = 50
SERVERS = 10_000
IN_FLIGHT = 400
_MAKERS = 8
_REPORTERS = 4
_SETTLE_SECONDS = 5.0
_TIMEOUT = 900.0
_PUBLIC = "kumulus-public"
_SYSTEM = "kumulus-system"
_ROOT = Path(__file__).parents[2]

Object = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How many hosts there are, and servers to be placed on them."""

    hosts: int = HOSTS
    servers: int = SERVERS


@dataclass(frozen=True)
class Figures:
    """What was measured."""

    placement_per_second: float
    operator_restart_seconds: float
    operator_pss_10k_mib: float


@dataclass(frozen=True)
class Costs:
    """CPU seconds so far, by who used them."""

    operator: float
    api: float
    bench: float

    @classmethod
    def now(cls, plane: ControlPlane, operator: OperatorProcess) -> Costs:
        """Read them."""
        daemons = [pid for daemon in plane.daemons() if (pid := pid_of(daemon)) is not None]
        of_api = sum(processes.of_pid(pid).cpu_seconds for pid in daemons)
        return cls(processes.of_pid(operator.pid).cpu_seconds, of_api, time.process_time())

    def each(self, since: Costs, servers: int) -> str:
        """Give what one server has cost since then."""
        pairs = ((name, getattr(self, name) - getattr(since, name)) for name in ("operator", "api", "bench"))
        return ", ".join(f"{name} {used / servers * 1000:.1f} ms" for name, used in pairs)


@dataclass
class Agents:
    """All agents: report each server that is assigned, and note when its assignment was seen.

    Attributes:
        client: to reach the API server.
        assigned: keys, with the monotonic seconds.
        room: what a maker takes before it creates a server, given back with the assignment.
    """

    client: KubeClient
    assigned: dict[tuple[str, str], float] = field(default_factory=dict)
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(IN_FLIGHT))
    todo: asyncio.Queue[tuple[str, str]] = field(default_factory=asyncio.Queue)
    progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def watch(self) -> None:
        """Look for assignments until cancelled."""
        async for event, body in self.client.watch(Server):
            if event not in ("ADDED", "MODIFIED") or "assignment" not in body["spec"]:
                continue
            key = (body["metadata"]["namespace"], body["metadata"]["name"])
            if key in self.assigned:
                continue
            self.assigned[key] = time.monotonic()
            self.room.release()
            self.todo.put_nowait(key)
            async with self.progress:
                self.progress.notify_all()

    async def report(self) -> None:
        """Write what an agent writes of a server that runs, until cancelled."""
        status = {"powerState": "Running", "conditions": set_condition([], "Ready", True, "Running", "", 1)}
        while True:
            namespace, name = await self.todo.get()
            body = {"metadata": {"name": name, "namespace": namespace}, "status": status}
            await self.client.apply_status(Server, body, manager=AGENT)

    async def until(self, count: int) -> None:
        """Wait until so many servers are assigned.

        Raises:
            TimeoutError: they are not, after a quarter of an hour.
        """
        async with asyncio.timeout(_TIMEOUT), self.progress:
            await self.progress.wait_for(lambda: len(self.assigned) >= count)


@contextlib.asynccontextmanager
async def running(client: KubeClient) -> AsyncIterator[Agents]:
    """Give agents that work."""
    agents = Agents(client)
    tasks = [asyncio.create_task(agents.watch()), *(asyncio.create_task(agents.report()) for _ in range(_REPORTERS))]
    try:
        yield agents
    finally:
        await end(tasks)


async def make_hosts(client: KubeClient, count: int) -> None:
    """Make all Hosts Ready, with a Lease each."""

    async def make(number: int) -> None:
        name = f"h{number:04}"
        await Heartbeat(client, name).beat()
        await client.create(Host, {"metadata": {"name": name}, "spec": {}})
        status = {
            "tunnelAddress": f"10.99.{number // 250}.{number % 250 + 1}",
            "architecture": "x86_64",
            "inventory": {"vcpus": 64, "memory": "256Gi", "disk": "4Ti"},
            "conditions": set_condition([], "Ready", True, "AgentReady", "", 1),
        }
        await client.apply_status(Host, {"metadata": {"name": name}, "status": status}, manager=AGENT)

    await _each(make, count)


async def make_projects(client: KubeClient) -> None:
    """Make the flavor, the public image, and projects with a network each."""
    spec = {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"}
    await client.create(Flavor, {"metadata": {"name": "small"}, "spec": spec})
    for name in (_PUBLIC, *(f"p{number}" for number in range(PROJECTS))):
        quota = {"quota": {"servers": SERVERS, "vcpus": SERVERS}}
        await client.create(Project, {"metadata": {"name": name}, "spec": quota})
        await _ready(client, Project, name)
    image = {"metadata": {"name": "tiny", "namespace": _PUBLIC}}
    source = {"source": {"url": "http://images.test/tiny"}, "format": "qcow2"}
    await client.create(Image, image | {"spec": source})
    imported = {"digest": "sha256:" + "0" * 64, "size": 1024, "virtualSize": 1024}
    ready = {"conditions": set_condition([], "Ready", True, "Imported", "", 1)}
    async with asyncio.timeout(60):
        async for _, body in client.watch(Image, namespace=_PUBLIC):
            if "importHost" in body.get("status", {}):
                break
    await client.apply_status(Image, image | {"status": imported | ready}, manager=AGENT)
    subnet = {"name": "v4", "cidr": "10.0.0.0/16", "gateway": "10.0.0.1"}
    for number in range(PROJECTS):
        metadata = {"name": "net", "namespace": f"p{number}"}
        await client.create(Network, {"metadata": metadata, "spec": {"subnets": [subnet]}})
        await _ready(client, Network, "net", f"p{number}")


async def _ready(client: KubeClient, kind: Any, name: str, namespace: str | None = None) -> None:
    async with asyncio.timeout(60):
        async for _, body in client.watch(kind, namespace=namespace, field_selector=f"metadata.name={name}"):
            condition = get_condition(body.get("status", {}).get("conditions", []), "Ready")
            if condition is not None and condition["status"] == "True":
                return


async def _each(make: Any, count: int) -> None:
    """Call `make` with each number below `count`, a few at once."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await make(number)

    await asyncio.gather(*(work() for _ in range(_MAKERS)))


async def make_server(client: KubeClient, namespace: str, name: str) -> None:
    """Create a server as a user and the admission policy would."""
    spec = {"flavor": {"name": "small"}, "image": {"name": "tiny", "namespace": _PUBLIC}}
    metadata = {"name": name, "namespace": namespace, "finalizers": [FINALIZER]}
    await client.create(Server, {"metadata": metadata, "spec": spec})


async def place_all(client: KubeClient, agents: Agents, count: int) -> float:
    """Create all servers, and give how many a second were placed."""
    started = time.monotonic()

    async def make(number: int) -> None:
        await agents.room.acquire()
        await make_server(client, f"p{number % PROJECTS}", f"s{number // PROJECTS}")

    await _each(make, count)
    await agents.until(count)
    last = max(agents.assigned.values())
    return count / (last - started)


async def while_running(operator: OperatorProcess, work: Coroutine[Any, Any, float]) -> float:
    """Give what `work` gives, unless the operator ends before.

    Raises:
        RuntimeError: it has ended.
    """
    working, ended = asyncio.create_task(work), asyncio.create_task(asyncio.to_thread(operator.wait))
    await asyncio.wait({working, ended}, return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        return working.result()
    working.cancel()
    raise RuntimeError(f"the operator has ended:\n{operator.log.read_text()[-2000:]}")


async def restart(client: KubeClient, agents: Agents, operator: OperatorProcess) -> float:
    """Restart the operator, and give the seconds from its start to the first server that it places."""
    await asyncio.to_thread(operator.stop)
    count = len(agents.assigned)
    last = max(f"p{number}" for number in range(PROJECTS))  # listed last, so it is looked at after all others
    await make_server(client, last, "after-restart")
    started = time.monotonic()
    operator.start()
    await agents.until(count + 1)
    return agents.assigned[last, "after-restart"] - started


async def measure(directory: Path, size: Size) -> Figures:
    """Measure all with an API server in a directory."""
    with ControlPlane.temporary(directory) as plane:
        install(plane)
        # The pod's name has the restarted process go on with the Lease, as in a cluster.
        operator = OperatorProcess(
            plane.token_kubeconfig(directory / "operator.conf", _SYSTEM, "kumulus-operator"),
            directory / "operator.log",
            host_silence="86400",
            pod="operator-0",
            log_level="WARNING",
        )
        operator.start()
        agent = await connected(plane.token_kubeconfig(directory / "agent.conf", _SYSTEM, "kumulus-agent"))
        client = await connected(plane.kubeconfig)
        try:
            await make_hosts(client, size.hosts)
            await make_projects(client)
            async with running(agent) as agents:
                print("scale: placing", size.servers, "servers on", size.hosts, "hosts", file=sys.stderr)
                log, before = AuditLog(plane.audit_log), Costs.now(plane, operator)
                rate = await while_running(operator, place_all(client, agents, size.servers))
                print("scale: each", Costs.now(plane, operator).each(before, size.servers), file=sys.stderr)
                print(f"scale: {rate:.1f}/s;", summary(log.writes()), file=sys.stderr)
                restarted = await restart(client, agents, operator)
                await asyncio.sleep(_SETTLE_SECONDS)
                pss = processes.of_pid(operator.pid).pss_mib
            return Figures(rate, restarted, pss)
        finally:
            await client.close()
            await agent.close()
            operator.stop()


def install(plane: ControlPlane) -> None:
    """Install what the chart has of kinds and rights; nothing runs there that it could deploy."""
    lab = LabSettings.from_environment()
    builds.ensure(builds.HELM3, lab.cache)
    plane.kubectl("apply", "--server-side", "-f", str(_ROOT / "crds"))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    plane.kubectl("create", "namespace", _SYSTEM)
    parts = [f"--show-only=templates/{part}-rbac.yaml" for part in ("operator", "agent")]
    helm = [builds.program(lab, "helm3"), "template", "kumulus", str(_ROOT / "charts" / "kumulus")]
    plane.kubectl("apply", "-f", "-", stdin=commands.run([*helm, f"--namespace={_SYSTEM}", *parts]).stdout)


async def connected(kubeconfig: Path) -> KubeClient:
    """Connect with a kubeconfig."""
    os.environ["KUBECONFIG"] = str(kubeconfig)
    return await KubeClient.connect("kumulus-bench")


def figures(size: Size | None = None) -> Figures:
    """Measure in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="kumulus-bench-") as directory:
        return asyncio.run(measure(Path(directory), size or Size()))


if __name__ == "__main__":
    print(figures(Size(*map(int, sys.argv[1:]))))
