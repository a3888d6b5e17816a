"""Measure the running lab: prints a table and writes build/bench.json.

Method: ten servers (cached image, one automatic interface), one after the other, timed from the request to the watch
event that shows the end; writes are counted from the API server's audit log, the deferred release of the addresses
included; then three times twenty servers at once, from the first request to the last that is Ready or gone; then a
server that writes to memory and disk, with an open connection through it, migrates thirty times from host to host, and
what it holds is compared; then twenty idle servers for two minutes. Memory is PSS, CPU is user + system, both from
proc(5). Placement is measured beside the lab: `engine.py` the decisions alone, `scale.py`
with an API server and simulated agents. So is the network of one host: `network.py`, `netload.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import engine
import fleet
import network
import scale
import storage

from kumulus_api import AddressClaim, Port, Server
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import processes
from kumulus_lab.testing.audit import AuditLog, of_servers, summary
from kumulus_lab.testing.cloud import Cloud, Stopwatch
from kumulus_lab.testing.travelling import back_and_forth
from kumulus_runtime.api_client import KubeClient

SERVERS = 10
BURST = 20
BURSTS = 3
IDLE_SERVERS = 20
IDLE_SECONDS = 120
MIGRATIONS = 30
SETTLE_SECONDS = 15
RELEASE_SECONDS = 180
PROGRAMS = ("kumulus-operator", "kumulus-agent")


@dataclass
class Result:
    """A figure: the median of its samples."""

    name: str
    unit: str
    samples: list[float] = field(default_factory=list)

    def row(self) -> dict[str, object]:
        """Give it as bench.json has it."""
        return {"value": statistics.median(self.samples), **asdict(self)}


async def single(cloud: Cloud, project: str, vni: int, lab: LabSettings) -> list[Result]:
    """Time and count servers one by one, and then their deletions."""
    ready = Result("server_ready_seconds", "s")
    gone = Result("server_gone_seconds", "s")
    created = Result("server_api_writes", "writes")
    deleted = Result("server_delete_api_writes", "writes")
    cpu = Result("cpu_seconds_per_server", "s")
    await warm(cloud, project)
    before, log = cpu_seconds(lab), AuditLog(lab.audit_log)
    for index in range(SERVERS):
        watch = Stopwatch()
        await cloud.make_server(project, f"b{index}")
        await cloud.server_ready(project, f"b{index}")
        ready.samples.append(watch.seconds)
    await asyncio.sleep(1)  # what is written late counts too
    writes = of_servers(log.writes(), vni)
    print("creation:", summary(writes), file=sys.stderr)
    created.samples.append(len(writes) / SERVERS)
    ports, _ = await cloud.client.list(Port, namespace=project)
    log = AuditLog(lab.audit_log)
    for index in range(SERVERS):
        watch = Stopwatch()
        await cloud.delete(Server, f"b{index}", project)
        gone.samples.append(watch.seconds)
    cpu.samples.append((cpu_seconds(lab) - before) / SERVERS)
    for port in ports:
        await cloud.gone(Port, port["metadata"]["name"], project)
    await released(cloud, project)
    writes = of_servers(log.writes(), vni)
    print("deletion:", summary(writes), file=sys.stderr)
    deleted.samples.append(len(writes) / SERVERS)
    return [ready, created, gone, deleted, cpu]


async def warm(cloud: Cloud, project: str) -> None:
    """Have the image in each host's cache and the network on each host, which is not what is measured."""
    await asyncio.gather(*(cloud.make_server(project, f"w{index}") for index in range(4)))
    await asyncio.gather(*(cloud.server_ready(project, f"w{index}") for index in range(4)))
    await asyncio.gather(*(cloud.delete(Server, f"w{index}", project) for index in range(4)))
    await released(cloud, project)


async def released(cloud: Cloud, project: str) -> None:
    """Watch until no address of the project is claimed any more."""
    claims, _ = await cloud.client.list(AddressClaim)
    for claim in claims:
        if claim["spec"]["claimRef"]["namespace"] == project:
            await cloud.gone(AddressClaim, claim["metadata"]["name"], seconds=RELEASE_SECONDS)


async def bursts(cloud: Cloud, project: str) -> list[Result]:
    """Make twenty servers at once and delete them at once, time and again."""
    ready, gone = Result("burst20_ready_seconds", "s"), Result("burst20_gone_seconds", "s")
    names = [f"t{index}" for index in range(BURST)]
    for _ in range(BURSTS):
        watch = Stopwatch()
        await asyncio.gather(*(cloud.make_server(project, name) for name in names))
        await asyncio.gather(*(cloud.server_ready(project, name, 120) for name in names))
        ready.samples.append(watch.seconds)
        watch = Stopwatch()
        await asyncio.gather(*(cloud.delete(Server, name, project) for name in names))
        gone.samples.append(watch.seconds)
    return [ready, gone]


async def migrations(cloud: Cloud, project: str, lab: LabSettings) -> list[Result]:
    """Migrate a busy server back and forth; its hypervisor measures how long the guest stood still."""
    downtimes = await back_and_forth(cloud, lab, project, MIGRATIONS)
    for name in ("mover", "stream"):
        await cloud.delete(Server, name, project)
    return [Result("live_migration_downtime_ms", "ms", [float(number) for number in downtimes])]


