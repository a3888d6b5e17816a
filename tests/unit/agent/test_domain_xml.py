"""Domain XML."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from syrupy.assertion import SnapshotAssertion

from kumulus_agent.compute.devices_xml import device_xml
from kumulus_agent.compute.domain_spec import Disk, DomainSpec, Nic
from kumulus_agent.compute.domain_xml import (
    InstanceRecord,
    domain_name,
    domain_xml,
    machine_of,
    machine_text,
    parse_record,
    record_xml,
)
from kumulus_agent.migration.domains import written_disks
from kumulus_agent.passthrough.facts import Passed
from kumulus_api.hardware import TPM, Hardware, Topology

_SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
_ID = "5f6e1f0a-6d3f-4b2e-9d3e-0c1f2a3b4c5d"


SECURE = Hardware(machine="q35", firmware="uefi", secure_boot=True, tpm=TPM(version="2.0", model="tpm-crb"))

PASSED = (
    Passed("CUSTOM_PCI_8086_10D3", ("0000:3b:00.0", "0000:3b:00.1")),
    Passed("VGPU", uuid="44444444-4444-4444-8444-444444444444"),
)


def make_spec(**overrides: object) -> DomainSpec:
    """Make a specification that uses everything there is."""
    spec = DomainSpec(
        instance_id=_ID,
        namespace="team",
        name="web-0",
        epoch=3,
        vcpus=2,
        memory_bytes=(512 << 20) + 1,
        virt="kvm",
        disks=(
            Disk("/var/lib/kumulus/instances/x/root.qcow2", "qcow2", "vda", "root"),
            Disk("/var/lib/kumulus/volumes/v.raw", "raw", "vdb", "vol-1", readonly=True, cache="writeback"),
        ),
        nics=(Nic("kt0123456789a", "02:00:00:00:00:01", 1450),),
        seed_path="/var/lib/kumulus/instances/x/seed.iso",
        console_log="/var/lib/kumulus/instances/x/console.log",
        serial_socket="/var/lib/kumulus/instances/x/serial.sock",
        graphics=True,
        image_digest="sha256:ab",
    )
    return replace(spec, **overrides)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    """Return libvirt's own schema."""
    if not _SCHEMA.exists():
        pytest.skip(f"needs {_SCHEMA}")
    return etree.RelaxNG(etree.parse(_SCHEMA))


def test_golden(snapshot: SnapshotAssertion) -> None:
    """A full specification gives this XML."""
    assert domain_xml(make_spec()).decode() == snapshot


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"virt": "qemu"},
        {"hardware": Hardware(machine="q35", disk_bus="sata", interface_model="e1000e")},
        {"hardware": Hardware(disk_bus="scsi", rng=False)},
        {"hardware": Hardware(firmware="uefi"), "nvram": "/var/lib/kumulus/instances/x/nvram.fd"},
        {"hardware": SECURE, "nvram": "/var/lib/kumulus/instances/x/nvram.fd"},
        {"hardware": Hardware(watchdog="pause", boot_menu=True, rng_bytes=1024, rng_period=2000)},
        {"hardware": Hardware(cpu_model="Nehalem", topology=Topology(sockets=1, cores=2, threads=1))},
        {"hardware": Hardware(numa_nodes=2, page_size=2048)},
        {"hardware": Hardware(any_huge_page=True)},
        {"hardware": Hardware(dedicated=True), "cpus": (2, 3), "shared_cpus": (0, 1)},
        {"shared_cpus": (0, 1)},
        {"max_vcpus": 4, "hardware": Hardware(topology=Topology(sockets=1, cores=2, threads=2)), "shared_cpus": (0, 1)},
        {"cd": "/var/lib/kumulus/images/x"},
        {"passed": PASSED},
        {"passed": PASSED, "hardware": Hardware(machine="q35", firmware="uefi"), "nvram": "/var/lib/kumulus/x"},
        {"disks": (), "nics": (), "seed_path": None, "console_log": None},
        {"serial_socket": None, "graphics": False},
        {"serial_socket": None, "console_log": None},
        {"guest_shutdown": "2026-01-01T00:00:00+00:00", "image_digest": ""},
    ],
)
def test_libvirt_accepts_every_shape(schema: etree.RelaxNG, overrides: dict[str, object]) -> None:
    """Whatever a specification leaves out, libvirt's schema holds."""
    document = etree.fromstring(domain_xml(make_spec(**overrides)))
    assert schema.validate(document), schema.error_log


