"""What the agent does about volumes and NICs that a running guest is given, or that are taken away."""

from types import SimpleNamespace
from typing import Any

import pytest

from kumulus_agent.compute.devices import devices_of
from kumulus_agent.compute.plugged import Devices
from kumulus_agent.compute.slots import Slots, free_slots
from kumulus_agent.servers.coming import HeldUp, coming
from kumulus_agent.servers.desired import Desired, read_desired
from kumulus_agent.servers.devices import DevicesChanged, detach, detached
from kumulus_agent.servers.outcome import has_other_machine, held_up_after
from kumulus_agent.servers.plan import Action, Claim, Observed, Power, plan
from kumulus_agent.servers.status import Found, server_status, started_parts
from kumulus_api import Server
from kumulus_api.hardware import Hardware
from kumulus_api.server_status import ObservedPowerState, ReadyReason
from kumulus_api.testing import MAC, VOLUME_ID, make_assigned

MAC2, PORT2 = "52:54:00:00:00:02", "00000000-0000-4000-8000-000000000022"
DATA = {"name": "data", "volume": "data", "volumeID": VOLUME_ID, "size": "1Gi"}


def make_desired(named: bool = True, **assigned: Any) -> Desired:
    """Give a server with two NICs and a volume; its spec names the second and the volume only if `named`."""
    body = make_assigned(Server, "web", "h1")
    body["metadata"] |= {"generation": 3, "uid": "u"}
    given = body["spec"]["assignment"]
    given["ports"].append(
        given["ports"][0]
        | {"name": "eth1", "port": "web-eth1", "portID": PORT2, "mac": MAC2, "addresses": ["10.0.0.11"]}
    )
    given["volumes"] = [DATA]
    given |= assigned
    if named:
        body["spec"]["networks"].append({"name": "eth1", "network": {"name": "private"}})
    else:
        body["spec"]["volumes"] = []
    found = read_desired(body)
    assert found is not None
    return found


def make_observed(macs: set[str], volumes: set[str], power: Power = Power.RUNNING, **of: Any) -> Observed:
    """Give a guest that is connected."""
    desired = make_desired()
    whole: dict[str, Any] = {
        "power": power,
        "epoch": 1,
        "plugged": frozenset(port.tap for port in desired.ports if port.mac in macs),
        "carried": frozenset({4096}),
        "power_changes": 0,
        "devices": Devices(frozenset(macs), frozenset(volumes)),
        "held": frozenset(port.tap for port in desired.ports if port.mac in macs),
    }
    return Observed(**whole | of)


def actions(desired: Desired, observed: Observed) -> list[Action]:
    """Give the verbs of the plan."""
    return [step.action for step in plan(desired, observed, Claim.OURS).steps]


def test_what_a_guest_lacks_is_attached_and_what_it_has_is_left() -> None:
    """Each of what was given is plugged in once: a guest that has it all needs nothing."""
    assert actions(make_desired(), make_observed({MAC}, set())) == [Action.ATTACH]
    assert actions(make_desired(), make_observed({MAC}, {VOLUME_ID})) == [Action.ATTACH]
    assert actions(make_desired(), make_observed({MAC, MAC2}, {VOLUME_ID})) == []


