"""Devices given away for good: on a machine with an IOMMU, from sysfs to a guest that has them, and back."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kumulus_agent.compute.domain_spec import DomainSpec
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.host.processors import Processors
from kumulus_agent.passthrough.facts import SYSFS
from kumulus_agent.passthrough.source import HostDeviceSource
from kumulus_agent.servers.desired import Desired, read_desired
from kumulus_agent.servers.errors import StepFailed
from kumulus_agent.servers.start import Actuators, Stopwatch, _Start
from kumulus_agent.settings import AgentSettings
from kumulus_api import Server
from kumulus_api.host import HostSpec
from kumulus_api.passthrough import WithheldReason
from kumulus_api.server_status import ReadyReason
from kumulus_api.testing import make_assigned

MakeDomain = Callable[..., DomainSpec]
CLASS = "CUSTOM_PCI_1B36_0010"
SPEC = HostSpec.model_validate({"devices": {"pci": [{"vendor": "1b36", "product": "0010"}]}})
"""QEMU's NVMe controllers."""

pytestmark = pytest.mark.skipif(
    not any((SYSFS / "kernel/iommu_groups").iterdir()) or not Path("/dev/vfio/vfio").exists(),
    reason="needs an IOMMU, vfio and NVMe controllers of QEMU: test_iommu.py runs it where they are",
)


def driver(address: str) -> str:
    """Give the driver that the host uses a device by."""
    return (SYSFS / "bus/pci/devices" / address / "driver").resolve().name


@pytest.fixture
def source(hypervisor: Hypervisor) -> HostDeviceSource:
    """This machine's devices."""
    return HostDeviceSource(hypervisor, lambda: SPEC)


def make_start(source: HostDeviceSource, tmp_path: Path, spec: DomainSpec) -> _Start:
    """Begin the start of a server that was given a disk controller."""
    body = make_assigned(Server, "web", "h1")
    body["spec"]["assignment"]["instanceID"] = spec.instance_id
    body["spec"]["assignment"]["resources"]["custom"] = {CLASS: 1}
    desired = read_desired(body)
    assert isinstance(desired, Desired)
    unused: Any = SimpleNamespace()
    known = dict.fromkeys(("client", "datapath", "networks", "images", "boot_data"), unused)
    actuators = Actuators(
        AgentSettings(node_name="h1", state_dir=tmp_path),
        hypervisor=source.hypervisor,
        host_devices=source,
        virt="qemu",
        cache="none",
        processors=lambda: Processors(frozenset()),
        **known,
    )
    return _Start(actuators, desired, Stopwatch(), unused)


def _without_direct_io(spec: DomainSpec) -> DomainSpec:
    """Give the specification for disks on a file system in memory."""
    return replace(spec, disks=tuple(replace(disk, cache="writeback") for disk in spec.disks))


async def test_a_disk_that_something_holds_is_withheld(source: HostDeviceSource) -> None:
    """While a disk is claimed, as file systems and RAIDs claim theirs, its controller stays with the host."""
    descriptor = os.open("/dev/nvme0n1", os.O_RDONLY | os.O_EXCL)
    try:
        told = await source.told()
    finally:
        os.close(descriptor)
    assert told is not None
    assert [(item.resource_class, item.reason) for item in told.withheld] == [(CLASS, WithheldReason.HOST_DISK)]
    after = await source.told()
    assert after is not None
    assert after.withheld == []
    assert after.offered[0].total == told.offered[0].total + 1


async def test_each_guest_has_a_device_of_its_own_and_the_host_gets_it_back(
    source: HostDeviceSource, make_domain: MakeDomain, tmp_path: Path
) -> None:
    """Guests run with one device each as long as there are some; one that is removed leaves it to the next."""
    hypervisor = source.hypervisor
    told = await source.told()
    assert told is not None
    count = next(item.total for item in told.offered if item.resource_class == CLASS)
    specs = [_without_direct_io(make_domain()) for _ in range(count + 1)]
    starts = [make_start(source, tmp_path, spec) for spec in specs]
    for spec, start in zip(specs[:-1], starts[:-1], strict=True):
        await start._start_apart(spec)
        assert driver(start.passed[0].addresses[0]) == "vfio-pci"
    given = [address for start in starts for item in start.passed for address in item.addresses]
    assert len(given) == len(set(given)) >= count
    assert await source.told() == told
    with pytest.raises(StepFailed) as refused:
        await starts[-1]._start_apart(specs[-1])
    assert refused.value.reason is ReadyReason.DEVICES_UNAVAILABLE
    await hypervisor.destroy(specs[0].instance_id)
    await hypervisor.undefine(specs[0].instance_id)
    first = starts[0].passed
    assert driver(first[0].addresses[0]) == "nvme"
    await starts[-1]._start_apart(specs[-1])
    assert starts[-1].passed == first
    # An agent that was killed begins again: the guest runs on, with what it has.
    again = make_start(source, tmp_path, specs[-1])
    await again._start_apart(specs[-1])
    assert again.passed == first
