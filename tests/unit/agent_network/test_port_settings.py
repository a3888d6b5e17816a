"""What a Port says, as the datapath gets it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from kumulus_agent.network.connections import changed
from kumulus_agent.network.groups import Flow, GroupRule, SecurityGroup
from kumulus_agent.network.limits import (
    BEGUN,
    DROPPED,
    FRAGMENTS,
    FRAGMENTS_OF_NETWORK,
    NEW_VOICES,
    SPOOFED,
    TRACKED,
    Dropped,
    dropped_of,
    forgotten,
)
from kumulus_agent.network.state import AddressPair, NetworkDesired, PortDesired, Rates
from kumulus_agent.network.tracked import Connection
from kumulus_agent.networks.plan import Here, network_desired
from kumulus_agent.networks.port_settings import PortSettings, PortsHere, read_settings
from kumulus_runtime.store import Store

MAC, OTHER, VRRP = "02:00:00:00:00:0b", "02:00:00:00:00:0c", "00:00:5e:00:01:32"
KEY = ("demo", "web", MAC)
HERE = Here("h1", "192.0.2.1", 1450)
WEB = ("demo", "web")


def make_port(version: int = 1, mac: str = MAC, **spec: Any) -> dict[str, Any]:
    """A Port as the API server sends it."""
    metadata = {"name": "web", "namespace": "demo", "resourceVersion": str(version)}
    given = {"portID": "11111111-2222-4333-8444-555555555555", "mac": mac, "addresses": ["10.0.0.11"]}
    return {"kind": "Port", "metadata": metadata, "spec": {"network": {"name": "net"}, "assignment": given, **spec}}


class Ports:
    """An API server with one Port, which counts how often it is asked."""

    def __init__(self, body: dict[str, Any] | None) -> None:
        self.body, self.asked = body, 0

    async def get(self, kind: object, name: str, namespace: str) -> dict[str, Any] | None:
        """Give the Port."""
        self.asked += 1
        return self.body


def make_desired(number: int = 11, **overrides: Any) -> PortDesired:
    """The port with the address 10.0.0.<number>."""
    mac = f"02:00:00:00:00:{number:02x}"
    return PortDesired(f"kt{number:011x}", mac, (IPv4Address(f"10.0.0.{number}"),), f"i{number}", "web", **overrides)


def test_what_a_port_says_of_its_rates_comes_before_its_flavors() -> None:
    """The flavor's rates hold where the Port has no qos, and none of them where it has."""
    port = make_desired(rates=Rates(8, 8))
    assert read_settings(make_port()).of(port).rates == Rates(8, 8)
    assert read_settings(make_port(qos={"egressKbps": 5000})).of(port).rates == Rates(0, 5000)


def test_a_port_is_read_whole() -> None:
    """Pairs, rates and name come as the datapath takes them; a pair with the port's own MAC has none of its own."""
    pairs = [{"address": "10.0.0.50"}, {"address": "10.8.0.0/16", "mac": VRRP}, {"address": "10.0.0.51", "mac": MAC}]
    body = make_port(allowedAddressPairs=pairs, qos={"ingressKbps": 2000, "burstKbits": 64}, dnsName="www")
    assert read_settings(body) == PortSettings(
        frozenset(
            {
                AddressPair(IPv4Network("10.0.0.50/32")),
                AddressPair(IPv4Network("10.8.0.0/16"), VRRP),
                AddressPair(IPv4Network("10.0.0.51/32")),
            }
        ),
        rates=Rates(2000, 0, 64),
        dns_name="www",
    )
    assert read_settings(make_port()) == PortSettings()


def test_a_port_without_security_has_neither_groups_nor_pairs() -> None:
    """Whatever its server says of groups, a port without port security is held to none; both at once is an error."""
    settings = read_settings(make_port(portSecurityEnabled=False))
    assert settings.of(make_desired(groups=frozenset({WEB}))) == make_desired(secured=False)
    with pytest.raises(ValueError, match="without port security"):
        make_desired(secured=False, groups=frozenset({WEB}))


async def test_a_watched_port_is_not_asked_for() -> None:
    """What the watch shows is taken without asking, a change is seen once, and one of the same name is another port."""
    store, api = Store(), Ports(None)
    ports = PortsHere(api, store)  # type: ignore[arg-type]
    store.apply("ADDED", make_port(dnsName="a"))
    assert (await ports.of(KEY)).dns_name == "a"
    assert not ports.changed(KEY)
    store.apply("MODIFIED", make_port(2, dnsName="b"))
    assert ports.changed(KEY)
    assert not ports.changed(KEY)
    store.apply("MODIFIED", make_port(3, mac=OTHER, dnsName="c"))
    assert not ports.changed(KEY)
    assert (await ports.of(KEY)).dns_name == "b"
    assert api.asked == 0


