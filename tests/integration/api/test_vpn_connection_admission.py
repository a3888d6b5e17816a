"""VPN connections: what the schema refuses, what is the operator's, and what an agent may tell."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import VPNConnection
from kumulus_api.testing import make_assigned, make_object
from kumulus_lab.testing.objects import fresh
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import ApiError, Forbidden, Invalid

RESTORER = "restorer/system:masters/kumulus:restorers"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"peerAddress": "office.example"}, "peerAddress"),
        ({"peerAddress": "2001:db8::1"}, "not the IPv4 address of one machine"),
        ({"peerAddress": "127.0.0.1"}, "not the IPv4 address of one machine"),
        ({"peerCIDRs": []}, "peerCIDRs"),
        ({"peerCIDRs": ["0.0.0.0/0"]}, "IPv4 network"),
        ({"peerCIDRs": ["10.20.0.1/16"]}, "without bits beyond its prefix"),
        ({"peerCIDRs": ["2001:db8::/64"]}, "IPv4 network"),
        ({"peerCIDRs": ["198.51.100.0/24"]}, "reached outside the tunnel"),
        ({"localSubnets": ["10.0.0.0"]}, "localSubnets"),
        ({"peerID": 'a"b'}, "peerID"),
        ({"localID": "a\nb"}, "localID"),
        ({"psk": {"secret": "office", "key": "a b"}}, "psk.key"),
        ({"ike": {"encryption": "3DES"}}, "Unsupported value"),
        ({"ike": {"integrity": "SHA1"}}, "Unsupported value"),
        ({"ike": {"dhGroup": "Group2"}}, "Unsupported value"),
        ({"ike": {"version": "IKEv1", "encryption": "AES256GCM"}}, "without GCM"),
        ({"esp": {"pfs": "Group5"}}, "Unsupported value"),
        ({"dpd": {"intervalSeconds": 60, "timeoutSeconds": 60}}, "timeoutSeconds is above intervalSeconds"),
        ({"mtu": 500}, "mtu"),
    ],
)
async def test_bad_input_is_refused(admin: KubeClient, spec: dict[str, Any], said: str) -> None:
    """A mistake, or what is weak today, is refused at once by a sentence that names the field."""
    with pytest.raises(ApiError, match=said):
        await admin.create(VPNConnection, make_object(VPNConnection, "odd", **spec))


async def test_the_least_is_enough_and_the_router_stays(admin: KubeClient) -> None:
    """Router, peer, networks and key are all that has to be said; the router cannot be another."""
    bare: dict[str, Any] = dict.fromkeys(("ike", "esp", "dpd", "initiator", "localSubnets"))
    body = await admin.create(VPNConnection, make_object(VPNConnection, "least", **bare))
    spec = body["spec"]
    assert (spec["ike"]["encryption"], spec["esp"]["pfs"], spec["mtu"]) == ("AES256", "Group14", 1360)
    with pytest.raises(Invalid, match="make another VPNConnection"):
        await admin.patch_merge(VPNConnection, "least", {"spec": {"router": {"name": "b"}}}, "demo")


async def test_the_assignment_is_the_operators(connect: Any, admin: KubeClient) -> None:
    """Neither an administrator nor an agent says what was decided."""
    operator = await connect("operator")
    given = make_assigned(VPNConnection, "a", "h1")["spec"]["assignment"]
    await admin.create(VPNConnection, make_object(VPNConnection, "decided"))
    for user in ("admin", "agent@h1"):
        with pytest.raises(Forbidden):
            await (await connect(user)).patch_merge(VPNConnection, "decided", {"spec": {"assignment": given}}, "demo")
    await operator.patch_merge(VPNConnection, "decided", {"spec": {"assignment": given}}, "demo")
    with pytest.raises(Forbidden):
        await admin.create(VPNConnection, make_object(VPNConnection, "forged", assignment=given))


async def test_the_two_hosts_tell_of_it_and_no_other(connect: Any) -> None:
    """Agents of the gateway's host and its standby write the status, each for itself; others do not, nor anything else.

    What the operator writes stands beside it.
    """
    restorer, operator = await connect(RESTORER), await connect("operator")
    await fresh(restorer, VPNConnection, make_assigned(VPNConnection, "told", "h1"))
    metadata = {"name": "told", "namespace": "demo"}
    condition = {"status": "True", "reason": "Established", "lastTransitionTime": "2026-11-22T00:00:00Z"}
    ready = {"localAddress": "203.0.113.2", "conditions": [{"type": "Ready", **condition}]}
    await operator.apply_status(VPNConnection, {"metadata": metadata, "status": ready}, manager="kumulus-operator")
    for host in ("h1", "h2"):
        agent = await connect(f"agent@{host}")
        said = {"host": host, "peer": "198.51.100.9:4500", "conditions": [{"type": "Established", **condition}]}
        body = await agent.apply_status(VPNConnection, {"metadata": metadata, "status": said}, manager="kumulus-agent")
        assert {item["type"] for item in body["status"]["conditions"]} == {"Ready", "Established"}
        lie = {"metadata": metadata, "status": {"host": "h3"}}
        with pytest.raises(Forbidden, match="no other host"):
            await agent.apply_status(VPNConnection, lie, manager="kumulus-agent")
        with pytest.raises(Forbidden):
            await agent.patch_merge(VPNConnection, "told", {"spec": {"description": "x"}}, "demo")
    alone = make_assigned(VPNConnection, "alone", "h1")
    del alone["spec"]["assignment"]["standby"]
    await fresh(restorer, VPNConnection, alone)
    said = {"metadata": metadata | {"name": "alone"}, "status": {"host": "h2"}}
    with pytest.raises(Forbidden, match="not assigned to host h2"):
        await (await connect("agent@h2")).apply_status(VPNConnection, said, manager="kumulus-agent")
