"""A provider network on hosts that are namespaces, with a namespace outside on the physical network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from kumulus_agent.network.command import run
from kumulus_agent.network.errors import NetlinkFailed
from kumulus_agent.network.namespace import within
from kumulus_agent.network.state import NetworkDesired, PortDesired, SubnetDesired, Uplink
from kumulus_agent.networks.carried import CarriedNetworks, NetworkUnknown
from kumulus_agent.networks.physical import PhysicalNetworks
from kumulus_agent.networks.plan import Here
from kumulus_agent.networks.reach import NetworkUnreached
from kumulus_agent.servers.desired import DesiredPort, NetworkKey
from kumulus_lab.testing.namespaces import Machine, cable

VNI = 0x77
OUTSIDE = IPv4Address("10.0.0.1")
SUBNET = SubnetDesired(IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.254"), gateway=OUTSIDE, dns_servers=(OUTSIDE,))
KEY = NetworkKey("kumulus-public", "lan", VNI)
PORT = DesiredPort("eth0", "web-eth0", KEY, "02:00:00:00:00:21", ("10.0.0.21",), "kt00000000021", mtu=1500)
PORT = replace(PORT, groups=(("team", "default"),))
SPEC = {
    "type": "Provider",
    "provider": {"physicalNetwork": "physnet1"},
    "subnets": [{"name": "v4", "cidr": "10.0.0.0/24", "gateway": "10.0.0.1"}],
}


def make_port(number: int) -> PortDesired:
    """A port with the address 10.0.0.<number>."""
    address, mac = IPv4Address(f"10.0.0.{number}"), f"02:00:00:00:00:{number:02x}"
    return PortDesired(f"kt{number:011x}", mac, (address,), f"i{number}", f"web-{number}")


def make_network(host, *ports: PortDesired, **overrides: Any) -> NetworkDesired:
    """The provider network as `host` should have it, on its interface `phys`."""
    network = NetworkDesired(VNI, 1500, host.address, ports=ports, provider=True, uplink=Uplink("phys"))
    return replace(network, **overrides)


async def shown(host, namespace: str = "") -> dict[str, Any] | None:
    """What `ip link` says of the host's interface; None where it is not."""
    where = namespace or host.name
    links = json.loads(await run(("ip", "-netns", where, "-json", "link", "show")))
    found = next((link for link in links if link["ifname"] == "phys"), None)
    if found is None:
        return None
    kept = {name: found.get(name) for name in ("ifalias", "mtu", "address", "master")}
    return kept | {"up": "UP" in found["flags"], "promiscuity": found.get("promiscuity")}


async def test_guests_are_on_the_physical_network(hosts, outside):
    """Guests of two hosts, and a machine outside, reach each other with full packets; nothing goes through a tunnel."""
    guests = []
    for number, host in enumerate(hosts, 11):
        port = make_port(number)
        await host.datapath.ensure_network(make_network(host, port))
        guest = await host.boot(port, VNI)
        await guest.configure()
        guests.append(guest)
    first, second = guests
    assert await first.reaches(OUTSIDE, "-s", "1400")
    assert await outside.reaches(first.port.addresses[0])
    assert await first.reaches(second.port.addresses[0])
    assert f"kx{VNI:06x}" not in (await hosts[0].datapath.observe()).links


async def test_a_guest_cannot_pretend_to_be_another(hosts, outside):
    """Neither a foreign address nor a foreign MAC leaves for the physical network."""
    host, port = hosts[0], make_port(11)
    await host.datapath.ensure_network(make_network(host, port))
    guest = await host.boot(port, VNI)
    await guest.configure()
    await guest.configure(IPv4Address("10.0.0.77"))
    assert await guest.reaches(OUTSIDE)
    assert not await guest.reaches(OUTSIDE, "-I", "10.0.0.77")
    assert not await outside.reaches(IPv4Address("10.0.0.77"))
    await guest.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
    assert not await guest.reaches(OUTSIDE)


