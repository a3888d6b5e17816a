"""Which devices a server gets, and how its domain records them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumulus_agent.compute.elements import E, parse, write
from kumulus_agent.compute.passed_xml import passed_elements, passed_of, without_passed
from kumulus_agent.passthrough import mediated
from kumulus_agent.passthrough.facts import Choice, Held, Mediated, Passed
from kumulus_agent.passthrough.plan import Offer, Source, Unavailable, Unit, asked_devices, choose
from kumulus_api.passthrough import HostDevices, WithheldDevice, WithheldReason

ME = "22222222-2222-4222-8222-222222222222"
OTHER = "33333333-3333-4333-8333-333333333333"
UNITS = tuple(Unit("CUSTOM_GPU", (f"0000:0{number}:00.0", f"0000:0{number}:00.1")) for number in range(1, 4))
SOURCES = (Source("VGPU", "0000:41:00.0", "nvidia-35", 1), Source("VGPU", "0000:42:00.0", "nvidia-35", 2))
OFFER = Offer(UNITS, SOURCES)


def vgpu(instance_id: str, number: int = 0) -> str:
    """Give the uuid of a server's vGPU."""
    return str(uuid5(UUID(instance_id), f"VGPU/{number}"))


def test_free_devices_are_chosen_in_order() -> None:
    """A server gets whole units that no domain has, the first of them."""
    held = Held({OTHER: (Passed("CUSTOM_GPU", UNITS[0].addresses),)})
    chosen = choose(ME, {"CUSTOM_GPU": 2}, OFFER, held)
    assert [item.addresses for item in chosen.passed] == [UNITS[1].addresses, UNITS[2].addresses]


def test_a_server_keeps_what_its_domain_has() -> None:
    """A choice made again, after whatever was cut off, is the same as the first."""
    held = Held({ME: (Passed("CUSTOM_GPU", UNITS[2].addresses),)})
    assert choose(ME, {"CUSTOM_GPU": 1}, OFFER, held).passed == held.of(ME)
    both = choose(ME, {"CUSTOM_GPU": 1, "VGPU": 1}, OFFER, Held())
    made = replace(SOURCES[1], available=1, made=frozenset({vgpu(ME)}))
    again = choose(ME, {"CUSTOM_GPU": 1, "VGPU": 1}, Offer(UNITS, (SOURCES[0], made)), Held({ME: both.passed}))
    assert again == both
    assert both.made == (Mediated(vgpu(ME), "0000:42:00.0", "nvidia-35"),)


def test_too_few_are_told_with_what_is_withheld() -> None:
    """A server is refused whole, with the count and the reasons of what might have been given."""
    withheld = WithheldDevice(
        device="0000:09:00.0", resource_class="CUSTOM_GPU", reason=WithheldReason.NO_IOMMU_GROUP, message="m"
    )
    with pytest.raises(Unavailable) as refused:
        choose(ME, {"CUSTOM_GPU": 4}, Offer(UNITS, withheld=(withheld,)), Held())
    assert str(refused.value) == ("4 CUSTOM_GPU asked for, 3 free on this host (withheld: 0000:09:00.0 NoIOMMUGroup)")
    with pytest.raises(Unavailable):
        choose(ME, {"VGPU": 4}, OFFER, Held())


def test_places_of_mediated_devices_that_are_to_come_are_kept() -> None:
    """What another's definition names and the host has not made again since its boot is not given away."""
    held = Held({OTHER: (Passed("VGPU", uuid=vgpu(OTHER)), Passed("VGPU", uuid=vgpu(OTHER, 1)))})
    assert len(choose(ME, {"VGPU": 1}, OFFER, held).made) == 1
    with pytest.raises(Unavailable):
        choose(ME, {"VGPU": 2}, OFFER, held)


def test_what_is_not_asked_for_any_more_is_dropped() -> None:
    """After a resize the mediated devices of before are named, so that they go; those of others are not."""
    held = Held({ME: (Passed("VGPU", uuid=vgpu(ME)),), OTHER: (Passed("VGPU", uuid=vgpu(OTHER)),)})
    assert choose(ME, {}, OFFER, held) == Choice(dropped=(vgpu(ME),))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3)), max_size=12))
