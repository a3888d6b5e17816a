"""Starting a server: what does not depend on each other runs at once, and what is half made is undone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from kumulus_agent import metrics
from kumulus_agent.compute.domain_spec import Disk, DomainSpec, Nic
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.root_limits import ROOT_SERIAL
from kumulus_agent.host.processors import Processors
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.networks.carried import CarriedNetworks
from kumulus_agent.passthrough.facts import Choice, Passed
from kumulus_agent.passthrough.plan import Unavailable
from kumulus_agent.passthrough.source import HostDeviceSource
from kumulus_agent.servers.boot_data import BootDataSource, fetch_user_data
from kumulus_agent.servers.desired import Desired, DesiredImage, DesiredPort, DesiredVolume
from kumulus_agent.servers.errors import StartGivenUp, StepFailed, first_failure
from kumulus_agent.servers.failing import failing_as
from kumulus_agent.servers.instance_files import InstanceFiles, instance_files
from kumulus_agent.servers.told import seed_nics
from kumulus_agent.servers.volume_disks import hide_keys, show_keys, tune_disks, volume_disk
from kumulus_agent.settings import AgentSettings
from kumulus_agent.storage.config_drive import write_config_drive
from kumulus_agent.storage.image_cache import CachedImage, ImageCache
from kumulus_agent.storage.inspection import source_format
from kumulus_agent.storage.root_disk import ensure_root_disk, grow_root_disk
from kumulus_agent.storage.seed import Seed, write_seed
from kumulus_agent.volumes.exports.distant import DistantVolumes
from kumulus_agent.volumes.shelves import Shelves
from kumulus_api import KeyPair
from kumulus_api.server_status import ReadyReason, ServerConditionType
from kumulus_runtime.api_client import KubeClient

Virt = Literal["kvm", "qemu"]
Cache = Literal["none", "writeback"]


@dataclass(frozen=True)
class Actuators:
    """What starting and removing servers works with.

    `virt`, `cache` and `processors` are the host's abilities, the last as its Host says it now.
    """

    settings: AgentSettings
    client: KubeClient
    hypervisor: Hypervisor
    datapath: Datapath
    networks: CarriedNetworks
    images: ImageCache
    boot_data: BootDataSource
    virt: Virt
    cache: Cache
    processors: Callable[[], Processors]
    host_devices: HostDeviceSource
    choosing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a guest gets CPUs or devices of its own, until its domain shows them."""
    shelves: Shelves = field(default_factory=Shelves)
    distant: DistantVolumes | None = None
    """Volumes that lie on other hosts; None where there is no way to them."""

    def files(self, instance_id: str) -> InstanceFiles:
        """Give the paths of an instance."""
        return instance_files(self.settings.instances_dir, instance_id)

    def mtu(self, port: DesiredPort) -> int:
        """Give the MTU of a NIC in bytes."""
        return port.mtu or self.settings.guest_mtu


