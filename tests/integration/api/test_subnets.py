"""What the API server takes as subnets of a network, and how they may change."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import Network
from kumulus_api.testing import make_object
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import Forbidden, Invalid

V4 = {"name": "v4", "cidr": "10.0.0.0/24"}
V6 = {"name": "v6", "cidr": "2001:db8::/64"}
SLAAC, STATEFUL, STATELESS = "SLAAC", "DHCPv6Stateful", "DHCPv6Stateless"


def network(name: str, *subnets: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Give a Network of these subnets alone."""
    body = make_object(Network, name)
    return body | {"spec": {"subnets": list(subnets), **fields}}


async def create_dry(client: KubeClient, body: dict[str, Any]) -> dict[str, Any]:
    """Ask whether a network would be accepted, and give it as it would be stored."""
    path = "/apis/kumulus.dev/v1alpha1/namespaces/demo/networks"
    return await client.request("POST", path, body, query={"dryRun": "All", "fieldValidation": "Strict"})


GOOD: list[tuple[dict[str, Any], ...]] = [
    (V4, V6),
    (V6 | {"ipv6Mode": SLAAC, "gateway": "2001:db8::1", "dnsServers": ["2001:4860:4860::8888", "8.8.8.8"]},),
    (V6 | {"ipv6Mode": STATEFUL, "pools": [{"start": "2001:db8::10", "end": "2001:db8::ffff"}]},),
    (V6 | {"cidr": "fd00::/125", "ipv6Mode": STATEFUL},),
    (V6 | {"cidr": "fd00::/48"},),
    (V4 | {"gateway": "10.0.0.1", "routes": [{"destination": "172.16.0.0/12", "nextHop": "10.0.0.9"}]},),
    tuple({"name": f"s{number}", "cidr": f"10.{number}.0.0/16"} for number in range(16)),
]


@pytest.mark.parametrize("subnets", GOOD, ids=lambda subnets: f"{len(subnets)}-{subnets[0]['cidr']}")
async def test_subnets_of_both_families_are_taken(admin: KubeClient, subnets: tuple[dict[str, Any], ...]) -> None:
    """Up to 16 subnets, of either family and in each mode, make a network."""
    stored = await create_dry(admin, network("many", *subnets))
    assert [item["cidr"] for item in stored["spec"]["subnets"]] == [item["cidr"] for item in subnets]


BAD: list[tuple[tuple[dict[str, Any], ...], str]] = [
    ((V4, V4 | {"name": "other"}), "two subnets overlap"),
    ((V4, {"name": "wide", "cidr": "10.0.0.0/8"}), "two subnets overlap"),
    ((V6, {"name": "part", "cidr": "2001:db8::/80"}), "two subnets overlap"),
    ((V4, V4), "Duplicate value"),
    (tuple({"name": f"s{number}", "cidr": f"10.{number}.0.0/16"} for number in range(17)), "spec.subnets"),
    ((V6 | {"cidr": "2001:db8::/47"},), "/48 and /125 for IPv6"),
    ((V6 | {"cidr": "2001:db8::/32"},), "/48 and /125 for IPv6"),
    ((V6 | {"cidr": "2001:db8::/126"},), "/48 and /125 for IPv6"),
    ((V6 | {"cidr": "2001:db8::1/64"},), "cidr has bits set behind its prefix"),
    ((V6 | {"cidr": "fe80::/64"},), "that no guest can use"),
    ((V6 | {"cidr": "ff00::/64"},), "that no guest can use"),
    ((V6 | {"cidr": "::/64"},), "that no guest can use"),
    ((V6 | {"cidr": "2001:db8::/80", "ipv6Mode": SLAAC},), "SLAAC and DHCPv6Stateless need a prefix of /64"),
    ((V6 | {"cidr": "2001:db8::/80", "ipv6Mode": STATELESS},), "need a prefix of /64"),
    ((V6 | {"cidr": "2001:db8::/56", "ipv6Mode": STATEFUL},), "DHCPv6Stateful one of /64 to /125"),
    ((V4 | {"ipv6Mode": SLAAC},), "ipv6Mode is for IPv6 subnets"),
    ((V6 | {"ipv6Mode": "Manual"},), "spec.subnets[0].ipv6Mode"),
    ((V6 | {"ipv6Mode": SLAAC, "enableDHCP": False},), "ipv6Mode needs enableDHCP"),
    ((V6 | {"ipv6Mode": SLAAC, "pools": [{"start": "2001:db8::1", "end": "2001:db8::9"}]},), "not from pools"),
    ((V6 | {"gateway": "10.0.0.1"},), "gateway is not an address inside cidr"),
    ((V6 | {"pools": [{"start": "10.0.0.1", "end": "10.0.0.2"}]},), "a pool lies outside cidr"),
    ((V4 | {"routes": [{"destination": "172.16.0.1/12", "nextHop": "10.0.0.9"}]},), "destination is not a network"),
    ((V4 | {"routes": [{"destination": "172.16.0.0/12", "nextHop": "10.0.1.9"}]},), "nextHop lies outside cidr"),
    ((V4 | {"routes": [{"destination": "fd00::/64", "nextHop": "10.0.0.9"}]},), "destination is not an IPv4 network"),
    ((V6 | {"routes": [{"destination": "fd00::/64", "nextHop": "2001:db8::9"}]},), "routes are for IPv4 subnets"),
]


