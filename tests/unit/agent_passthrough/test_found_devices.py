"""What of the allowed devices a host offers, on the sysfs of a real machine with an IOMMU."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kumulus_agent.passthrough.facts import Found, Held, Passed
from kumulus_agent.passthrough.observe import disk_in_use, read_devices
from kumulus_agent.passthrough.plan import Offer, offer, told
from kumulus_api.passthrough import HostDevices

NIC, DISK, PAIR, SHARED = "0000:01:00.0", "0000:02:00.0", "0000:03:00", "0000:05:0"
ROUTES = "Iface Destination Gateway Flags\n{} 00000000 0100000A 0003\n"
IPV6 = "fe800000000000000000000000000001 02 40 {scope} 80 {name}\n"


def look(sysfs: Path, routes: str = "", ipv6: str = "", in_use: Callable[[str], bool] = lambda _name: False) -> Found:
    """Look at the recorded machine, whose host speaks as said."""
    proc_net = sysfs / "proc-net"
    proc_net.mkdir(exist_ok=True)
    (proc_net / "route").write_text(ROUTES.format(routes) if routes else "Iface Destination\n")
    (proc_net / "if_inet6").write_text(ipv6)
    everything = HostDevices.model_validate({"pci": [{"address": "*"}]})
    return read_devices(everything, sysfs, proc_net, in_use)


def offered(
    found: Found, *pci: dict[str, object], mdev: tuple[dict[str, object], ...] = (), held: Held | None = None
) -> Offer:
    """Give what is offered with such entries."""
    return offer(HostDevices.model_validate({"pci": pci, "mdev": mdev}), found, held or Held())


def why(given: Offer) -> dict[str, str]:
    """Give the reason why each device is withheld."""
    return {item.device: item.reason.value for item in given.withheld}


def test_devices_are_read_as_they_are(sysfs: Path) -> None:
    """Numbers, driver, group, interfaces and disks of each device are those of the machine."""
    found = {device.address: device for device in look(sysfs).pci}
    nic, disk = found[NIC], found[DISK]
    assert (nic.vendor, nic.product, nic.driver, nic.group, nic.interfaces) == (
        "1af4",
        "1041",
        "virtio-pci",
        6,
        ("eth0",),
    )
    assert (disk.vendor, disk.product, disk.kind, disk.disks) == ("1b36", "0010", "010802", ("nvme0n1",))
    assert disk.unbindable
    assert found[f"{PAIR}.0"].group == found[f"{PAIR}.1"].group == 8
    assert found["0000:00:1f.3"].driver == ""


def test_devices_are_counted_by_their_class(sysfs: Path) -> None:
    """A device is counted as its numbers unless an entry names a class; devices of a group are one unit."""
    given = offered(
        look(sysfs),
        {"vendor": "1b36", "product": "0010", "address": "0000:02:*"},
        {"address": f"{PAIR}.*", "resourceClass": "CUSTOM_FAST", "traits": ["CUSTOM_NEAR"]},
    )
    assert [(unit.resource_class, unit.addresses) for unit in given.units] == [
        ("CUSTOM_PCI_1B36_0010", (DISK,)),
        ("CUSTOM_FAST", (f"{PAIR}.0", f"{PAIR}.1")),
    ]
    assert told(given, Held()).dump() == {
        "offered": [
            {"resourceClass": "CUSTOM_FAST", "total": 1, "traits": ["CUSTOM_NEAR"]},
            {"resourceClass": "CUSTOM_PCI_1B36_0010", "total": 1, "traits": []},
        ],
        "withheld": [],
        "withheldTotal": 0,
    }


@pytest.mark.parametrize(
    ("routes", "ipv6", "reason"),
    [
        ("eth0", "", "HostNetwork"),
        ("", IPV6.format(scope="00", name="eth0"), "HostNetwork"),
        ("", IPV6.format(scope="20", name="eth0"), None),
        ("eth7", "", None),
    ],
)
def test_what_carries_the_hosts_own_network_is_withheld(
    sysfs: Path, routes: str, ipv6: str, reason: str | None
) -> None:
    """A NIC with a route or an address of the host's is never offered; one that is merely up is."""
    given = offered(look(sysfs, routes, ipv6), {"address": NIC})
    assert why(given) == ({NIC: reason} if reason else {})
    assert len(given.units) == (reason is None)