def test_what_nobody_asks_for_is_not_there() -> None:
    """Without hardware asked for the machine is the plain one: BIOS, no TPM, no watchdog, virtio throughout."""
    root = etree.fromstring(domain_xml(make_spec()))
    assert root.find("os").get("firmware") is None  # type: ignore[union-attr]
    assert [root.find(f"devices/{name}") for name in ("tpm", "watchdog")] == [None, None]
    assert {target.get("bus") for target in root.findall("devices/disk/target")} == {"virtio"}
    assert root.find("cputune") is None


def test_secure_boot_brings_what_it_needs() -> None:
    """Secure boot is UEFI with enrolled keys on q35, and with the mode that keeps the guest from changing them."""
    root = etree.fromstring(domain_xml(make_spec(hardware=SECURE, nvram="/n")))
    assert root.find("os").get("firmware") == "efi"  # type: ignore[union-attr]
    assert {(item.get("name"), item.get("enabled")) for item in root.findall("os/firmware/feature")} == {
        ("secure-boot", "yes"),
        ("enrolled-keys", "yes"),
    }
    assert root.findtext("os/nvram") == "/n"
    assert root.find("features/smm").get("state") == "on"  # type: ignore[union-attr]
    assert root.find("devices/tpm").get("model") == "tpm-crb"  # type: ignore[union-attr]


def test_numa_nodes_share_all_vcpus_and_memory() -> None:
    """The cells of a guest hold each vCPU once and all of its memory, also where they cannot be even."""
    spec = make_spec(vcpus=5, hardware=Hardware(numa_nodes=3))
    root = etree.fromstring(domain_xml(spec))
    cells = root.findall("cpu/numa/cell")
    assert [cell.get("cpus") for cell in cells] == ["0", "1", "2,3,4"]
    assert sum(int(str(cell.get("memory"))) for cell in cells) == int(str(root.findtext("memory")))


def test_dedicated_cpus_are_tied_one_by_one() -> None:
    """Each vCPU has one CPU of the host, and QEMU's own work stays off them."""
    root = etree.fromstring(domain_xml(make_spec(cpus=(4, 6), shared_cpus=(0, 1))))
    assert [(pin.get("vcpu"), pin.get("cpuset")) for pin in root.findall("cputune/vcpupin")] == [("0", "4"), ("1", "6")]
    assert root.find("cputune/emulatorpin").get("cpuset") == "0,1"  # type: ignore[union-attr]
    assert root.find("vcpu").get("cpuset") is None  # type: ignore[union-attr]


def test_a_cd_is_started_from_where_the_disk_is_empty() -> None:
    """The root disk comes first, so that what was installed starts; the CD is in a drive that nobody writes."""
    root = etree.fromstring(domain_xml(make_spec(cd="/cd")))
    assert root.findall("os/boot") == []
    first, second = (root.findall(f"devices/disk/boot[@order='{number}']/..") for number in (1, 2))
    assert [disk.find("target").get("dev") for disk in (*first, *second)] == ["vda", "sdx"]  # type: ignore[union-attr]
    drive = root.find("devices/disk[@device='cdrom']")
    assert drive is not None
    assert drive.find("readonly") is not None
    assert written_disks(etree.tostring(root, encoding="unicode")) == ["vda"]


def test_each_disk_has_a_place_of_its_own_on_its_bus() -> None:
    """Whatever the bus, disks, seed and config drive lie apart, and IDE's four places are enough for them."""
    for bus in ("virtio", "scsi", "sata", "ide"):
        spec = make_spec(hardware=Hardware(disk_bus=bus), config_drive="/c")
        root = etree.fromstring(domain_xml(spec))
        names = [target.get("dev") for target in root.findall("devices/disk/target")]
        assert len(set(names)) == 4
        if bus == "ide":
            assert set(names) == {"hda", "hdb", "hdc", "hdd"}


@pytest.mark.parametrize("config_drive", [None, "/c"])
def test_disks_that_find_no_place_on_ide_are_on_sata(config_drive: str | None) -> None:
    """IDE's four places go to the first disks and to seed and config drive; none is taken twice."""
    disks = tuple(Disk(f"/volumes/{letter}", "raw", f"vd{letter}", letter) for letter in "abcde")
    root = etree.fromstring(
        domain_xml(make_spec(hardware=Hardware(disk_bus="ide"), disks=disks, config_drive=config_drive))
    )
    names = [str(target.get("dev")) for target in root.findall("devices/disk/target")]
    assert len(set(names)) == len(names)
    assert sorted(name for name in names if name.startswith("hd")) == ["hda", "hdb", "hdc", "hdd"]
    assert {target.get("bus") for target in root.findall("devices/disk/target")} == {"ide", "sata"}


