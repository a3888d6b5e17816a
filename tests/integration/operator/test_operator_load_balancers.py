"""Load balancers: a port of their own, two hosts, and the members that there are now."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Any

from kumulus_api import (
    IN_USE,
    AddressClaim,
    FloatingIP,
    Host,
    LoadBalancer,
    Network,
    NetworkEndpoints,
    Port,
    Project,
    Router,
    SecurityGroup,
    Server,
)
from kumulus_api.claims import address_claim_name
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.audit import AuditLog
from kumulus_lab.testing.site import AGENT, Site
from kumulus_runtime.certificates.issuing import issue_apart
from kumulus_runtime.conditions import set_condition
from kumulus_runtime.resources import SECRET

POOL = {"members": [{"name": "one", "server": {"name": "one"}, "port": 8080}]}


async def world(site: Site, hosts: tuple[str, ...] = ("l1", "l2", "l3"), **project: Any) -> None:
    """Make hosts and a network."""
    for index, name in enumerate(hosts):
        await site.host(name, memory="64Gi", tunnel=f"192.0.2.{index + 10}")
    await site.basics(**project)


async def balancer(site: Site, name: str = "lb", pool: dict[str, Any] | None = None, **spec: Any) -> None:
    """Make a load balancer as the user and the admission policy would."""
    listener = {"name": "web", "protocol": "TCP", "port": 80, "pool": POOL if pool is None else pool}
    await site.create(LoadBalancer, name, {"network": {"name": "net"}, "listeners": [listener]} | spec, (IN_USE,))


async def has(site: Site, name: str = "lb", **fields: Any) -> dict[str, Any]:
    """Wait until a load balancer's assignment has these values; give it."""

    def holds(body: dict[str, Any]) -> bool:
        given = body["spec"].get("assignment") or {}
        return bool(given) and all(given.get(field) == value for field, value in fields.items())

    assignment: dict[str, Any] = (await site.until(LoadBalancer, name, holds))["spec"]["assignment"]
    return assignment


async def leads_to(site: Site, *members: tuple[str, str | None], name: str = "lb") -> None:
    """Wait until the first listener has these members with these addresses."""

    def holds(body: dict[str, Any]) -> bool:
        given = body["spec"].get("assignment") or {"listeners": [{}]}
        found = given["listeners"][0].get("members", [])
        return [(item["name"], item.get("address")) for item in found] == list(members)

    await site.until(LoadBalancer, name, holds)


async def told(site: Site, reason: str, name: str = "lb") -> str:
    """Wait until a load balancer lacks something for a reason, and give the message."""
    return str((await site.condition(LoadBalancer, name, "Ready", "False", reason))["message"])


async def serves(site: Site, host: str, name: str = "lb", *, well: bool = True) -> None:
    """Tell as the agent of a host does that it serves."""
    conditions = set_condition([], "Serving", well, "Balancing", "told by a test", 1)
    body = {"metadata": {"name": name, "namespace": site.name}, "status": {"host": host, "conditions": conditions}}
    await site.client.apply_status(LoadBalancer, body, manager=AGENT)


async def address_of(site: Site, server: str) -> str:
    """Give a server's address."""
    return str((await site.assigned(Server, server))["ports"][0]["addresses"][0])


async def test_it_has_a_port_two_hosts_and_members(site: Site) -> None:
    """A load balancer gets a port with a claimed address, a host and a standby, and is Ready when its host says so."""
    await world(site)
    await site.server("one")
    one = await address_of(site, "one")
    await balancer(site)
    await leads_to(site, ("one", one))
    given = await has(site)
    assert {given["host"], given["standby"]} < {"l1", "l2", "l3"}
    port = await site.get(Port, "lb-vip")
    assert port["metadata"]["ownerReferences"][0]["kind"] == "LoadBalancer"
    assert port["spec"]["assignment"] == {
        "portID": given["portID"],
        "mac": given["mac"],
        "addresses": [item.partition("/")[0] for item in given["addresses"]],
    }
    assert given["nextHops"] == ["10.0.0.1"]
    claim = await site.client.get(
        AddressClaim, address_claim_name(given["vni"], port["spec"]["assignment"]["addresses"][0])
    )
    assert claim is not None
    assert claim["spec"]["claimRef"]["instance"] == given["portID"]
    assert "has not told yet" in await told(site, "WaitingForHost")
    await serves(site, given["host"])
    await site.condition(LoadBalancer, "lb", "Ready", "True", "Balancing")
    assert (await site.get(LoadBalancer, "lb"))["status"]["address"] == given["addresses"][0].partition("/")[0]
    await serves(site, given["host"], well=False)
    assert "told by a test" in await told(site, "NotServing")


