"""How fast a guest may use its root disk: set as it runs, and no reason for a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kumulus_agent.compute.domain_spec import Disk, DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.plugged import Devices
from kumulus_agent.compute.root_limits import root_limits, tune_items
from kumulus_agent.servers.desired import Desired
from kumulus_agent.servers.outcome import has_other_machine
from kumulus_agent.servers.plan import Action, Claim, Observed, Power, plan
from kumulus_agent.servers.terms import Plan
from kumulus_api.hardware import DiskBus, Hardware
from kumulus_api.server_status import ObservedPowerState
from kumulus_api.volume_limits import AssignedLimits

SLOW = AssignedLimits(write_bytes=1 << 20, read_iops=50, read_iops_burst=90)
INSTANCE = "22222222-2222-4222-8222-222222222222"


def make_desired(limits: AssignedLimits | None) -> Desired:
    fixed = (None, (), (), True, False, "", "", False, False, True)
    hardware = Hardware(root_disk_limits=limits)
    return replace(Desired(("demo", "web"), "u", 3, INSTANCE, 2, 1, 1 << 28, 1 << 30, *fixed), hardware=hardware)


def seen(limits: AssignedLimits | None, *, root: bool = True, power: Power = Power.RUNNING) -> Observed:
    devices = Devices(root_limits=tune_items(limits) if root else None)
    return Observed(power, 2, power_changes=0, devices=devices, hardware=Hardware(root_disk_limits=limits))


@pytest.mark.parametrize("wanted", [None, SLOW, AssignedLimits(total_iops=5)])
@pytest.mark.parametrize("there", [None, SLOW])
def test_what_differs_is_set(wanted: AssignedLimits | None, there: AssignedLimits | None) -> None:
    """Exactly then, and once: with what was set nothing is left to do."""
    steps = plan(make_desired(wanted), seen(there), Claim.OURS).steps
    assert [step.action for step in steps] == ([Action.LIMIT] if wanted != there else [])
    assert not plan(make_desired(wanted), seen(wanted), Claim.OURS).steps


def test_who_has_no_root_disk_has_no_limit() -> None:
    """A guest that boots from a volume has the limits of that; one that migrates keeps what it has."""
    assert not plan(make_desired(SLOW), seen(None, root=False), Claim.OURS).steps
    assert not plan(replace(make_desired(SLOW), target="h2"), seen(None), Claim.OURS).steps


def test_limits_need_no_restart() -> None:
    """The machine is the same, whatever the limits are; another machine is another."""
    planned = Plan(power=ObservedPowerState.RUNNING)
    assert not has_other_machine(seen(None), make_desired(SLOW), planned, acting=False)
    other = replace(make_desired(SLOW), hardware=Hardware(root_disk_limits=SLOW, boot_menu=True))
    assert has_other_machine(seen(SLOW), other, planned, acting=False)


@pytest.mark.parametrize("bus", [None, DiskBus.SCSI, DiskBus.IDE])
@pytest.mark.parametrize("limits", [None, SLOW])
def test_a_domain_says_what_it_was_given(tmp_path: Path, bus: DiskBus | None, limits: AssignedLimits | None) -> None:
    """On whatever bus, beside disks that have limits of their own; without a root disk it says nothing."""
    root = Disk(str(tmp_path / "root.qcow2"), "qcow2", "vdb", "root-x", limits=limits)
    other = Disk(str(tmp_path / "other.qcow2"), "qcow2", "vda", "x", limits=AssignedLimits(total_iops=7))
    made = (INSTANCE, "demo", "web", 1, 1, 1 << 28, "qemu")
    hardware = Hardware(disk_bus=bus)
    assert root_limits(domain_xml(DomainSpec(*made, (other, root), hardware=hardware))) == tune_items(limits)
    assert root_limits(domain_xml(DomainSpec(*made, (other,), hardware=hardware))) is None
