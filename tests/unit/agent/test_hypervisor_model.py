"""What the hypervisor concludes, without one."""

from __future__ import annotations

import asyncio
import os
import uuid

import libvirt
import pytest

from kumulus_agent.compute.domain_xml import InstanceRecord
from kumulus_agent.compute.errors import (
    HypervisorUnavailable,
    InstanceNotFound,
    InvalidDomain,
    Retryable,
    Terminal,
    translate,
)
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.qemu_process import is_qemu_of, kill_qemu
from kumulus_agent.compute.state import PowerState, instance_state
from kumulus_agent.servers.observe import power_of
from kumulus_agent.servers.terms import Power

_ID = "5f6e1f0a-6d3f-4b2e-9d3e-0c1f2a3b4c5d"
_LINE = [b"/usr/bin/qemu-system-x86_64", b"-name", f"guest=k-{_ID},debug-threads=on".encode(), b"-uuid", _ID.encode()]


def _error(code: int, domain: int = 10) -> libvirt.libvirtError:
    error = libvirt.libvirtError("asked")
    error.err = (code, domain, "because", 2, None, None, None, -1, -1)
    return error


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, InstanceNotFound),
        (libvirt.VIR_ERR_XML_ERROR, InvalidDomain),
        (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, InvalidDomain),
        (libvirt.VIR_ERR_NO_CONNECT, HypervisorUnavailable),
        (libvirt.VIR_ERR_AUTH_FAILED, Terminal),
        (libvirt.VIR_ERR_INTERNAL_ERROR, Retryable),
    ],
)
def test_errors_are_sorted_by_what_helps(code: int, kind: type[Exception]) -> None:
    """Each libvirt code becomes the class that says whether trying again helps, with libvirt's reason."""
    translated = translate(_error(code), "start instance x")
    assert type(translated) is kind
    assert str(translated) == "start instance x: libvirt says: because"


def test_a_dead_socket_is_unavailability() -> None:
    """An error of libvirt's RPC layer is a lost connection under any code."""
    assert isinstance(
        translate(_error(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC), "x"), HypervisorUnavailable
    )


@pytest.mark.parametrize(
    ("recorded", "reason", "asked", "by_guest"),
    [
        ("", libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN, False, True),
        ("", libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN, True, False),
        ("", libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED, False, False),
        ("", libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN, False, False),
        ("2026-01-01T00:00:00+00:00", libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN, False, True),
    ],
)
def test_who_turned_the_guest_off(recorded: str, reason: int, asked: bool, by_guest: bool) -> None:
    """A guest turned itself off if that is recorded, or if it went off by itself and we had not asked."""
    record = InstanceRecord(_ID, "team", "web", 1, guest_shutdown=recorded)
    state = instance_state(record, libvirt.VIR_DOMAIN_SHUTOFF, reason, persistent=True, asked_off=asked)
    assert (state.state, state.shutdown_by_guest) == (PowerState.OFF, by_guest)


@pytest.mark.parametrize(
    ("reason", "power"),
    [
        (libvirt.VIR_DOMAIN_SHUTOFF_CRASHED, Power.CRASHED),
        (libvirt.VIR_DOMAIN_SHUTOFF_DAEMON, Power.CRASHED),
        (libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN, Power.OFF),
        (libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN, Power.OFF),
    ],
)
def test_a_guest_that_nobody_ended_has_crashed(reason: int, power: Power) -> None:
    """A guest whose QEMU died has crashed, also when libvirtd was away and only finds that it is gone."""
    record = InstanceRecord(_ID, "team", "web", 1)
    state = instance_state(record, libvirt.VIR_DOMAIN_SHUTOFF, reason, persistent=True, asked_off=False)
    assert power_of(state) is power


def test_only_the_instances_own_qemu_is_recognised() -> None:
    """A command line must be QEMU's and bear both this domain's name and uuid."""
    name = f"k-{_ID}"
    assert is_qemu_of(_LINE, name, _ID)
    assert not is_qemu_of([b"/bin/sleep", *_LINE[1:]], name, _ID)
    assert not is_qemu_of(_LINE, name + "1", _ID)
    assert not is_qemu_of(_LINE, name, str(uuid.uuid4()))
    assert not is_qemu_of([], name, _ID)


async def test_another_process_is_never_killed() -> None:
    """A process that merely mentions the instance survives."""
    sleeper = await asyncio.create_subprocess_exec("sleep", "30")
    try:
        assert not kill_qemu(f"k-{_ID}", _ID)
        os.kill(sleeper.pid, 0)
    finally:
        sleeper.kill()
        await sleeper.wait()


async def test_many_domains_are_observed_at_once() -> None:
    """Listing stays fast with a hundred domains, ours apart from foreign ones."""
    hypervisor = Hypervisor("test:///default")
    await hypervisor.open()
    try:
        ids = [str(uuid.uuid4()) for _ in range(100)]
        for instance_id in ids:
            await hypervisor.run_transient(
                f"<domain type='test'><name>k-{instance_id}</name><uuid>{instance_id}</uuid><memory>1024</memory>"
                f"<os><type>hvm</type></os></domain>".encode()
            )
        for instance_id in ids[:60]:
            await hypervisor.set_metadata(InstanceRecord(instance_id, "team", "web", 1))
        async with asyncio.timeout(1):
            observed = await hypervisor.observe()
        assert set(observed.instances) == set(ids[:60])
        assert {domain.uuid for domain in observed.unknown} >= set(ids[60:])
        for instance_id in ids:
            await hypervisor.destroy(instance_id)
    finally:
        await hypervisor.close()


async def test_no_libvirtd_is_retryable(tmp_path: object) -> None:
    """Opening a hypervisor that is not there says so, and may be tried again."""
    hypervisor = Hypervisor(f"qemu+unix:///system?socket={tmp_path}/none")
    with pytest.raises(HypervisorUnavailable):
        await hypervisor.open()
    with pytest.raises(HypervisorUnavailable):
        await hypervisor.list_instances()
    await hypervisor.close()
