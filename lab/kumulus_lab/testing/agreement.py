"""Whether the API says what libvirt, the kernel and the disks say: a pure comparison, and a look at all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kumulus_agent.network.names import bridge, tap, vxlan
from kumulus_api import AddressClaim, Host, Port, Server, Volume
from kumulus_api.claims import address_claim_name
from kumulus_lab.errors import CommandFailed
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.cloud import Breach, Cloud, Object, condition
from kumulus_lab.testing.sightings import Sighting, look

_AGAIN_SECONDS = 0.5


@dataclass(frozen=True)
class Told:
    """What the API says; objects as they come from the API server."""

    servers: list[Object] = field(default_factory=list)
    ports: list[Object] = field(default_factory=list)
    volumes: list[Object] = field(default_factory=list)
    hosts: list[Object] = field(default_factory=list)
    claims: list[Object] = field(default_factory=list)


async def agreed(cloud: Cloud, lab: LabSettings, seconds: float = 5) -> None:
    """Return as soon as the API and the hosts agree on everything.

    Raises:
        Breach: they do not after `seconds`; the message lists what differs.
    """
    end = time.monotonic() + seconds
    # Nothing tells of a change of links, files, domains and objects at once: they are looked at again.
    while True:
        late = time.monotonic() >= end
        try:
            differences = disagreements(await ask(cloud), await look(lab))
        except CommandFailed as error:
            differences = [str(error)]
        if not differences:
            return
        if late:
            raise Breach(f"{seconds} s later API and hosts differ: " + "; ".join(differences))
        await asyncio.sleep(_AGAIN_SECONDS)


async def ask(cloud: Cloud) -> Told:
    """Read what the API says."""
    kinds = (Server, Port, Volume, Host, AddressClaim)
    found = await asyncio.gather(*(cloud.client.list(kind) for kind in kinds))
    return Told(*(items for items, _ in found))


def disagreements(told: Told, hosts: dict[str, Sighting]) -> list[str]:
    """Give every difference between what the API says and what is on the hosts, a sentence each."""
    out = []
    for name, seen in hosts.items():
        here = [server for server in told.servers if _assignment(server).get("host") == name]
        tunnels = _tunnels(told.hosts)
        out += [f"{name}: {text}" for text in _on_host(here, seen)]
        out += [f"{name}: {text}" for text in _networks(name, told.servers, tunnels, seen)]
        out += [f"{name}: {text}" for text in _volumes(name, told.volumes, seen)]
    for server in told.servers:
        out += [f"server {_key(server)}: {text}" for text in _server(server, told, hosts)]
    for host in told.hosts:
        unclaimed = (host.get("status") or {}).get("unclaimedInstances") or []
        out += [f"{host['metadata']['name']}: {item['name']} is reported as unclaimed" for item in unclaimed]
    return out


def _on_host(servers: list[Object], seen: Sighting) -> Iterator[str]:
    """Nothing is there that no server has."""
    ids = {_assignment(server)["instanceID"] for server in servers}
    yield from _extra("domain", seen.domains, (f"k-{instance}" for instance in ids))
    yield from _extra("folder of instance", seen.instances, ids)
    yield from _extra("tap", seen.taps, (device for server in servers for device, _ in _taps(server)))


def _networks(name: str, servers: list[Object], tunnels: dict[str, str], seen: Sighting) -> Iterator[str]:
    """Exactly the networks of the servers that run here are there, with all guests elsewhere as neighbours."""
    ports = [(_assignment(server), port) for server in servers for port in _assignment(server).get("ports", ())]
    running = {_key(server) for server in servers if _power(server) in _UP}
    here = {
        port["vni"]
        for server in servers
        for port in _assignment(server).get("ports", ())
        if _assignment(server)["host"] == name and _key(server) in running
    }
    yield from _differ("bridges", seen.bridges, {bridge(vni) for vni in here})
    yield from _differ("VXLAN devices", seen.tunnels, {vxlan(vni) for vni in here})
    yield from _differ("DHCP servers", seen.services.items(), {(f"kd{vni:06x}", True) for vni in here})
    wanted = {
        (vxlan(port["vni"]), port["mac"], tunnels[assignment["host"]])
        for assignment, port in ports
        if port["vni"] in here and assignment["host"] != name
    }
    yield from _differ("neighbours", seen.neighbours, wanted)


def _volumes(name: str, volumes: list[Object], seen: Sighting) -> Iterator[str]:
    known = {_assignment(volume).get("volumeID") for volume in volumes if _assignment(volume).get("host") == name}
    for file in seen.volumes:
        if file.split(".")[0] not in known:
            yield f"the file {file} belongs to no volume"


def _server(server: Object, told: Told, hosts: dict[str, Sighting]) -> Iterator[str]:
    """What its status says is so."""
    assignment = _assignment(server)
    if not assignment or "deletionTimestamp" in server["metadata"]:
        return
    seen = hosts[assignment["host"]]
    power, active = _power(server), seen.domains.get(f"k-{assignment['instanceID']}")
    if (power in _UP) is not bool(active):
        yield f"powerState is {power}, libvirt's domain is {_STATES[active]}"
    if condition(server, "Ready")["status"] == "True" and not active and server["spec"]["powerState"] == "Running":
        yield "it is Ready and does not run"
    if not seen.instances.get(assignment["instanceID"]):
        yield "it has no root disk"
    addresses = [item["address"] for item in server.get("status", {}).get("addresses", ())]
    given = [address for port in assignment.get("ports", ()) for address in port["addresses"]]
    if sorted(addresses) != sorted(given):
        yield f"status has the addresses {addresses}, it was given {given}"
    for device, vni in _taps(server):
        wanted = bridge(vni) if active else None
        if seen.taps.get(device) != wanted:
            yield f"tap {device} is plugged into {seen.taps.get(device)}, not {wanted}"
    yield from _ports(server, told, plugged=bool(active))


_UP = ("Running", "Paused", "Rescued")
_STATES = {None: "absent", False: "off", True: "active"}


def _ports(server: Object, told: Told, *, plugged: bool) -> Iterator[str]:
    """Its ports exist, say whether they are wired, and hold their addresses."""
    ports = {(port["metadata"]["namespace"], port["metadata"]["name"]): port for port in told.ports}
    claims = {claim["metadata"]["name"]: claim for claim in told.claims}
    for given in _assignment(server).get("ports", ()):
        port = ports.get((server["metadata"]["namespace"], given["port"]))
        if port is None:
            yield f"its port {given['port']} does not exist"
        elif port.get("status", {}).get("wired", False) is not plugged:
            yield f"its port {given['port']} has the status {port.get('status')}"
        for address in given["addresses"]:
            claim = claims.get(address_claim_name(given["vni"], address))
            if claim is None or claim["spec"]["claimRef"]["instance"] != given["portID"]:
                yield f"its address {address} is not claimed for its port"


def _taps(server: Object) -> list[tuple[str, int]]:
    assignment = _assignment(server)
    return [(tap(assignment["instanceID"], port["name"]), port["vni"]) for port in assignment.get("ports", ())]


def _tunnels(hosts: list[Object]) -> dict[str, str]:
    return {host["metadata"]["name"]: host.get("status", {}).get("tunnelAddress", "") for host in hosts}


def _assignment(body: Object) -> Object:
    found: Object = body["spec"].get("assignment") or {}
    return found


def _power(server: Object) -> str:
    return str(server.get("status", {}).get("powerState", "absent"))


def _key(server: Object) -> str:
    return f"{server['metadata']['namespace']}/{server['metadata']['name']}"


def _extra(what: str, found: Iterable[str], wanted: Iterable[str]) -> Iterator[str]:
    for name in sorted(set(found) - set(wanted)):
        yield f"{what} {name} belongs to no server here"


def _differ(what: str, found: Iterable[object], wanted: Iterable[object]) -> Iterator[str]:
    if set(found) != set(wanted):
        over, short = sorted(map(str, set(found) - set(wanted))), sorted(map(str, set(wanted) - set(found)))
        yield f"{what}: too many {over}, missing {short}"
