"""Security groups at the API server: what is no rule is refused, the default stays, and who may change what."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import IN_USE, Port, SecurityGroup
from kumulus_api.testing import make_object
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import ApiError, Forbidden
from kumulus_runtime.resources import NAMESPACE


def group(name: str, namespace: str = "demo", **spec: Any) -> dict[str, Any]:
    """Give a group of a namespace."""
    body = make_object(SecurityGroup, name, **spec)
    body["metadata"]["namespace"] = namespace
    return body


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"protocol": "TCP", "protocolNumber": 6}, "exclude each other"),
        ({"port": 80}, "port needs protocol"),
        ({"protocol": "ICMP", "port": 80}, "port needs protocol"),
        ({"protocolNumber": 6, "port": 80}, "port needs protocol"),
        ({"protocol": "TCP", "port": 80, "endPort": 79}, "endPort needs a port"),
        ({"protocol": "TCP", "endPort": 79}, "endPort needs a port"),
        ({"protocol": "TCP", "icmpType": 8}, "icmpType needs protocol ICMP"),
        ({"protocol": "ICMP", "icmpCode": 0}, "icmpCode needs an icmpType"),
        ({"remoteCIDR": "10.0.0.0/8", "remoteGroup": {"name": "default"}}, "make two rules"),
        ({"remoteCIDR": "fd00::/8"}, "not a range of addresses of etherType"),
        ({"etherType": "IPv6", "remoteCIDR": "10.0.0.0/8"}, "not a range of addresses of etherType"),
        ({"remoteCIDR": "10.0.0.1/8"}, "bits set behind its prefix"),
        ({"protocol": "tcp"}, "protocol"),
    ],
    ids=str,
)
async def test_what_is_no_rule_is_refused(admin: KubeClient, rule: dict[str, Any], words: str) -> None:
    """A rule that says what no packet could be, or two things at once, is refused by a sentence that says so."""
    with pytest.raises(ApiError, match=words):
        await admin.create(SecurityGroup, group("bad", ingress=[rule]))


async def test_a_group_takes_many_rules(admin: KubeClient) -> None:
    """200 rules in each direction are not too much for the API server, and what is left out is filled in."""
    rules = [{"protocol": "TCP", "port": n, "remoteCIDR": f"10.{n}.0.0/16"} for n in range(1, 201)]
    made = await admin.create(SecurityGroup, group("many", ingress=rules, egress=rules))
    assert made["spec"]["ingress"][0]["etherType"] == "IPv4"
    bare = await admin.create(SecurityGroup, group("bare", ingress=None))
    assert bare["spec"]["egress"] == [{"etherType": "IPv4"}, {"etherType": "IPv6"}]
    with pytest.raises(ApiError, match="at most 63 characters, no dots"):
        await admin.create(SecurityGroup, group("a.b"))


async def test_a_group_keeps_its_kind(admin: KubeClient) -> None:
    """A group is stateful unless it says otherwise, and neither kind becomes the other."""
    for name, said in (("kept", {}), ("kept-bare", {"stateful": False})):
        made = await admin.create(SecurityGroup, group(name, **said))
        assert made["spec"]["stateful"] is said.get("stateful", True)
        with pytest.raises(ApiError, match="stateful cannot change"):
            await admin.patch_merge(SecurityGroup, name, {"spec": {"stateful": not made["spec"]["stateful"]}}, "demo")


async def test_the_default_group_stays_while_the_project_lives(admin: KubeClient) -> None:
    """It is deleted by nobody, one by one or all at once, until its namespace goes; others have the finalizer."""
    await admin.create(NAMESPACE, {"metadata": {"name": "sg-life", "labels": {"kumulus.dev/project": "sg-life"}}})
    first = await admin.create(SecurityGroup, group("default", "sg-life"))
    other = await admin.create(SecurityGroup, group("web", "sg-life"))
    assert "finalizers" not in first["metadata"]
    assert other["metadata"]["finalizers"] == [IN_USE]
    with pytest.raises(Forbidden, match="default cannot be deleted while its project lives"):
        await admin.delete(SecurityGroup, "default", "sg-life")
    path = "/apis/kumulus.dev/v1alpha1/namespaces/sg-life/securitygroups"
    with pytest.raises(ApiError, match="default cannot be deleted while its project lives"):
        await admin.request("DELETE", path)
    await admin.patch_merge(SecurityGroup, "default", {"spec": {"ingress": []}}, "sg-life")
    await admin.create(NAMESPACE, {"metadata": {"name": "sg-foreign"}})
    await admin.create(SecurityGroup, group("default", "sg-foreign"))
    await admin.delete(SecurityGroup, "default", "sg-foreign")
    await admin.delete(NAMESPACE, "sg-life")
    if await admin.get(SecurityGroup, "default", "sg-life") is not None:
        await admin.delete(SecurityGroup, "default", "sg-life")


async def test_a_server_says_the_groups_of_its_own_ports(admin: KubeClient, connect: Any) -> None:
    """Of a port that was made for a server users cannot change the groups, of their own they can, and the operator."""
    operator = await connect("operator")
    owned = make_object(Port, "sg-owned", securityGroups=None)
    owned["metadata"]["ownerReferences"] = [
        {"apiVersion": "kumulus.dev/v1alpha1", "kind": "Server", "name": "web", "uid": "u"}
    ]
    await operator.create(Port, owned)
    web = {"spec": {"securityGroups": [{"name": "web"}]}}
    with pytest.raises(Forbidden, match=r"change spec\.networks of the server"):
        await admin.patch_merge(Port, "sg-owned", web, "demo")
    await admin.patch_merge(Port, "sg-owned", {"metadata": {"labels": {"team": "blue"}}}, "demo")
    await operator.patch_merge(Port, "sg-owned", web, "demo")
    await admin.create(Port, make_object(Port, "sg-mine"))
    await admin.patch_merge(Port, "sg-mine", web, "demo")
    await admin.patch_merge(Port, "sg-mine", {"spec": {"securityGroups": []}}, "demo")


async def test_who_may_what_with_groups(connect: Any, cluster: Any, admin: KubeClient) -> None:
    """Members change groups, readers and agents read them, and neither they nor members say what is in use."""
    for role in ("member", "reader"):
        bind = ["create", "rolebinding", f"sg-{role}", f"--clusterrole=kumulus-project-{role}", f"--group=sg-{role}"]
        cluster.plane.kubectl(*bind, "-n", "demo")
    member, reader = await connect("mia/sg-member"), await connect("rita/sg-reader")
    agent, operator = await connect("agent@h1"), await connect("operator")
    await member.create(SecurityGroup, group("roles"))
    await member.patch_merge(SecurityGroup, "roles", {"spec": {"ingress": []}}, "demo")
    assert await reader.get(SecurityGroup, "roles", "demo") is not None
    assert await agent.get(SecurityGroup, "roles", "demo") is not None
    for user in (reader, agent):
        with pytest.raises(Forbidden):
            await user.patch_merge(SecurityGroup, "roles", {"spec": {"ingress": []}}, "demo")
    status = {"metadata": {"name": "roles", "namespace": "demo"}, "status": {"observedGeneration": 1}}
    for user in (member, agent):
        with pytest.raises(Forbidden):
            await user.apply_status(SecurityGroup, status, manager="mallory")
    with pytest.raises(Forbidden, match=r"metadata\.finalizers"):
        await member.patch_merge(SecurityGroup, "roles", {"metadata": {"finalizers": []}}, "demo")
    await operator.apply_status(SecurityGroup, status, manager="kumulus-operator")
    await operator.create(SecurityGroup, group("made-by-operator"))
    await operator.remove_finalizer(SecurityGroup, "roles", IN_USE, "demo")
    await admin.delete(SecurityGroup, "roles", "demo")