async def test_its_address_is_among_the_networks_endpoints(site: Site) -> None:
    """Other hosts are told of the port's address, MAC and groups, and where its host is reached."""
    await world(site)
    await balancer(site)
    given = await has(site)

    def holds(body: dict[str, Any]) -> bool:
        return any(item["port"] == "lb-vip" for item in body["spec"].get("endpoints", []))

    (endpoint,) = [
        item
        for item in (await site.until(NetworkEndpoints, "net-0", holds))["spec"]["endpoints"]
        if item["port"] == "lb-vip"
    ]
    assert (endpoint["host"], endpoint["mac"], endpoint["groups"]) == (given["host"], given["mac"], ["default"])
    await site.client.delete(LoadBalancer, "lb", site.name)
    await site.until(NetworkEndpoints, "net-0", lambda body: not holds(body))


async def test_members_come_and_go(site: Site) -> None:
    """Servers that are made, deleted or labelled are members at once, without a look at the load balancer itself."""
    await world(site)
    pool = POOL | {"memberSelector": {"matchLabels": {"app": "web"}, "port": 80}}
    await balancer(site, pool=pool)
    await leads_to(site, ("one", None))
    await site.server("one")
    one = await address_of(site, "one")
    await leads_to(site, ("one", one))
    await site.server("two")
    two = await address_of(site, "two")
    await site.client.patch_merge(Server, "two", {"metadata": {"labels": {"app": "web"}}}, site.name)
    await leads_to(site, ("one", one), ("two", two))
    await site.client.patch_merge(Server, "two", {"metadata": {"labels": {"app": None}}}, site.name)
    await leads_to(site, ("one", one))
    await site.client.delete(Server, "one", site.name)
    await leads_to(site, ("one", None))


async def test_a_silent_host_is_left_by_one_write(site: Site, plane: ControlPlane) -> None:
    """Where hosts have no keepalived the standby of a silent one has the load balancer, and another is the standby.

    It is moved by one write.
    """
    await world(site)
    for name in ("l1", "l2", "l3"):
        status = (await site.get(Host, name))["status"] | {"missingPackages": ["keepalived"]}
        await site.client.apply_status(Host, {"metadata": {"name": name}, "status": status}, manager=AGENT)
    await balancer(site)
    given = await has(site)
    await serves(site, given["host"])
    await site.condition(LoadBalancer, "lb", "Ready", "True")
    await asyncio.sleep(1)
    audit = AuditLog(plane.audit_log)
    site.silence(given["host"])
    after = await has(site, host=given["standby"])
    assert after["standby"] not in {given["host"], given["standby"]}
    assert after | {"host": 0, "standby": 0} == given | {"host": 0, "standby": 0}
    assert given["host"] not in {after["host"], after["standby"]}
    await told(site, "WaitingForHost")
    await asyncio.sleep(1)
    written = [write.subresource for write in audit.writes(site.name) if write.resource in {"loadbalancers", "ports"}]
    assert written == ["", "status"]


async def test_it_stays_where_it_is(site: Site) -> None:
    """Hosts that come make no difference to where it is; one in maintenance is left."""
    await world(site, ("l1", "l2"))
    await balancer(site)
    given = await has(site)
    await site.host("l0", memory="64Gi", tunnel="192.0.2.9")
    await balancer(site, "second")
    second = await has(site, "second")
    assert second["host"] == "l0"
    assert await has(site) == given
    await site.client.patch_merge(Host, given["host"], {"spec": {"maintenance": True}})
    await has(site, host=given["standby"], standby="l0")


async def test_one_host_is_enough(site: Site) -> None:
    """With one host there is no standby, and a host that comes later is it."""
    await world(site, ("l1",))
    await balancer(site)
    assert "standby" not in await has(site, host="l1")
    await site.host("l2", memory="64Gi", tunnel="192.0.2.11")
    await has(site, host="l1", standby="l2")