def test_no_device_is_ever_given_twice(steps: list[tuple[int, int, int]]) -> None:
    """Whatever servers start with whatever flavors, no two domains share a device and no parent makes too many."""
    held: dict[str, tuple[Passed, ...]] = {}
    made: dict[str, str] = {}
    for server, gpus, vgpus in steps:
        instance_id = str(UUID(int=server + 1))
        room = {source.parent: source.available for source in SOURCES}
        for parent in made.values():
            room[parent] -= 1
        sources = [
            replace(item, available=room[item.parent], made=frozenset(u for u, p in made.items() if p == item.parent))
            for item in SOURCES
        ]
        try:
            chosen = choose(instance_id, {"CUSTOM_GPU": gpus, "VGPU": vgpus}, Offer(UNITS, tuple(sources)), Held(held))
        except Unavailable:
            continue
        made = {uuid: parent for uuid, parent in made.items() if uuid not in chosen.dropped}
        made |= {item.uuid: item.parent for item in chosen.made}
        held[instance_id] = chosen.passed
        names = [name for items in held.values() for item in items for name in (*item.addresses, item.uuid) if name]
        assert len(names) == len(set(names))
        for source in SOURCES:
            assert sum(parent == source.parent for parent in made.values()) <= source.available
        assert {item.uuid for items in held.values() for item in items if item.uuid} == set(made)


def test_only_devices_are_chosen_of_what_was_given() -> None:
    """Of the custom resources those are devices that the host's administrator, or their name, says are."""
    allowed = HostDevices.model_validate({"pci": [{"address": "0000:01:*", "resourceClass": "CUSTOM_GPU"}]})
    custom = {"CUSTOM_GPU": 1, "CUSTOM_LICENSE": 2, "CUSTOM_PCI_8086_10D3": 1, "VGPU": 1, "CUSTOM_ODD": 1}
    asked = asked_devices(custom, allowed, {"CUSTOM_LICENSE"})
    assert asked == {"CUSTOM_GPU": 1, "CUSTOM_PCI_8086_10D3": 1, "VGPU": 1}
    assert asked_devices(custom, None, custom) == {}
    # The administrator has taken the entry away: who has such a device is not started without it.
    assert asked_devices({"CUSTOM_ODD": 1}, None, (), [Passed("CUSTOM_ODD", ("0000:01:00.0",))]) == {"CUSTOM_ODD": 1}


def test_the_domain_tells_what_it_was_given() -> None:
    """Units, classes and addresses survive the way through XML; what others have put there has no class."""
    passed = (
        Passed("CUSTOM_GPU", UNITS[0].addresses),
        Passed("CUSTOM_GPU", UNITS[1].addresses),
        Passed("VGPU", uuid=vgpu(ME)),
        *(Passed("CUSTOM_PCI_8086_10D3", (f"0000:1{number:x}:1f.7",)) for number in range(10)),
    )
    devices = E.devices(*passed_elements(passed))
    whole = E.domain(devices)
    assert passed_of(write(whole)) == passed
    foreign = "<hostdev mode='subsystem' type='pci'><source><address domain='0x0' bus='0x1' slot='0x0' function='0x1'/>"
    devices.append(parse(f"{foreign}</source></hostdev>"))
    devices.append(parse("<hostdev mode='subsystem' type='usb'/>"))
    text = write(whole)
    assert passed_of(text)[-1] == Passed("", ("0000:01:00.1",))
    assert passed_of(without_passed(text)) == (Passed("", ("0000:01:00.1",)),)
    assert Held({"x": passed_of(text)}).strangers == {"0000:01:00.1"}


def test_mediated_devices_are_made_once_and_removed_once(tmp_path: Path) -> None:
    """To have a device that is there, and to remove one that is not, is success."""
    types = tmp_path / "class/mdev_bus/0000:41:00.0/mdev_supported_types/nvidia-35"
    types.mkdir(parents=True)
    device = Mediated(vgpu(ME), "0000:41:00.0", "nvidia-35")
    mediated.ensure(device, tmp_path)
    assert (types / "create").read_text() == device.uuid
    there = tmp_path / "bus/mdev/devices" / device.uuid
    there.mkdir(parents=True)
    (types / "create").unlink()
    mediated.ensure(device, tmp_path)
    assert not (types / "create").exists()
    mediated.absent(device.uuid, tmp_path)
    assert (there / "remove").read_text() == "1"
    mediated.absent(vgpu(OTHER), tmp_path)
    with pytest.raises(OSError, match="nvidia-36"):
        mediated.ensure(Mediated(vgpu(OTHER), "0000:41:00.0", "nvidia-36"), tmp_path)