async def test_a_port_that_is_not_watched_is_asked_for_once() -> None:
    """A port that migrates here is read once; one that leaves the watch keeps what it had until it is let go."""
    store, api = Store(), Ports(make_port(dnsName="a"))
    ports = PortsHere(api, store)  # type: ignore[arg-type]
    for _ in range(3):
        assert (await ports.of(KEY)).dns_name == "a"
    assert api.asked == 1
    store.apply("ADDED", make_port(2, dnsName="b"))
    assert ports.changed(KEY)
    store.apply("DELETED", make_port(2, dnsName="b"))
    assert (await ports.of(KEY)).dns_name == "b"
    ports.forget(KEY)
    api.body = None
    assert await ports.of(KEY) == PortSettings()


def endpoint(number: int, host: int, *pairs: dict[str, str], **more: str) -> dict[str, Any]:
    """A port on a host, as the API tells it."""
    mac = f"02:00:00:00:00:{number:02x}"
    place = {"host": f"h{host}", "tunnelAddress": f"192.0.2.{host}", "hostname": "web"}
    return {"port": f"p{number}", "mac": mac, "addresses": [f"10.0.0.{number}"], "pairs": list(pairs), **place, **more}


def carried(*endpoints: dict[str, Any], ports: tuple[PortDesired, ...] = ()) -> NetworkDesired:
    """A network with these endpoints and ports here."""
    body = {"metadata": {"name": "net-0"}, "spec": {"network": {"name": "net"}, "vni": 7, "endpoints": endpoints}}
    return network_desired(7, None, [body], ports, HERE)


def test_a_mac_of_a_pair_is_noted_where_only_one_may_use_it() -> None:
    """One port's pair MAC is where the port is; one that several may use, or that is a port's own, is left to learn."""
    own = {"address": "10.0.0.50", "mac": VRRP}
    noted = carried(endpoint(21, 2, own, {"address": "10.0.0.51", "mac": VRRP})).neighbours
    assert (VRRP, "192.0.2.2") in noted
    here = make_desired(pairs=frozenset({AddressPair(IPv4Network("10.0.0.50/32"), VRRP)}))
    for shared in (
        carried(endpoint(21, 2, own), endpoint(22, 3, own)),
        carried(endpoint(21, 2, own), ports=(here,)),
    ):
        assert VRRP not in {mac for mac, _ in shared.neighbours}
    stolen = carried(endpoint(21, 2, {"address": "10.0.0.50", "mac": MAC}), endpoint(11, 3))
    assert stolen.neighbours == {(MAC, "192.0.2.3"), ("02:00:00:00:00:15", "192.0.2.2")}
    assert carried(endpoint(21, 2, {"address": "10.0.0.50", "mac": MAC}), ports=(make_desired(),)).neighbours == {
        ("02:00:00:00:00:15", "192.0.2.2")
    }


def test_a_port_has_its_server_s_name_and_its_own() -> None:
    """DNS answers for both, of ports here and elsewhere; the server's name leads to all of its ports."""
    records = carried(endpoint(21, 2, dnsName="wan"), endpoint(22, 2), ports=(make_desired(dns_name="lan"),)).records
    assert [(record.name, str(record.address)) for record in records] == [
        ("lan", "10.0.0.11"),
        ("wan", "10.0.0.21"),
        ("web", "10.0.0.11"),
        ("web", "10.0.0.21"),
        ("web", "10.0.0.22"),
    ]


def test_connections_of_a_pair_s_address_are_held_to_the_groups() -> None:
    """A connection to an address of a pair is refused as one to the port's own; a port's own address comes first."""
    pairs = frozenset({AddressPair(IPv4Network("10.0.0.0/25"))})
    ports = (make_desired(11, groups=frozenset({WEB}), pairs=pairs), make_desired(12))
    network = NetworkDesired(
        7, 1450, "192.0.2.1", ports=ports, groups={WEB: SecurityGroup(frozenset({GroupRule("egress")}))}
    )
    flows = [Flow(6, IPv4Address("10.0.0.200"), IPv4Address(f"10.0.0.{n}"), 4000, 80) for n in (11, 12, 50, 201)]
    found = changed(network, [Connection(flow, refused=False) for flow in flows])
    assert [str(item.flow.destination) for item in found] == ["10.0.0.11", "10.0.0.50"]


