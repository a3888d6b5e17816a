"""Devices that come to running guests and leave them, against a real libvirtd and real QEMU."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree

from kumulus_agent.compute.domain_spec import Disk, DomainSpec, Nic
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.plugged import Devices
from kumulus_agent.compute.size_xml import Size
from kumulus_agent.compute.slots import OLD_CARDS
from kumulus_api.hardware import Hardware, Topology

MakeDomain = Callable[..., DomainSpec]
PLAIN = Hardware()
SHAPES = [
    Hardware(disk_bus="scsi"),
    Hardware(machine="q35"),
    Hardware(machine="q35", disk_bus="scsi", interface_model="e1000e"),
    Hardware(machine="q35", firmware="uefi"),
    Hardware(machine="q35", interface_model="e1000"),
    Hardware(interface_model="rtl8139"),
]


def make_volume(directory: Path) -> tuple[str, Disk]:
    """Make the file of a volume; give its id and the disk."""
    volume_id = str(uuid.uuid4())
    file = directory / "volumes" / f"{volume_id}.raw"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"\0" * (1 << 20))
    return volume_id, Disk(str(file), "raw", "", volume_id[:20])


async def devices(hypervisor: Hypervisor, instance_id: str) -> Devices:
    """Give what is plugged into a guest."""
    state = await hypervisor.get_instance(instance_id)
    assert state is not None
    assert state.devices is not None
    return state.devices


async def test_volumes_and_nics_come_to_a_running_guest(
    hypervisor: Hypervisor, make_domain: MakeDomain, private_libvirt, tmp_path: Path
) -> None:
    """Each is plugged in once however often it is asked, in the definition too, and each volume has its own place."""
    spec = make_domain()
    await hypervisor.define_and_start(domain_xml(spec))
    assert await devices(hypervisor, spec.instance_id) == Devices()
    volumes = [make_volume(tmp_path) for _ in range(3)]
    private_libvirt.inside("ip", "tuntap", "add", "dev", "kt0000000002", "mode", "tap")
    nic = Nic("kt0000000002", "52:54:00:00:00:02", 1450)
    for device in (*(disk for _, disk in volumes), nic, volumes[0][1], nic):
        await hypervisor.attach(spec.instance_id, device, PLAIN)
    expected = Devices(frozenset({nic.mac}), frozenset(volume_id for volume_id, _ in volumes))
    assert await devices(hypervisor, spec.instance_id) == expected
    blocks = private_libvirt.inside("virsh", "domblklist", f"k-{spec.instance_id}")
    assert all(blocks.count(target) == 1 for target in ("vda", "vdb", "vdc", "vdd"))
    stored = private_libvirt.inside("virsh", "dumpxml", "--inactive", f"k-{spec.instance_id}")
    assert all(volume_id in stored for volume_id, _ in volumes)
    assert nic.mac in stored


async def test_the_most_volumes_come_to_a_running_guest(
    hypervisor: Hypervisor, make_domain: MakeDomain, private_libvirt, tmp_path: Path
) -> None:
    """Beside every device that a server can be started with there is room for all volumes and more interfaces."""
    nics = [Nic(f"kt00000001{n:02}", f"52:54:00:00:01:{n:02}", 1450) for n in range(4)]
    for nic in nics:
        private_libvirt.inside("ip", "tuntap", "add", "dev", nic.tap, "mode", "tap")
    drives = [tmp_path / "seed.iso", tmp_path / "config-drive.iso"]
    for drive in drives:
        drive.write_bytes(b"\0" * (1 << 20))
    spec = replace(
        make_domain(nics=(nics[0],)),
        seed_path=str(drives[0]),
        config_drive=str(drives[1]),
        graphics=True,
        max_memory_bytes=256 << 20,
    )
    await hypervisor.define_and_start(domain_xml(spec))
    volumes = [make_volume(tmp_path) for _ in range(16)]
    for device in (*(disk for _, disk in volumes), *nics[1:]):
        await hypervisor.attach(spec.instance_id, device, PLAIN)
    expected = Devices(frozenset(nic.mac for nic in nics), frozenset(volume_id for volume_id, _ in volumes))
    assert await devices(hypervisor, spec.instance_id) == expected


@pytest.mark.parametrize("hardware", SHAPES, ids=lambda shape: "-".join(map(str, shape.dump().values())))
async def test_devices_are_plugged_in_as_the_guest_has_the_others(
    hypervisor: Hypervisor, make_domain: MakeDomain, private_libvirt, tmp_path: Path, hardware: Hardware
) -> None:
    """Four volumes and two NICs find places on a running guest's own bus, whatever its machine, beside its seeds."""
    spec = make_domain()
    seed = tmp_path / "seed.iso"
    seed.write_bytes(bytes(1 << 20))
    seeds = {"seed_path": str(seed), "config_drive": str(seed), "nvram": str(tmp_path / "nvram.fd")}
    spec = replace(spec, hardware=hardware, **seeds)
    await hypervisor.define_and_start(domain_xml(spec))
    volumes = [make_volume(tmp_path) for _ in range(4)]
    nics = [Nic(f"kt{uuid.uuid4().hex[:10]}", f"52:54:00:00:01:0{number}", 1450) for number in range(2)]
    for nic in nics:
        private_libvirt.inside("ip", "tuntap", "add", "dev", nic.tap, "mode", "tap")
    for device in (*(disk for _, disk in volumes), *nics):
        await hypervisor.attach(spec.instance_id, device, hardware)
    expected = Devices(frozenset(nic.mac for nic in nics), frozenset(volume_id for volume_id, _ in volumes))
    assert await devices(hypervisor, spec.instance_id) == expected
    domain = etree.fromstring(private_libvirt.inside("virsh", "dumpxml", f"k-{spec.instance_id}"))
    buses = {target.get("bus") for target in domain.iterfind("devices/disk/target")}
    models = {model.get("type") for model in domain.iterfind("devices/interface/model")}
    assert buses == {(hardware.disk_bus or "virtio")}
    assert models == {(hardware.interface_model or "virtio")}


