"""What the agent does and tells, look after look, while devices come and go; a hypervisor and a datapath in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kumulus_agent.compute.devices import volume_of
from kumulus_agent.compute.domain_spec import Disk, Nic
from kumulus_agent.compute.errors import Retryable
from kumulus_agent.compute.plugged import Devices
from kumulus_agent.servers.controller import ServerController
from kumulus_agent.servers.desired import Desired, read_desired
from kumulus_agent.servers.instance_files import instance_files
from kumulus_agent.servers.instances import Instances
from kumulus_agent.servers.observe import Sighting
from kumulus_agent.servers.report import Reporter
from kumulus_agent.servers.start import Actuators
from kumulus_agent.servers.terms import Claim, Observed, Power
from kumulus_agent.settings import AgentSettings
from kumulus_api import Server
from kumulus_api.hardware import Hardware
from kumulus_api.testing import MAC, PORT_ID, VOLUME_ID, make_assigned
from kumulus_runtime.conditions import get_condition
from kumulus_runtime.store import Store

Object = dict[str, Any]
DATA = {"name": "data", "volume": "data", "volumeID": VOLUME_ID, "size": "1Mi"}


class Host:
    """A host with one guest: what is plugged in, which taps there are, and what was told."""

    def __init__(self, devices: Devices, taps: set[str]) -> None:
        self.devices = devices
        self.taps = dict.fromkeys(taps, True)
        self.ports = dict.fromkeys(taps)
        self.deaf = False
        self.refuses = False
        self.status: Object = {}
        self.wired: dict[str, bool] = {}

    # The hypervisor.

    async def attach(self, _instance_id: str, device: Disk | Nic, _hardware: Hardware) -> None:
        """Plug in."""
        if self.refuses:
            raise Retryable("no free slot")
        if isinstance(device, Nic):
            assert self.taps[device.tap] is False, "the tap is where libvirt finds it"
            self.devices = replace(self.devices, macs=self.devices.macs | {device.mac})
        else:
            assert Path(device.path).exists()  # noqa: ASYNC240 - a test
            self.devices = replace(self.devices, volumes=self.devices.volumes | {volume_of(device.path)})

    async def detach(self, _instance_id: str, macs: frozenset[str], volumes: frozenset[str]) -> Devices:
        """Ask the guest."""
        if self.deaf:
            return Devices(self.devices.macs & macs, self.devices.volumes & volumes)
        self.devices = Devices(self.devices.macs - macs, self.devices.volumes - volumes)
        return Devices()

    # The datapath: taps by name, and whether they are plugged.

    async def prepare_tap(self, name: str, _mtu: int) -> None:
        """Make a tap."""
        self.taps[name] = False

    async def plug(self, name: str, _vni: int) -> None:
        """Join a tap to its network, which knows the port by then."""
        assert name in self.ports
        self.taps[name] = True

    async def unplug(self, name: str) -> None:
        """Remove a tap."""
        self.taps.pop(name, None)

    # The networks.

    def hold(self, _instance_id: str, _name: str, ports: Any) -> None:
        """Count ports."""
        self.ports = {port.tap: None for port in ports}

    def held(self, _instance_id: str) -> Object:
        """Give what is counted."""
        return dict(self.ports)

    async def ensure(self, _networks: Any) -> None:
        """Have the networks."""

    async def retain(self, _instance_id: str, taps: Any) -> None:
        """Count these and no others."""
        self.ports = {tap: None for tap in self.ports if tap in taps}

    # The API.

    async def get(self, _kind: object, name: str, _namespace: str) -> Object | None:
        """Give a Port or nothing."""
        if name == "data":
            return None
        spec = {"assignment": {"host": "h1", "mac": MAC if name == "web-eth0" else None}}
        return {"metadata": {"name": name, "finalizers": ["kumulus.dev/agent"]}, "spec": spec}

    async def apply_status(self, kind: type, body: Object, *, manager: str) -> Object:
        """Take what is told."""
        if kind is Server:
            self.status = body["status"]
        else:
            self.wired[body["metadata"]["name"]] = body["status"]["wired"]
        return {"kind": kind.__name__, "metadata": body["metadata"], "status": body["status"], "spec": {}}


def make_desired(*, volumes: bool, networks: bool) -> Desired:
    """Give a server that was given a volume and a NIC; what is False its spec does not name."""
    body = make_assigned(Server, "web", "h1")
    body["metadata"] |= {"generation": 3, "uid": "u"}
    body["spec"]["assignment"]["volumes"] = [DATA]
    body["spec"] |= ({} if volumes else {"volumes": []}) | ({} if networks else {"networks": []})
    found = read_desired(body)
    assert found is not None
    return found


@pytest.fixture
def settings(tmp_path: Path) -> AgentSettings:
    """An agent of host h1."""
    return AgentSettings(node_name="h1", state_dir=tmp_path)


async def look(host: Host, settings: AgentSettings, desired: Desired, power: Power = Power.RUNNING) -> float | None:
    """Look at the guest once; give when to look again."""
    files = instance_files(settings.instances_dir, desired.instance_id)
    files.directory.mkdir(parents=True, exist_ok=True)
    known: Any = {"hypervisor": host, "datapath": host, "networks": host, "client": host}
    unused = SimpleNamespace()
    known |= dict.fromkeys(("images", "boot_data", "processors", "host_devices"), unused)
    actuators = Actuators(settings, **known, virt="qemu", cache="none")  # type: ignore[arg-type]
    events: Any = SimpleNamespace(post=lambda *_, **__: None)
    reporter = Reporter(host, Store(), "h1", events)  # type: ignore[arg-type]
    none: Any = None
    guests: Any = SimpleNamespace(found=lambda *_: None, of=lambda *_: {})
    instances = Instances(lambda: None)
    controller = ServerController(none, actuators, instances, Store(), reporter, none, none, guests, none)
    observed = Observed(
        power,
        epoch=1,
        plugged=frozenset(tap for tap, plugged in host.taps.items() if plugged),
        carried=frozenset({4096}),
        power_changes=0,
        devices=host.devices if power is Power.RUNNING else None,
        held=frozenset(host.ports),
    )
    return await controller._settle(Sighting(desired.instance_id, None, observed, Claim.OURS, desired))


def says(host: Host, kind: str) -> tuple[str, str]:
    """Give status and reason of a condition."""
    found = get_condition(host.status["conditions"], kind) or {}
    return found["status"], found["reason"]


TAP = make_desired(volumes=True, networks=True).ports[0].tap
WHOLE = Devices(frozenset({MAC}), frozenset({VOLUME_ID}))


async def test_what_was_given_comes_to_the_guest(settings: AgentSettings) -> None:
    """Disk and NIC are plugged in, the port is told to be wired, and the next look finds nothing to do."""
    host, desired = Host(Devices(), set()), make_desired(volumes=True, networks=True)
    assert await look(host, settings, desired) is None
    assert (host.devices, host.taps) == (WHOLE, {TAP: True})
    assert says(host, "VolumesReady") == ("True", "Attached")
    assert host.wired == {"web-eth0": True}
    assert await look(host, settings, desired) is None
    assert (host.devices, host.taps) == (WHOLE, {TAP: True})


async def test_a_failure_leaves_the_guest_running_and_is_tried_again(settings: AgentSettings) -> None:
    """QEMU's refusal is told by the conditions of volumes and network, not by Ready, and no port is called wired."""
    host, desired = Host(Devices(), set()), make_desired(volumes=True, networks=True)
    host.refuses = True
    assert await look(host, settings, desired) == 5.0
    assert says(host, "Ready") == ("True", "Running")
    assert says(host, "VolumesReady") == ("False", "AttachFailed")
    assert says(host, "NetworkReady") == ("False", "AttachFailed")
    assert not host.wired
    host.refuses = False
    assert await look(host, settings, desired) is None
    assert says(host, "NetworkReady") == ("True", "Wired")


