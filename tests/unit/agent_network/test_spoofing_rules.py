"""The chain that looks into neighbour discovery: one for a network, of few rules, that names each port's own."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address

from kumulus_agent.network.elements import elements, guarding
from kumulus_agent.network.state import NetworkDesired, PortDesired


def make_network(*numbers: int, ipv6: bool = True) -> NetworkDesired:
    """A network with ports of these numbers."""
    ports = tuple(
        PortDesired(
            f"kt{number:011x}",
            f"02:00:00:00:00:{number:02x}",
            (IPv4Address(number), *((IPv6Address((0xFD00 << 112) + number),) if ipv6 else ())),
            f"i{number}",
        )
        for number in numbers
    )
    return NetworkDesired(42, 1450, "192.0.2.1", ports=ports)


def test_rules_do_not_grow_with_ports() -> None:
    """A network of many ports has as many rules as one of few: the kernel lists them all at each change."""
    (few,), (many,) = guarding(make_network(1), 7), guarding(make_network(*range(1, 101)), 7)
    assert len(few.rules) == len(many.rules)
    assert len(json.dumps(many.rules)) < 100 * 600


def test_each_port_is_led_to_the_chain_of_its_network() -> None:
    """A port with IPv6 is in the map, with its addresses and the link's; one without is in neither."""
    network = make_network(1, 2)
    (chain,) = guarding(network, 7)
    assert (chain.family, chain.zone) == ("bridge", 7)
    found = set(elements(network, 7, {port.tap: 1 for port in network.ports}))
    assert {e.key[0]: e.value for e in found if e.set == "neighbours"} == dict.fromkeys(
        (port.tap for port in network.ports), chain.name
    )
    assert {e.key[1] for e in found if e.set == "addresses6"} == {
        "fd00::1",
        "fd00::2",
        "fe80::ff:fe00:1",
        "fe80::ff:fe00:2",
    }
    assert not guarding(make_network(1, 2, ipv6=False), 7)


def test_another_port_or_address_is_another_chain() -> None:
    """What is in a chain decides its name, whatever the order of the ports."""
    names = {
        next(iter(guarding(network, 7))).name
        for network in (make_network(1, 2), make_network(2, 1), make_network(1), make_network(1, 3))
    }
    assert len(names) == 3
