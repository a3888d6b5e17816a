"""Decide on the peering of networks: one at a time, so that of two that overlap the first has it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from ipaddress import IPv4Network

from kumulus_api import Network
from kumulus_api.network import Subnet
from kumulus_api.peering import AssignedPeer, NetworkAssignment, PeeringReason
from kumulus_operator.cloud import Cloud
from kumulus_operator.ipam.claims import AddressesExhausted, AddressTaken
from kumulus_operator.networks.plan import tunnel_of
from kumulus_operator.peerings.plan import (
    ClusterRanges,
    Fault,
    Judgement,
    Verdict,
    addresses_in,
    assignment_of,
    condition_of,
    judge,
    kept_addresses,
)
from kumulus_operator.servers.interfaces import mac_of
from kumulus_operator.views import Key

NETWORK = Network.__name__


class Peerings:
    """What networks have of the cluster.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._one = asyncio.Lock()

    async def decide(self, network: Network, vni: int | None) -> Verdict | None:
        """Decide for one network, and write it down; give what its status says of it.

        Raises:
            Conflict, NotFound: the network is gone.
        """
        if network.spec.peering is None and network.spec.assignment is None:
            return None
        async with self._one:
            found = self._cloud.networks.get(*network.key)
            if found is None or found.metadata.uid != network.metadata.uid:
                return None
            return await self._decide(found, vni)

    async def _decide(self, network: Network, vni: int | None) -> Verdict | None:
        cloud, before = self._cloud, network.spec.assignment
        project = cloud.projects.get("", network.key[0])
        grant = project.spec.peering if project is not None else None
        ranges = self._ranges()
        judged = judge(network, grant, ranges, self._taken(network.key)) if vni is not None else Judgement()
        faults = list(judged.faults)
        if vni is None and network.spec.peering is not None:
            faults.append((PeeringReason.NETWORK_NOT_READY, "the network is not Ready; transient: goes on when it is"))
        peers: list[AssignedPeer] = []
        if vni is not None and judged.subnets:
            peers, lacking = await self._peers(network, vni, judged.subnets)
            faults += lacking
        given = assignment_of(judged, network.spec.peering, ranges, peers)
        if given != (before or NetworkAssignment()):
            await cloud.assign(network, given)
            cloud.queues.endpoints.add(network.key)
        kept = addresses_in(given)
        for claim in cloud.addresses.held_by(network.key, NETWORK):
            if claim.spec.address not in kept:
                cloud.queues.claims.add(("AddressClaim", claim.metadata.name))
        return condition_of(network, given, faults)

    def _ranges(self) -> ClusterRanges:
        settings = self._cloud.settings
        nodes = {tunnel for host in self._cloud.hosts if (tunnel := tunnel_of(host)) is not None and ":" not in tunnel}
        return ClusterRanges(
            tuple(map(IPv4Network, settings.pod_ranges)),
            tuple(map(IPv4Network, settings.service_ranges)),
            frozenset(nodes),
        )

    def _taken(self, own: Key) -> Mapping[Key, list[str]]:
        found = {item.key: item.spec.assignment for item in self._cloud.networks if item.key != own}
        return {key: given.subnets for key, given in found.items() if given is not None and given.subnets}

    async def _peers(
        self, network: Network, vni: int, subnets: tuple[Subnet, ...]
    ) -> tuple[list[AssignedPeer], list[Fault]]:
        """Hold an address in each subnet for each host; give the hosts that have them, and what is lacking."""
        cloud = self._cloud
        claims = cloud.addresses.held_by(network.key, NETWORK)
        held = {
            claim.spec.address
            for claim in claims
            if claim.spec.claim_ref.instance == network.metadata.uid and claim.metadata.name not in cloud.abandoned
        }
        hosts = sorted(host.metadata.name for host in cloud.hosts if tunnel_of(host) is not None)
        kept = kept_addresses(network.spec.assignment, held, hosts, subnets)
        peers, faults = [], list[Fault]()
        for host in hosts:
            addresses = []
            for subnet in subnets:
                try:
                    found = await self._hold(network, vni, subnet, kept.get((host, subnet.cidr)), held)
                except AddressesExhausted as error:
                    told = f"fromPods: host {host} has no address: {error}; transient: goes on when one is given back"
                    faults.append((PeeringReason.ADDRESSES_EXHAUSTED, told))
                    continue
                addresses.append(f"{found}/{IPv4Network(subnet.cidr).prefixlen}")
            if addresses:
                peers.append(AssignedPeer(host=host, mac=mac_of(f"{vni}/{host}"), addresses=addresses))
        return peers, faults[:3]

    async def _hold(self, network: Network, vni: int, subnet: Subnet, kept: str | None, held: set[str]) -> str:
        if kept is not None and kept in held:
            return kept
        claimant = (network.key, network.metadata.uid or "")
        if kept is not None:
            try:  # after a restore claims may be missing
                await self._cloud.addresses.hold(vni, kept, network.key, claimant, kind=NETWORK)
            except AddressTaken:
                pass
            else:
                return kept
        (found,) = await self._cloud.addresses.claim(subnet, vni, network.key, claimant, kind=NETWORK)
        return found
