"""The operator process: lead, list everything, then watch and reconcile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog

from kumulus_api import PROJECT_LABEL
from kumulus_operator.actions.controller import ActionController
from kumulus_operator.aggregates.controller import AggregateController
from kumulus_operator.bootdata.server import serve_boot_data
from kumulus_operator.claims.controller import ClaimController
from kumulus_operator.cloud import Cloud
from kumulus_operator.dns.controller import RecordController, ZoneController
from kumulus_operator.dns.pods import NameServerController
from kumulus_operator.firewall_groups.controller import FirewallGroupController
from kumulus_operator.floating_ips.controller import FloatingIPController
from kumulus_operator.floating_ips.told import FloatingToldController
from kumulus_operator.handlers import register
from kumulus_operator.hosts.controller import HostController
from kumulus_operator.images.acceptance import AcceptanceController, MembersController
from kumulus_operator.images.controller import ImageController
from kumulus_operator.kinds import KINDS, MANY
from kumulus_operator.load_balancers.controller import LoadBalancerController
from kumulus_operator.metrics import WAITING_SERVERS, WATCHES
from kumulus_operator.migration.certificates import HostCertificates
from kumulus_operator.networks.controller import NetworkController
from kumulus_operator.networks.endpoints import EndpointsController
from kumulus_operator.ports.controller import PortController
from kumulus_operator.projects.controller import ProjectController
from kumulus_operator.projects.usage import UsageController
from kumulus_operator.relists.controller import RelistController
from kumulus_operator.routers.controller import RouterController
from kumulus_operator.security_groups.controller import SecurityGroupController
from kumulus_operator.servers.controller import ServerController
from kumulus_operator.settings import OperatorSettings
from kumulus_operator.traces.controller import TraceController
from kumulus_operator.views import Key
from kumulus_operator.vitals import Stage, Vitals
from kumulus_operator.volume_backups.controller import VolumeBackupController
from kumulus_operator.volume_backups.policies import BackupPolicyController
from kumulus_operator.volume_snapshots.controller import VolumeSnapshotController
from kumulus_operator.volume_transfers.controller import VolumeTransferController
from kumulus_operator.volumes.class_status import VolumeClassController
from kumulus_operator.volumes.controller import VolumeController
from kumulus_operator.vpn_connections.controller import VPNConnectionController
from kumulus_operator.watching import follow
from kumulus_runtime import garbage, kopf_watching, logs, metrics_server, process
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.lease import Leadership
from kumulus_runtime.resources import LEASE, NAMESPACE, ROLEBINDING
from kumulus_runtime.workqueue import WorkQueue

_GRACE = 10.0
"""Seconds for the watches to end."""

_LOG = structlog.stdlib.get_logger(__name__)


def main() -> None:
    """Run until a signal; the exit code tells whether it ended well."""
    settings = OperatorSettings.read("kumulus-operator")
    logs.configure(settings.log_format, settings.log_level)
    garbage.keep_pauses_short()

    async def run(stop: asyncio.Event) -> None:
        await operate(settings, stop)

    raise SystemExit(process.run(run, grace=settings.shutdown_seconds))


async def operate(settings: OperatorSettings, stop: asyncio.Event) -> None:
    """Wait for leadership, then operate until `stop` is set.

    Raises:
        LeadershipLost: another process may decide now; this one must end.
    """
    async with await KubeClient.connect("kumulus-operator") as client:
        leadership = Leadership(client, settings.system_namespace, identity=settings.pod)
        kinds = [kind.definition.plural for kind in KINDS]
        watched = partial(kopf_watching.watched, asyncio.get_running_loop())
        vitals = Vitals(leadership, [*kinds, NAMESPACE.plural], watched)
        WATCHES.set_function(vitals.watches)
        metrics = asyncio.create_task(
            metrics_server.serve(
                settings.metrics_port,
                {"watches": vitals.health},
                {"start": vitals.readiness},
                notes={"leadership": vitals.leadership},
            )
        )
        work = asyncio.create_task(leadership.run(lambda: lead(client, settings, vitals, stop)))
        stopping = asyncio.create_task(stop.wait())
        tasks: set[asyncio.Task[Any]] = {work, metrics, stopping}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if vitals.stage is not Stage.STANDBY:
                vitals.stage = Stage.STOPPING
                await asyncio.wait({work, metrics}, timeout=_GRACE, return_when=asyncio.FIRST_COMPLETED)
            for task in (metrics, work):
                if task.done():
                    task.result()
        finally:
            for ending in tasks:
                ending.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def lead(client: KubeClient, settings: OperatorSettings, vitals: Vitals, stop: asyncio.Event) -> None:
    """Operate as the leader, which `vitals` is told, until `stop` is set."""
    vitals.stage = Stage.LEADING
    cloud = Cloud(client, settings)
    WAITING_SERVERS.set_function(lambda: len(cloud.server_waiters))
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[None]] = await list_everything(cloud, group)
        tasks += [
            group.create_task(work)
            for work in (
                cloud.ledger.run(),
                cloud.user_data.run(stop),
                cloud.certificates.run(stop),
                cloud.vpn_keys.run(stop),
                cloud.volume_keys.run(stop),
                _watch_leases(cloud),
                _watch_role_bindings(cloud),
                serve_boot_data(cloud),
                HostCertificates(cloud).serve(),
                cloud.zone_files.run(),
            )
        ]
        for queue, reconcile in controllers(cloud):
            tasks.append(group.create_task(queue.run(reconcile, settings.workers)))
        await asyncio.sleep(0.01)
        # Begun last: kopf waits at its end for tasks that began after it.
        await kopf_watching.watch(register(cloud), stop, ends_with_stop=True)
        for task in tasks:
            task.cancel()


def controllers(cloud: Cloud) -> list[tuple[WorkQueue[Key], Callable[[Key], Awaitable[float | None]]]]:
    """Give each queue with what handles its keys."""
    queues = cloud.queues
    return [
        (queues.projects, ProjectController(cloud).reconcile),
        (queues.networks, NetworkController(cloud).reconcile),
        (queues.endpoints, EndpointsController(cloud).reconcile),
        (queues.ports, PortController(cloud).reconcile),
        (queues.security_groups, SecurityGroupController(cloud).reconcile),
        (queues.routers, RouterController(cloud).reconcile),
        (queues.floating_ips, FloatingIPController(cloud).reconcile),
        (queues.floating_told, FloatingToldController(cloud).reconcile),
        (queues.traces, TraceController(cloud).reconcile),
        (queues.load_balancers, LoadBalancerController(cloud).reconcile),
        (queues.firewall_groups, FirewallGroupController(cloud).reconcile),
        (queues.vpn_connections, VPNConnectionController(cloud).reconcile),
        (queues.servers, ServerController(cloud).reconcile),
        (queues.actions, ActionController(cloud).reconcile),
        (queues.volumes, VolumeController(cloud).reconcile),
        (queues.volume_classes, VolumeClassController(cloud).reconcile),
        (queues.volume_snapshots, VolumeSnapshotController(cloud).reconcile),
        (queues.volume_transfers, VolumeTransferController(cloud).reconcile),
        (queues.volume_backups, VolumeBackupController(cloud).reconcile),
        (queues.backup_policies, BackupPolicyController(cloud).reconcile),
        (queues.images, ImageController(cloud).reconcile),
        (queues.image_acceptances, AcceptanceController(cloud).reconcile),
        (queues.image_members, MembersController(cloud).reconcile),
        (queues.hosts, HostController(cloud).reconcile),
        (queues.aggregates, AggregateController(cloud).reconcile),
        (queues.usage, UsageController(cloud).reconcile),
        (queues.claims, ClaimController(cloud).reconcile),
        (queues.dns_zones, ZoneController(cloud).reconcile),
        (queues.dns_records, RecordController(cloud).reconcile),
        (queues.dns_pods, NameServerController(cloud).reconcile),
        (queues.relists, RelistController(cloud).reconcile),
    ]


async def list_everything(cloud: Cloud, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
    """Fill views and books by consistent lists, before anything is decided; give the watches that went on from them."""
    for lease in (await cloud.client.list(LEASE, cloud.settings.system_namespace))[0]:
        _see_lease(cloud, lease)
    watches = []
    for kind in KINDS:
        if kind in MANY:
            listed = asyncio.Event()
            watches.append(follow(cloud, kind, group, listed))
            await listed.wait()
            continue
        for body in (await cloud.client.list(kind))[0]:
            cloud.take(kind, body)
    _LOG.info("everything listed", servers=len(cloud.servers), hosts=len(cloud.hosts))
    return watches


async def _watch_leases(cloud: Cloud) -> None:
    async for kind, body in cloud.client.watch(LEASE, namespace=cloud.settings.system_namespace):
        if kind in ("ADDED", "MODIFIED"):
            _see_lease(cloud, body)


async def _watch_role_bindings(cloud: Cloud) -> None:
    async for kind, body in cloud.client.watch(ROLEBINDING, label_selector=PROJECT_LABEL):
        if kind in ("MODIFIED", "DELETED"):
            cloud.queues.projects.add(("", body["metadata"]["namespace"]))


def _see_lease(cloud: Cloud, lease: dict[str, object]) -> None:
    from_silence = cloud.liveness.see(lease, time.monotonic(), datetime.now(UTC))
    if from_silence is not None:
        cloud.host_speaks(from_silence)


if __name__ == "__main__":
    main()
