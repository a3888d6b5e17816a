"""The hypervisor's verbs against a real libvirtd and real guests under emulation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kumulus_agent.agent import RECONNECT_LOOKS
from kumulus_agent.compute.domain_spec import DomainSpec, Nic
from kumulus_agent.compute.domain_xml import InstanceRecord, domain_xml
from kumulus_agent.compute.errors import InstanceNotFound, InvalidDomain, Retryable
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.state import PowerState
from kumulus_agent.host.boot_sector import GREETING

MakeDomain = Callable[..., DomainSpec]


async def _text(path: str | Path | None) -> str:
    return await asyncio.to_thread(Path(str(path)).read_text)


async def test_a_started_guest_runs_and_is_reported(
    hypervisor: Hypervisor, events, eventually, make_domain: MakeDomain
) -> None:
    """define_and_start returns with a running guest whose code executes, and its key arrives as an event."""
    spec = make_domain(epoch=7)
    began = time.monotonic()
    assert await hypervisor.define_and_start(domain_xml(spec)) == spec.instance_id
    print(f"define_and_start: {time.monotonic() - began:.3f} s")
    await events.eventually(lambda: spec.instance_id in events.seen)

    async def greeted() -> bool:
        return GREETING.decode() in await _text(spec.console_log)

    await eventually(greeted)
    state = (await hypervisor.list_instances())[spec.instance_id]
    assert (state.state, state.namespace, state.name, state.epoch) == (PowerState.RUNNING, "team", "web", 7)
    assert not state.shutdown_by_guest


async def test_define_and_start_is_idempotent(hypervisor: Hypervisor, make_domain: MakeDomain) -> None:
    """Repeating define_and_start leaves the running guest running."""
    xml = domain_xml(make_domain())
    first = await hypervisor.define_and_start(xml)
    assert await hypervisor.define_and_start(xml) == first
    assert len(await hypervisor.list_instances()) == 1


async def test_destroy_leaves_nothing(hypervisor: Hypervisor, events, make_domain: MakeDomain, private_libvirt) -> None:
    """After destroy and undefine there is no domain and no QEMU process, and repeating both is success."""
    spec = make_domain()
    await hypervisor.define_and_start(domain_xml(spec))
    began = time.monotonic()
    await hypervisor.destroy(spec.instance_id)
    assert time.monotonic() - began < 1.0
    await hypervisor.undefine(spec.instance_id)
    assert spec.instance_id not in await hypervisor.list_instances()
    assert spec.instance_id not in private_libvirt.inside("ps", "-eo", "args")
    await hypervisor.destroy(spec.instance_id)
    await hypervisor.undefine(spec.instance_id)


async def test_a_switched_off_guest_keeps_what_its_disk_has_taken(
    hypervisor: Hypervisor, make_domain: MakeDomain, private_libvirt
) -> None:
    """What was written and not flushed is in the file when a guest was switched off; off already is success."""
    spec = make_domain()
    overlay = Path(spec.disks[0].path).with_suffix(".qcow2")
    base = ("-F", "raw", "-b", spec.disks[0].path)
    private_libvirt.inside("qemu-img", "create", "-q", "-f", "qcow2", *base, str(overlay), "64M")
    spec = replace(spec, disks=(replace(spec.disks[0], path=str(overlay), format="qcow2"),))
    await hypervisor.define_and_start(domain_xml(spec))
    write = 'qemu-io -d virtio-disk0/virtio-backend "write -P 90 32M 64k"'
    told = private_libvirt.inside("virsh", "qemu-monitor-command", f"k-{spec.instance_id}", "--hmp", write)
    assert told.strip() == "", "QEMU prints its refusals only"
    for _ in range(2):
        await hypervisor.switch_off(spec.instance_id)
    state = await hypervisor.get_instance(spec.instance_id)
    assert state is not None
    assert state.state is PowerState.OFF
    read = private_libvirt.inside("qemu-io", "-f", "qcow2", "-c", "read -P 90 32M 64k", str(overlay))
    assert "Pattern verification failed" not in read


async def test_a_paused_guest_stands_still_and_goes_on(hypervisor: Hypervisor, make_domain: MakeDomain) -> None:
    """Pausing and resuming are seen, by whose wish it was, and do no harm when repeated."""
    spec = make_domain()
    await hypervisor.define_and_start(domain_xml(spec))
    for _ in range(2):
        await hypervisor.pause(spec.instance_id)
        state = (await hypervisor.list_instances())[spec.instance_id]
        assert (state.state, state.reason) == (PowerState.PAUSED, "User")
    for _ in range(2):
        await hypervisor.resume(spec.instance_id)
        assert (await hypervisor.list_instances())[spec.instance_id].state is PowerState.RUNNING


@pytest.mark.parametrize("paused", [False, True])
async def test_a_saved_guest_goes_on_from_its_memory(
    hypervisor: Hypervisor, make_domain: MakeDomain, *, paused: bool
) -> None:
    """A saved guest is off and not by its own will; started it runs on, also if it was paused."""
    spec = make_domain()
    await hypervisor.define_and_start(domain_xml(spec))
    if paused:
        await hypervisor.pause(spec.instance_id)
    for _ in range(2):
        await hypervisor.save(spec.instance_id)
        state = (await hypervisor.list_instances())[spec.instance_id]
        assert (state.state, state.shutdown_by_guest) == (PowerState.SAVED, False)
    said = await _text(spec.console_log)
    await hypervisor.start(spec.instance_id)
    state = (await hypervisor.list_instances())[spec.instance_id]
    assert (state.state, state.vcpus, state.memory) == (PowerState.RUNNING, 1, 64 << 20)
    assert (await _text(spec.console_log)).count(GREETING.decode()) <= max(1, said.count(GREETING.decode()))
    await hypervisor.save(spec.instance_id)
    await hypervisor.undefine(spec.instance_id)
    await hypervisor.define_and_start(domain_xml(spec))
    assert (await hypervisor.list_instances())[spec.instance_id].state is PowerState.RUNNING


async def test_a_guest_that_we_ended_has_not_crashed(
    hypervisor: Hypervisor, eventually, make_domain: MakeDomain, private_libvirt
) -> None:
    """A guest that was switched off is off, also to an agent that starts later; one whose QEMU dies has crashed."""
    spec = make_domain()
    await hypervisor.define_and_start(domain_xml(spec))
    await hypervisor.destroy(spec.instance_id)
    again = Hypervisor(private_libvirt.uri)
    await again.open()
    try:
        state = (await again.list_instances())[spec.instance_id]
        assert (state.state, state.reason, state.shutdown_by_guest) == (PowerState.OFF, "Destroyed", False)
    finally:
        await again.close()
    await hypervisor.define_and_start(domain_xml(spec))
    private_libvirt.inside("pkill", "-KILL", "-f", f"guest=k-{spec.instance_id}")

    async def crashed() -> bool:
        state = (await hypervisor.list_instances())[spec.instance_id]
        return (state.state, state.reason) == (PowerState.OFF, "Crashed")

    await eventually(crashed)


async def test_the_record_tells_what_a_start_was_for(hypervisor: Hypervisor, make_domain: MakeDomain) -> None:
    """Which action a guest was started for, which rescue it is of and which wish it follows outlive the agent."""
    spec = replace(make_domain(), action="a", rescue="r", power_changes=3)
    await hypervisor.define_and_start(domain_xml(spec))
    await hypervisor.note_power_changes(spec.instance_id, 5)
    state = (await hypervisor.list_instances())[spec.instance_id]
    assert (state.action, state.rescue, state.power_changes) == ("a", "r", 5)


async def test_a_guest_that_powers_off_is_remembered(
    hypervisor: Hypervisor, eventually, make_domain: MakeDomain
) -> None:
    """A guest's own power-off is recorded in its metadata, and starting it forgets that."""
    spec = make_domain(power_off=True)
    await hypervisor.define_and_start(domain_xml(spec))

    async def recorded() -> bool:
        state = (await hypervisor.list_instances())[spec.instance_id]
        return state.state is PowerState.OFF and bool(state.guest_shutdown) and state.shutdown_by_guest

    await eventually(recorded)
    await asyncio.to_thread(Path(spec.disks[0].path).write_bytes, b"\0" * (1 << 20))
    await hypervisor.start(spec.instance_id)
    again = await hypervisor.get_instance(spec.instance_id)
    assert again is not None
    assert (again.state, again.guest_shutdown, again.shutdown_by_guest) == (PowerState.RUNNING, "", False)