async def test_what_is_taken_away_is_told_when_all_of_it_is_gone(settings: AgentSettings) -> None:
    """Guest, tap and network have let go when the id is told; the user's own port is told to be free before."""
    host, desired = Host(WHOLE, {TAP}), make_desired(volumes=False, networks=False)
    assert await look(host, settings, desired) is None
    assert (host.devices, host.taps, host.ports) == (Devices(), {}, {})
    assert host.status["detached"] == sorted([PORT_ID, VOLUME_ID])
    assert host.wired == {"web-eth0": False}


async def test_a_deaf_guest_keeps_what_it_has(settings: AgentSettings) -> None:
    """DetachPending is told, and neither id; the guest is asked again, and its NIC stays connected."""
    host, desired = Host(WHOLE, {TAP}), make_desired(volumes=False, networks=False)
    host.deaf = True
    for _ in range(2):
        assert await look(host, settings, desired) == 10.0
        assert says(host, "VolumesReady") == ("False", "DetachPending")
        assert says(host, "NetworkReady") == ("False", "DetachPending")
        assert "detached" not in host.status
        assert (host.taps, set(host.ports)) == ({TAP: True}, {TAP})
    host.deaf = False
    assert await look(host, settings, desired) is None
    assert host.status["detached"] == sorted([PORT_ID, VOLUME_ID])


async def test_a_server_that_is_off_lets_go_at_once(settings: AgentSettings) -> None:
    """Nothing is plugged into a guest that is off."""
    host = Host(Devices(), set())
    desired = replace(make_desired(volumes=False, networks=False), running=False)
    await look(host, settings, desired, Power.OFF)
    assert host.status["detached"] == sorted([PORT_ID, VOLUME_ID])