def test_a_nic_below_a_bridge_or_in_another_namespace_is_withheld(sysfs: Path) -> None:
    """What a bridge, bond or VLAN lies on, and what was moved into another network namespace, is in use."""
    interface = (sysfs / "class/net/eth0").resolve()
    (interface / "upper_br0").symlink_to(interface)
    assert why(offered(look(sysfs), {"address": NIC})) == {NIC: "HostNetwork"}
    (sysfs / "class/net/eth0").unlink()
    given = offered(look(sysfs), {"address": NIC})
    assert why(given) == {NIC: "HostNetwork"}
    assert "network namespace" in given.withheld[0].message


def test_what_carries_a_disk_in_use_is_withheld(sysfs: Path) -> None:
    """A disk that the kernel has claimed keeps its controller, and all of its group, from servers."""
    found = look(sysfs, in_use=lambda name: name == "nvme1n1")
    given = offered(found, {"address": "0000:02:*"}, {"address": f"{PAIR}.*"})
    assert why(given) == {f"{PAIR}.0": "HostDisk", f"{PAIR}.1": "GroupInUse"}
    assert [unit.addresses for unit in given.units] == [(DISK,)]


def test_nobody_asks_about_disks_that_are_not_to_be_given(sysfs: Path) -> None:
    """The question claims a disk for a moment: only those of allowed devices are claimed."""
    asked: list[str] = []
    allowed = HostDevices.model_validate({"pci": [{"address": DISK}]})
    read_devices(allowed, sysfs, sysfs, lambda name: bool(asked.append(name)))
    assert asked == ["nvme0n1"]


def test_a_group_is_given_whole_or_not_at_all(sysfs: Path) -> None:
    """A device whose group holds another that the host's driver has is withheld; bridges in it do no harm."""
    one = offered(look(sysfs), {"address": f"{SHARED}2.0"})
    assert why(one) == {f"{SHARED}2.0": "GroupInUse"}
    assert "0000:05:01.0: the host's driver virtio-pci has it" in one.withheld[0].message
    both = offered(look(sysfs), {"address": f"{SHARED}*"})
    assert [unit.addresses for unit in both.units] == [(f"{SHARED}1.0", f"{SHARED}2.0")]
    assert why(offered(look(sysfs), {"address": "0000:00:04.0"})) == {"0000:00:04.0": "Bridge"}


def test_what_cannot_be_given_says_why(sysfs: Path) -> None:
    """No IOMMU group, a driver that does not let go, virtual functions, a domain of others, and absence are told."""
    (sysfs / "devices/pci0000:00/0000:00:05.0/0000:02:00.0/sriov_numvfs").write_text("4")
    (sysfs / "bus/pci/drivers/virtio-pci/unbind").unlink()
    (sysfs / "devices/pci0000:00/0000:00:06.0/0000:03:00.0/iommu_group").unlink()
    held = Held({"other": (Passed("", ("0000:00:1f.3",)),)})
    entries: list[dict[str, object]] = [{"address": name} for name in (NIC, DISK, f"{PAIR}.0", "0000:00:1f.*")]
    given = offered(
        look(sysfs), *entries, {"vendor": "10de", "product": "1eb8", "resourceClass": "CUSTOM_GPU"}, held=held
    )
    assert why(given) == {
        "0000:00:1f.0": "Bridge",
        "0000:00:1f.2": "GroupInUse",
        "0000:00:1f.3": "GroupInUse",
        NIC: "DriverNotUnbindable",
        DISK: "HasVirtualFunctions",
        f"{PAIR}.0": "NoIOMMUGroup",
        "vendor=10de product=1eb8": "Absent",
    }
    assert given.withheld[-1].resource_class == "CUSTOM_GPU"
    assert given.units == ()


