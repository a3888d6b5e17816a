"""Provider networks are the administrators', say where they are, and stay there."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import Host, Network, NetworkIDClaim
from kumulus_api.testing import PORT_ID, make_object
from kumulus_lab.testing.objects import Object
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import ApiError, Forbidden


def provider_network(name: str, **provider: Any) -> Object:
    """Give a Network of type Provider."""
    return make_object(Network, name, type="Provider", provider={"physicalNetwork": "physnet1"} | provider)


async def test_provider_networks_are_for_host_administrators(connect: Any, cluster: Any) -> None:
    """A tenant neither makes nor changes a provider network, and goes on with networks of its own."""
    bind = ["create", "rolebinding", "lans", "--clusterrole=kumulus-project-admin", "--group=lans", "-n", "demo"]
    cluster.plane.kubectl(*bind)
    tenant, admin = await connect("carol/lans"), await connect("admin")
    with pytest.raises(Forbidden, match=r"spec\.type: a network of type Provider is for those who may update hosts"):
        await tenant.create(Network, provider_network("lan"))
    network = await admin.create(Network, provider_network("lan"))
    assert network["spec"]["provider"] == {"physicalNetwork": "physnet1", "type": "Flat", "mtu": 1500}
    subnet = network["spec"]["subnets"][0]
    changed = {"spec": {"subnets": [subnet | {"pools": []}]}}
    with pytest.raises(Forbidden, match=r"spec\.type"):
        await tenant.patch_merge(Network, "lan", changed, "demo")
    await tenant.patch_merge(Network, "lan", {"metadata": {"labels": {"team": "blue"}}}, "demo")
    await tenant.create(Network, make_object(Network, "own"))
    cluster.plane.kubectl("create", "clusterrolebinding", "ops", "--clusterrole=kumulus-cloud-admin", "--group=ops")
    operations = await connect("dave/ops")
    await operations.create(Network, provider_network("operations", type="VLAN", segmentationID=5))
    await admin.patch_merge(Network, "lan", {"spec": {"subnets": [subnet | {"dnsServers": ["192.0.2.1"]}]}}, "demo")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"type": "Provider"}, "a network of type Provider says where it is"),
        ({"provider": {"physicalNetwork": "physnet1"}}, "a network of type Provider says where it is"),
        ({"type": "Provider", "provider": {"physicalNetwork": "p", "type": "VLAN"}}, "has a segmentationID"),
        ({"type": "Provider", "provider": {"physicalNetwork": "p", "segmentationID": 5}}, "has a segmentationID"),
        ({"type": "Provider", "provider": {"physicalNetwork": "Physnet_1"}}, "physicalNetwork"),
    ],
)
async def test_a_provider_network_says_where_it_is(admin: KubeClient, spec: Object, words: str) -> None:
    """What is missing or does not go together is refused by name."""
    with pytest.raises(ApiError, match=words):
        await admin.create(Network, make_object(Network, "odd", **spec))


async def test_a_provider_network_stays_where_it_is(admin: KubeClient) -> None:
    """Neither its physical network, nor its VLAN, nor its MTU changes under the servers that use it."""
    await admin.create(Network, provider_network("fixed", type="VLAN", segmentationID=100))
    for change in ({"physicalNetwork": "other"}, {"segmentationID": 101}, {"mtu": 9000}):
        with pytest.raises(ApiError, match="provider cannot change"):
            await admin.patch_merge(Network, "fixed", {"spec": {"provider": change}}, "demo")


async def test_an_interface_leads_to_one_physical_network(admin: KubeClient) -> None:
    """Mappings name physical networks as Networks do, and no interface twice."""
    await admin.create(Host, make_object(Host, "mapped", bridgeMappings={"physnet1": "eth1", "physnet2": "eth2"}))
    for mappings, words in (
        ({"physnet1": "eth1", "physnet2": "eth1"}, "an interface leads to one physical network"),
        ({"Physnet_1": "eth1"}, "a physical network's name"),
        ({"physnet1": "an-interface-too-long"}, "bridgeMappings"),
    ):
        with pytest.raises(ApiError, match=words):
            await admin.create(Host, make_object(Host, "odd", bridgeMappings=mappings))


async def test_a_claim_is_on_one_value(connect: Any) -> None:
    """A claim holds a number or a segment, not both and not none, and keeps it."""
    operator = await connect("operator")
    holder = {"kind": "Network", "namespace": "demo", "name": "lan", "instance": PORT_ID}
    segment = {"physicalNetwork": "physnet1", "type": "VLAN", "segmentationID": 7}
    both = {"vni": 7, "segment": segment}
    for value in (both, {}):
        with pytest.raises(ApiError, match="a claim is on a number or on a segment"):
            await operator.create(NetworkIDClaim, {"metadata": {"name": "odd"}, "spec": value | {"claimRef": holder}})
    body = {"metadata": {"name": "segment-physnet1-vlan-7"}, "spec": {"segment": segment, "claimRef": holder}}
    await operator.create(NetworkIDClaim, body)