async def test_each_refusal_says_why(site: Site) -> None:
    """What cannot be had is told with a reason, and had when the reason goes."""
    await site.basics(quota={"loadBalancers": 8})
    await balancer(site, "early")
    assert "there is no host" in await told(site, "NoHost", "early")
    await site.host("l1", memory="64Gi")
    await has(site, "early")
    await balancer(site, "lost", network={"name": "none"})
    assert "network none was not found" in await told(site, "NetworkNotFound", "lost")
    await balancer(site, "outside", address="192.0.2.7")
    assert "192.0.2.7" in await told(site, "AddressInvalid", "outside")
    await balancer(site, "first", address="10.0.0.50")
    await has(site, "first")
    await balancer(site, "same", address="10.0.0.50")
    assert "10.0.0.50 of network net is in use" in await told(site, "AddressInUse", "same")
    await balancer(site, "grouped", securityGroups=[{"name": "web"}])
    assert "security group web was not found" in await told(site, "SecurityGroupNotFound", "grouped")
    await site.create(SecurityGroup, "web", {})
    assert (await has(site, "grouped"))["securityGroups"] == ["web"]
    await site.port("mine-vip")
    await site.assigned(Port, "mine-vip")
    await balancer(site, "mine")
    assert "port mine-vip exists" in await told(site, "PortInUse", "mine")
    secure = {"name": "tls", "protocol": "HTTPS", "port": 443, "tls": {"secret": {"name": "c"}}, "pool": POOL}
    await balancer(site, "secure", listeners=[secure])
    assert "listener tls: Secret c was not found" in await told(site, "SecretNotFound", "secure")
    await site.network("none", "10.9.0.0/24")
    await has(site, "lost")


async def test_datagrams_have_the_members_that_they_reach(site: Site) -> None:
    """A UDP listener is assigned with its check; a member of a family in which no datagram comes is told."""
    await world(site)
    members = [{"name": name, "address": at, "port": 53} for name, at in (("a", "10.0.0.77"), ("b", "2001:db8::7"))]
    dns = {"name": "dns", "protocol": "UDP", "port": 53, "pool": {"healthCheck": {"type": "UDPConnect"}}}
    dns["pool"] |= {"members": members}
    await balancer(site, listeners=[dns, {"name": "tcp", "protocol": "TCP", "port": 53, "pool": POOL}])
    first, second = (await has(site))["listeners"]
    assert (first["protocol"], first["healthCheck"]["type"], second["port"]) == ("UDP", "UDPConnect", 53)
    assert [item["name"] for item in first["members"]] == ["a", "b"]
    assert "member b is at 2001:db8::7" in await told(site, "MemberInvalid")


async def test_the_quota_is_kept(site: Site) -> None:
    """Beyond its project's quota a load balancer waits, and is admitted when there is room."""
    await world(site, quota={"loadBalancers": 1})
    await balancer(site)
    await has(site)
    await balancer(site, "more")
    assert "1 of 1 load balancers are in use" in await told(site, "QuotaExceeded", "more")

    def shown(body: dict[str, Any]) -> bool:
        return bool((body.get("status") or {}).get("quota", {}).get("loadBalancers") == "1/1")

    await site.until(Project, site.name, shown)
    await site.client.delete(LoadBalancer, "lb", site.name)
    await has(site, "more")


async def test_its_groups_are_changed_live(site: Site) -> None:
    """Other groups in its spec are its port's, and its assignment's; a group that it is in is kept."""
    await world(site)
    await site.create(SecurityGroup, "web", {}, (IN_USE,))
    await balancer(site)
    await has(site)
    await site.client.patch_merge(LoadBalancer, "lb", {"spec": {"securityGroups": [{"name": "web"}]}}, site.name)
    await has(site, securityGroups=["web"])
    await site.until(Port, "lb-vip", lambda body: body["spec"]["securityGroups"] == [{"name": "web"}])
    await site.client.delete(SecurityGroup, "web", site.name)
    message = (await site.condition(SecurityGroup, "web", "Ready", "False", "InUse"))["message"]
    assert "lb-vip" in message


async def test_a_certificate_is_followed(site: Site) -> None:
    """A listener whose TLS ends here is served as soon as its Secret is there, and in each version of it.

    What is no certificate is told, and takes away nothing; no object has anything of the Secret.
    """
    await world(site)
    secure = {"name": "tls", "protocol": "HTTPS", "port": 443, "tls": {"secret": {"name": "cert"}}, "pool": POOL}
    await balancer(site, listeners=[secure])
    assert "listener tls: Secret cert was not found" in await told(site, "SecretNotFound")
    _, chain, key = await issue_apart(["lb.test"])

    def secret(certificate: bytes) -> dict[str, Any]:
        data = {"tls.crt": b64encode(certificate).decode(), "tls.key": b64encode(key).decode()}
        return {"metadata": {"name": "cert", "namespace": site.name}, "type": "kubernetes.io/tls", "data": data}

    def version(body: dict[str, Any]) -> str:
        listeners = (body["spec"].get("assignment") or {}).get("listeners") or [{}]
        return str(listeners[0].get("certificateVersion", ""))

    made = await site.client.create(SECRET, secret(chain))
    await site.until(LoadBalancer, "lb", lambda body: version(body) == made["metadata"]["resourceVersion"])
    _, other, _ = await issue_apart(["other.test"])
    await site.client.patch_merge(SECRET, "cert", {"data": secret(other)["data"]}, site.name)
    assert "holds no certificate with its key" in await told(site, "CertificateInvalid")
    assert version(await site.get(LoadBalancer, "lb")) == made["metadata"]["resourceVersion"]
    again = await site.client.patch_merge(SECRET, "cert", {"data": secret(chain)["data"]}, site.name)
    body = await site.until(LoadBalancer, "lb", lambda body: version(body) == again["metadata"]["resourceVersion"])
    assert "BEGIN" not in str(body)


