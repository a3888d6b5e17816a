"""Hold addresses by claims: the creation of the object is the lock, also against a stale leader."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, KeysView, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

from kumulus_api import AddressClaim
from kumulus_api.addresses import canonical
from kumulus_api.claims import address_claim_name
from kumulus_api.network import Subnet
from kumulus_operator.ipam.plan import NoneFree, choose_address, choose_addresses, subnet_of
from kumulus_operator.views import Key
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import AlreadyExists

PORT = "Port"
Holder = tuple[str, Key]
"""Kind of a claimant, and its key."""


class AddressTaken(Exception):
    """Somebody else holds the address."""

    def __init__(self, address: str, holder: str) -> None:
        super().__init__(f"{address} is held by {holder}")
        self.address = address
        self.holder = holder


class AddressesExhausted(Exception):
    """All addresses of the subnet's pools are held."""


class AddressBook:
    """All address claims by network, and what is being claimed at this moment.

    Args:
        client: to reach the API server.
    """

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._claims: dict[int, dict[str, AddressClaim]] = defaultdict(dict)
        self._by_holder: dict[Holder, dict[str, AddressClaim]] = defaultdict(dict)
        self._pending: dict[int, Counter[str]] = defaultdict(Counter)
        self._last: dict[int, dict[str, str]] = defaultdict(dict)
        self.noting: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By network: one note of its subnets in use at a time."""

    def seen(self, claim: AddressClaim) -> None:
        """Take a claim as seen."""
        self._claims[claim.spec.vni][canonical(claim.spec.address)] = claim
        self._by_holder[_holder_of(claim)][claim.metadata.name] = claim

    def gone(self, claim: AddressClaim) -> None:
        """Take a claim as deleted."""
        self._claims[claim.spec.vni].pop(canonical(claim.spec.address), None)
        held = self._by_holder[_holder_of(claim)]
        held.pop(claim.metadata.name, None)
        if not held:
            del self._by_holder[_holder_of(claim)]

    def held_by(self, key: Key, kind: str = PORT) -> list[AddressClaim]:
        """Give the claims that name a port, or an object of another kind."""
        return list(self._by_holder.get((kind, key), {}).values())

    def used(self, vni: int) -> int:
        """Give how many addresses of a network are held."""
        return len(self._claims[vni])

    def subnets_in_use(self, subnets: Sequence[Subnet], vni: int) -> list[str]:
        """Give the names of the subnets of which addresses are held, or are being claimed now, in their order."""
        return [subnet.name for subnet in subnets if _any_in(subnet, self._used(vni))]

    def _used(self, vni: int) -> Collection[str]:
        claimed: KeysView[str] = self._claims[vni].keys()
        pending = self._pending.get(vni)
        return claimed | pending.keys() if pending else claimed

    def choose(self, subnets: Sequence[Subnet], vni: int, mac: str, fixed: Sequence[str]) -> list[str]:
        """Choose the addresses of a port, as `choose_addresses` does, of what is free now.

        Raises:
            AddressesExhausted: no address is free in a family.
        """
        last = self._last[vni]
        try:
            chosen = choose_addresses(subnets, mac, fixed, self._used(vni), last)
        except NoneFree as error:
            raise AddressesExhausted(str(error)) from error
        for address in chosen:
            subnet = subnet_of(subnets, address)
            if subnet is not None and address not in fixed:
                last[subnet.cidr] = address
        return chosen

    @contextmanager
    def reserved(self, vni: int, addresses: Collection[str]) -> Iterator[None]:
        """Let nobody else choose these addresses within."""
        self._pending[vni].update(addresses)
        try:
            yield
        finally:
            # Read anew: others came and went meanwhile.
            left = self._pending.pop(vni)
            left.subtract(addresses)
            if left := +left:
                self._pending[vni] = left

    async def hold(self, vni: int, address: str, network: Key, port: tuple[Key, str], *, kind: str = PORT) -> None:
        """Claim an address for a port, or for an object of another kind; one that it holds already is success.

        Raises:
            AddressTaken: it is held by another.
        """
        await self._hold(vni, canonical(address), network, (kind, *port))

    async def claim(
        self,
        subnet: Subnet,
        vni: int,
        network: Key,
        port: tuple[Key, str],
        wanted: Sequence[str] = (),
        *,
        kind: str = PORT,
    ) -> list[str]:
        """Claim the wanted addresses, or one that is free.

        Args:
            subnet: where from.
            vni: the network's identifier.
            network: namespace and name of the network.
            port: the claimant's key and portID.
            wanted: fixed addresses; none for an automatic one.
            kind: of the claimant, if it is not a port.

        Returns:
            The addresses, now held for the port. Repeating the call for the same port is no error.

        Raises:
            AddressTaken: a wanted address is held by another.
            AddressesExhausted: no address is free.
        """
        if wanted:
            for address in wanted:
                await self.hold(vni, address, network, port, kind=kind)
            return list(map(canonical, wanted))
        last = self._last[vni]
        while True:
            chosen = choose_address(subnet, self._used(vni), last.get(subnet.cidr))
            if chosen is None:
                raise AddressesExhausted(f"all addresses of {subnet.cidr} are in use")
            last[subnet.cidr] = chosen
            try:
                await self._hold(vni, chosen, network, (kind, *port))
            except AddressTaken:
                continue
            return [chosen]

    async def _hold(self, vni: int, address: str, network: Key, claimant: tuple[str, Key, str]) -> None:
        with self.reserved(vni, (address,)):
            body = await self._create(vni, address, network, claimant)
            claim = AddressClaim.model_validate(body)
            self.seen(claim)
        if (*_holder_of(claim), claim.spec.claim_ref.instance) != claimant:
            raise AddressTaken(address, "/".join(_holder_of(claim)[1]))

    async def _create(self, vni: int, address: str, network: Key, claimant: tuple[str, Key, str]) -> dict[str, Any]:
        kind, key, instance = claimant
        wanted = claim_body(vni, address, network, key, instance, kind=kind)
        try:
            return await self._client.create(AddressClaim, wanted)
        except AlreadyExists:
            found = await self._client.get(AddressClaim, wanted["metadata"]["name"])
            return found if found is not None else await self._client.create(AddressClaim, wanted)


def claim_body(vni: int, address: str, network: Key, port: Key, port_id: str, *, kind: str = PORT) -> dict[str, Any]:
    """Give the claim on an address for a port, or for an object of another kind."""
    return {
        "metadata": {"name": address_claim_name(vni, address)},
        "spec": {
            "network": {"namespace": network[0], "name": network[1]},
            "vni": vni,
            "address": address,
            "claimRef": {"kind": kind, "namespace": port[0], "name": port[1], "instance": port_id},
        },
    }


def _holder_of(claim: AddressClaim) -> Holder:
    holder = claim.spec.claim_ref
    return holder.kind, (holder.namespace, holder.name)


def _any_in(subnet: Subnet, addresses: Collection[str]) -> bool:
    """Whether any of the addresses, in their usual text form, lies in a subnet."""
    network = ip_network(subnet.cidr)
    first, last = network.network_address.packed, network.broadcast_address.packed
    family = AF_INET6 if ":" in subnet.cidr else AF_INET
    same = (address for address in addresses if (":" in address) == (family == AF_INET6))
    return any(first <= inet_pton(family, address) <= last for address in same)
