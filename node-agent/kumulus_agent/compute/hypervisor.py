"""The verbs on domains: each says what shall be, and absent is success where something shall be gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import libvirt

from kumulus_agent.compute import devices, domains
from kumulus_agent.compute.abilities import Abilities, read_abilities
from kumulus_agent.compute.connection import Connection
from kumulus_agent.compute.domain_spec import Disk, Nic
from kumulus_agent.compute.domain_xml import InstanceRecord, domain_name, record_xml
from kumulus_agent.compute.errors import HypervisorError, InstanceNotFound
from kumulus_agent.compute.own_doing import OwnDoing, with_button, with_end, with_guest_shutdown, with_new_start
from kumulus_agent.compute.plugged import Devices
from kumulus_agent.compute.qemu_process import kill_qemu
from kumulus_agent.compute.state import (
    InstanceState,
    Observed,
    PowerState,
    UnknownDomain,
    instance_state,
    pressed_lately,
)
from kumulus_agent.compute.usage import Usage, read_usage
from kumulus_agent.passthrough.facts import Choice, Held
from kumulus_api.hardware import Hardware

DEFAULT_URI: Final = "qemu:///system"
_FLUSH_SECONDS: Final = 5.0
NO_DEVICES: Final = Choice()
_log = logging.getLogger(__name__)
OnEvent = Callable[[str], None]


class Hypervisor:
    """libvirtd of this host.

    Args:
        uri: libvirt URI; the socket of a private libvirtd is ``qemu+unix:///system?socket=PATH``.
        on_event: receives an instance id whenever its domain may have changed; a key to requeue, nothing else.
        on_reconnect: called after a lost connection is back: look at everything again.
        workers: concurrent libvirt calls.
    """

    def __init__(
        self,
        uri: str = DEFAULT_URI,
        *,
        on_event: OnEvent = lambda _instance_id: None,
        on_reconnect: Callable[[], None] = lambda: None,
        workers: int = 8,
    ) -> None:
        self._on_event = on_event
        self._own = OwnDoing()
        self._records: set[asyncio.Task[None]] = set()
        self._connection = Connection(
            uri, on_lifecycle=self._lifecycle, on_device=on_event, on_reconnect=on_reconnect, workers=workers
        )

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connection.connected

    async def open(self) -> None:
        """Connect.

        Raises:
            HypervisorUnavailable: libvirtd does not answer.
        """
        await self._connection.open()

    async def close(self) -> None:
        """Disconnect and leave every guest alone."""
        if self._records:
            await asyncio.wait(self._records, timeout=5)
        await self._connection.close()

    async def versions(self) -> domains.Versions:
        """Return the versions of libvirtd and of the QEMU it runs."""
        return await self._connection.call("read the hypervisor's version", domains.versions)

    async def observe(self) -> Observed:
        """Look at every domain of the host."""
        rows = await self._connection.call("list domains", domains.read_domains)
        instances: dict[str, InstanceState] = {}
        unknown: list[UnknownDomain] = []
        for row in rows:
            if row.record is not None and not row.record.namespace:
                continue  # the self-test's guest
            if row.record is None:
                unknown.append(UnknownDomain(row.uuid, row.name, row.state not in domains.NOT_RUNNING))
            else:
                instances[row.uuid] = self._instance(row, row.record)
        return Observed(instances, tuple(sorted(unknown, key=lambda domain: domain.name)))

    async def list_instances(self) -> dict[str, InstanceState]:
        """Return our domains by instance id."""
        return (await self.observe()).instances

    async def usage(self) -> dict[str, Usage]:
        """Return what each running domain uses, by uuid."""
        return await self._connection.call("read the usage of all domains", read_usage)

    async def get_instance(self, instance_id: str) -> InstanceState | None:
        """Look at one instance; None if it has no domain here."""
        try:
            row = await self._on_domain(f"look at instance {instance_id}", instance_id, domains.read_whole_domain)
        except InstanceNotFound:
            return None
        return None if row.record is None else self._instance(row, row.record)

    async def pins(self) -> dict[str, frozenset[int]]:
        """Return the host's CPUs to which virtual CPUs of each domain that is not off are tied, by uuid."""
        return await self._connection.call("read the pinning of all domains", domains.pins)

    async def host_devices(self) -> Held:
        """Return what domains have of this host's PCI and mediated devices."""
        held: Held = await self._connection.call("read the host devices of all domains", domains.host_devices)
        return held

    async def abilities(self, virt: str) -> Abilities:
        """Return what guests can be given on this host.

        Args:
            virt: how they run, ``kvm`` or ``qemu``.
        """
        return await self._connection.call("read what libvirt can do", lambda conn: read_abilities(conn, virt))

    async def define_and_start(self, xml: bytes, choice: Choice = NO_DEVICES) -> str:
        """Define the domain (or redefine it) and run it; a running one keeps running.

        Args:
            xml: from :func:`kumulus_agent.compute.domain_xml.domain_xml`.
            choice: what it has of the host, as the XML says it; mediated devices are made.

        Returns:
            The instance id.

        Raises:
            InvalidDomain: libvirt refuses the XML.
            Retryable: QEMU did not start; nothing newly defined is left behind.
            OSError: a mediated device cannot be made; the same.
        """
        instance_id = await self._connection.call(
            "define and start a domain", lambda conn: domains.define_and_start(conn, xml, choice)
        )
        self._own.over(instance_id)
        return instance_id

    async def start(self, instance_id: str) -> None:
        """Run a defined domain, from its saved memory where there is one, and forget how it had gone off.

        Raises:
            InstanceNotFound: it is not defined here.
        """
        await self._record(instance_id, with_new_start)
        await self._on_domain(f"start instance {instance_id}", instance_id, domains.start)
        self._own.over(instance_id)

    async def open_screen(self, instance_id: str) -> socket.socket:
        """Give a connection to a running guest's screen, which speaks VNC (RFC 6143).

        Raises:
            InstanceNotFound: it is not defined here.
            HypervisorError: it is off, or was started without a screen.
        """
        asked = f"open the screen of instance {instance_id}"
        screen: socket.socket = await self._on_domain(asked, instance_id, domains.open_screen)
        return screen

    async def shutdown_graceful(self, instance_id: str) -> None:
        """Press the guest's power button and return at once; off or absent is success.

        The domain remembers it, for an agent that starts while the guest goes down.
        """
        self._own.pressed(instance_id)
        with contextlib.suppress(InstanceNotFound):
            await self._record(instance_id, with_button)
        await self._unless_absent(
            f"shut instance {instance_id} down", instance_id, domains.if_active(lambda d: d.shutdown())
        )

    async def pause(self, instance_id: str) -> None:
        """Halt the guest's CPUs; paused already is success.

        Raises:
            InstanceNotFound: no such domain.
            Retryable: it does not run.
        """
        await self._on_domain(f"pause instance {instance_id}", instance_id, domains.pause)

    async def resume(self, instance_id: str) -> None:
        """Let a paused guest go on; running already is success.

        Raises:
            InstanceNotFound: no such domain.
            Retryable: it does not run.
        """
        await self._on_domain(f"resume instance {instance_id}", instance_id, domains.resume)

    async def save(self, instance_id: str) -> None:
        """Write the guest's memory to the disk and end it; `start` goes on from there. Saved already is success.

        Raises:
            InstanceNotFound: no such domain.
            Retryable: the memory could not be written; the guest runs on.
        """
        self._own.ended(instance_id)
        try:
            await self._on_domain(f"save instance {instance_id}", instance_id, domains.save)
        except HypervisorError:
            self._own.over(instance_id)
            raise
        self._on_event(instance_id)

    async def note_power_changes(self, instance_id: str, changes: int) -> None:
        """Remember which wish of powerState the guest follows; absent is success."""
        with contextlib.suppress(InstanceNotFound):
            await self._record(instance_id, lambda record: replace(record, power_changes=changes))

    async def switch_off(self, instance_id: str) -> None:
        """End the guest at once, as a power switch does: its disks keep what they have taken; off or absent is success.

        Where in its qcow2 file a write went QEMU has in memory until the guest flushes, or stands still (QEMU's
        do_vm_stop flushes all disks). A QEMU that does not answer ends all the same.
        """
        await self._end(instance_id, flush=True)

    async def destroy(self, instance_id: str) -> None:
        """End a guest whose disk nobody needs any more; off or absent is success.

        QEMU is killed first (1 ms): libvirt's own way waits seconds for an emulated guest. The domain remembers that it
        was us, for an agent that starts before libvirt has noticed.
        """
        await self._end(instance_id, flush=False)

    async def _end(self, instance_id: str, *, flush: bool) -> None:
        self._own.ended(instance_id)
        if flush:
            asked = f"flush instance {instance_id}"
            await self._in_time(self._on_domain(asked, instance_id, domains.if_active(domains.pause)))
        # A post-copy that broke keeps libvirt from all but the end.
        await self._in_time(self._record(instance_id, with_end))
        asked = f"destroy instance {instance_id}"
        await asyncio.to_thread(kill_qemu, domain_name(instance_id), instance_id)
        await self._unless_absent(asked, instance_id, domains.if_active(lambda domain: domain.destroy()))
        # A libvirtd that has just started and finds a guest dead while it reconnects to it reports no event.
        self._on_event(instance_id)

    async def attach(self, instance_id: str, device: Disk | Nic, hardware: Hardware) -> None:
        """Plug a disk of a volume, or a NIC, into a running guest; plugged in already is success.

        Args:
            instance_id: of the guest.
            device: of a disk the target counts for nothing: it gets the first that is free.
            hardware: what the guest's machine is made of: where the device is plugged in.

        Raises:
            InstanceNotFound: it is not defined here.
            Retryable: QEMU refuses it now.
        """
        asked = f"plug {device.mac if isinstance(device, Nic) else device.path} into instance {instance_id}"
        await self._on_domain(asked, instance_id, lambda domain: devices.attach(domain, device, hardware))

    async def detach(self, instance_id: str, macs: Iterable[str], volumes: Iterable[str]) -> Devices:
        """Ask a running guest to let go of NICs and volumes; give those that it has not let go of yet.

        libvirt waits some seconds for the answer; one that comes later is an event.

        Raises:
            InstanceNotFound: it is not defined here.
        """
        wanted = Devices(frozenset(macs), frozenset(volumes))
        asked = f"unplug devices of instance {instance_id}"
        left: Devices = await self._on_domain(asked, instance_id, lambda domain: devices.detach(domain, wanted))
        return left

    async def grow(self, instance_id: str, vcpus: int, memory: int) -> None:
        """Give a running guest so many virtual CPUs, and ask it to use so many bytes of memory.

        Raises:
            InstanceNotFound: it is not defined here.
            Retryable: QEMU refuses it.
        """
        asked = f"give instance {instance_id} {vcpus} vCPUs and {memory >> 20} MiB"
        await self._on_domain(asked, instance_id, lambda domain: domains.grow(domain, vcpus, memory))

    async def undefine(self, instance_id: str, *, keep: bool = False) -> None:
        """Forget a domain that is off, and remove the mediated devices made for it; absent is success.

        Args:
            instance_id: which.
            keep: the variables of its firmware and what its TPM holds stay.
        """
        flags = (
            libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | (libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM if keep else libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
            | (libvirt.VIR_DOMAIN_UNDEFINE_KEEP_TPM if keep else libvirt.VIR_DOMAIN_UNDEFINE_TPM)
        )
        await self._unless_absent(
            f"undefine instance {instance_id}", instance_id, lambda domain: domains.undefine(domain, flags)
        )
        self._own.over(instance_id)

    async def give_back(self, instance_id: str) -> None:
        """Take what an instance that is off has of the host out of its definition; absent is success."""
        asked = f"give the host devices of instance {instance_id} back"
        await self._unless_absent(asked, instance_id, domains.give_back)

    async def set_metadata(self, record: InstanceRecord) -> None:
        """Replace our record in the domain, both in the running and in the stored definition.

        Raises:
            InstanceNotFound: no such domain.
        """
        xml = record_xml(record)
        await self._on_domain(
            f"record metadata of instance {record.instance_id}",
            record.instance_id,
            lambda domain: domains.write_record(domain, xml),
        )

    async def record_guest_shutdown(self, instance_id: str) -> None:
        """Remember across host boots that the guest turned itself off; absent, and by the button, is success."""
        with contextlib.suppress(InstanceNotFound):
            await self._record(instance_id, with_guest_shutdown)

    async def run_transient(self, xml: bytes) -> None:
        """Run a domain that libvirt forgets when it ends (the self-test)."""
        await self._connection.call(
            "run a transient domain",
            lambda conn: conn.createXML(xml.decode(), libvirt.VIR_DOMAIN_START_VALIDATE),
        )

    # Events.

    def _lifecycle(self, instance_id: str, event: int, detail: int) -> None:
        by_guest = event == libvirt.VIR_DOMAIN_EVENT_SHUTDOWN and detail == libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_GUEST
        if by_guest and instance_id not in self._own:
            task = asyncio.ensure_future(self._record_then_report(instance_id))
            self._records.add(task)
            task.add_done_callback(self._records.discard)
        else:
            self._on_event(instance_id)

    async def _record_then_report(self, instance_id: str) -> None:
        # If this fails, the reason that libvirt keeps says the same until the host boots, and observe() reports it.
        with contextlib.suppress(HypervisorError):
            await self.record_guest_shutdown(instance_id)
        self._on_event(instance_id)

    async def call(self, asked: str, function: Callable[[Any], Any]) -> Any:
        """Run ``function(virConnect)`` apart.

        Args:
            asked: what is tried, for error messages.
            function: blocking libvirt calls.

        Raises:
            HypervisorError: translated.
        """
        return await self._connection.call(asked, function)

    # How a verb reaches its domain.

    def _instance(self, row: domains.Row, record: InstanceRecord) -> InstanceState:
        asked_off = row.uuid in self._own or pressed_lately(record, datetime.now(UTC))
        state = instance_state(record, row.state, row.reason, persistent=row.persistent, asked_off=asked_off)
        vcpus, memory = row.size
        power = PowerState.SAVED if row.saved else state.state
        if row.whole is not None:
            vcpus, memory = row.whole.vcpus, row.whole.memory
        state = replace(state, devices=row.devices, size=row.whole, slots=row.slots, agent=row.agent, full=row.full)
        return replace(state, state=power, vcpus=vcpus, memory=memory)

    async def _record(self, instance_id: str, change: Callable[[InstanceRecord], InstanceRecord]) -> None:
        def rewrite(domain: Any) -> None:
            old = domains.read_record(domain)
            if old is not None and (new := change(old)) != old:
                domains.write_record(domain, record_xml(new))

        await self._on_domain(f"record metadata of instance {instance_id}", instance_id, rewrite)

    def _on_domain(self, asked: str, instance_id: str, verb: Callable[[Any], Any]) -> Awaitable[Any]:
        return self._connection.call(asked, lambda conn: verb(conn.lookupByUUIDString(instance_id)))

    async def _in_time(self, work: Awaitable[Any]) -> None:
        """Have done what is good to have before a guest ends, which it does all the same."""
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await work
        except InstanceNotFound:
            return
        except (HypervisorError, TimeoutError) as error:
            _log.warning("a guest is ended that was not flushed, or of whose end nothing is recorded: %r", error)

    async def _unless_absent(self, asked: str, instance_id: str, verb: Callable[[Any], Any]) -> None:
        with contextlib.suppress(InstanceNotFound):
            await self._on_domain(asked, instance_id, verb)
