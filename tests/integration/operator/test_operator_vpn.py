"""VPN connections: what hosts are told of them, whose word counts, and the keys that hosts get."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import yaml

from kumulus_api import Host, Network, Router, VPNConnection
from kumulus_lab.testing.site import AGENT, Site, condition_of
from kumulus_runtime.conditions import set_condition
from kumulus_runtime.resources import SECRET

EXAMPLE = Path(__file__).parents[3] / "examples" / "vpn.yaml"
KEY = "as long as it should be"
PEER = "198.51.100.9"


async def world(site: Site, *hosts: str) -> None:
    """Make hosts, a network, and a router that leads out by an external network."""
    for name in hosts:
        await site.host(name, tunnel=f"192.0.2.{60 + int(name[-1])}")
        body = await site.get(Host, name)
        mapping = {"name": f"p{site.name}", "interface": "eth1", "mtu": 1500, "reaches": ["Flat"], "obstacles": []}
        status = body["status"] | {"physicalNetworks": [mapping]}
        await site.client.apply_status(Host, {"metadata": {"name": name}, "status": status}, manager=AGENT)
    await site.basics()
    subnet = {"name": "v4", "cidr": "203.0.113.0/24", "gateway": "203.0.113.1"}
    provider = {"physicalNetwork": f"p{site.name}"}
    await site.create(
        Network, "public", {"type": "Provider", "external": True, "provider": provider, "subnets": [subnet]}
    )
    interface = {"name": "net", "network": {"name": "net"}}
    await site.create(Router, "r", {"interfaces": [interface], "gateway": {"network": {"name": "public"}}})


async def secret(site: Site, content: str = KEY, name: str = "office") -> None:
    """Make or change a Secret."""
    data = {"psk": b64encode(content.encode()).decode()}
    metadata = {"name": name, "namespace": site.name}
    await site.client.apply(SECRET, {"metadata": metadata, "data": data}, manager="a-user")


async def connection(site: Site, name: str = "office", **spec: Any) -> None:
    """Make a connection as a user does."""
    given = {"router": {"name": "r"}, "peerAddress": PEER, "peerCIDRs": ["10.20.0.0/16"], "psk": {"secret": "office"}}
    await site.create(VPNConnection, name, given | spec)


async def told(site: Site, reason: str, name: str = "office", status: str = "False") -> str:
    """Wait until Ready has a reason; give the message."""
    return str((await site.condition(VPNConnection, name, "Ready", status, reason))["message"])


async def says(site: Site, host: str, reason: str, *, up: bool = False) -> None:
    """Tell as a host's agent does."""
    conditions = set_condition([], "Established", up, reason, "told by a test", 1)
    status = {"host": host, "conditions": conditions}
    body = {"metadata": {"name": "office", "namespace": site.name}, "status": status}
    await site.client.apply_status(VPNConnection, body, manager=AGENT)


async def given(site: Site, name: str = "office", **fields: Any) -> dict[str, Any]:
    """Wait until the assignment has these values; give it."""

    def holds(body: dict[str, Any]) -> bool:
        found = body["spec"].get("assignment") or {}
        return bool(found) and all(found.get(field) == value for field, value in fields.items())

    assignment: dict[str, Any] = (await site.until(VPNConnection, name, holds))["spec"]["assignment"]
    return assignment


async def tunnelled(site: Site, *networks: str) -> None:
    """Wait until the router's hosts are told of these networks."""
    await site.until(
        Router, "r", lambda body: (body["spec"].get("assignment") or {}).get("tunnelled", []) == list(networks)
    )


async def test_hosts_are_told_and_tell(site: Site) -> None:
    """The assignment follows the router's gateway and subnets; Ready follows what the host that leads out says."""
    await world(site, "v1", "v2")
    await connection(site)
    assert "office was not found" in await told(site, "SecretNotFound")
    await secret(site)
    router = (await site.assigned(Router, "r"))["gateway"]
    found = await given(site, standby="v2")
    assert (found["host"], found["up"]) == (router["host"], True)
    assert found["localAddress"] == found["localID"] == router["addresses"][0].partition("/")[0]
    assert (found["peerID"], found["localSubnets"]) == (PEER, ["10.0.0.0/24"])
    await tunnelled(site, "10.20.0.0/16")
    await told(site, "WaitingForHost")
    await says(site, found["host"], "AuthenticationFailed")
    assert await told(site, "AuthenticationFailed") == f"host: {found['host']}: told by a test"
    await says(site, "v2", "Established", up=True)
    await told(site, "Established", status="True")
    body = await site.get(VPNConnection, "office")
    assert body["status"]["localAddress"] == found["localAddress"]
    assert KEY not in str(body)
    await site.client.delete(VPNConnection, "office", site.name)
    await site.gone(VPNConnection, "office")
    await tunnelled(site)