@dataclass
class Stopwatch:
    """Milliseconds of each step."""

    milliseconds: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def time(self, step: str) -> Iterator[None]:
        """Measure what runs inside."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            self.milliseconds[step] = round(seconds * 1000)
            metrics.START_SECONDS.labels(step=step).observe(seconds)


@dataclass(frozen=True)
class Started:
    """How long each step of a start took, and all together as `total`; and what the guest has of the host."""

    milliseconds: dict[str, int]
    passed: tuple[Passed, ...]


async def start_server(actuators: Actuators, desired: Desired, unwanted: asyncio.Event, action: str = "") -> Started:
    """Start a server whose domain does not run.

    Args:
        actuators: what to do it with.
        desired: the instance.
        unwanted: set when the server shall not be started any more; what takes long is given up then.
        action: uid of the ServerAction that it is started for, or empty.

    Raises:
        StartGivenUp: it was unwanted before its image had come.
        StepFailed: a step failed; taps and networks made for this start are gone again, disks are kept.
    """
    start = _Start(actuators, desired, Stopwatch(), unwanted, action)
    return await _undone_if_failed(start, start.run)


async def resume_server(actuators: Actuators, desired: Desired, unwanted: asyncio.Event, action: str = "") -> Started:
    """Let a server go on from its saved memory; arguments, answer and errors as of `start_server`."""
    # What it was saved with is what it has, also what it shall lose when it runs.
    whole = replace(desired, ports=desired.all_ports, leaving_ports=())
    start = _Start(actuators, whole, Stopwatch(), unwanted, action)
    return await _undone_if_failed(start, start.resume)


async def _undone_if_failed(start: _Start, way: Callable[[], Awaitable[None]]) -> Started:
    watch = start.watch
    async with AsyncExitStack() as undo:
        undo.push_async_callback(_undo_network, start.actuators, start.desired)
        volumes = [volume.volume_id for volume in start.desired.all_volumes]
        with watch.time("total"):
            try:
                async with start.actuators.shelves.held(volumes):
                    try:
                        await way()
                    finally:
                        await hide_keys(start.actuators, start.desired.all_volumes)
            except BaseExceptionGroup as group:
                failure = first_failure(group)
                raise failure from failure.__cause__
        undo.pop_all()
    metrics.STARTS.labels(result="started").inc()
    return Started(watch.milliseconds, start.passed)


async def _undo_network(actuators: Actuators, desired: Desired) -> None:
    for port in desired.ports:
        await actuators.datapath.unplug(port.tap)
    await actuators.networks.release(desired.instance_id)


@dataclass
class _Start:
    """One start under way."""

    actuators: Actuators
    desired: Desired
    watch: Stopwatch
    unwanted: asyncio.Event
    action: str = ""
    cd: str | None = None
    passed: tuple[Passed, ...] = ()

    async def resume(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._network())
            taps = [group.create_task(prepare_tap(self.actuators, port)) for port in self.desired.ports]
            sockets = [
                group.create_task(volume_disk(self.actuators, self.desired, volume))
                for volume in self.desired.all_volumes
                if volume.exporter
            ]
        del taps, sockets
        await show_keys(self.actuators, self.desired)
        async with failing_as(ReadyReason.START_FAILED):
            with self.watch.time("domain"):
                await self.actuators.hypervisor.start(self.desired.instance_id)
        await tune_disks(self.actuators, self.desired)
        await self._plug()

    async def run(self) -> None:
        desired, files = self.desired, self.actuators.files(self.desired.instance_id)
        # Not readable by others, but QEMU runs as its own user and has to pass through.
        files.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        async with asyncio.TaskGroup() as group:
            root = group.create_task(self._root_disk(files))
            if desired.rescue is not None:
                group.create_task(self._rescue_disk(files, desired.rescue))
            group.create_task(self._network())
            group.create_task(self._seed(files))
            group.create_task(files.write_record(desired.key, desired.ports))
            group.create_task(files.drop_rescue_disks(desired.rescue_id))
            beside = [volume for volume in desired.volumes if not volume.boot]
            volumes = [group.create_task(self._volume(volume, beside.index(volume))) for volume in beside]
            taps = [group.create_task(prepare_tap(self.actuators, port)) for port in desired.ports]
        del taps
        disks = (
            *self._boot_disks(files, root.result()),
            *(task.result() for task in volumes),
        )
        await self._domain(files, disks)
        await self._plug()

    def _boot_disks(self, files: InstanceFiles, root: Disk | None) -> tuple[Disk, ...]:
        """Give the disk that it boots from, first; a guest under rescue has its root disk as the second."""
        desired = self.desired
        if desired.rescue is None:
            return (root,) if root is not None else ()
        path = str(files.rescue_disk(desired.rescue_id))
        rescue = Disk(path, "qcow2", "vda", f"rescue-{desired.rescue_id[:13]}", cache=self.actuators.cache)
        return (rescue, replace(root, target="vdb")) if root is not None else (rescue,)

    async def _rescue_disk(self, files: InstanceFiles, image: DesiredImage) -> None:
        async with failing_as(ReadyReason.IMAGE_FAILED, ServerConditionType.IMAGE_READY):
            base = await cached_image(self.actuators, image, self.unwanted)
            size = max(self.desired.root_disk, base.virtual_size)
            await ensure_root_disk(files.rescue_disk(self.desired.rescue_id), base, size)

    async def _root_disk(self, files: InstanceFiles) -> Disk | None:
        desired, image = self.desired, self.desired.image
        if image is None:
            return None
        boot = desired.boot_volume
        if boot is not None and not image.is_cd:
            return replace(await volume_disk(self.actuators, desired, boot), target="vda")
        async with failing_as(ReadyReason.IMAGE_FAILED, ServerConditionType.IMAGE_READY):
            with self.watch.time("image"):
                base = await cached_image(self.actuators, image, self.unwanted)
            self.cd = str(base.path) if image.is_cd else None
            if boot is not None:
                return replace(await volume_disk(self.actuators, desired, boot), target="vda")
            with self.watch.time("rootDisk"):
                await ensure_root_disk(files.root_disk, None if image.is_cd else base, desired.root_disk)
                await grow_root_disk(files.root_disk, desired.root_disk)
        return Disk(
            str(files.root_disk),
            "qcow2",
            "vda",
            f"{ROOT_SERIAL}{desired.instance_id[:13]}",
            cache=self.actuators.cache,
            limits=desired.hardware.root_disk_limits,
        )

    async def _volume(self, volume: DesiredVolume, index: int) -> Disk:
        number = index + (self.desired.rescue is not None)
        return replace(await volume_disk(self.actuators, self.desired, volume), target=f"vd{chr(ord('b') + number)}")

    async def _network(self) -> None:
        desired, networks = self.desired, self.actuators.networks
        async with failing_as(ReadyReason.NETWORK_FAILED, ServerConditionType.NETWORK_READY):
            with self.watch.time("network"):
                networks.hold(desired.instance_id, desired.key[1], desired.ports)
                await networks.ensure(desired.networks)

    async def _seed(self, files: InstanceFiles) -> None:
        desired = self.desired
        with self.watch.time("bootData"):
            async with asyncio.TaskGroup() as group:
                keys = group.create_task(self._ssh_keys())
                user_data = group.create_task(self._user_data())
        seed = Seed(
            desired.instance_id,
            desired.key[1],
            seed_nics(desired.ports, self.actuators.settings.guest_mtu),
            keys.result(),
            user_data.result(),
            metadata=dict(desired.metadata),
            project=desired.key[0],
            zone=desired.zone,
        )
        async with failing_as(ReadyReason.START_FAILED):
            with self.watch.time("seed"):
                await write_seed(files.seed, seed)
                if desired.config_drive:
                    await write_config_drive(files.config_drive, seed)

    async def _ssh_keys(self) -> tuple[str, ...]:
        desired = self.desired
        if not desired.key_pair:
            return ()
        async with failing_as(ReadyReason.BOOT_DATA_FAILED):
            body = await self.actuators.client.get(KeyPair, desired.key_pair, desired.key[0])
        if body is None:
            raise StepFailed(ReadyReason.BOOT_DATA_FAILED, f"there is no KeyPair {desired.key_pair}", lasting=True)
        return (KeyPair.model_validate(body).spec.public_key,)

    async def _user_data(self) -> bytes:
        if not self.desired.remote_user_data:
            return self.desired.user_data.encode()
        return await fetch_user_data(self.actuators.client, self.actuators.boot_data, self.desired)

    async def _domain(self, files: InstanceFiles, disks: tuple[Disk, ...]) -> None:
        desired, actuators = self.desired, self.actuators
        spec = DomainSpec(
            instance_id=desired.instance_id,
            namespace=desired.key[0],
            name=desired.key[1],
            epoch=desired.epoch,
            vcpus=desired.vcpus,
            memory_bytes=desired.memory,
            max_vcpus=desired.max_vcpus,
            # What is plugged in is a block of whole words: QEMU would lose the emulator's writes to it as it is copied
            # (see `emulated_memory`).
            max_memory_bytes=desired.max_memory if actuators.virt == "kvm" else 0,
            virt=actuators.virt,
            disks=disks,
            nics=tuple(Nic(port.tap, port.mac, actuators.mtu(port)) for port in desired.ports),
            seed_path=str(files.seed),
            config_drive=str(files.config_drive) if desired.config_drive else None,
            console_log=str(files.console_log),
            serial_socket=str(files.serial_socket),
            graphics=True,
            image_digest=desired.image.digest if desired.image else "",
            action=self.action,
            power_changes=desired.power_changes,
            rescue=desired.rescue_id,
            cd=self.cd,
            hardware=desired.hardware,
            nvram=str(files.nvram),
            shared_cpus=actuators.processors().shared_only,
        )
        async with failing_as(ReadyReason.START_FAILED):
            with self.watch.time("domain"):
                # Whatever was frozen, it ends with the guest that was.
                await asyncio.to_thread(files.thaw_owed.unlink, missing_ok=True)
                if desired.hardware.dedicated or desired.custom:
                    await self._start_apart(spec)
                else:
                    await actuators.hypervisor.define_and_start(domain_xml(spec))

    async def _start_apart(self, spec: DomainSpec) -> None:
        """Start a guest on CPUs, and with devices of the host, that no other has."""
        actuators = self.actuators
        async with actuators.choosing:
            cpus = await self._cpus(spec) if self.desired.hardware.dedicated else ()
            choice = await self._devices()
            # Memory that can be plugged in would have to be shown to the devices too.
            most = 0 if choice.passed else spec.max_memory_bytes
            whole = replace(spec, cpus=cpus, passed=choice.passed, max_memory_bytes=most)
            async with failing_as(ReadyReason.DEVICES_FAILED if choice.passed else ReadyReason.START_FAILED):
                await actuators.hypervisor.define_and_start(domain_xml(whole), choice)
        self.passed = choice.passed

    async def _cpus(self, spec: DomainSpec) -> tuple[int, ...]:
        pins = await self.actuators.hypervisor.pins()
        taken = frozenset(cpu for uuid, cpus in pins.items() if uuid != spec.instance_id for cpu in cpus)
        cpus = self.actuators.processors().choose(spec.vcpus, taken)
        if len(cpus) < spec.vcpus:
            message = f"{spec.vcpus} dedicated CPUs are asked for, {len(cpus)} are free on this host"
            raise StepFailed(ReadyReason.HOST_FULL, message)
        return cpus

    async def _devices(self) -> Choice:
        try:
            return await self.actuators.host_devices.choose(self.desired.instance_id, dict(self.desired.custom))
        except Unavailable as error:
            raise StepFailed(ReadyReason.DEVICES_UNAVAILABLE, str(error)) from error

    async def _plug(self) -> None:
        datapath, desired = self.actuators.datapath, self.desired
        try:
            async with failing_as(ReadyReason.NETWORK_FAILED, ServerConditionType.NETWORK_READY):
                with self.watch.time("plug"):
                    for port in desired.ports:
                        await datapath.plug(port.tap, port.network.vni)
        except StepFailed:
            # A guest without its network is not what was asked for, and its first boot is not over yet.
            await self.actuators.hypervisor.switch_off(desired.instance_id)
            raise


async def prepare_tap(actuators: Actuators, port: DesiredPort) -> None:
    """Make a tap for a NIC that is about to be there.

    Raises:
        StepFailed: it cannot be made.
    """
    async with failing_as(ReadyReason.NETWORK_FAILED, ServerConditionType.NETWORK_READY):
        await actuators.datapath.prepare_tap(port.tap, actuators.mtu(port))


async def cached_image(actuators: Actuators, image: DesiredImage, unwanted: asyncio.Event) -> CachedImage:
    """Have an image in this host's cache.

    Args:
        actuators: what to do it with.
        image: which.
        unwanted: set when it is not waited for any more; the download goes on for others.

    Raises:
        StartGivenUp: it was unwanted before it had come.
        StorageError: it cannot be had.
    """
    limit, image_format = max(image.virtual_size, 1), source_format(image.format)
    comes = actuators.images.ensure(image.url, image.digest, image_format, limit, image.mirrors)
    image_comes = asyncio.ensure_future(comes)
    given_up = asyncio.create_task(unwanted.wait())
    try:
        # A download may take hours, for which a deletion shall not wait.
        await asyncio.wait((image_comes, given_up), return_when=asyncio.FIRST_COMPLETED)
        if not image_comes.done():
            raise StartGivenUp
        return image_comes.result()
    finally:
        image_comes.cancel()
        given_up.cancel()