@pytest.mark.parametrize("bus", ["ide", "sata"])
def test_disks_on_ide_and_sata_wait_for_the_next_start(bus: str) -> None:
    """No volume comes or leaves as the guest runs, NICs do; conditions say so until the guest is started anew."""
    desired = make_desired(hardware={"diskBus": bus})
    seen = make_observed({MAC, MAC2}, set())
    assert actions(desired, seen) == []
    assert actions(desired, make_observed({MAC}, set())) == [Action.ATTACH], "a NIC"
    leaving = make_desired(named=False, hardware={"diskBus": bus})
    assert actions(leaving, make_observed({MAC}, {VOLUME_ID})) == []
    for asked, there, waiting in ((desired, set(), True), (leaving, {VOLUME_ID}, True), (desired, {VOLUME_ID}, False)):
        seen = make_observed({MAC, MAC2}, there)
        planned = plan(asked, seen, Claim.OURS)
        late = held_up_after(seen, asked, planned, acting=False)
        assert late == HeldUp(bound=("data",) if waiting else ())
        found = Found(ObservedPowerState.RUNNING, ReadyReason.RUNNING, parts=started_parts(), held_up=late)
        conditions = server_status(asked, {}, found)["conditions"]
        told = {item["type"]: (item["status"], item["reason"]) for item in conditions}
        assert told.get("RestartRequired") == (("True", "VolumesChanged") if waiting else None)
        assert told["VolumesReady"] == (("False", "RestartRequired") if waiting else ("True", "Attached"))
    started = make_observed(set(), set(), Power.OFF)
    assert held_up_after(started, desired, plan(desired, started, Claim.OURS), acting=False) == HeldUp()


def test_a_flavor_of_another_machine_waits_for_the_next_start() -> None:
    """A guest that runs says that it has another machine than it was given, until it is started anew."""
    desired, plain = make_desired(hardware={"machine": "q35"}), make_desired()
    there = {"macs": {MAC, MAC2}, "volumes": {VOLUME_ID}}
    other = make_observed(**there, hardware=Hardware())
    same = make_observed(**there, hardware=desired.hardware)
    off = make_observed(set(), set(), Power.OFF, hardware=Hardware())
    for asked, seen, waits in (
        (desired, other, True),
        (desired, same, False),
        (plain, other, False),
        (plain, same, True),
    ):
        changed = has_other_machine(seen, asked, plan(asked, seen, Claim.OURS), acting=False)
        assert changed is waits
        found = Found(ObservedPowerState.RUNNING, ReadyReason.RUNNING, parts=started_parts(), other_machine=changed)
        conditions = server_status(asked, {}, found)["conditions"]
        told = [item["reason"] for item in conditions if item["type"] == "RestartRequired"]
        assert told == (["FlavorChanged"] if waits else [])
    assert not has_other_machine(off, desired, plan(desired, off, Claim.OURS), acting=False)


def test_what_a_guest_can_take_is_what_its_running_machine_can() -> None:
    """A guest that was started on IDE waits with its volumes though it was given another bus since, and the reverse."""
    ide, plain = make_desired(hardware={"diskBus": "ide"}), make_desired()
    assert actions(plain, make_observed({MAC, MAC2}, set(), hardware=ide.hardware)) == []
    assert actions(ide, make_observed({MAC, MAC2}, set(), hardware=Hardware())) == [Action.ATTACH]


def told_by(desired: Desired, observed: Observed) -> dict[str, tuple[str, str]]:
    """Give status and reason of each condition after what the plan asks for was done."""
    planned = plan(desired, observed, Claim.OURS)
    late = held_up_after(observed, desired, planned, acting=False)
    found = Found(ObservedPowerState.RUNNING, ReadyReason.RUNNING, parts=started_parts(), held_up=late)
    return {item["type"]: (item["status"], item["reason"]) for item in server_status(desired, {}, found)["conditions"]}


def test_what_finds_no_slot_waits_for_the_next_start() -> None:
    """A running guest without a free slot is asked for nothing, and conditions tell what it waits for, and for what."""
    desired = make_desired()
    full = make_observed({MAC}, set(), slots=Slots(0))
    assert actions(desired, full) == []
    told = told_by(desired, full)
    assert told["VolumesReady"] == told["NetworkReady"] == ("False", "NoFreeSlot")
    assert told["RestartRequired"] == ("True", "NoFreeSlot")
    assert told["Ready"] == ("True", "Running")
    assert plan(desired, full, Claim.OURS).look_again is None
    one = make_observed({MAC}, set(), slots=Slots(1))
    assert actions(desired, one) == [Action.ATTACH]
    assert [port.mac for port in coming(desired, one).ports] == [MAC2]
    told = told_by(desired, one)
    assert (told["VolumesReady"], told["NetworkReady"]) == (("False", "NoFreeSlot"), ("True", "Wired"))
    assert "RestartRequired" not in told_by(desired, make_observed({MAC}, set(), slots=Slots(2)))
    off = make_observed(set(), set(), Power.OFF, slots=Slots(0))
    assert told_by(desired, off)["VolumesReady"] == ("True", "Attached")