async def test_the_record_survives_a_power_off_of_the_host(
    hypervisor: Hypervisor, eventually, make_domain: MakeDomain, private_libvirt
) -> None:
    """The guest's power-off lies in the stored definition, which outlives libvirtd."""
    spec = make_domain(power_off=True)
    await hypervisor.define_and_start(domain_xml(spec))
    stored = private_libvirt.root / f"etc/qemu/k-{spec.instance_id}.xml"

    async def stored_record() -> bool:
        return "guestShutdown" in await _text(stored)

    await eventually(stored_record)


async def test_running_guests_are_adopted_after_libvirtd_dies(
    hypervisor: Hypervisor, events, make_domain: MakeDomain, private_libvirt
) -> None:
    """A killed libvirtd is reconnected to, the guest never stopped, and its later events arrive."""
    spec = make_domain()
    await hypervisor.define_and_start(domain_xml(spec))
    private_libvirt.kill_libvirtd()
    await events.eventually(lambda: events.reconnects, 30)
    state = await hypervisor.get_instance(spec.instance_id)
    assert state is not None
    assert state.state is PowerState.RUNNING
    events.seen.clear()
    await hypervisor.destroy(spec.instance_id)
    await events.eventually(lambda: spec.instance_id in events.seen)


async def test_a_guest_that_cannot_start_is_not_left_defined(hypervisor: Hypervisor, make_domain: MakeDomain) -> None:
    """A start that fails is retryable and leaves no definition behind."""
    spec = make_domain()
    await asyncio.to_thread(Path(spec.disks[0].path).unlink)
    with pytest.raises(Retryable, match="No such file"):
        await hypervisor.define_and_start(domain_xml(spec))
    assert await hypervisor.list_instances() == {}


