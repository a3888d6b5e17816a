"""IPv6 by routers' gateways and floating IPs: what the operator decides of it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kumulus_api import IN_USE, FloatingIP, Network, Port, Router, Server
from kumulus_lab.testing.site import Site
from kumulus_runtime.errors import Invalid

EXAMPLE = Path(__file__).parents[3] / "examples" / "ipv6-outside.yaml"
ROUTED, INSIDE = "2001:db8:1::/64", "fd00:1::/64"


def dual_stack(four: str, six: str) -> list[dict[str, Any]]:
    """Give a subnet of each family."""
    of_ipv4 = {"name": "v4", "cidr": four, "gateway": four.partition("/")[0].rsplit(".", 1)[0] + ".1"}
    return [of_ipv4, {"name": "v6", "cidr": six, "gateway": six.partition("/")[0] + "1"}]


def joined(*networks: str, **gateway: Any) -> dict[str, Any]:
    """Give a router of both families of networks, which leads out."""
    interfaces = [
        {"name": f"{name}-{subnet}", "network": {"name": name}, "subnet": subnet}
        for name in networks
        for subnet in ("v4", "v6")
    ]
    return {"interfaces": interfaces, "gateway": {"network": {"name": "public"}} | gateway}


async def world(site: Site) -> None:
    """Make two hosts, an external network to which one range is routed, and two networks."""
    for index, name in enumerate(("f1", "f2")):
        await site.host(name, memory="64Gi", tunnel=f"192.0.2.{index + 10}")
    await site.basics()
    subnets = dual_stack("203.0.113.0/24", "2001:db8:77::/64")
    spec = {"external": True, "subnets": subnets, "routedPrefixes": ["2001:db8::/40"]}
    await site.create(Network, "public", spec)
    await site.create(Network, "red", {"subnets": dual_stack("10.1.0.0/24", ROUTED)})
    await site.create(Network, "blue", {"subnets": dual_stack("10.2.0.0/24", INSIDE)})
    for name in ("public", "red", "blue"):
        await site.condition(Network, name, "Ready", "True")


async def way_out(site: Site, name: str, **fields: Any) -> dict[str, Any]:
    """Wait until a router's gateway has these values."""

    def holds(body: dict[str, Any]) -> bool:
        way = (body["spec"].get("assignment") or {}).get("gateway") or {}
        return bool(way) and all(way.get(field) == value for field, value in fields.items())

    way: dict[str, Any] = (await site.until(Router, name, holds))["spec"]["assignment"]["gateway"]
    return way


async def test_a_router_leads_out_what_is_routed_to_it(site: Site) -> None:
    """It has an address of each family; of its IPv6 subnets those go out that the external network routes here."""
    await world(site)
    await site.create(Router, "r", joined("red", "blue"), (IN_USE,))
    way = await way_out(site, "r", routed=[ROUTED])
    assert [text.partition("/")[2] for text in way["addresses"]] == ["24", "64"]
    assert way["nextHops"] == ["203.0.113.1", "2001:db8:77::1"]
    assert way["enableSNATIPv6"] is False
    ready = await site.condition(Router, "r", "Ready", "True", "Routing")
    assert f"{ROUTED} goes out as it is" in ready["message"]
    # What is routed is another range, and what is translated another choice: both are followed.
    await site.client.patch_merge(Network, "public", {"spec": {"routedPrefixes": ["fd00::/16"]}}, site.name)
    await way_out(site, "r", routed=[INSIDE], addresses=way["addresses"])
    asked = {"spec": {"gateway": {"network": {"name": "public"}, "enableSNATIPv6": True}}}
    await site.client.patch_merge(Router, "r", asked, site.name)
    await way_out(site, "r", enableSNATIPv6=True, host=way["host"])


