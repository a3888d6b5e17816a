"""Addresses, ports and network identifiers: who has one, who waits for it, and what is swept."""

from __future__ import annotations

import asyncio
from typing import Any

from kumulus_api import FINALIZER, AddressClaim, Network, NetworkIDClaim, Port, Server
from kumulus_api.claims import address_claim_name, network_id_claim_name
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.testing.site import OperatorProcess, Site
from kumulus_operator.ipam.claims import claim_body

OTHER_ID = "11111111-2222-4333-8444-555555555555"


async def _free(site: Site, name: str) -> None:
    """Delete a port of the user's own."""
    await site.client.delete(Port, name, site.name)
    await site.gone(Port, name)


async def test_a_server_has_several_interfaces(site: Site) -> None:
    """Interfaces keep their order; made, fixed and brought addresses stand beside each other in the assignment."""
    await site.host("n1", memory="64Gi")
    await site.basics()
    await site.network("lan", "10.1.0.0/24")
    await site.port("mine", "lan", addresses=["10.1.0.77"], mac="52:54:00:aa:bb:cc")
    interfaces = [
        {"name": "wan", "network": {"name": "net"}},
        {"name": "fixed", "network": {"name": "lan"}, "address": "10.1.0.66"},
        {"name": "brought", "port": {"name": "mine"}},
    ]
    await site.server("web", networks=interfaces)
    wan, fixed, brought = (await site.assigned(Server, "web"))["ports"]
    assert (wan["name"], wan["port"], wan["network"]) == ("wan", "web-wan", "net")
    assert (fixed["port"], fixed["network"], fixed["addresses"]) == ("web-fixed", "lan", ["10.1.0.66"])
    assert (brought["port"], brought["mac"], brought["addresses"]) == ("mine", "52:54:00:aa:bb:cc", ["10.1.0.77"])
    assert wan["vni"] != fixed["vni"] == brought["vni"]
    assert len({wan["mac"], fixed["mac"], brought["mac"]}) == 3
    owners = (await site.get(Port, "web-fixed"))["metadata"]["ownerReferences"]
    assert [(owner["kind"], owner["name"]) for owner in owners] == [("Server", "web")]
    assert "ownerReferences" not in (await site.get(Port, "mine"))["metadata"]


async def test_an_address_in_use_is_refused_until_it_is_free(site: Site) -> None:
    """Neither a server nor a port gets an address that another has; both go on when it is given back."""
    await site.host("n2", memory="64Gi")
    await site.basics()
    await site.port("first", addresses=["10.0.0.50"])
    await site.assigned(Port, "first")
    await site.server("web", networks=[{"name": "eth0", "network": {"name": "net"}, "address": "10.0.0.50"}])
    message = await site.refused("web", "AddressInUse")
    assert message == "address: 10.0.0.50 of network net is in use; transient: free when its port is deleted"
    await site.port("second", addresses=["10.0.0.51"])
    await site.assigned(Port, "second")
    await site.port("third", addresses=["10.0.0.51"])
    await site.condition(Port, "third", "Ready", "False", "AddressInUse")
    await _free(site, "first")
    assert (await site.assigned(Server, "web"))["ports"][0]["addresses"] == ["10.0.0.50"]
    await _free(site, "second")
    assert (await site.assigned(Port, "third"))["addresses"] == ["10.0.0.51"]


async def test_an_address_that_cannot_be_is_refused_for_good(site: Site) -> None:
    """An address outside the subnet, or one that the subnet keeps, is refused with what would help."""
    await site.host("n3", memory="64Gi")
    await site.basics()
    for name, address, said in (
        ("out", "10.9.0.1", "10.9.0.1 lies outside 10.0.0.0/24"),
        ("gateway", "10.0.0.1", "10.0.0.1 is kept by the subnet"),
    ):
        await site.server(name, networks=[{"name": "eth0", "network": {"name": "net"}, "address": address}])
        message = await site.refused(name, "AddressInvalid")
        assert said in message
        assert "permanent" in message
        await site.port(f"port-{name}", addresses=[address])
        refusal = await site.condition(Port, f"port-{name}", "Ready", "False", "AddressInvalid")
        assert said in refusal["message"]