@pytest.mark.parametrize(
    ("hardware", "slots", "ports", "volumes"),
    [
        ({"machine": "q35"}, Slots(1, 0), 1, 0),
        ({"machine": "q35", "diskBus": "scsi"}, Slots(1, 0), 1, 1),
        ({"machine": "q35", "interfaceModel": "e1000"}, Slots(1, 0), 0, 1),
        ({"machine": "q35", "interfaceModel": "e1000"}, Slots(0, 9), 1, 0),
        ({"interfaceModel": "rtl8139"}, Slots(2), 1, 1),
        ({"diskBus": "ide"}, Slots(9), 1, 0),
    ],
)
def test_who_takes_which_slot(hardware: dict[str, str], slots: Slots, ports: int, volumes: int) -> None:
    """Disks on SCSI need no slot, old cards on q35 have slots of their own, and all others share theirs."""
    found = coming(make_desired(hardware=hardware), make_observed({MAC}, set(), slots=slots))
    assert (len(found.ports), len(found.volumes)) == (ports, volumes)


def test_slots_are_counted_in_what_libvirt_says() -> None:
    """A port of PCI Express is one slot; what a root bus keeps for itself is none."""
    express = """<domain><devices><controller type="pci" index="0" model="pcie-root"/>
      <controller type="pci" index="1" model="pcie-root-port"><address type="pci" bus="0x00" slot="0x01"/></controller>
      <controller type="pci" index="2" model="pcie-root-port"><address type="pci" bus="0x00" slot="0x01"/></controller>
      <interface><address type="pci" bus="0x02" slot="0x00"/></interface></devices></domain>"""
    assert free_slots(express) == Slots(1, 0)
    old = """<domain><devices><controller type="pci" index="0" model="pci-root"/>
      <interface><address type="pci" bus="0x00" slot="0x03"/></interface></devices></domain>"""
    assert free_slots(old) == Slots(28)


async def test_a_volume_on_ide_is_held_until_the_guest_is_off() -> None:
    """A guest on IDE that lets go of a NIC keeps its volume, which is not told as free."""
    desired = make_desired(named=False, hardware={"diskBus": "ide"})
    asked: list[frozenset[str]] = []

    async def detach_(_instance_id: str, _macs: frozenset[str], volumes: frozenset[str]) -> Devices:
        asked.append(volumes)
        return Devices()

    async def unplug(_tap: str) -> None:
        """Have it gone."""

    networks = SimpleNamespace(held=lambda _id: {}, retain=lambda _id, _taps: unplug(""))
    files = SimpleNamespace(exist=lambda: False)
    actuators: Any = SimpleNamespace(
        hypervisor=SimpleNamespace(detach=detach_),
        networks=networks,
        datapath=SimpleNamespace(unplug=unplug),
        files=lambda _id: files,
    )
    seen = make_observed({MAC, MAC2}, {VOLUME_ID})
    changed = await detach(actuators, desired, seen)
    assert asked == [frozenset()]
    assert detached(desired, seen, changed) == {PORT2}


def test_what_the_spec_names_no_more_is_detached() -> None:
    """What was given and is not named any more leaves the guest, and its tap the host, also one step at a time."""
    desired = make_desired(named=False)
    assert desired.leaving == {PORT2, VOLUME_ID}
    assert actions(desired, make_observed({MAC, MAC2}, {VOLUME_ID})) == [Action.DETACH]
    held = make_observed({MAC}, set(), held=frozenset(port.tap for port in desired.all_ports))
    assert actions(desired, held) == [Action.DETACH], "killed between the guest's answer and the tap's removal"
    assert actions(desired, make_observed({MAC}, set())) == []


