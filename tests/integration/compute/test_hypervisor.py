"""The hypervisor's verbs against a real libvirtd and real guests under emulation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kumulus_agent.compute.domain_xml import DomainSpec, InstanceRecord, Nic, domain_xml
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