@pytest.mark.parametrize(("subnets", "said"), BAD, ids=lambda value: value[:40] if isinstance(value, str) else "")
async def test_what_no_network_can_be_is_refused(
    admin: KubeClient, subnets: tuple[dict[str, Any], ...], said: str
) -> None:
    """A subnet that contradicts itself or another is refused with a sentence that says why."""
    with pytest.raises(Invalid) as refusal:
        await create_dry(admin, network("bad", *subnets))
    assert said in refusal.value.message


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mtu": 575}, "spec.mtu"),
        ({"mtu": 1279}, "IPv6 needs an mtu of 1280 at least"),
        ({"dnsDomain": "not a domain"}, "spec.dnsDomain"),
        ({"type": "Provider", "provider": {"physicalNetwork": "p"}, "mtu": 1400}, "mtu is in provider"),
    ],
)
async def test_mtu_and_domain_are_what_they_can_be(admin: KubeClient, fields: dict[str, Any], said: str) -> None:
    """An MTU that IPv6 cannot have, two MTUs, and what is no domain are refused."""
    with pytest.raises(Invalid) as refusal:
        await create_dry(admin, network("bad", V4, V6, **fields))
    assert said in refusal.value.message
    assert await create_dry(admin, network("good", V4, V6, mtu=1400, dnsDomain="lan.example.org"))


async def test_subnets_come_and_unused_ones_go(admin: KubeClient) -> None:
    """A live network takes more subnets; one goes unless addresses of it are held, and keeps its range and mode."""
    await admin.create(Network, network("live", V4))

    async def subnets(*wanted: dict[str, Any]) -> None:
        await admin.patch_merge(Network, "live", {"spec": {"subnets": list(wanted)}}, "demo")

    await subnets(V4, V6 | {"ipv6Mode": SLAAC})
    body = {"metadata": {"name": "live", "namespace": "demo"}, "status": {"vni": 4711, "subnetsInUse": ["v4"]}}
    await admin.apply_status(Network, body, manager="kumulus-operator")
    with pytest.raises(Invalid, match="a subnet of which addresses are held cannot be removed"):
        await subnets(V6 | {"ipv6Mode": SLAAC})
    for changed in (V6, V6 | {"ipv6Mode": STATEFUL}, V6 | {"cidr": "2001:db8:1::/64", "ipv6Mode": SLAAC}):
        with pytest.raises(Invalid, match="cidr and ipv6Mode cannot change"):
            await subnets(V4, changed)
    await subnets(V4)


async def test_external_networks_are_for_administrators(admin: KubeClient, cluster: Any, connect: Any) -> None:
    """A tenant makes no network external, neither at its creation nor later, and changes none that is."""
    bind = ["create", "rolebinding", "outs", "--clusterrole=kumulus-project-admin", "--group=outs", "-n", "demo"]
    cluster.plane.kubectl(*bind)
    tenant = await connect("carol/outs")
    with pytest.raises(Forbidden, match=r"spec\.external: an external network is for those who may update hosts"):
        await tenant.create(Network, network("out", V4, external=True))
    await tenant.create(Network, network("carols", V4))
    await admin.create(Network, network("out", V4, external=True))
    for name, change in (("carols", {"external": True}), ("out", {"external": False}), ("out", {"mtu": 1400})):
        with pytest.raises(Forbidden, match=r"spec\.external"):
            await tenant.patch_merge(Network, name, {"spec": change}, "demo")
