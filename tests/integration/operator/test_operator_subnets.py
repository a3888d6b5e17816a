"""Networks of several subnets: which addresses ports are given, and which subnets stay."""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Network
from typing import Any

import pytest

from kumulus_api import AddressClaim, Network, Port, Server
from kumulus_api.addresses import eui64
from kumulus_api.claims import address_claim_name
from kumulus_lab.testing.site import Site
from kumulus_runtime.errors import Invalid

FIRST = {"name": "first", "cidr": "10.0.0.0/29"}
SECOND = {"name": "second", "cidr": "10.0.1.0/29", "gateway": "10.0.1.1"}
STATEFUL = {"name": "stateful", "cidr": "fd00:1::/125", "ipv6Mode": "DHCPv6Stateful"}
SLAAC = {"name": "slaac", "cidr": "fd00:2::/64", "gateway": "fd00:2::1", "ipv6Mode": "SLAAC"}


async def make(site: Site, name: str, *subnets: dict[str, Any]) -> int:
    """Make a network of subnets; give its VNI when it is Ready."""
    await site.create(Network, name, {"subnets": list(subnets)})
    await site.condition(Network, name, "Ready", "True")
    return int((await site.get(Network, name))["status"]["vni"])


def nic(network: str, **fields: Any) -> list[dict[str, Any]]:
    """Give a server's only interface."""
    return [{"name": "eth0", "network": {"name": network}, **fields}]


async def test_a_server_has_addresses_of_both_families(site: Site) -> None:
    """Server and port have one address of each family and that which follows from the MAC, each held by a claim."""
    await site.host("n1", memory="64Gi")
    await site.basics()
    vni = await make(site, "both", FIRST, STATEFUL, SLAAC)
    await site.server("web", networks=nic("both"))
    (port,) = (await site.assigned(Server, "web"))["ports"]
    made = str(eui64(IPv6Network("fd00:2::/64"), port["mac"]))
    assert port["addresses"] == ["10.0.0.1", "fd00:1::1", made]
    assert (await site.assigned(Port, "web-eth0"))["addresses"] == port["addresses"]
    for address in port["addresses"]:
        assert await site.client.get(AddressClaim, address_claim_name(vni, address)) is not None
    body = await site.get(Network, "both")
    assert body["status"]["subnetsInUse"] == ["first", "slaac", "stateful"]


async def test_two_spellings_are_one_address(site: Site) -> None:
    """Who asks for an address that another has is refused, however it is written; it stands in its usual spelling."""
    await site.host("n2", memory="64Gi")
    await site.basics()
    await make(site, "both", FIRST, STATEFUL)
    await site.port("mine", "both", addresses=["FD00:0001:0:0::0004"])
    assert (await site.assigned(Port, "mine"))["addresses"] == ["10.0.0.1", "fd00:1::4"]
    await site.server("web", networks=nic("both", address="fd00:1:0:0:0:0:0:4"))
    message = await site.refused("web", "AddressInUse")
    assert message.startswith("address: fd00:1::4 of network both is in use")
    await site.client.delete(Port, "mine", site.name)
    assert (await site.assigned(Server, "web"))["ports"][0]["addresses"][-1] == "fd00:1::4"


async def test_the_next_subnet_gives_when_one_is_full(site: Site) -> None:
    """Addresses come from the second subnet when the first is full; when all are, the refusal names them."""
    await site.basics()
    await make(site, "both", FIRST, SECOND)
    names = [f"p{number}" for number in range(9)]
    for name in names:
        await site.port(name, "both")
    given = await asyncio.gather(*(site.assigned(Port, name) for name in names))
    found = [address for port in given for address in port["addresses"]]
    first = {f"10.0.0.{number}" for number in range(1, 6)}
    assert set(found) == first | {f"10.0.1.{number}" for number in range(2, 6)}
    assert len(set(found)) == len(found)
    await site.port("late", "both")
    refusal = await site.condition(Port, "late", "Ready", "False", "AddressesExhausted")
    assert "all addresses of 10.0.0.0/29, 10.0.1.0/29 are in use" in refusal["message"]
    await site.client.delete(Port, names[0], site.name)
    assert (await site.assigned(Port, "late"))["addresses"] == given[0]["addresses"]


async def test_a_family_without_room_is_refused(site: Site) -> None:
    """A port is not made with half of its addresses."""
    await site.basics()
    await make(site, "both", {"name": "v4", "cidr": "10.0.0.0/24"}, STATEFUL)
    names = [f"p{number}" for number in range(6)]
    for name in names:
        await site.port(name, "both")
        await site.assigned(Port, name)
    await site.port("late", "both")
    refusal = await site.condition(Port, "late", "Ready", "False", "AddressesExhausted")
    assert "all addresses of fd00:1::/125 are in use" in refusal["message"]
    assert "assignment" not in (await site.get(Port, "late"))["spec"]


async def test_an_address_that_follows_from_the_mac_is_not_chosen(site: Site) -> None:
    """In a subnet in which servers make their addresses another one is refused; a MAC that is there already, too."""
    await site.host("n3", memory="64Gi")
    await site.basics()
    await make(site, "own", SLAAC)
    mac = "52:54:00:aa:bb:cc"
    made = str(eui64(IPv6Network("fd00:2::/64"), mac))
    await site.server("web", networks=nic("own", address="fd00:2::5"))
    assert "it follows from the MAC" in await site.refused("web", "AddressInvalid")
    await site.port("mine", "own", mac=mac, addresses=[made])
    assert (await site.assigned(Port, "mine"))["addresses"] == [made]
    await site.port("same", "own", mac=mac)
    refusal = await site.condition(Port, "same", "Ready", "False", "MACInUse")
    assert f"{mac} of network own is in use" in refusal["message"]


async def test_subnets_come_to_a_live_network_and_go_when_unused(site: Site) -> None:
    """A port that is made later has addresses of the new subnet; it cannot be removed until the last is given back."""
    await site.basics()
    await make(site, "live", FIRST)
    await site.port("old", "live")
    assert (await site.assigned(Port, "old"))["addresses"] == ["10.0.0.1"]

    async def subnets(*wanted: dict[str, Any]) -> None:
        await site.client.patch_merge(Network, "live", {"spec": {"subnets": list(wanted)}}, site.name)

    await subnets(FIRST, STATEFUL)
    await site.until(
        Network, "live", lambda body: body["status"].get("observedGeneration") == body["metadata"]["generation"]
    )
    await site.port("new", "live")
    assert (await site.assigned(Port, "new"))["addresses"] == ["10.0.0.2", "fd00:1::1"]
    with pytest.raises(Invalid, match="a subnet of which addresses are held cannot be removed"):
        await subnets(FIRST)
    await site.client.delete(Port, "new", site.name)
    await site.until(Network, "live", lambda body: body["status"]["subnetsInUse"] == ["first"])
    await subnets(FIRST)
    await site.port("after", "live")
    addresses = (await site.assigned(Port, "after"))["addresses"]
    assert [address for address in addresses if ":" in address] == []