async def test_a_pool_that_is_used_up_is_waited_for(site: Site) -> None:
    """The server that finds no address says so, and gets the next one that is given back."""
    await site.host("n4", memory="64Gi")
    await site.basics()
    await site.network("small", "10.1.0.0/24", pools=[{"start": "10.1.0.10", "end": "10.1.0.11"}])
    interface = [{"name": "eth0", "network": {"name": "small"}}]
    for name in ("a", "b"):
        await site.server(name, networks=interface)
        await site.assigned(Server, name)
    await site.server("c", networks=interface)
    message = await site.refused("c", "AddressesExhausted")
    assert message == (
        "address: all addresses of 10.1.0.0/24 are in use; transient: placed when a port of network small is deleted"
    )
    freed = (await site.assigned(Server, "a"))["ports"][0]["addresses"]
    await site.delete_server("a")
    assert (await site.assigned(Server, "c"))["ports"][0]["addresses"] == freed


async def test_a_port_of_another_server_is_waited_for(site: Site) -> None:
    """A port serves one server at a time; the next gets it, on its own host, when that one is gone."""
    for host in ("n5a", "n5b"):
        await site.host(host, memory="64Gi")
    await site.basics()
    await site.port("mine")
    assert "host" not in await site.assigned(Port, "mine")
    interface = [{"name": "eth0", "port": {"name": "mine"}}]
    await site.server("a", networks=interface, placement={"host": "n5a"})
    first = await site.assigned(Server, "a")
    assert (await site.assigned(Port, "mine"))["host"] == "n5a"
    await site.server("b", networks=interface, placement={"host": "n5b"})
    assert "port mine is in use by server a" in await site.refused("b", "PortInUse")
    await site.delete_server("a")
    second = await site.assigned(Server, "b")
    assert (await site.assigned(Port, "mine"))["host"] == "n5b"
    assert second["ports"][0]["mac"] == first["ports"][0]["mac"]
    assert second["ports"][0]["addresses"] == first["ports"][0]["addresses"]


async def test_a_port_is_bound_where_its_server_is(site: Site) -> None:
    """A port is made with the host of its server, and one that a restore brought back with another is bound again."""
    await site.host("n9", memory="64Gi")
    await site.basics()
    await site.server("web")
    assert (await site.assigned(Server, "web"))["host"] == "n9"
    given = await site.assigned(Port, "web-default")
    assert given["host"] == "n9"
    elsewhere = {"spec": {"assignment": {"host": "gone"}}}
    await site.client.patch_merge(Port, "web-default", elsewhere, site.name)
    bound = await site.until(Port, "web-default", lambda body: body["spec"]["assignment"].get("host") == "n9")
    assert bound["spec"]["assignment"] == given


async def test_claims_of_what_is_gone_are_swept(site: Site) -> None:
    """A claim whose port or network never was, or is gone, is released after the quarantine; a held one stays."""
    await site.host("n6", memory="64Gi")
    await site.basics()
    await site.port("mine")
    given = await site.assigned(Port, "mine")
    vni = (await site.get(Network, "net"))["status"]["vni"]
    stray = claim_body(vni, "10.0.0.200", (site.name, "net"), (site.name, "never"), OTHER_ID)
    await site.client.create(AddressClaim, stray)
    lost = {"kind": "Network", "namespace": site.name, "name": "never", "instance": OTHER_ID}
    await site.client.create(
        NetworkIDClaim, {"metadata": {"name": network_id_claim_name(77)}, "spec": {"vni": 77, "claimRef": lost}}
    )
    await site.gone(AddressClaim, stray["metadata"]["name"])
    await site.gone(NetworkIDClaim, network_id_claim_name(77))
    held = address_claim_name(vni, given["addresses"][0])
    assert await site.client.get(AddressClaim, held) is not None
    await _free(site, "mine")
    await site.gone(AddressClaim, held)
    await site.client.delete(Network, "net", site.name)
    await site.gone(NetworkIDClaim, network_id_claim_name(vni))


