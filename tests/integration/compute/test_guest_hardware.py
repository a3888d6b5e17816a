"""What flavor and image ask of a guest's machine, on a real libvirtd: QEMU starts with it, and nothing stays of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree

from kumulus_agent.compute.domain_spec import DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.host.boot_sector import GREETING, boot_sector
from kumulus_api.hardware import TPM, Hardware, Topology
from kumulus_lab.testing.bootable_cd import bootable_cd
from kumulus_operator.placement.hardware import hardware_traits

MakeDomain = Callable[..., DomainSpec]

TPM_2 = TPM(version="2.0", model="tpm-crb")
SHAPES = {
    "q35": Hardware(machine="q35", disk_bus="sata", interface_model="e1000e"),
    "scsi": Hardware(disk_bus="scsi", rng=False, boot_menu=True),
    "ide": Hardware(disk_bus="ide", interface_model="rtl8139"),
    "uefi": Hardware(firmware="uefi"),
    "uefi-q35": Hardware(firmware="uefi", machine="q35"),
    "secure": Hardware(firmware="uefi", machine="q35", secure_boot=True, tpm=TPM_2),
    "tpm": Hardware(tpm=TPM(version="2.0")),
    "watchdog": Hardware(watchdog="pause", rng_bytes=1024, rng_period=500),
    "cpu": Hardware(cpu_model="Nehalem", topology=Topology(sockets=1, cores=1, threads=2)),
    "numa": Hardware(numa_nodes=1),
}


def make_spec(make_domain: MakeDomain, hardware: Hardware) -> DomainSpec:
    """Make the specification of a guest of 2 vCPUs with that hardware."""
    spec = make_domain()
    root = Path(spec.disks[0].path)
    seed = root.with_suffix(".iso")
    seed.write_bytes(bytes(1 << 20))
    given = {"seed_path": str(seed), "config_drive": str(seed), "nvram": str(root.with_suffix(".nvram"))}
    return replace(spec, vcpus=2, hardware=hardware, **given)


def emptied(spec: DomainSpec) -> DomainSpec:
    """Give the specification with nothing on its root disk."""
    Path(spec.disks[0].path).write_bytes(bytes(1 << 20))
    return spec


def remains(spec: DomainSpec, libvirt_root: Path) -> tuple[bool, bool]:
    """Give whether there is a file of UEFI's variables, and one of a TPM's memory."""
    return Path(str(spec.nvram)).exists(), (libvirt_root / "lib/swtpm" / spec.instance_id).exists()


@pytest.mark.parametrize("name", SHAPES)
async def test_qemu_starts_with_the_hardware_asked_for(
    hypervisor: Hypervisor, make_domain: MakeDomain, private_libvirt, name: str
) -> None:
    """A host with the traits starts the guest; after its removal neither variables nor the TPM's memory are left."""
    hardware = SHAPES[name]
    lacking = hardware_traits(hardware) - set((await hypervisor.abilities("qemu")).traits)
    assert not lacking, f"install what brings {lacking}"
    spec = make_spec(make_domain, hardware)
    await hypervisor.define_and_start(domain_xml(spec))
    state = await hypervisor.get_instance(spec.instance_id)
    assert state is not None
    assert state.vcpus == 2
    kept = (hardware.firmware == "uefi", hardware.tpm is not None)
    assert remains(spec, private_libvirt.root) == kept
    await hypervisor.destroy(spec.instance_id)
    await hypervisor.undefine(spec.instance_id, keep=True)
    assert remains(spec, private_libvirt.root) == kept
    await hypervisor.define_and_start(domain_xml(spec))
    await hypervisor.destroy(spec.instance_id)
    await hypervisor.undefine(spec.instance_id)
    assert remains(spec, private_libvirt.root) == (False, False)


@pytest.mark.parametrize("shape", [{}, {"disk_bus": "ide"}, {"machine": "q35", "disk_bus": "sata"}])
async def test_an_empty_disk_gives_way_to_the_cd(
    hypervisor: Hypervisor, make_domain: MakeDomain, eventually, tmp_path: Path, shape: dict[str, str]
) -> None:
    """A guest whose root disk holds nothing starts from the CD in its drive, also if its seed is in a drive too."""
    cd = tmp_path / "cd.iso"
    cd.write_bytes(bootable_cd(boot_sector(power_off=False)))
    spec = replace(emptied(make_spec(make_domain, Hardware.model_validate(shape))), cd=str(cd))
    await hypervisor.define_and_start(domain_xml(spec))

    async def greeted() -> bool:
        return GREETING in await asyncio.to_thread(Path(str(spec.console_log)).read_bytes)

    await eventually(greeted, 60)


async def test_pins_of_running_guests_are_told(hypervisor: Hypervisor, make_domain: MakeDomain) -> None:
    """Only guests that are not off, and whose vCPUs are tied, are told with their CPUs."""
    spec = replace(make_domain(), cpus=(0,), shared_cpus=())
    await hypervisor.define_and_start(domain_xml(spec))
    other = make_domain()
    await hypervisor.define_and_start(domain_xml(other))
    assert await hypervisor.pins() == {spec.instance_id: frozenset({0})}
    await hypervisor.destroy(spec.instance_id)
    assert await hypervisor.pins() == {}


async def test_a_start_that_fails_leaves_no_definition(hypervisor: Hypervisor, make_domain: MakeDomain) -> None:
    """A guest with variables of a firmware that cannot start is not left defined."""
    spec = replace(make_spec(make_domain, SHAPES["uefi"]), disks=())
    broken = etree.fromstring(domain_xml(spec))
    etree.SubElement(broken.find("memoryBacking") or etree.SubElement(broken, "memoryBacking"), "hugepages")
    with pytest.raises(Exception, match="huge"):
        await hypervisor.define_and_start(etree.tostring(broken))
    assert await hypervisor.get_instance(spec.instance_id) is None