async def test_invalid_xml_is_terminal(hypervisor: Hypervisor, make_domain: MakeDomain) -> None:
    """What libvirt's schema refuses is never tried again."""
    xml = domain_xml(make_domain()).replace(b"<on_crash>destroy", b"<on_crash>explode")
    with pytest.raises(InvalidDomain):
        await hypervisor.define_and_start(xml)


async def test_absent_instances(hypervisor: Hypervisor, make_domain: MakeDomain) -> None:
    """Starting what is not there is an error; stopping it is success."""
    instance_id = make_domain().instance_id
    with pytest.raises(InstanceNotFound):
        await hypervisor.start(instance_id)
    await hypervisor.shutdown_graceful(instance_id)
    assert await hypervisor.get_instance(instance_id) is None


async def test_metadata_is_replaced(hypervisor: Hypervisor, make_domain: MakeDomain) -> None:
    """set_metadata changes the epoch of a running guest as libvirt gives it back."""
    spec = make_domain()
    await hypervisor.define_and_start(domain_xml(spec))
    await hypervisor.set_metadata(InstanceRecord(spec.instance_id, "team", "web", 2, "sha256:ab"))
    state = await hypervisor.get_instance(spec.instance_id)
    assert state is not None
    assert (state.epoch, state.image_digest) == (2, "sha256:ab")


async def test_foreign_domains_are_only_reported(hypervisor: Hypervisor, make_domain: MakeDomain) -> None:
    """A domain whose record names another instance is unknown, not ours."""
    spec = make_domain()
    foreign = domain_xml(spec).replace(
        f'instanceID="{spec.instance_id}"'.encode(), b'instanceID="00000000-0000-0000-0000-000000000001"'
    )
    await hypervisor.run_transient(foreign)
    observed = await hypervisor.observe()
    await hypervisor.destroy(spec.instance_id)
    assert spec.instance_id not in observed.instances
    assert [(domain.uuid, domain.running) for domain in observed.unknown] == [(spec.instance_id, True)]


async def test_a_guest_takes_a_tap_made_for_it(
    hypervisor: Hypervisor, make_domain: MakeDomain, private_libvirt
) -> None:
    """A NIC uses the tap that exists, and libvirt does not delete it with the guest."""
    private_libvirt.inside("ip", "tuntap", "add", "dev", "kt0000000001", "mode", "tap")
    spec = make_domain(nics=(Nic("kt0000000001", "52:54:00:00:00:01", 1450),))
    await hypervisor.define_and_start(domain_xml(spec))
    await hypervisor.destroy(spec.instance_id)
    assert "kt0000000001" in private_libvirt.inside("ip", "-o", "link")