@pytest.mark.parametrize(
    ("bus", "name", "places"), [(None, "vdc", 0), ("virtio", "vdc", 0), ("scsi", "sdc", 1), ("sata", "sdc", 0)]
)
def test_what_is_plugged_in_is_made_as_what_was_there(bus: str | None, name: str, places: int) -> None:
    """A volume comes to the bus of the root disk, and a NIC is a card as the others are."""
    hardware = Hardware(disk_bus=bus, interface_model="e1000e")
    disk = etree.fromstring(device_xml(Disk("/volumes/v.raw", "raw", "vdc", "v"), hardware))
    assert dict(disk.find("target").attrib) == {"dev": name, "bus": bus or "virtio"}  # type: ignore[union-attr]
    assert len(disk.findall("address")) == places
    nic = etree.fromstring(device_xml(Nic("kt0", "02:00:00:00:00:02", 1450), hardware))
    assert nic.find("model").get("type") == "e1000e"  # type: ignore[union-attr]


@pytest.mark.parametrize("hardware", [Hardware(dedicated=True), Hardware(numa_nodes=1), Hardware(page_size=2048)])
def test_a_guest_of_fixed_size_has_no_room_to_grow(schema: etree.RelaxNG, hardware: Hardware) -> None:
    """Dedicated CPUs, NUMA nodes and huge pages leave no vCPU and no memory to be plugged in."""
    root = etree.fromstring(domain_xml(make_spec(hardware=hardware, max_vcpus=8, max_memory_bytes=4 << 30)))
    assert schema.validate(root), schema.error_log
    assert (root.find("vcpu").get("current"), root.findtext("vcpu")) == (None, "2")  # type: ignore[union-attr]
    assert root.find("maxMemory") is None


def test_memory_is_never_less_than_asked() -> None:
    """Memory is rounded up to whole KiB."""
    memory = etree.fromstring(domain_xml(make_spec())).findtext("memory")
    assert memory == str((512 << 10) + 1)


def test_no_console_listens_on_the_network() -> None:
    """The screen is reached through libvirt alone, and the serial line by a file of the host."""
    devices = etree.fromstring(domain_xml(make_spec())).find("devices")
    assert devices is not None
    assert [listen.get("type") for listen in devices.findall("graphics/listen")] == ["none"]
    assert [graphics.get("port") for graphics in devices.findall("graphics")] == [None]
    lines = [*devices.findall("serial"), *devices.findall("console")]
    assert {line.get("type") for line in lines} == {"unix"}
    assert {source.get("path") for line in lines for source in line.findall("source")} == {
        "/var/lib/kumulus/instances/x/serial.sock"
    }


def test_devices_keep_their_order() -> None:
    """Disks and NICs appear in the order given, the seed after the disks."""
    root = etree.fromstring(domain_xml(make_spec()))
    assert [target.get("dev") for target in root.findall("devices/disk/target")] == ["vda", "vdb", "vdz"]


_text = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"), max_size=20)


@given(namespace=_text, name=_text, epoch=st.integers(0, 2**31), digest=_text)
def test_records_survive_the_round_trip(namespace: str, name: str, epoch: int, digest: str) -> None:
    """Any record is read back from its XML as it was, whatever characters it holds."""
    record = InstanceRecord(_ID, namespace, name, epoch, digest, machine=digest)
    assert parse_record(record_xml(record)) == record


@pytest.mark.parametrize("hardware", [Hardware(), SECURE], ids=["plain", "secure"])
def test_a_domain_tells_what_machine_it_was_made_with(hardware: Hardware) -> None:
    """The hardware is read back as it was; what a newer agent may have written is taken for nothing."""
    assert machine_of(machine_text(hardware)) == hardware
    assert machine_of('{"machine": "s390-ccw"}') == machine_of("{") == Hardware()


@pytest.mark.parametrize("xml", ["", "<instance/>", "<other instanceID='x'/>", "<instance"])
def test_foreign_metadata_is_no_record(xml: str) -> None:
    """An element without our fields identifies nothing."""
    assert parse_record(xml) is None


def test_hostile_names_stay_text() -> None:
    """Markup in a name or path cannot add elements."""
    spec = make_spec(name='"/><devices>', seed_path="/x'/><evil/>")
    root = etree.fromstring(domain_xml(spec))
    assert root.find(".//evil") is None
    assert len(root.findall("devices")) == 1


def test_domain_name() -> None:
    """The domain's name derives from the instance id alone."""
    assert domain_name("a-b") == "k-a-b"