def test_pairs_of_ipv6_come_with_link_local_addresses() -> None:
    """A pair of IPv6 has the link-local address of its MAC besides, what overlaps is one range, and none is its own."""
    pairs = [
        {"address": "fd00::50", "mac": VRRP},
        {"address": "fd09::/64"},
        {"address": "fd09::5"},
        {"address": "fe80::1"},
    ]
    port = read_settings(make_port(allowedAddressPairs=pairs)).of(make_desired())
    assert port.addresses == (IPv4Address("10.0.0.11"),)
    assert port.sources6 == (IPv6Address("fe80::ff:fe00:b"),)
    assert set(port.ranges) == {
        IPv6Network("fd00::50/128"),
        IPv6Network("fd09::/64"),
        IPv6Network("fe80::1/128"),
        IPv6Network("fe80::200:5eff:fe00:132/128"),
    }
    assert make_desired(pairs=frozenset({AddressPair(IPv4Network("10.0.0.50/32"), VRRP)})).sources6 == ()


def test_what_gives_addresses_is_not_held_to_groups() -> None:
    """DHCP in both directions stays as it is: its entries outlive a guest that starts again at once."""
    network = NetworkDesired(
        7,
        1450,
        "192.0.2.1",
        ports=(make_desired(11, groups=frozenset({WEB})),),
        groups={WEB: SecurityGroup(frozenset())},
    )
    server, guest = IPv4Address("10.0.0.254"), IPv4Address("10.0.0.11")
    flows = [Flow(17, server, guest, 67, 68), Flow(17, guest, server, 68, 67), Flow(17, server, guest, 67, 69)]
    found = changed(network, [Connection(flow, refused=False) for flow in flows])
    assert [item.flow for item in found] == flows[2:]


def test_what_one_of_those_that_share_an_address_permits_stays() -> None:
    """A connection to an address of two ports' pairs is refused only if neither port's groups permit it."""
    shared = frozenset({AddressPair(IPv6Network("fd00::50/128"))})
    other = ("demo", "other")
    groups = {WEB: SecurityGroup(frozenset({GroupRule("ingress", family=6)})), other: SecurityGroup()}
    connection = Connection(Flow(6, IPv6Address("fd00::1"), IPv6Address("fd00::50"), 4000, 80), refused=False)
    for keys, refused in (((WEB, other), 0), ((other, other), 1)):
        ports = tuple(make_desired(11 + n, groups=frozenset({key}), pairs=shared) for n, key in enumerate(keys))
        network = NetworkDesired(7, 1450, "192.0.2.1", ports=ports, groups=groups)
        assert len(changed(network, [connection])) == refused


def test_counters_are_read_by_port_and_reason() -> None:
    """A port's counters are found by its mark; what is no port, or of which nothing was dropped, is left out."""
    marks = {"kt1": 0x10007, "kt2": 0x20007, "kt3": 0x30007, "kx1": 7}
    found = dropped_of({"kt1": 4, "gone": 9}, {0x10001: 1, 0x20002: 2, 0x20003: 3, 0x90001: 5}, marks)
    assert found == {"kt1": Dropped(spoofed=4, egress=1), "kt2": Dropped(ingress=2, excess=3)}


def test_what_the_kernel_knows_of_a_port_that_goes_is_forgotten() -> None:
    """All sets lose the numbers and interfaces that are gone, and nothing of those that stay."""
    commands = forgotten("kumulus", {"kt1": 0x10007, "kt2": 0x20007, "kx1": 7}, {"kt2": 0x20007})
    deleted = [command["delete"]["element"] for command in commands if "delete" in command]
    gone = {(element["name"], key) for element in deleted for key in element["elem"]}
    assert gone == {
        (BEGUN, 0x10000),
        (TRACKED, 0x10000),
        *((DROPPED, 0x10000 | number) for number in (1, 2, 3)),
        (SPOOFED, "kt1"),
        (SPOOFED, "kx1"),
        (NEW_VOICES, "kt1"),
        (NEW_VOICES, "kx1"),
        (FRAGMENTS, 0x10007),
        (FRAGMENTS, 7),
    }
    moved = forgotten("kumulus", {"kt1": 0x10007}, {"kt1": 0x10008})
    assert {item["name"] for c in moved for item in c["add" if "add" in c else "delete"].values()} == {
        FRAGMENTS,
        FRAGMENTS_OF_NETWORK,
    }
