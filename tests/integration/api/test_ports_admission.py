"""What users may say of ports, and who may."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import Port
from kumulus_api.testing import make_object
from kumulus_lab.testing.objects import Object
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import ApiError, Forbidden

PUBLIC = {"name": "shared", "namespace": "kumulus-public"}
PLAIN: Object = {"allowedAddressPairs": [], "addresses": [], "securityGroups": []}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"portSecurityEnabled": False, "securityGroups": []}, "without port security has no allowedAddressPairs"),
        ({"portSecurityEnabled": False, "allowedAddressPairs": []}, "without port security is in no securityGroups"),
        ({"allowedAddressPairs": [{"address": "10.0.0.256"}]}, "neither an address nor a range"),
        ({"allowedAddressPairs": [{"address": "10.0.0.1/24"}]}, "neither an address nor a range"),
        ({"allowedAddressPairs": [{"address": "fd00::1/64"}]}, "neither an address nor a range"),
        ({"allowedAddressPairs": [{"address": "fd00::/129"}]}, "neither an address nor a range"),
        ({"allowedAddressPairs": [{"address": "::ffff:10.0.0.1"}]}, "neither an address nor a range"),
        ({"allowedAddressPairs": [{"address": "fe80::1%eth0"}]}, r"allowedAddressPairs\[0\].address"),
        ({"allowedAddressPairs": [{"address": "10.0.0.1", "mac": "0e:6b:6d:00:00:01"}]}, "networks' own servers"),
        ({"allowedAddressPairs": [{"address": "10.0.0.1", "mac": "01:00:5e:00:01:32"}]}, r"\[0\].mac"),
        ({"allowedAddressPairs": [{"address": f"10.0.0.{n}"} for n in range(1, 12)]}, "allowedAddressPairs"),
        ({"mac": "0e:6b:6d:00:00:01"}, "networks' own servers"),
        ({"qos": {}}, "qos gives ingressKbps or egressKbps"),
        ({"qos": {"ingressKbps": 63}}, "spec.qos.ingressKbps"),
        ({"qos": {"ingressKbps": 100, "burstKbits": 0}}, "spec.qos.burstKbits"),
        ({"dnsName": "www.example"}, "spec.dnsName"),
    ],
)
async def test_what_does_not_go_together_is_refused_by_name(admin: KubeClient, spec: Object, words: str) -> None:
    """A port that could not be as it says is refused with a sentence that names the field."""
    with pytest.raises(ApiError, match=words):
        await admin.create(Port, make_object(Port, "odd", **spec))


async def test_a_port_s_settings_change(admin: KubeClient) -> None:
    """All that may change of a port does, and goes away again."""
    await admin.create(Port, make_object(Port, "changing"))
    for spec in (
        {
            "allowedAddressPairs": [],
            "securityGroups": [],
            "portSecurityEnabled": False,
            "qos": None,
            "dnsName": None,
        },
        {"portSecurityEnabled": True, "allowedAddressPairs": [{"address": "0.0.0.0/0"}, {"address": "2001:db8::/48"}]},
        {"qos": {"ingressKbps": 64}, "dnsName": "other"},
    ):
        changed = await admin.patch_merge(Port, "changing", {"spec": spec}, "demo")
        assert all(changed["spec"].get(key) == value for key, value in spec.items())


async def test_only_a_network_s_own_project_lets_a_guest_speak_as_others(connect: Any, cluster: Any) -> None:
    """On a public network a tenant neither turns port security off nor adds pairs nor chooses MACs; its owner does."""
    bind = [
        "create",
        "rolebinding",
        "speakers",
        "--clusterrole=kumulus-project-admin",
        "--group=speakers",
        "-n",
        "demo",
    ]
    cluster.plane.kubectl(*bind)
    tenant, admin = await connect("erin/speakers"), await connect("admin")
    forbidden = (
        {"allowedAddressPairs": [], "portSecurityEnabled": False},
        {"allowedAddressPairs": [{"address": "10.0.0.50"}]},
        {"allowedAddressPairs": [], "mac": "52:54:00:00:00:77"},
    )
    for number, spec in enumerate(forbidden):
        body = make_object(Port, f"public-{number}", **(PLAIN | spec | {"network": PUBLIC}))
        with pytest.raises(Forbidden, match="for those who may update its network"):
            await tenant.create(Port, body)
        await admin.create(Port, body)
        own = body | {"metadata": body["metadata"] | {"name": f"own-{number}"}}
        await tenant.create(Port, own | {"spec": body["spec"] | {"network": {"name": "private"}}})
    await tenant.create(Port, make_object(Port, "plain", **(PLAIN | {"network": PUBLIC})))
    for spec in forbidden[:2]:
        with pytest.raises(Forbidden, match="for those who may update its network"):
            await tenant.patch_merge(Port, "plain", {"spec": spec}, "demo")
    await tenant.patch_merge(Port, "plain", {"spec": {"dnsName": "mine", "qos": {"egressKbps": 1000}}}, "demo")
    # What an administrator allowed stays while other things change.
    await tenant.patch_merge(Port, "public-0", {"metadata": {"labels": {"team": "blue"}}}, "demo")