async def test_a_claim_that_another_leader_was_faster_with_is_respected(site: Site) -> None:
    """An address claimed behind the operator's back for a port that lives is not given out twice."""
    await site.host("n7", memory="64Gi")
    await site.basics()
    await site.network("tiny-net", "10.1.0.0/24", pools=[{"start": "10.1.0.10", "end": "10.1.0.12"}])
    vni = (await site.get(Network, "tiny-net"))["status"]["vni"]
    await site.port("mine", "tiny-net", addresses=["10.1.0.10"])
    mine = await site.assigned(Port, "mine")
    body = claim_body(vni, "10.1.0.11", (site.name, "tiny-net"), (site.name, "mine"), mine["portID"])
    await site.client.create(AddressClaim, body)
    await site.server("web", networks=[{"name": "eth0", "network": {"name": "tiny-net"}}])
    assert (await site.assigned(Server, "web"))["ports"][0]["addresses"] == ["10.1.0.12"]


async def test_networks_never_share_an_identifier(site: Site, operator: OperatorProcess, plane: ControlPlane) -> None:
    """With as many identifiers as networks but one, all differ, one network waits, and gets what is given back."""
    await asyncio.to_thread(operator.stop)
    log = operator.log.with_name("small.log")
    settings = {"claim_quarantine": "1", "host_silence": "5", "vni_first": "100", "vni_last": "102"}
    small = OperatorProcess(plane.kubeconfig, log, **settings)
    small.start()
    try:
        await site.basics()
        foreign = {"kind": "Network", "namespace": site.name, "name": "net2", "instance": OTHER_ID}
        names = ["net", "net1", "net2", "net3"]
        claim = {"metadata": {"name": network_id_claim_name(101)}, "spec": {"vni": 101, "claimRef": foreign}}
        if await site.client.get(NetworkIDClaim, network_id_claim_name(101)) is None:
            await site.client.create(NetworkIDClaim, claim)
        subnet = {"name": "v4", "cidr": "10.1.0.0/24"}
        await asyncio.gather(*(site.create(Network, name, {"subnets": [subnet]}) for name in names[1:]))

        def decided(body: dict[str, Any]) -> bool:
            return bool((body.get("status") or {}).get("conditions"))

        bodies = await asyncio.gather(*(site.until(Network, name, decided) for name in names))
        vnis = {body["metadata"]["name"]: body["status"].get("vni") for body in bodies}
        given = sorted(vni for vni in vnis.values() if vni is not None)
        assert given == [100, 101, 102]
        (waiting,) = [name for name, vni in vnis.items() if vni is None]
        await site.condition(Network, waiting, "Ready", "False", "NetworkIDsExhausted")
        gone = next(name for name, vni in vnis.items() if vni is not None and name != "net")
        await site.client.delete(Network, gone, site.name)
        await site.condition(Network, waiting, "Ready", "True")
        assert (await site.get(Network, waiting))["status"]["vni"] == vnis[gone]
    finally:
        assert await asyncio.to_thread(small.stop) == 0
        print(log.read_text())
        operator.start()


async def test_an_assignment_of_a_former_operator_stands(site: Site, operator: OperatorProcess) -> None:
    """What was assigned while no operator ran is counted and kept: not placed again, and its room not given away."""
    await site.host("n8", memory="2Gi")
    await site.basics()
    await asyncio.to_thread(operator.stop)
    assigned = {
        "instanceID": OTHER_ID,
        "host": "n8",
        "epoch": 7,
        "resources": {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"},
    }
    await site.create(
        Server, "old", {"flavor": {"name": "small"}, "image": {"name": "tiny"}, "assignment": assigned}, (FINALIZER,)
    )
    await asyncio.gather(*(site.server(name) for name in ("new1", "new2")))
    before = await site.get(Server, "old")
    operator.start()
    tasks = {name: asyncio.create_task(site.assigned(Server, name)) for name in ("new1", "new2")}
    await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
    (waiting,) = [name for name, task in tasks.items() if not task.done()]
    assert "1 without enough memory" in await site.refused(waiting, "NoValidHost")
    assert (await site.get(Server, "old"))["spec"] == before["spec"]
    await site.delete_server("old")
    await tasks[waiting]