def test_a_device_that_nobody_has_given_is_detached() -> None:
    """A volume that the assignment does not hold (an older one was restored) does not stay in the guest."""
    other = "00000000-0000-4000-8000-000000000099"
    assert actions(make_desired(), make_observed({MAC, MAC2}, {VOLUME_ID, other})) == [Action.DETACH]


def test_a_guest_that_migrates_keeps_what_it_has() -> None:
    """While a server has a target all that it was given counts, and nothing is attached or detached."""
    desired = make_desired(named=False, target="h2")
    assert not desired.leaving
    assert len(desired.ports) == 2
    assert actions(desired, make_observed({MAC, MAC2}, set())) == []


def test_a_paused_guest_is_served_too() -> None:
    """A paused guest gets its devices, and is asked to let go of what leaves it."""
    desired = make_desired(named=False)
    observed = make_observed({MAC}, {VOLUME_ID}, Power.PAUSED)
    assert Action.DETACH in actions(desired, observed)


def test_a_paused_guest_goes_on_before_it_is_asked_to_let_go() -> None:
    """Whoever has a paused guest run does not wait for an answer that it cannot give."""
    desired = make_desired(named=False)
    observed = make_observed({MAC}, {VOLUME_ID}, Power.PAUSED, halted=True)
    assert actions(desired, observed) == [Action.RESUME, Action.DETACH]


@pytest.mark.parametrize(
    ("power", "there", "changed", "expected"),
    [
        (Power.OFF, None, DevicesChanged(), {PORT2, VOLUME_ID}),
        (Power.ABSENT, None, DevicesChanged(), {PORT2, VOLUME_ID}),
        (Power.CRASHED, None, DevicesChanged(), {PORT2, VOLUME_ID}),
        (Power.RUNNING, Devices(frozenset({MAC, MAC2}), frozenset({VOLUME_ID})), DevicesChanged(), set()),
        (
            Power.RUNNING,
            Devices(frozenset({MAC, MAC2}), frozenset({VOLUME_ID})),
            DevicesChanged(pending=frozenset({VOLUME_ID}), asked=True),
            {PORT2},
        ),
        (Power.RUNNING, Devices(frozenset({MAC}), frozenset()), DevicesChanged(), {PORT2, VOLUME_ID}),
        (Power.SUSPENDED, Devices(frozenset({MAC, MAC2}), frozenset()), DevicesChanged(), {VOLUME_ID}),
        (Power.RUNNING, None, DevicesChanged(), set()),
    ],
)
def test_only_what_is_seen_to_be_unplugged_is_told_so(
    power: Power, there: Devices | None, changed: DevicesChanged, expected: set[str]
) -> None:
    """A server that is off has nothing plugged in; of one in memory only what its domain does not have is free."""
    observed = Observed(power=power, devices=there)
    assert detached(make_desired(named=False), observed, changed) == expected
    assert detached(make_desired(), observed, changed) == set()


def test_devices_are_known_by_file_and_mac() -> None:
    """The volumes and NICs of a domain are found; its own disks are none of them."""
    xml = f"""<domain><devices>
      <disk><source file="/var/lib/kumulus/instances/i/root.qcow2"/><target dev="vda"/></disk>
      <disk><source file="/var/lib/kumulus/volumes/{VOLUME_ID}.raw"/><target dev="vdb"/></disk>
      <disk device="cdrom"><target dev="vdc"/></disk>
      <interface type="ethernet"><mac address="{MAC}"/></interface>
    </devices></domain>"""
    assert devices_of(xml) == Devices(frozenset({MAC}), frozenset({VOLUME_ID}))
    assert not devices_of("<domain/>")