@pytest.mark.parametrize("up", [True, False])
async def test_the_interface_is_given_back_as_it_was(hosts, outside, up):
    """State, alias, MTU, MAC and bridge are those of before, also when another agent than the one that took it does."""
    host = hosts[0]
    await run(("ip", "-netns", host.name, "link", "set", "phys", "up" if up else "down", "mtu", "1600"))
    before = await shown(host)
    await host.datapath.ensure_network(make_network(host, make_port(11)))
    assert await shown(host) is None
    taken = await shown(host, host.namespace)
    assert taken is not None
    assert (taken["up"], taken["mtu"]) == (True, 1600)
    await host.datapath.close()
    await host.datapath.start()
    assert await host.datapath.ensure_network(make_network(host, make_port(11))) == []
    assert (await host.datapath.observe()).networks() == {VNI}
    await host.datapath.remove_network(VNI)
    assert await shown(host) == before
    assert await host.datapath.remove_network(VNI) == []


async def test_a_network_without_uplink_gives_the_interface_back(hosts, outside):
    """Guests go on among themselves on a host that is no longer to reach the physical network, and back."""
    host, before = hosts[0], await shown(hosts[0])
    a, b = make_port(11), make_port(12)
    await host.datapath.ensure_network(make_network(host, a, b))
    guests = [await host.boot(port, VNI) for port in (a, b)]
    for guest in guests:
        await guest.configure()
    await host.datapath.ensure_network(make_network(host, a, b, uplink=None))
    assert await shown(host) == before
    assert await guests[0].reaches(b.addresses[0])
    assert not await guests[0].reaches(OUTSIDE)
    await host.datapath.ensure_network(make_network(host, a, b))
    await eventually(lambda: guests[0].reaches(OUTSIDE))


async def test_dhcp_stays_on_the_host_or_is_asked_of_the_outside(hosts, outside):
    """Where Kumulus gives the addresses no question for one leaves the host; where it does not, it does."""
    host, port = hosts[0], make_port(11)
    question = ["busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "2", "-T", "1", "-s", "/bin/true"]
    await host.datapath.ensure_network(make_network(host, port, subnets=(SUBNET,)))
    guest = await host.boot(port, VNI)
    with listening(outside, 67) as heard:
        await guest.run(*question)
        assert not heard()
        await host.datapath.ensure_network(make_network(host, port))
        await guest.run(*question, allowed=(0, 1))
        assert heard()


async def test_frames_of_other_vlans_stay_outside(hosts, outside):
    """A frame with a VLAN tag is not the flat network's: no guest gets it."""
    host, port = hosts[0], make_port(11)
    await host.datapath.ensure_network(make_network(host, port))
    guest = await host.boot(port, VNI)
    await guest.configure()
    await eventually(lambda: guest.reaches(OUTSIDE))
    tagged = b"\xff" * 6 + b"\x02\x00\x00\x00\x00\x55" + b"\x81\x00\x00\x64\x88\xb5" + b"tagged" * 10
    plain = tagged[:12] + b"\x88\xb5" + b"plain!" * 10
    with raw(guest.namespace, "eth0") as listener, raw(outside.namespace, "switch") as sender:
        sender.send(tagged)
        sender.send(plain)
        frames = await asyncio.to_thread(frames_until, listener, b"plain!")
    assert not any(b"tagged" in frame for frame in frames)


async def test_vlans_are_carried_where_the_kernel_has_them(hosts, outside, agent):
    """With 8021q a tagged network has a device of its own and the interface stays; without, it is refused."""
    host, port = hosts[0], make_port(11)
    tagged = make_network(host, port, uplink=Uplink("phys", 100))
    if not await host.datapath.supports_vlans():
        assert (await agent.reasons())["VLAN"] == "VLANUnsupported"
        with pytest.raises(NetlinkFailed, match="make VLAN 100 on phys"):
            await host.datapath.ensure_network(tagged)
        return
    await outside.run("ip", "link", "add", "link", "switch", "name", "v100", "type", "vlan", "id", "100")
    await outside.run("ip", "link", "set", "v100", "up")
    before = await shown(host)
    await host.datapath.ensure_network(tagged)
    guest = await host.boot(port, VNI)
    await guest.configure(IPv4Address("10.0.0.11"))
    await outside.run("ip", "address", "add", "10.0.0.9/32", "dev", "v100")
    await outside.run("ip", "route", "add", "10.0.0.11/32", "dev", "v100", "src", "10.0.0.9")
    await eventually(lambda: outside.reaches(IPv4Address("10.0.0.11")))
    assert await host.datapath.ensure_network(tagged) == []
    await host.datapath.remove_network(VNI)
    assert await shown(host) == before


def raw(namespace: str, interface: str) -> socket.socket:
    """Open a packet socket on an interface."""
    every = socket.htons(3)
    handle = within(namespace, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, every))
    within(namespace, lambda: handle.bind((interface, 3)))
    handle.settimeout(5)
    return handle