async def test_a_guest_on_ide_starts_with_more_disks_than_ide_has_places(
    hypervisor: Hypervisor, make_domain: MakeDomain, tmp_path: Path
) -> None:
    """Root disk, seeds and three volumes start together: what finds no place on IDE is on SATA."""
    spec = make_domain()
    seed = tmp_path / "seed.iso"
    seed.write_bytes(bytes(1 << 20))
    volumes = [
        (volume_id, replace(disk, target=f"vd{letter}"))
        for letter, (volume_id, disk) in zip("bcd", [make_volume(tmp_path) for _ in range(3)], strict=True)
    ]
    disks = (*spec.disks, *(disk for _, disk in volumes))
    seeds = {"seed_path": str(seed), "config_drive": str(seed)}
    spec = replace(spec, disks=disks, hardware=Hardware(disk_bus="ide"), **seeds)
    await hypervisor.define_and_start(domain_xml(spec))
    assert (await devices(hypervisor, spec.instance_id)).volumes == {volume_id for volume_id, _ in volumes}


async def test_a_laid_out_guest_gets_processors_as_it_runs(hypervisor: Hypervisor, make_domain: MakeDomain) -> None:
    """A layout of all that can be plugged in starts with fewer, and gets the others."""
    layout = Hardware(topology=Topology(sockets=1, cores=2, threads=2))
    spec = replace(make_domain(), vcpus=2, max_vcpus=4, hardware=layout)
    await hypervisor.define_and_start(domain_xml(spec))
    await hypervisor.grow(spec.instance_id, 4, spec.memory_bytes)
    state = await hypervisor.get_instance(spec.instance_id)
    assert state is not None
    assert state.vcpus == 4


async def test_a_guest_that_does_not_answer_keeps_its_devices(
    hypervisor: Hypervisor, make_domain: MakeDomain, tmp_path: Path
) -> None:
    """What a guest has not let go of is told each time it is asked, and is gone when it is off."""
    spec = make_domain()  # one sector of code that knows nothing of ACPI
    await hypervisor.define_and_start(domain_xml(spec))
    volume_id, disk = make_volume(tmp_path)
    await hypervisor.attach(spec.instance_id, disk, PLAIN)
    for _ in range(2):
        left = await hypervisor.detach(spec.instance_id, (), (volume_id,))
        assert left == Devices(volumes=frozenset({volume_id}))
    assert (await devices(hypervisor, spec.instance_id)).volumes == {volume_id}


