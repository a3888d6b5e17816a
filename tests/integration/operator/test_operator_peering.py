"""Peering with the cluster: granted by the Project, decided once, told by the Network's condition."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import AddressClaim, Host, Network, NetworkEndpoints, Project
from kumulus_api.claims import address_claim_name
from kumulus_lab.testing.site import Site
from kumulus_runtime.errors import Invalid

BOTH = {"fromPods": True, "toServices": True}


async def ask(site: Site, name: str, cidr: str, **peering: Any) -> None:
    """Make a network that asks to be peered, by default both ways."""
    subnets = [{"name": "v4", "cidr": cidr}]
    await site.create(Network, name, {"subnets": subnets, "peering": peering or BOTH})
    await site.condition(Network, name, "Ready", "True")


async def grant(site: Site, *ranges: str, to_services: bool = True) -> None:
    """Have the project granted so much."""
    spec = {"spec": {"peering": {"fromPods": list(ranges), "toServices": to_services}}}
    await site.client.patch_merge(Project, site.name, spec)


async def test_a_tenant_opens_nothing_that_is_not_granted(site: Site) -> None:
    """A network asks in vain until an administrator grants it; when it is no longer granted, all is taken back."""
    await site.host("p1", tunnel="192.0.2.1")
    await site.basics()
    await ask(site, "web", "10.128.0.0/24")
    refusal = await site.condition(Network, "web", "Peered", "False", "NotGranted")
    assert "10.128.0.0/24" in refusal["message"]
    assert "toServices" in refusal["message"]
    assert "assignment" not in (await site.get(Network, "web"))["spec"]
    await grant(site, "10.128.0.0/16")
    told = await site.condition(Network, "web", "Peered", "True", "Peered")
    assert told["message"] == "pods reach 10.128.0.0/24; servers reach Services in 10.96.0.0/16"
    given = await site.assigned(Network, "web")
    assert (given["fromPods"], given["subnets"], given["services"]) == (True, ["10.128.0.0/24"], ["10.96.0.0/16"])
    (peer,) = given["hosts"]
    assert (peer["host"], peer["addresses"]) == ("p1", ["10.128.0.1/24"])
    vni = (await site.get(Network, "web"))["status"]["vni"]
    claim = await site.client.get(AddressClaim, address_claim_name(vni, "10.128.0.1"))
    assert claim is not None

    await site.client.patch_merge(Project, site.name, {"spec": {"peering": None}})
    await site.condition(Network, "web", "Peered", "False", "NotGranted")
    given = await site.assigned(Network, "web")
    assert (given["fromPods"], given["hosts"], given["services"]) == (False, [], [])
    await site.gone(AddressClaim, address_claim_name(vni, "10.128.0.1"))


async def test_hosts_come_and_go(site: Site) -> None:
    """Each host has an address of its own, which other hosts hear of; a new one gets one, the others keep theirs."""
    await site.host("p1", tunnel="192.0.2.1")
    await site.basics(peering={"fromPods": ["10.129.0.0/16"]})
    await ask(site, "web", "10.129.0.0/24", fromPods=True, securityGroups=["visitors"])
    await site.condition(Network, "web", "Peered", "True")
    await site.host("p2", tunnel="192.0.2.2")
    body = await site.until(Network, "web", lambda body: len(body["spec"]["assignment"]["hosts"]) == 2)
    hosts = {peer["host"]: peer for peer in body["spec"]["assignment"]["hosts"]}
    assert {name: peer["addresses"] for name, peer in hosts.items()} == {
        "p1": ["10.129.0.1/24"],
        "p2": ["10.129.0.2/24"],
    }
    assert hosts["p1"]["mac"] != hosts["p2"]["mac"]
    told = await site.until(NetworkEndpoints, "web-0", lambda body: len(body["spec"]["endpoints"]) == 2)
    found = {item["port"]: item for item in told["spec"]["endpoints"]}
    assert found["peering..p2"]["tunnelAddress"] == "192.0.2.2"
    assert found["peering..p2"]["mac"] == hosts["p2"]["mac"]
    assert found["peering..p2"]["groups"] == ["visitors"]

    await site.client.delete(Host, "p1")
    body = await site.until(Network, "web", lambda body: len(body["spec"]["assignment"]["hosts"]) == 1)
    assert body["spec"]["assignment"]["hosts"] == [hosts["p2"]]
    vni = body["status"]["vni"]
    await site.gone(AddressClaim, address_claim_name(vni, "10.129.0.1"))


async def test_of_two_that_overlap_the_first_has_it(site: Site) -> None:
    """The second is told by whom it is kept out, and has its place when the first leaves it, or is deleted."""
    await site.host("p1", tunnel="192.0.2.1")
    await site.basics(peering={"fromPods": ["10.130.0.0/16"]})
    await ask(site, "first", "10.130.0.0/24", fromPods=True)
    await site.condition(Network, "first", "Peered", "True")
    await ask(site, "second", "10.130.0.0/25", fromPods=True)
    refusal = await site.condition(Network, "second", "Peered", "False", "OverlapsNetwork")
    assert "network first" in refusal["message"]
    await site.client.patch_merge(Network, "first", {"spec": {"peering": {"fromPods": False}}}, site.name)
    await site.condition(Network, "second", "Peered", "True")
    await site.client.patch_merge(Network, "first", {"spec": {"peering": {"fromPods": True}}}, site.name)
    await site.condition(Network, "first", "Peered", "False", "OverlapsNetwork")
    await site.client.delete(Network, "second", site.name)
    await site.condition(Network, "first", "Peered", "True")


async def test_the_clusters_own_ranges_are_refused(site: Site) -> None:
    """A subnet among pods, Services or nodes is refused though it is granted; Services work where tenants are equal."""
    await site.host("p1", tunnel="192.0.2.1")
    await site.basics(peering={"fromPods": ["10.0.0.0/8", "192.0.2.0/24"], "toServices": True})
    for name, cidr, what in (
        ("pods", "10.251.7.0/24", "pods"),
        ("services", "10.96.7.0/24", "Services"),
        ("nodes", "192.0.2.0/28", "192.0.2.1"),
    ):
        await ask(site, name, cidr)
        refusal = await site.condition(Network, name, "Peered", "False", "OverlapsCluster")
        assert what in refusal["message"]
    for name in ("one", "two"):
        await ask(site, name, "10.131.0.0/24", toServices=True)
        await site.condition(Network, name, "Peered", "True")


async def test_a_network_that_is_the_clouds_own_is_not_peered(site: Site) -> None:
    """An external network, or one of type Provider, cannot ask for it."""
    await site.basics()
    subnets = [{"name": "v4", "cidr": "10.132.0.0/24"}]
    with pytest.raises(Invalid, match="peering is for a project's own networks"):
        await site.create(Network, "out", {"subnets": subnets, "external": True, "peering": BOTH})
    provider = {"physicalNetwork": "physnet1", "type": "Flat", "mtu": 1500}
    spec = {"type": "Provider", "provider": provider, "subnets": subnets, "peering": BOTH}
    with pytest.raises(Invalid, match="peering is for a project's own networks"):
        await site.create(Network, "out", spec)


async def test_addresses_that_run_out_are_told(site: Site) -> None:
    """A subnet that is too small for all hosts serves those that have an address, and says who has none."""
    for number in range(1, 8):
        await site.host(f"p{number}", tunnel=f"192.0.2.{number}")
    await site.basics(peering={"fromPods": ["10.133.0.0/16"]})
    await ask(site, "small", "10.133.0.0/29", fromPods=True)
    refusal = await site.condition(Network, "small", "Peered", "False", "AddressesExhausted")
    assert "host p6 has no address" in refusal["message"]
    given = await site.assigned(Network, "small")
    assert [peer["host"] for peer in given["hosts"]] == ["p1", "p2", "p3", "p4", "p5"]