async def test_another_key_is_another_version(site: Site) -> None:
    """A changed Secret is told to hosts; one that is gone or too short leaves them what they have, and is said."""
    await world(site, "v1")
    await secret(site)
    await connection(site)
    before = await given(site)
    await secret(site, KEY[::-1])
    after = (
        await site.until(
            VPNConnection,
            "office",
            lambda body: body["spec"]["assignment"]["pskVersion"] != before["pskVersion"],
        )
    )["spec"]["assignment"]
    await secret(site, "short")
    assert "5 bytes" in await told(site, "KeyInvalid")
    assert await given(site) == after
    await site.client.delete(SECRET, "office", site.name)
    await connection(site, "other", peerCIDRs=["10.30.0.0/16"], psk={"secret": "office", "key": "no"})
    await told(site, "SecretNotFound", "other")
    assert await given(site) == after


async def test_what_cannot_be_is_said_and_taken_down(site: Site) -> None:
    """Networks that overlap, subnets of others, a router without gateway: each is said, and nothing is up then."""
    await world(site, "v1")
    await secret(site)
    await connection(site, "self", peerCIDRs=["10.0.0.0/16"])
    assert "overlaps 10.0.0.0/24" in await told(site, "NetworksOverlap", "self")
    await connection(site, "strange", localSubnets=["10.99.0.0/24"], peerCIDRs=["10.40.0.0/16"])
    assert "joins 10.0.0.0/24" in await told(site, "SubnetsInvalid", "strange")
    await connection(site, "lost", router={"name": "none"})
    await told(site, "RouterNotFound", "lost")
    await connection(site)
    await given(site, up=True)
    await connection(site, "second", peerCIDRs=["10.20.7.0/24"])
    assert "VPNConnection office" in await told(site, "NetworksOverlap", "second")
    await site.client.patch_merge(VPNConnection, "office", {"spec": {"adminStateUp": False}}, site.name)
    await given(site, up=False)
    await told(site, "AdminStateDown")
    await tunnelled(site, "10.20.0.0/16")
    await site.client.delete(VPNConnection, "office", site.name)
    await given(site, "second", up=True)
    await tunnelled(site, "10.20.7.0/24")
    await site.client.patch_merge(Router, "r", {"spec": {"gateway": None}}, site.name)
    await told(site, "NoGateway", "second")
    await given(site, "second", up=False)


async def test_a_settled_connection_writes_nothing(site: Site) -> None:
    """What is decided and told is not written again."""
    await world(site, "v1")
    await secret(site)
    await connection(site)
    found = await given(site)
    await says(site, found["host"], "Established", up=True)
    await told(site, "Established", status="True")
    before = await site.get(VPNConnection, "office")
    await site.client.patch_merge(Router, "r", {"spec": {"description": "look again"}}, site.name)
    generation = (await site.get(Router, "r"))["metadata"]["generation"]
    await site.until(Router, "r", lambda body: (body.get("status") or {}).get("observedGeneration", 0) >= generation)
    after = await site.get(VPNConnection, "office")
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert (condition_of(after, "Ready") or {})["status"] == "True"


async def test_the_example_is_decided(site: Site) -> None:
    """What examples/vpn.yaml describes is two tunnels that fit each other, in a project of any name."""
    await site.host("v1")
    await site.basics()
    subnet = {"name": "v4", "cidr": "10.10.0.0/24", "gateway": "10.10.0.1"}
    await site.create(Network, "private", {"subnets": [subnet]})
    kinds = {kind.__name__: kind for kind in (Network, Router, VPNConnection)}
    for body in yaml.safe_load_all(EXAMPLE.read_text()):
        name = body["metadata"]["name"]
        if body["kind"] == "Secret":
            await secret(site, body["stringData"]["psk"], name)
        else:
            await site.create(kinds[body["kind"]], name, body["spec"])
    head, branch = await given(site, "to-branch", up=True), await given(site, "to-head", up=True)
    assert (head["localAddress"], head["peerAddress"]) == (branch["peerAddress"], branch["localAddress"])
    assert (head["localSubnets"], head["peerCIDRs"]) == (branch["peerCIDRs"], branch["localSubnets"])
