"""What is written into a Port reaches its interface, on a real kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from typing import Any

from kumulus_agent.network.state import NetworkDesired
from kumulus_agent.networks.carried import CarriedNetworks
from kumulus_agent.networks.plan import Here
from kumulus_agent.networks.port_settings import PortsHere
from kumulus_agent.servers.desired import DesiredPort, NetworkKey
from kumulus_lab.testing.port_site import VNI, A, C, make_port
from kumulus_runtime.store import Store

VIP = IPv4Address("10.0.0.50")
KEY = NetworkKey("team", "blue", VNI)


class PortsOfUsers:
    """An API server that shows one Network without endpoints, and the Ports that a test has put there."""

    def __init__(self) -> None:
        metadata = {"name": KEY.name, "namespace": KEY.namespace}
        network = {"metadata": metadata, "spec": {"subnets": [{"name": "v4", "cidr": "10.0.0.0/24"}]}}
        slices = {"metadata": metadata, "spec": {"network": {"name": KEY.name}, "vni": VNI, "endpoints": []}}
        rules = [{"etherType": "IPv4"}]
        group = {
            "metadata": {"name": "open", "namespace": "red"},
            "spec": {"ingress": rules, "egress": rules},
        }
        self._bodies = {"Network": network, "NetworkEndpoints": slices, "SecurityGroup": group}
        self.ports: dict[str, dict[str, Any]] = {}
        self.asked = 0

    async def watch(self, kind: Any, **_: Any) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Show what is there; wait forever."""
        yield "ADDED", self._bodies[kind.__name__]
        yield "SYNCED", {}
        await asyncio.Event().wait()

    async def get(self, _kind: Any, name: str, _namespace: str) -> dict[str, Any] | None:
        """Give a Port."""
        self.asked += 1
        return self.ports.get(name)


def written(port: DesiredPort, version: int, **spec: Any) -> dict[str, Any]:
    """Give a Port as its user has written it."""
    given = {"portID": "11111111-2222-4333-8444-555555555555", "mac": port.mac, "addresses": list(port.addresses)}
    metadata = {"name": port.port, "namespace": port.namespace, "resourceVersion": str(version)}
    return {"kind": "Port", "metadata": metadata, "spec": {"network": {"name": "blue"}, "assignment": given, **spec}}


async def test_what_is_written_into_a_port_holds_at_once(hosts):
    """A Port's settings hold from the port's first frame on, though no watch has shown it; each change is applied."""
    api, store, host = PortsOfUsers(), Store(), hosts[0]
    settings = PortsHere(api, store)
    networks = CarriedNetworks(api, host.datapath, Here(host.name, host.address, 1450), nothing_mapped, settings)
    ports = [
        DesiredPort(
            "a",
            f"p{n}",
            KEY,
            f"02:00:00:00:00:{n:02x}",
            (f"10.0.0.{n}",),
            make_port(address).tap,
            groups=(("red", "open"),),
            namespace="red",
        )
        for address, n in ((A, 11), (C, 13))
    ]
    api.ports["p11"] = written(ports[0], 1, allowedAddressPairs=[{"address": str(VIP)}], dnsName="www")
    worker = asyncio.create_task(networks.queue.run(networks.reconcile, 1))
    try:
        networks.hold("i1", "web", ports)
        await networks.ensure([KEY])
        assert api.asked == 2
        a, c = [await host.boot(make_port(IPv4Address(port.addresses[0])), VNI) for port in ports]
        for guest in (a, c):
            await guest.configure()
        await a.configure(VIP)
        assert await c.reaches(A, "-I", "10.0.0.13")
        assert await c.reaches(VIP)
        resolved = await c.run("busybox", "nslookup", "-type=a", "www", "10.0.0.254")
        assert str(A) in resolved

        async def change(version: int, **spec: Any) -> None:
            applied = host.datapath.ensure_network
            done = asyncio.Event()

            async def seen(desired: NetworkDesired) -> Any:
                steps = await applied(desired)
                done.set()
                return steps

            host.datapath.ensure_network = seen
            store.apply("MODIFIED", written(ports[0], version, **spec))
            networks.port_changed("red", "p11")
            async with asyncio.timeout(10):
                await done.wait()
            host.datapath.ensure_network = applied

        await change(2)
        await c.run("ip", "neigh", "flush", "all")
        assert not await c.reaches(VIP)
        await change(3, portSecurityEnabled=False, qos={"egressKbps": 5000})
        await c.run("ip", "neigh", "flush", "all")
        assert await c.reaches(VIP)
        assert (await host.datapath.observe()).buckets
        networks.port_changed("red", "p11")
        assert not len(networks.queue)
        assert api.asked == 2
    finally:
        networks.queue.stop()
        await worker
        await networks.close()


async def nothing_mapped() -> None:
    """Look for physical networks on a host that has none."""
