"""What a domain has and can be given while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from kumulus_agent.compute.domain_spec import Disk, DomainSpec
from kumulus_agent.compute.domain_xml import domain_xml
from kumulus_agent.compute.size_xml import Size, requesting, size_of

_SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
MI = 1 << 20


def make_xml(memory: int = 128 * MI, max_memory: int = 0, max_vcpus: int = 0) -> bytes:
    """Make a domain of one vCPU."""
    disk = Disk("/var/lib/kumulus/instances/x/root.qcow2", "qcow2", "vda", "root")
    identity = ("5f6e1f0a-6d3f-4b2e-9d3e-0c1f2a3b4c5d", "team", "web", 1)
    return domain_xml(
        DomainSpec(*identity, 1, memory, "kvm", (disk,), max_vcpus=max_vcpus, max_memory_bytes=max_memory)
    )


@pytest.mark.parametrize("max_vcpus", [0, 1, 4])
@pytest.mark.parametrize("max_memory", [0, 128 * MI, 129 * MI, 512 * MI])
def test_libvirt_accepts_it_and_it_says_what_it_can_be_given(max_vcpus: int, max_memory: int) -> None:
    """A domain has its size at first, and as much more at most as was asked for, in whole blocks of memory."""
    if not _SCHEMA.exists():
        pytest.skip(f"needs {_SCHEMA}")
    xml = make_xml(max_memory=max_memory, max_vcpus=max_vcpus)
    etree.RelaxNG(etree.parse(_SCHEMA)).assertValid(etree.fromstring(xml))
    most = 128 * MI if max_memory <= 128 * MI else 256 * MI if max_memory == 129 * MI else max_memory
    assert size_of(xml.decode()) == Size(1, 128 * MI, max(1, max_vcpus), 128 * MI, most, 128 * MI)


def test_memory_that_is_not_a_multiple_of_the_step_cannot_grow() -> None:
    """A guest of an odd size gets all at its start, and no more."""
    assert size_of(make_xml(97 * MI, 512 * MI).decode()).max_memory == 97 * MI


def test_what_is_asked_for_and_what_the_guest_has_taken_are_told_apart() -> None:
    """The guest's memory is what it has taken; where that is not told, what it was asked to take."""
    asked = requesting(make_xml(max_memory=512 * MI).decode(), 200 * MI)
    assert asked is not None
    assert f">{72 * 1024}<" in asked
    domain = etree.fromstring(make_xml(max_memory=512 * MI))
    device = domain.find("devices/memory")
    assert device is not None
    device.getparent().replace(device, etree.fromstring(asked))  # type: ignore[union-attr]
    assert size_of(etree.tostring(domain, encoding="unicode")).memory == 200 * MI
    target = domain.find("devices/memory/target")
    assert target is not None
    etree.SubElement(target, "current", unit="KiB").text = "2048"
    found = size_of(etree.tostring(domain, encoding="unicode"))
    assert (found.memory, found.asked) == (130 * MI, 200 * MI)
    assert requesting(make_xml().decode(), 200 * MI) is None