async def test_a_subnet_goes_out_by_one_router(site: Site) -> None:
    """Of two with the same range the second is told, and leads it out when the first gives it up."""
    await world(site)
    await site.create(Network, "same", {"subnets": dual_stack("10.3.0.0/24", ROUTED)})
    await site.condition(Network, "same", "Ready", "True")
    await site.create(Router, "first", joined("red"), (IN_USE,))
    await way_out(site, "first", routed=[ROUTED])
    await site.create(Router, "second", joined("same"), (IN_USE,))
    told = await site.condition(Router, "second", "Ready", "False", "OverlappingSubnets")
    assert "first" not in told["message"]
    assert (await way_out(site, "second"))["routed"] == []
    await site.client.delete(Router, "first", site.name)
    await way_out(site, "second", routed=[ROUTED])
    await site.condition(Router, "second", "Ready", "True", "Routing")


async def test_a_port_has_floating_addresses_of_both_families(site: Site) -> None:
    """One leads to its IPv4 address, one to its IPv6 address, both on the server's host, and the server tells both."""
    await world(site)
    await site.create(Router, "r", joined("blue"), (IN_USE,))
    await site.condition(Router, "r", "Ready", "True")
    await site.server("web", networks=[{"name": "eth0", "network": {"name": "blue"}}])
    host = (await site.assigned(Server, "web"))["host"]
    four, six = (await site.assigned(Port, "web-eth0"))["addresses"]
    common = {"network": {"name": "public"}, "port": {"name": "web-eth0"}}
    await site.create(FloatingIP, "four", common, (IN_USE,))
    await site.create(FloatingIP, "six", common | {"subnet": "v6"}, (IN_USE,))
    found = {}
    for name, fixed in (("four", four), ("six", six)):
        await site.condition(FloatingIP, name, "Ready", "True", "Bound")
        given = await site.assigned(FloatingIP, name)
        assert (given["fixedAddress"], given["host"], given["router"]) == (fixed, host, "r")
        found[name] = given["address"]
    assert found["six"].startswith("2001:db8:77::")
    told = await site.until(Server, "web", lambda body: len((body.get("status") or {}).get("floatingIPs") or ()) == 2)
    assert {item["address"]: item["fixedAddress"] for item in told["status"]["floatingIPs"]} == {
        found["four"]: four,
        found["six"]: six,
    }
    await site.create(FloatingIP, "none", common | {"subnet": "v5"}, (IN_USE,))
    await site.condition(FloatingIP, "none", "Ready", "False", "SubnetUnknown")


async def test_what_the_api_refuses(site: Site) -> None:
    """Routed ranges are IPv6 networks of external networks; a floating IP's subnet does not change."""
    await world(site)
    subnets = dual_stack("10.4.0.0/24", "2001:db8:4::/64")
    for spec in (
        {"routedPrefixes": ["2001:db8::/40"]},
        {"external": True, "routedPrefixes": ["10.0.0.0/8"]},
        {"external": True, "routedPrefixes": ["2001:db8::1/40"]},
    ):
        with pytest.raises(Invalid, match="rout"):
            await site.create(Network, "bad", {"subnets": subnets} | spec)
    await site.create(FloatingIP, "six", {"network": {"name": "public"}, "subnet": "v6"}, (IN_USE,))
    with pytest.raises(Invalid, match="subnet cannot change"):
        await site.client.patch_merge(FloatingIP, "six", {"spec": {"subnet": "v4"}}, site.name)


async def test_the_example_becomes_ready(site: Site) -> None:
    """What examples/ipv6-outside.yaml describes is decided as it says, in a project of any name."""
    await site.host("f1", memory="64Gi")
    await site.basics()
    kinds = {kind.__name__: kind for kind in (Network, Router, Server, FloatingIP)}
    for body in yaml.safe_load_all(EXAMPLE.read_text()):
        kind, name = kinds[body["kind"]], body["metadata"]["name"]
        if kind is Server:
            await site.server(name, networks=body["spec"]["networks"])
        else:
            await site.create(kind, name, body["spec"])
    await way_out(site, "world", routed=["2001:db8:100:1::/64"])
    await site.condition(Router, "world", "Ready", "True", "Routing")
    await site.condition(FloatingIP, "dual", "Ready", "True", "Bound")
    fixed = (await site.assigned(FloatingIP, "dual"))["fixedAddress"]
    assert fixed in (await site.assigned(Port, "dual-eth0"))["addresses"]
    assert fixed.startswith("2001:db8:100:1:")