async def test_no_server_takes_its_port(site: Site) -> None:
    """The port of a load balancer is no server's to use."""
    await world(site)
    await balancer(site)
    await has(site)
    await site.server("thief", networks=[{"name": "eth0", "port": {"name": "lb-vip"}}])
    assert "belongs to a load balancer" in await site.refused("thief", "PortInUse")


async def test_a_floating_ip_leads_to_it(site: Site) -> None:
    """A floating IP leads to the port of a load balancer, from where the router leads out if its two hosts decide.

    Where the operator does, it is on the load balancer's host, and follows it from host to host.
    """
    await world(site)
    subnet = {"name": "v4", "cidr": "203.0.113.0/24", "gateway": "203.0.113.1"}
    await site.create(Network, "public", {"external": True, "subnets": [subnet]})
    await site.condition(Network, "public", "Ready", "True")
    router = {"interfaces": [{"name": "net", "network": {"name": "net"}}], "gateway": {"network": {"name": "public"}}}
    await site.create(Router, "r", router, (IN_USE,))
    await site.condition(Router, "r", "Ready", "True")
    await balancer(site)
    given = await has(site)
    await site.create(FloatingIP, "fip", {"network": {"name": "public"}, "port": {"name": "lb-vip"}}, (IN_USE,))
    await site.condition(FloatingIP, "fip", "Ready", "True", "Bound")
    leading = await site.assigned(FloatingIP, "fip")
    gateway = (await site.assigned(Router, "r"))["gateway"]
    assert (leading["fixedAddress"], leading["host"]) == (given["addresses"][0].partition("/")[0], gateway["host"])
    await site.client.patch_merge(Host, gateway["host"], {"spec": {"maintenance": True}})
    router_body = await site.until(
        Router, "r", lambda body: body["spec"]["assignment"]["gateway"]["host"] != gateway["host"]
    )
    moved = router_body["spec"]["assignment"]["gateway"]["host"]
    await site.until(FloatingIP, "fip", lambda body: body["spec"]["assignment"].get("host") == moved)
    for name in ("l1", "l2", "l3"):
        status = (await site.get(Host, name))["status"] | {"missingPackages": ["keepalived"]}
        await site.client.apply_status(Host, {"metadata": {"name": name}, "status": status}, manager=AGENT)
    alone = await has(site, takeover=None)
    await site.until(FloatingIP, "fip", lambda body: body["spec"]["assignment"].get("host") == alone["host"])
    await site.client.patch_merge(Host, alone["host"], {"spec": {"maintenance": True}})
    moved = (await has(site, host=alone["standby"]))["host"]
    await site.until(FloatingIP, "fip", lambda body: body["spec"]["assignment"].get("host") == moved)


async def test_a_port_that_was_deleted_is_made_again(site: Site) -> None:
    """Its port, deleted by mistake, is there again with the same addresses and MAC."""
    await world(site)
    await balancer(site)
    given = await has(site)
    former = await site.get(Port, "lb-vip")
    await site.client.delete(Port, "lb-vip", site.name)
    found = await site.until(Port, "lb-vip", lambda body: body["metadata"]["uid"] != former["metadata"]["uid"])
    assert found["spec"]["assignment"] == former["spec"]["assignment"]
    assert await has(site) == given


async def test_deletion_gives_the_address_back(site: Site) -> None:
    """A deleted load balancer goes at once, and its network can go when its port has gone."""
    await world(site)
    await site.network("own", "10.7.0.0/24", (IN_USE,))
    await balancer(site, network={"name": "own"})
    given = await has(site)
    await site.client.delete(Network, "own", site.name)
    message = (await site.condition(Network, "own", "Ready", "False", "InUse"))["message"]
    assert "lb-vip" in message
    await site.client.delete(LoadBalancer, "lb", site.name)
    await site.gone(LoadBalancer, "lb")
    # The garbage collector's part.
    for port in ("lb-vip", "lb-own"):
        await site.client.delete(Port, port, site.name)
    await site.gone(Network, "own")
    for address in (*given["addresses"], *given["takeover"]["addresses"]):
        name = address_claim_name(given["vni"], address.partition("/")[0])
        await site.cloud.gone(AddressClaim, name, None, 60)