async def test_a_redefinition_is_taken(hypervisor: Hypervisor, make_domain: MakeDomain) -> None:
    """Defining an instance that is off with new resources replaces its definition."""
    spec = make_domain()
    await hypervisor.define_and_start(domain_xml(spec))
    await hypervisor.destroy(spec.instance_id)
    await hypervisor.define_and_start(domain_xml(replace(spec, epoch=2)))
    state = await hypervisor.get_instance(spec.instance_id)
    assert state is not None
    assert (state.state, state.epoch) == (PowerState.RUNNING, 2)


@pytest.mark.parametrize("dies", ["while nobody listens", "before libvirtd"])
async def test_a_guest_that_dies_while_libvirtd_is_away_is_seen(  # noqa: PLR0917 - fixtures
    hypervisor: Hypervisor, events, eventually, make_domain: MakeDomain, private_libvirt, dies: str
) -> None:
    """No event tells of a death that libvirtd has missed: looking at all guests after the reconnect does."""
    dead, alive = make_domain(), make_domain()
    for spec in (dead, alive):
        await hypervisor.define_and_start(domain_xml(spec))
    pid = private_libvirt.inside("pgrep", "-f", f"uuid {dead.instance_id}").split()[0]
    if dies == "before libvirtd":
        # libvirtd is stopped, so that it cannot see the death, and then killed.
        private_libvirt.inside("kill", "-STOP", (private_libvirt.root / "libvirtd.pid").read_text().strip())
        private_libvirt.inside("kill", "-KILL", pid)
        private_libvirt.kill_libvirtd()
    else:
        private_libvirt.kill_libvirtd()
        private_libvirt.inside("kill", "-KILL", pid)
    await events.eventually(lambda: events.reconnects, 30)
    seen = (await hypervisor.list_instances())[dead.instance_id]
    print(f"at the reconnect: {seen.state} {seen.reason}")

    async def found() -> bool:
        states = await hypervisor.list_instances()
        return (
            states[dead.instance_id].state is PowerState.OFF and states[alive.instance_id].state is PowerState.RUNNING
        )

    await eventually(found, RECONNECT_LOOKS[-1])
    state = await hypervisor.get_instance(dead.instance_id)
    assert state is not None
    print(f"afterwards: {state.state} {state.reason}; events: {events.seen.count(dead.instance_id)}")
    assert not state.shutdown_by_guest
    assert await hypervisor.define_and_start(domain_xml(dead)) == dead.instance_id


async def test_a_button_pressed_by_a_former_agent_is_remembered(
    hypervisor: Hypervisor, eventually, make_domain: MakeDomain, private_libvirt
) -> None:
    """A guest that goes off after the power button did not turn itself off, though a new agent never pressed it."""
    spec = make_domain()
    await hypervisor.define_and_start(domain_xml(spec))
    await hypervisor.shutdown_graceful(spec.instance_id)
    later = Hypervisor(private_libvirt.uri)
    await later.open()
    try:
        # virsh reports that QEMU, having ended, gave no answer.
        command = f"virsh qemu-monitor-command k-{spec.instance_id} --hmp quit || true"
        private_libvirt.inside("sh", "-c", command)

        async def off() -> bool:
            return (await later.list_instances())[spec.instance_id].state is PowerState.OFF

        await eventually(off)
        state = (await later.list_instances())[spec.instance_id]
        assert (state.reason, state.shutdown_by_guest, state.guest_shutdown) == ("GuestShutdown", False, "")
    finally:
        await later.close()


async def test_toggles_end_in_what_was_asked_last(hypervisor: Hypervisor, eventually, make_domain: MakeDomain) -> None:
    """Stopped and at once Running, around a guest that turns itself off, ends with a running guest."""
    for press_first in (True, False):
        spec = make_domain(power_off=True)
        await hypervisor.define_and_start(domain_xml(spec))
        if press_first:
            await hypervisor.shutdown_graceful(spec.instance_id)

        async def off(instance_id: str = spec.instance_id) -> bool:
            return (await hypervisor.list_instances())[instance_id].state is PowerState.OFF

        await eventually(off)
        state = (await hypervisor.list_instances())[spec.instance_id]
        assert state.shutdown_by_guest is not press_first
        # What the plan does for a newer wish: the definition that says how it went off is replaced.
        await asyncio.to_thread(Path(spec.disks[0].path).write_bytes, b"\0" * (1 << 20))
        await hypervisor.define_and_start(domain_xml(spec))
        state = (await hypervisor.list_instances())[spec.instance_id]
        assert (state.state, state.shutdown_by_guest, state.guest_shutdown) == (PowerState.RUNNING, False, "")
