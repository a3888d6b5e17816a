"""The agent put together: what speaks to the API, to libvirt and to the kernel, and who calls whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any

import structlog
from prometheus_client import REGISTRY

from kumulus_agent.actions.open import OpenActions, is_open
from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.consoles.server import Consoles
from kumulus_agent.guest.agents import GuestAgents
from kumulus_agent.guest.passwords import Passwords
from kumulus_agent.host.inventory import HOST_ROOT, missing_packages
from kumulus_agent.host.selftest import KVM_DEVICE, SELF_TEST_ID, run_selftest
from kumulus_agent.hosts.controller import HostController
from kumulus_agent.hosts.machine import read_machine
from kumulus_agent.hosts.plan import proven
from kumulus_agent.images.exchange import digests_of
from kumulus_agent.images.upload_server import PATH
from kumulus_agent.images.wiring import ImagesHere
from kumulus_agent.metadata.service import MetadataService
from kumulus_agent.migration.controller import MigrationController
from kumulus_agent.migration.credentials import Credentials
from kumulus_agent.migration.host_port import HostPort
from kumulus_agent.migration.reports import SOURCE, TARGET
from kumulus_agent.network import tables
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.networks.wiring import NetworksHere
from kumulus_agent.passthrough.source import HostDeviceSource
from kumulus_agent.servers.adoption import Adoption
from kumulus_agent.servers.boot_data import boot_data_source
from kumulus_agent.servers.capacity import Capacity, capacity_of
from kumulus_agent.servers.controller import ServerController
from kumulus_agent.servers.desired import Key
from kumulus_agent.servers.guest_password import GuestPasswords
from kumulus_agent.servers.instances import Instances
from kumulus_agent.servers.observe import Observer
from kumulus_agent.servers.port_status import limit_untold
from kumulus_agent.servers.report import Reporter
from kumulus_agent.servers.start import Actuators, Cache, Virt
from kumulus_agent.servers.told import Told
from kumulus_agent.servers.usage_metrics import ServerUsageCollector
from kumulus_agent.services.host_service import HostServices
from kumulus_agent.settings import AgentSettings
from kumulus_agent.storage.direct_io import cache_mode
from kumulus_agent.volumes.wiring import VolumesHere
from kumulus_agent.watching import build_registry
from kumulus_api import Host, Image, Kind, Port, Server, ServerAction, Volume, VolumeBackup, VolumeClass, VolumeSnapshot
from kumulus_api.host import HostSpec
from kumulus_runtime import kopf_watching, metrics_server
from kumulus_runtime.api_client import ApiError, KubeClient
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.lease import Heartbeat
from kumulus_runtime.store import Store
from kumulus_runtime.workqueue import WorkQueue

_log = structlog.stdlib.get_logger(__name__)
_RETRY_SECONDS = 1.0
_REFRESH_SECONDS = 300.0
_DRAIN_SECONDS = 3.0
RECONNECT_LOOKS = (0.0, 3.0, 15.0)
"""Seconds after libvirtd is back at which all its guests are looked at: it reports no event of one that it finds dead,
and may find that some time after it answers again."""


class Agent:
    """One agent: made when the lock is held, run until stopped.

    Args:
        settings: as loaded in `main`.
        client: to reach the API server.
    """

    def __init__(self, settings: AgentSettings, client: KubeClient) -> None:
        self._settings = settings
        self._client = client
        self._ready = "starting"
        self._labels: dict[str, str] | None = None
        self._workers: list[asyncio.Task[None]] = []
        self._closing = AsyncExitStack()
        for directory in (settings.state_dir, settings.instances_dir, settings.run_dir):
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._store = Store()
        self._servers: WorkQueue[Key] = WorkQueue("servers")
        self._hosts: WorkQueue[str] = WorkQueue("hosts")
        self._instances = Instances(changed=self._instances_changed)
        self._hypervisor = Hypervisor(
            settings.libvirt_uri, on_event=self._domain_changed, on_reconnect=self._hypervisor_back
        )
        self._datapath = Datapath(
            HostServices(settings.run_dir / "services"),
            settings.run_dir / "dns",
            metadata=MetadataService(Told(settings, self._store, self._instances, GuestPasswords(client, self._store))),
        )
        self._networks = NetworksHere(
            settings,
            client,
            self._store,
            self._datapath,
            mappings=lambda: self._host.mappings,
            host_changed=self._host_changed,
        )
        credentials = Credentials(client, settings.node_name, settings.state_dir / "pki", settings.system_namespace)
        self._port = HostPort(settings.underlay_address, settings.migration_port, credentials)
        self._images = ImagesHere(
            settings,
            client,
            self._store,
            self._hypervisor,
            self._port,
            in_use=self._images_in_use,
            server_changed=self._servers.add,
            host_changed=self._host_changed,
        )
        self._guests = GuestAgents(self._hypervisor, settings.instances_dir, self._store, self._servers.add)
        self._passwords = Passwords(
            client, boot_data_source(settings), self._hypervisor, settings.instances_dir, self._servers.add
        )
        self._volumes = VolumesHere(
            settings,
            client,
            self._store,
            self._hypervisor,
            images=self._images,
            credentials=credentials,
            server_changed=self._servers.add,
        )
        self._machine = read_machine(settings)
        self._host_devices = HostDeviceSource(self._hypervisor, self._host_spec)
        self._host = HostController(
            settings,
            client,
            self._store,
            self._hypervisor,
            self._instances,
            self._machine,
            self._missing_packages,
            self._requeue_instance,
            self._networks.physical.look,
            self._host_devices,
        )
        self._host.taken_over, self._host.images = self._networks.taken_over, self._images.kept.told
        self._host.make_room = self._make_room
        self._consoles = Consoles(settings, client, self._hypervisor, {PATH: self._images.upload_server.take})
        self._adoption = Adoption(
            settings, client, self._store, self._hypervisor, self._networks.carried, self._instances, self._servers
        )

    async def _make_room(self) -> list[str]:
        # What nothing needs is known when all guests were looked at.
        return await self._images.cache.evict(0) if self._host.adopted else []

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; guests, networks and DHCP go on without us."""
        heartbeat = Heartbeat(self._client, self._settings.node_name, namespace=self._settings.system_namespace)
        self._host.console = await self._consoles.prepare()
        tasks = [
            self._spawn(heartbeat.run()),
            self._spawn(self._consoles.run()),
            self._spawn(self._hosts.run(self._host.reconcile, 1)),
            self._spawn(self._serve_metrics(heartbeat)),
            self._spawn(self._work(stop)),
            self._spawn(stop.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            queues: tuple[WorkQueue[Any], ...] = (
                self._servers, self._images.queue, self._hosts, *self._networks.queues, *self._volumes.queues,
            )  # fmt: skip
            for queue in queues:
                queue.stop()
            await self._close(tasks)

    async def _close(self, tasks: list[asyncio.Task[Any]]) -> None:
        # What is under way is given a moment: a start that is cut off is undone and begun anew by the next agent.
        if self._workers:
            await asyncio.wait(self._workers, timeout=_DRAIN_SECONDS)
        await self._closing.aclose()
        await self._networks.close()
        self._volumes.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._images.cache.close()
        with suppress(HypervisorError):
            await self._hypervisor.close()
        with suppress(AttributeError):
            await self._datapath.close()

    async def _work(self, stop: asyncio.Event) -> None:
        settings = self._settings
        await self._until_done("open the hypervisor", self._hypervisor.open)
        self._host_changed()
        await self._until_done("prepare the datapath", self._datapath.start)
        self._host.enlarge = tables.enlarge_all
        virt = await self._self_test()
        self._host_changed()
        actuators = self._actuators(virt, await asyncio.to_thread(cache_mode, settings.instances_dir))
        events = EventRecorder(self._client, "kumulus.dev/agent", instance=settings.node_name)
        servers = self._server_controller(actuators, events)
        migrations = MigrationController(
            actuators, self._instances, self._store, servers.check_capacity, self._servers.add, port=self._port
        )
        beside = (
            *self._images.closing,
            self._guests.close,
            self._passwords.close,
            *self._volumes.closing,
        )
        for close in (self._port.close, migrations.close, *beside):
            self._closing.push_async_callback(close)
        await self._until_done("clear half copies away", self._images.copies.sweep)
        await self._until_done("end what served half backups", self._volumes.sweep)
        await self._until_done("adopt what runs here", self._adoption.adopt)
        loop = asyncio.get_running_loop()
        collector = ServerUsageCollector(
            self._hypervisor, self._datapath, self._instances.keys, self._networks.carried.held, loop
        )
        REGISTRY.register(collector)
        async with asyncio.TaskGroup() as group:
            self._workers = [
                group.create_task(self._servers.run(servers.reconcile, settings.workers)),
                *self._volumes.work(group),
                *self._images.work(group, events),
                *self._networks.work(group),
            ]
            for role in (SOURCE, TARGET):
                group.create_task(migrations.follow(role))
            group.create_task(migrations.queue.run(migrations.reconcile, 4))
            group.create_task(self._watch(stop))
            group.create_task(self._refresh())
            group.create_task(self._settle())
            self._ready = ""

    def _actuators(self, virt: Virt, cache: Cache) -> Actuators:
        return Actuators(
            self._settings,
            self._client,
            self._hypervisor,
            self._datapath,
            self._networks.carried,
            self._images.cache,
            boot_data_source(self._settings),
            virt,
            cache,
            lambda: self._host.processors,
            self._host_devices,
            shelves=self._volumes.shelves,
            distant=self._volumes.distant,
        )

    def _server_controller(self, actuators: Actuators, events: EventRecorder) -> ServerController:
        node = self._settings.node_name
        observer = Observer(
            self._settings,
            self._client,
            self._store,
            self._hypervisor,
            self._datapath,
            self._networks.carried,
            self._instances,
            OpenActions(self._client, self._store, node),
            self._images.copies,
            self._passwords,
            self._host_devices,
        )
        return ServerController(
            observer,
            actuators,
            self._instances,
            self._store,
            Reporter(self._client, self._store, node, events, lambda: self._datapath.unlimited),
            self._capacity,
            self._images.copies,
            self._guests,
            self._passwords,
            self._volumes.queue.add,
        )

    async def _watch(self, stop: asyncio.Event) -> None:
        """Watch until cancelled. It is not given `stop`: kopf would then wait for whatever began after it."""
        enqueue: dict[type[Kind], Callable[[Key], None]] = {
            Server: self._server_seen,
            ServerAction: self._action_seen,
            Port: self._port_seen,
            Volume: self._volumes.queue.add,
            VolumeSnapshot: self._volumes.snapshots.add,
            VolumeBackup: self._volumes.backups.add,
            VolumeClass: lambda _: self._host_changed(),
            Image: self._images.queue.add,
            Host: self._host_seen,
        }
        registry = build_registry(self._settings.node_name, self._store, enqueue)
        await kopf_watching.watch(registry, stop, ends_with_stop=False)

    async def _refresh(self) -> None:
        """Now and then compare everything: what a watch has lost, and what others did to taps and bridges."""
        await asyncio.sleep(_RETRY_SECONDS * 10)
        while True:
            try:
                await self._networks.sweep()
                self._volumes.distant.look_at_all()
                await asyncio.sleep(_REFRESH_SECONDS)
                await self._adoption.refresh()
                self._adoption.enqueue_all()
            except (ApiError, NetworkError) as error:
                _log.warning("refresh failed", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS * 10)

    async def _settle(self) -> None:
        """When all that was adopted has been looked at, what is unclaimed is known."""
        while len(self._servers):  # noqa: ASYNC110 - the queue has no event for being empty
            await asyncio.sleep(_RETRY_SECONDS / 10)
        await asyncio.sleep(_RETRY_SECONDS)
        self._host.adopted = True
        self._host_changed()

    async def _self_test(self) -> Virt:
        settings = self._settings
        # A device that does not exist is not tried.
        device = settings.run_dir / "no-kvm" if settings.virtualization == "qemu" else KVM_DEVICE
        while True:
            try:
                result = await run_selftest(self._hypervisor, settings.state_dir, kvm_device=device)
            except HypervisorError as error:
                _log.warning("self-test not possible", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            break
        self._host.self_test = proven(result.virt, result.failures, settings.virtualization)
        _log.info("self-test done", virtualization=result.virt, seconds=result.seconds, failures=result.failures)
        return result.virt or "qemu"

    async def _until_done(self, what: str, attempt: Any) -> None:
        while True:
            try:
                await attempt()
            except (HypervisorError, NetworkError, ApiError, OSError) as error:
                self._ready = f"cannot {what}: {error}"
                self._host_changed()
                _log.warning(f"cannot {what}", error=str(error), retry_in=_RETRY_SECONDS)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    async def _serve_metrics(self, heartbeat: Heartbeat) -> None:
        def alive() -> str | None:
            return None

        def ready() -> str | None:
            if self._ready:
                return self._ready
            if heartbeat.age > 40:
                return f"the API server has not been reached for {heartbeat.age:.0f} s"
            return None if self._hypervisor.connected else "libvirtd does not answer"

        await metrics_server.serve(self._settings.metrics_port, {"process": alive}, {"agent": ready})

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.create_task(work)

    def _capacity(self) -> Capacity:
        settings, machine = self._settings, self._machine
        host = self._store.get(Host, settings.node_name)
        ratios = settings.memory_overcommit, settings.disk_overcommit
        return capacity_of(host, machine.memory, machine.disk, ratios)

    def _host_spec(self) -> HostSpec:
        return HostSpec.model_validate((self._store.get(Host, self._settings.node_name) or {}).get("spec") or {})

    async def _missing_packages(self) -> tuple[str, ...]:
        return await asyncio.to_thread(missing_packages, HOST_ROOT)

    def _images_in_use(self) -> set[str]:
        placed = (digests_of(body) for body in self._store.list(Server))
        return set(self._instances.bases.values()).union(*placed)

    def _host_changed(self) -> None:
        self._hosts.add(self._settings.node_name)

    def _host_seen(self, key: Key) -> None:
        self._hosts.add(key[1])
        labels = ((self._store.get(Host, key[1]) or {}).get("metadata") or {}).get("labels")
        if labels != self._labels:
            self._labels = labels
            self._images.held.host_changed()

    def _instances_changed(self) -> None:
        self._host_changed()
        self._images.held.disks_changed()

    def _domain_changed(self, instance_id: str) -> None:
        if instance_id != SELF_TEST_ID:
            self._requeue_instance(instance_id)
            self._volumes.distant.look_at_all()
            self._volumes.domain_changed()

    def _server_seen(self, key: Key) -> None:
        body = self._store.get(Server, key[1], key[0])
        if body is None or body["metadata"].get("deletionTimestamp"):
            self._instances.unwanted(key)
            self._images.held.disks_changed()
        self._volumes.server_seen(body or {})
        self._servers.add(key)

    def _action_seen(self, key: Key) -> None:
        body = self._store.get(ServerAction, key[1], key[0])
        if body is not None and is_open(body, self._settings.node_name):
            self._servers.add((key[0], body["spec"]["server"]["name"]))
            return
        self._images.copies.forget(*key)
        self._passwords.forget(*key)
        if body is not None:  # the history is long, and nothing here asks for it
            self._store.apply("DELETED", body)

    def _port_seen(self, key: Key) -> None:
        """Take what a Port says now; let the server tell of it, unless it was the agent's own word that was seen."""
        self._networks.carried.port_changed(*key)
        body = self._store.get(Port, key[1], key[0]) or {}
        status = body.get("status") or {}
        if status.get("host") == self._settings.node_name and "wired" in status and not limit_untold(body):
            return
        for body in self._store.list(Server, key[0]):
            ports = (body["spec"].get("assignment") or {}).get("ports") or []
            if any(port["port"] == key[1] for port in ports):
                self._servers.add((key[0], body["metadata"]["name"]))

    def _requeue_instance(self, instance_id: str) -> None:
        key = self._instances.keys.get(instance_id)
        if key is not None:
            self._servers.add(key)

    def _hypervisor_back(self) -> None:
        self._host_changed()
        for seconds in RECONNECT_LOOKS:
            asyncio.get_running_loop().call_later(seconds, self._adoption.enqueue_all)