async def test_what_is_not_there_is_detached(hypervisor: Hypervisor, make_domain: MakeDomain) -> None:
    """Absent is success."""
    spec = make_domain()
    await hypervisor.define_and_start(domain_xml(spec))
    assert not await hypervisor.detach(spec.instance_id, ("52:54:00:00:00:09",), (str(uuid.uuid4()),))


async def test_a_device_that_qemu_cannot_have_is_refused(
    hypervisor: Hypervisor, make_domain: MakeDomain, tmp_path: Path
) -> None:
    """A disk whose file is missing is an error, and nothing of it is in the guest."""
    spec = make_domain()
    await hypervisor.define_and_start(domain_xml(spec))
    lost = Disk(str(tmp_path / "volumes" / "no.raw"), "raw", "", "no")
    with pytest.raises(HypervisorError):
        await hypervisor.attach(spec.instance_id, lost, PLAIN)
    assert await devices(hypervisor, spec.instance_id) == Devices()


async def test_a_running_guest_gets_processors_and_is_asked_to_take_memory(
    hypervisor: Hypervisor, make_domain: MakeDomain, private_libvirt
) -> None:
    """Processors are there at once; memory is what the guest has taken, which this one, of one sector, never does."""
    spec = replace(make_domain(), max_vcpus=4, max_memory_bytes=256 << 20)
    await hypervisor.define_and_start(domain_xml(spec))
    state = await hypervisor.get_instance(spec.instance_id)
    assert state is not None
    assert state.size == Size(1, 64 << 20, 4, 64 << 20, 320 << 20, 64 << 20)
    for _ in range(2):
        await hypervisor.grow(spec.instance_id, 3, 128 << 20)
        state = await hypervisor.get_instance(spec.instance_id)
        assert state is not None
        assert state.size is not None
        assert (state.vcpus, state.memory, state.size.asked) == (3, 64 << 20, 128 << 20)
    counted = private_libvirt.inside("virsh", "vcpucount", f"k-{spec.instance_id}", "--live", "--current")
    assert int(counted) == 3
    await hypervisor.save(spec.instance_id)
    await hypervisor.start(spec.instance_id)
    state = await hypervisor.get_instance(spec.instance_id)
    assert state is not None
    assert state.vcpus == 3


@pytest.mark.parametrize(
    "hardware", [PLAIN, *SHAPES], ids=lambda shape: "-".join(map(str, shape.dump().values())) or "plain"
)
async def test_free_slots_are_told_before_they_are_asked_for(
    hypervisor: Hypervisor, make_domain: MakeDomain, private_libvirt, tmp_path: Path, hardware: Hardware
) -> None:
    """As many NICs as are said to find a place do, each takes one, and libvirt has none for the next."""
    spec = replace(make_domain(), hardware=hardware, nvram=str(tmp_path / "nvram.fd"), graphics=True)
    await hypervisor.define_and_start(domain_xml(spec))
    old = hardware.machine == "q35" and hardware.interface_model in OLD_CARDS
    taps = f"kt{uuid.uuid4().hex[:8]}"

    async def free() -> int:
        state = await hypervisor.get_instance(spec.instance_id)
        assert state is not None
        assert state.slots is not None
        return (state.slots.old_cards or 0) if old else state.slots.cards

    async def plug(number: int) -> None:
        nic = Nic(f"{taps}{number:02}", f"52:54:00:00:02:{number:02x}", 1450)
        private_libvirt.inside("ip", "tuntap", "add", "dev", nic.tap, "mode", "tap")
        await hypervisor.attach(spec.instance_id, nic, hardware)

    room = await free()
    assert room > 8
    for number in range(room):
        assert await free() == room - number
        await plug(number)
    with pytest.raises(HypervisorError, match="No more available PCI slots"):
        await plug(room)
