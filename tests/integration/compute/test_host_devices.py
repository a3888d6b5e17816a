"""Devices of the host in domains of a real libvirtd: the definition is the record, and a refused start leaves none.

This machine need not have an IOMMU: the addresses are of no device that there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid5

import libvirt
import pytest

from kumulus_agent.compute.domain_spec import DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.passthrough.facts import Choice, Found, MediatedType, Passed, PCIDevice
from kumulus_agent.passthrough.source import HostDeviceSource
from kumulus_agent.servers.desired import Desired, read_desired
from kumulus_agent.servers.errors import StepFailed
from kumulus_agent.servers.start import Actuators, Stopwatch, _Start
from kumulus_agent.settings import AgentSettings
from kumulus_api import Server
from kumulus_api.hardware import Hardware
from kumulus_api.host import HostSpec
from kumulus_api.server_status import ReadyReason
from kumulus_api.testing import make_assigned

MakeDomain = Callable[..., DomainSpec]
PAIR = ("0000:fe:1e.0", "0000:fe:1e.1")
SPEC = HostSpec.model_validate(
    {"devices": {"pci": [{"vendor": "10de", "resourceClass": "CUSTOM_GPU"}], "mdev": [{"type": "nvidia-35"}]}}
)
FOUND = Found(
    pci=tuple(PCIDevice(address, "10de", "1eb8", "030000", group=7) for address in PAIR),
    types=(MediatedType("0000:fe:1f.0", "nvidia-35", "vfio-pci", 1),),
)


def given(spec: DomainSpec) -> tuple[Passed, ...]:
    """Give a unit of two functions and a mediated device."""
    return Passed("CUSTOM_GPU", PAIR), Passed("VGPU", uuid=str(uuid5(UUID(spec.instance_id), "VGPU/0")))


async def define(hypervisor: Hypervisor, spec: DomainSpec) -> None:
    """Have a definition, as an agent leaves it that is killed before the start."""
    flags = libvirt.VIR_DOMAIN_DEFINE_VALIDATE
    await hypervisor.call("define", lambda conn: conn.defineXMLFlags(domain_xml(spec).decode(), flags) and None)


@pytest.mark.parametrize("machine", [None, "q35"])
async def test_the_definition_is_the_record(
    hypervisor: Hypervisor, make_domain: MakeDomain, machine: str | None
) -> None:
    """A libvirtd takes the devices into a definition and tells them back; to give them back empties it, also twice."""
    spec = make_domain()
    spec = replace(spec, passed=given(spec), hardware=Hardware.model_validate({"machine": machine}))
    await define(hypervisor, spec)
    assert (await hypervisor.host_devices()).by_domain == {spec.instance_id: spec.passed}
    state = await hypervisor.get_instance(spec.instance_id)
    assert state is not None
    assert state.devices is not None
    assert state.devices.passed == spec.passed
    for _ in range(2):
        await hypervisor.give_back(spec.instance_id)
        assert (await hypervisor.host_devices()).by_domain == {}
    assert await hypervisor.get_instance(spec.instance_id) is not None


def make_start(hypervisor: Hypervisor, tmp_path: Path, spec: DomainSpec, **custom: int) -> _Start:
    """Begin the start of a server that was given such devices."""
    body = make_assigned(Server, "web", "h1")
    body["spec"]["assignment"]["instanceID"] = spec.instance_id
    body["spec"]["assignment"]["resources"]["custom"] = custom
    desired = read_desired(body)
    assert isinstance(desired, Desired)
    unused: Any = SimpleNamespace()
    known = dict.fromkeys(("client", "datapath", "networks", "images", "boot_data", "processors"), unused)
    actuators = Actuators(
        AgentSettings(node_name="h1", state_dir=tmp_path),
        hypervisor=hypervisor,
        host_devices=HostDeviceSource(hypervisor, lambda: SPEC, lambda _allowed: FOUND),
        virt="qemu",
        cache="none",
        **known,
    )
    return _Start(actuators, desired, Stopwatch(), asyncio.Event())


@pytest.mark.parametrize("custom", [{"CUSTOM_GPU": 1}, {"VGPU": 1}])
async def test_a_refused_start_gives_the_devices_back(
    hypervisor: Hypervisor, make_domain: MakeDomain, tmp_path: Path, custom: dict[str, int]
) -> None:
    """Where libvirt or the kernel refuses a device, the condition says so and no domain is left that holds it."""
    spec = make_domain()
    for _ in range(2):
        with pytest.raises(StepFailed) as refused:
            await make_start(hypervisor, tmp_path, spec, **custom)._start_apart(spec)
        assert refused.value.reason is ReadyReason.DEVICES_FAILED
        assert "passthrough" in refused.value.message or "mdev_bus" in refused.value.message
        assert await hypervisor.get_instance(spec.instance_id) is None
        assert (await hypervisor.host_devices()).by_domain == {}


async def test_a_start_that_asks_for_nothing_reads_no_other_domain(
    hypervisor: Hypervisor, make_domain: MakeDomain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server without devices gets none, drops the mediated ones that it had, and nobody else's XML is read for it."""
    plain, former = make_domain(), make_domain()
    await define(hypervisor, replace(former, passed=given(former)))
    read: list[str] = []
    monkeypatch.setattr(Hypervisor, "host_devices", lambda _self: read.append("all"))
    for spec, dropped in ((plain, ()), (former, (given(former)[1].uuid,))):
        source = make_start(hypervisor, tmp_path, spec).actuators.host_devices
        assert await source.choose(spec.instance_id, {}) == Choice(dropped=dropped)
    assert not read


async def test_what_another_domain_has_is_not_given(
    hypervisor: Hypervisor, make_domain: MakeDomain, tmp_path: Path
) -> None:
    """The device of a server that is off is its own: who comes later is refused with the count."""
    first, second = make_domain(), make_domain()
    await define(hypervisor, replace(first, passed=given(first)[:1]))
    with pytest.raises(StepFailed) as refused:
        await make_start(hypervisor, tmp_path, second, CUSTOM_GPU=1)._start_apart(second)
    assert refused.value.reason is ReadyReason.DEVICES_UNAVAILABLE
    assert refused.value.message == "1 CUSTOM_GPU asked for, 0 free on this host"
    chosen = await make_start(hypervisor, tmp_path, first, CUSTOM_GPU=1).actuators.host_devices.choose(
        first.instance_id, {"CUSTOM_GPU": 1}
    )
    assert chosen.passed == given(first)[:1]
