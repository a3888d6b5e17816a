"""Domain XML."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from syrupy.assertion import SnapshotAssertion

from kumulus_agent.compute.domain_xml import (
    Disk,
    DomainSpec,
    InstanceRecord,
    Nic,
    domain_name,
    domain_xml,
    parse_record,
    record_xml,
)

_SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
_ID = "5f6e1f0a-6d3f-4b2e-9d3e-0c1f2a3b4c5d"


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
        {"machine": "q35"},
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
    record = InstanceRecord(_ID, namespace, name, epoch, digest)
    assert parse_record(record_xml(record)) == record


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