async def idle(cloud: Cloud, project: str, lab: LabSettings) -> list[Result]:
    """Count writes and memory while nothing changes."""
    names = [f"i{index}" for index in range(IDLE_SERVERS)]
    await asyncio.gather(*(cloud.make_server(project, name) for name in names))
    await asyncio.gather(*(cloud.server_ready(project, name, 120) for name in names))
    await asyncio.sleep(SETTLE_SECONDS)
    log = AuditLog(lab.audit_log)
    await asyncio.sleep(IDLE_SECONDS)
    ours = [w for w in log.writes() if "kumulus" in w.user and w.resource != "leases"]
    beats = [w for w in ours if w.resource == "hosts"]
    print("idle:", summary(ours), f"({len(beats)} host heartbeats are not counted)", file=sys.stderr)
    operators, agents = (processes.of(program, lab) for program in PROGRAMS)
    pss = max(usage.pss_mib for usage in operators) + max(usage.pss_mib for usage in agents)
    return [
        Result("idle_api_writes_per_minute", "writes/min", [(len(ours) - len(beats)) * 60 / IDLE_SECONDS]),
        Result("pss_operator_agent_mib", "MiB", [pss]),
    ]


def cpu_seconds(lab: LabSettings) -> float:
    """Give the CPU time of operator and agents so far."""
    return sum(usage.cpu_seconds for program in PROGRAMS for usage in processes.of(program, lab))


async def measure() -> list[Result]:
    """Run all measurements on the running lab."""
    lab = LabSettings.from_environment()
    os.environ["KUBECONFIG"] = str(lab.kubeconfig)
    client = await KubeClient.connect("kumulus-bench")
    cloud = Cloud(client)
    try:
        await cloud.base(f"http://{lab.gateway}:8098/tiny.qcow2")
        async with cloud.project() as project:
            network = await cloud.make_network(project)
            figures = await single(cloud, project, network["status"]["vni"], lab)
            figures += await bursts(cloud, project)
            return [*figures, *await migrations(cloud, project, lab), *await idle(cloud, project, lab)]
    finally:
        await client.close()


def of_lab() -> list[Result]:
    """Measure the running lab."""
    return asyncio.run(measure())


def of_engine() -> list[Result]:
    """Measure the placement engine alone."""
    times = sorted(engine.decide_all())
    return [
        Result("placement_decisions_per_second", "1/s", [len(times) / sum(times)]),
        Result("placement_p99_ms", "ms", [times[len(times) * 99 // 100] * 1000]),
    ]


def of_scale() -> list[Result]:
    """Measure 1,000 Hosts and 10,000 Servers."""
    found = scale.figures()
    return [
        Result("placement_per_second", "servers/s", [found.placement_per_second]),
        Result("operator_restart_seconds", "s", [found.operator_restart_seconds]),
        Result("operator_pss_10k_mib", "MiB", [found.operator_pss_10k_mib]),
    ]


def of_network() -> list[Result]:
    """Measure 1,000 ports on 50 networks of one host."""
    found = network.figures()
    return [
        Result("network_converge_seconds", "s", [found.converge_seconds]),
        Result("network_adopt_seconds", "s", [found.adopt_seconds]),
        Result("rule_change_ms", "ms", found.rule_change_ms),
        Result("rules_throughput_share", "", found.throughput_share),
    ]


def of_storage() -> list[Result]:
    """Measure root disks on an image of 2 GB that is in the cache."""
    found = storage.figures()
    return [
        Result("root_disk_ms", "ms", found.root_disk_ms),
        Result("root_disk_8_at_once_ms", "ms", found.root_disk_of_many_ms),
    ]


async def measure_fleet() -> list[Result]:
    """Make a hundred servers of one image on the running lab."""
    lab = LabSettings.from_environment()
    os.environ["KUBECONFIG"] = str(lab.kubeconfig)
    client = await KubeClient.connect("kumulus-bench")
    cloud = Cloud(client)
    try:
        async with cloud.project() as project:
            await cloud.make_network(project)
            found = await fleet.measure(cloud, project, lab)
    finally:
        await client.close()
    return [
        Result("image_source_reads", "reads", [found.source_reads]),
        Result("image_hosts", "hosts", [found.hosts]),
        Result("image_fetched", "times", [found.fetched]),
        Result("fleet_image_ms", "ms", found.image_ms),
        Result("fleet_root_disk_ms", "ms", found.root_disk_ms),
    ]


def of_fleet() -> list[Result]:
    """Measure a hundred servers of one image of 2 GB on the running lab, of three hosts."""
    return asyncio.run(measure_fleet())


PARTS: dict[str, Callable[[], list[Result]]] = {
    "engine": of_engine,
    "scale": of_scale,
    "network": of_network,
    "storage": of_storage,
    "lab": of_lab,
    "fleet": of_fleet,
}


def main() -> None:
    """Measure the parts that are named, or all; print the table, write build/bench.json."""
    target = Path("build/bench.json")
    target.parent.mkdir(exist_ok=True)
    asked = sys.argv[1:] or [part for part in PARTS if part != "fleet"]
    if unknown := set(asked) - set(PARTS):
        raise SystemExit(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    new = [result.row() for part in asked for result in PARTS[part]()]
    measured = {row["name"] for row in new}
    former = json.loads(target.read_text()) if target.exists() and len(asked) < len(PARTS) else []
    rows = [row for row in former if row["name"] not in measured] + new
    target.write_text(json.dumps(rows, indent=2) + "\n")
    for row in rows:
        samples = row["samples"]
        assert isinstance(samples, list)
        print(f"{row['name']:<30} {row['value']:>9.2f} {row['unit']:<11} min {min(samples):.2f} max {max(samples):.2f}")


if __name__ == "__main__":
    main()