def test_a_machine_without_devices_offers_nothing(tmp_path: Path) -> None:
    """Where there is no PCI bus, an entry is told as absent and nothing fails."""
    given = offered(look(tmp_path), {"vendor": "8086"}, mdev=({"type": "nvidia-35"},))
    assert why(given) == {"vendor=8086": "Absent", "type=nvidia-35": "Absent"}
    assert told(given, Held()).offered == []


def test_the_status_is_bounded(tmp_path: Path) -> None:
    """However many devices are withheld, the status names 64 and counts the rest."""
    for number in range(100):
        place = tmp_path / f"bus/pci/devices/0000:{number:02x}:00.0"
        place.mkdir(parents=True)
        for name, text in (("vendor", "0x8086"), ("device", "0x10d3"), ("class", "0x020000")):
            (place / name).write_text(text)
    found = told(offered(look(tmp_path), {"vendor": "8086"}), Held())
    assert (len(found.withheld), found.withheld_total) == (64, 100)


def mediated(
    sysfs: Path, parent: str, kind: str, *, available: int, api: str = "vfio-pci", made: tuple[str, ...] = ()
) -> None:
    """Let a device make mediated ones, as the kernel documents it (vfio-mediated-device.rst)."""
    place = sysfs / "devices/pci0000:00" / parent
    types = place / "mdev_supported_types" / kind
    types.mkdir(parents=True)
    (types / "available_instances").write_text(f"{available}\n")
    (types / "device_api").write_text(f"{api}\n")
    (sysfs / "class/mdev_bus").mkdir(parents=True, exist_ok=True)
    link = sysfs / "class/mdev_bus" / parent
    if not link.is_symlink():
        link.symlink_to(place)
    for uuid in made:
        (place / uuid).mkdir()
        (place / uuid / "mdev_type").symlink_to(f"../mdev_supported_types/{kind}")
        (sysfs / "bus/mdev/devices").mkdir(parents=True, exist_ok=True)
        (sysfs / "bus/mdev/devices" / uuid).symlink_to(place / uuid)


def test_mediated_devices_are_counted_with_those_that_servers_have(tmp_path: Path) -> None:
    """A class counts what can be made and what servers have, not what others have made; one type per device."""
    mediated(tmp_path, "0000:41:00.0", "nvidia-35", available=2, made=("u-ours", "u-others"))
    mediated(tmp_path, "0000:41:00.0", "nvidia-36", available=1)
    mediated(tmp_path, "0000:42:00.0", "nvidia-36", available=1)
    mediated(tmp_path, "0000:43:00.0", "vfio_ccw-io", available=1, api="vfio-ccw")
    entries = (
        {"type": "nvidia-35", "traits": ["CUSTOM_SMALL"]},
        {"type": "nvidia-36", "resourceClass": "CUSTOM_BIG"},
        {"type": "vfio_ccw-io", "resourceClass": "CUSTOM_CCW"},
    )
    held = Held({"a": (Passed("VGPU", uuid="u-ours"),)})
    given = offered(look(tmp_path), mdev=entries, held=held)
    assert {item.resource_class: (item.total, item.traits) for item in told(given, held).offered} == {
        "VGPU": (3, ["CUSTOM_SMALL"]),
        "CUSTOM_BIG": (1, []),
    }
    assert why(given) == {"type=vfio_ccw-io": "TypeUnsupported"}


def test_the_kernel_knows_what_a_disk_is_used_for(tmp_path: Path) -> None:
    """A device node that cannot be asked counts as used; an ordinary one that nobody holds does not."""
    (tmp_path / "dev").mkdir()
    assert disk_in_use("sda", tmp_path)
    os.mknod(tmp_path / "dev/null", 0o600)
    assert not disk_in_use("null", tmp_path)