def frames_until(listener: socket.socket, wanted: bytes) -> list[bytes]:
    """Receive frames up to the one that holds `wanted`."""
    frames = [listener.recv(2048)]
    while wanted not in frames[-1]:
        frames.append(listener.recv(2048))
    return frames


@contextlib.contextmanager
def listening(machine: Machine, port: int):
    """Listen for UDP on a port there; what is given tells whether something came."""
    handle = within(machine.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with handle:
        handle.bind(("0.0.0.0", port))
        handle.setblocking(False)

        def heard() -> bool:
            try:
                return bool(handle.recv(2048))
            except BlockingIOError:
                return False

        yield heard


class Api:
    """An API server that shows one provider network without endpoints, one group, and then nothing more."""

    async def watch(self, kind: Any, **_: Any) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Show what is there; wait forever."""
        if kind.__name__ == "Network":
            yield "ADDED", {"metadata": {"name": KEY.name, "namespace": KEY.namespace}, "spec": SPEC}
        if kind.__name__ == "SecurityGroup":
            yield "ADDED", {"metadata": {"name": "default", "namespace": "team"}, "spec": {}}
        yield "SYNCED", {}
        await asyncio.Event().wait()


@dataclass
class Agent:
    """The parts of an agent that know of physical networks."""

    mappings: dict[str, str] | None
    physical: PhysicalNetworks
    networks: CarriedNetworks

    async def reasons(self) -> dict[str, str]:
        """Why networks of each type do not reach the host."""
        networks = await self.physical.look() or ()
        return {why.type.value: why.reason.value for network in networks for why in network.obstacles}


@pytest.fixture
async def agent(hosts, outside) -> AsyncIterator[Agent]:
    """The first host's agent, which maps physnet1 to `phys`."""
    datapath = hosts[0].datapath
    physical = PhysicalNetworks(datapath, lambda: agent.mappings, lambda: agent.networks.changed_physical())  # noqa: PLW0108 - made below
    networks = CarriedNetworks(Api(), datapath, Here(hosts[0].name, hosts[0].address, 1450), physical.look)
    agent = Agent({"physnet1": "phys"}, physical, networks)
    worker = asyncio.create_task(networks.queue.run(networks.reconcile, 1))
    follower = asyncio.create_task(physical.follow())
    yield agent
    follower.cancel()
    networks.queue.stop()
    await asyncio.gather(worker, follower, return_exceptions=True)
    await networks.close()


async def eventually(holds: Callable[[], Any]) -> None:
    """Wait for what an agent's queue, or a cable that has just been plugged in, brings about."""
    async with asyncio.timeout(10):
        while not await holds():  # noqa: ASYNC110 - the kernel tells nobody when it has come true
            await asyncio.sleep(0.05)


async def test_an_interface_of_the_hosts_own_is_not_taken(hosts, agent):
    """An address, a bridge or the default route of the host keeps guests away, with the reason; nothing is touched."""
    host, vlans = hosts[0].name, "VLAN" in await agent.reasons()
    assert vlans is not await hosts[0].datapath.supports_vlans()
    assert "Flat" not in await agent.reasons()
    for begin, end in (
        (("address", "add", "10.0.0.3/24", "dev", "phys"), ("address", "delete", "10.0.0.3/24", "dev", "phys")),
        (("link", "add", "br9", "type", "bridge"), None),
        (("link", "set", "phys", "master", "br9"), ("link", "set", "phys", "nomaster")),
        (("route", "add", "default", "dev", "phys"), ("route", "delete", "default")),
    ):
        await run(("ip", "-netns", host, *begin))
        if end is None:
            continue
        assert (await agent.reasons())["Flat"] == "InterfaceInUse"
        before = await shown(hosts[0])
        agent.networks.hold("i21", "web", [PORT])
        with pytest.raises(ExceptionGroup) as refused:
            await agent.networks.ensure([KEY])
        (failure,) = refused.value.exceptions
        assert isinstance(failure, NetworkUnreached)
        assert failure.reason == "InterfaceInUse"
        assert await shown(hosts[0]) == before
        await agent.networks.release("i21")
        await run(("ip", "-netns", host, *end))
        assert "Flat" not in await agent.reasons()


async def test_a_mapping_that_goes_and_comes_moves_the_interface(hosts, agent, outside):
    """What the Host maps is followed while guests run, and the last guest's end gives the interface back."""
    before = await shown(hosts[0])
    agent.networks.hold("i21", "web", [PORT])
    await agent.networks.ensure([KEY])
    guest = await hosts[0].boot(PortDesired(PORT.tap, PORT.mac, (IPv4Address("10.0.0.21"),), "i21"), VNI)
    await guest.configure()
    assert await guest.reaches(OUTSIDE)
    agent.mappings.clear()
    await agent.physical.look()

    async def back() -> bool:
        return await shown(hosts[0]) == before

    async def away() -> bool:
        return await shown(hosts[0]) is None

    await eventually(back)
    await agent.networks.ensure([KEY], running=True)
    with pytest.raises(ExceptionGroup):
        await agent.networks.ensure([KEY])
    agent.mappings["physnet1"] = "phys"
    await agent.physical.look()
    await eventually(away)
    await eventually(lambda: guest.reaches(OUTSIDE))
    await agent.networks.release("i21")
    assert await shown(hosts[0]) == before


async def test_what_is_not_known_yet_is_no_reason_to_let_go(hosts, agent, outside):
    """An agent that has just begun, and has not read its Host, leaves the uplink of the guests that run as it is."""
    agent.networks.hold("i21", "web", [PORT])
    await agent.networks.ensure([KEY])
    known, agent.mappings = agent.mappings, None
    later = CarriedNetworks(Api(), hosts[0].datapath, Here(hosts[0].name, hosts[0].address, 1450), agent.physical.look)
    later.hold("i21", "web", [PORT])
    with pytest.raises(ExceptionGroup) as refused:
        await later.ensure([KEY], running=True)
    assert isinstance(refused.value.exceptions[0], NetworkUnknown)
    assert await shown(hosts[0]) is None
    agent.mappings = known
    await later.ensure([KEY], running=True)
    await later.close()


async def test_an_interface_that_returns_is_seen_at_once(hosts, agent, outside):
    """The kernel tells of a card that goes and comes: what is reached is said anew, and guests are joined again."""
    agent.networks.hold("i21", "web", [PORT])
    await agent.networks.ensure([KEY])
    guest = await hosts[0].boot(PortDesired(PORT.tap, PORT.mac, (IPv4Address("10.0.0.21"),), "i21"), VNI)
    await guest.configure()
    await outside.run("ip", "link", "delete", "p0")
    assert await agent.reasons() == {"Flat": "InterfaceAbsent", "VLAN": "InterfaceAbsent"}
    await cable(outside, 0, hosts[0].name)
    assert "Flat" not in await agent.reasons()

    await eventually(lambda: guest.reaches(OUTSIDE))
