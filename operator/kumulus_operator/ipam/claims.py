"""Hold addresses by claims: the creation of the object is the lock, also against a stale leader."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from kumulus_api import AddressClaim
from kumulus_api.claims import address_claim_name
from kumulus_api.network import Subnet
from kumulus_operator.ipam.plan import choose_address
from kumulus_operator.views import Key
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import AlreadyExists


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
        self._by_port: dict[Key, dict[str, AddressClaim]] = defaultdict(dict)
        self._pending: dict[int, set[str]] = defaultdict(set)
        self._last: dict[int, str] = {}

    def seen(self, claim: AddressClaim) -> None:
        """Take a claim as seen."""
        self._claims[claim.spec.vni][claim.spec.address] = claim
        self._by_port[_port_of(claim)][claim.metadata.name] = claim

    def gone(self, claim: AddressClaim) -> None:
        """Take a claim as deleted."""
        self._claims[claim.spec.vni].pop(claim.spec.address, None)
        held = self._by_port[_port_of(claim)]
        held.pop(claim.metadata.name, None)
        if not held:
            del self._by_port[_port_of(claim)]

    def held_by(self, port: Key) -> list[AddressClaim]:
        """Give the claims that name a port."""
        return list(self._by_port.get(port, {}).values())

    def used(self, vni: int) -> int:
        """Give how many addresses of a network are held."""
        return len(self._claims[vni])

    async def claim(
        self, subnet: Subnet, vni: int, network: Key, port: tuple[Key, str], wanted: Sequence[str] = ()
    ) -> list[str]:
        """Claim the wanted addresses, or one that is free.

        Args:
            subnet: where from.
            vni: the network's identifier.
            network: namespace and name of the network.
            port: the claimant's key and portID.
            wanted: fixed addresses; none for an automatic one.

        Returns:
            The addresses, now held for the port. Repeating the call for the same port is no error.

        Raises:
            AddressTaken: a wanted address is held by another.
            AddressesExhausted: no address is free.
        """
        if wanted:
            for address in wanted:
                await self._hold(vni, address, network, port)
            return list(wanted)
        while True:
            used = self._claims[vni].keys() | self._pending[vni]
            chosen = choose_address(subnet, used, self._last.get(vni))
            if chosen is None:
                raise AddressesExhausted(f"all addresses of {subnet.cidr} are in use")
            self._last[vni] = chosen
            try:
                await self._hold(vni, chosen, network, port)
            except AddressTaken:
                continue
            return [chosen]

    async def _hold(self, vni: int, address: str, network: Key, port: tuple[Key, str]) -> None:
        self._pending[vni].add(address)
        try:
            body = await self._create(vni, address, network, port)
            claim = AddressClaim.model_validate(body)
            self.seen(claim)
        finally:
            self._pending[vni].discard(address)
        if (_port_of(claim), claim.spec.claim_ref.instance) != port:
            raise AddressTaken(address, "/".join(_port_of(claim)))

    async def _create(self, vni: int, address: str, network: Key, port: tuple[Key, str]) -> dict[str, Any]:
        (namespace, name), port_id = port
        wanted = claim_body(vni, address, network, (namespace, name), port_id)
        try:
            return await self._client.create(AddressClaim, wanted)
        except AlreadyExists:
            found = await self._client.get(AddressClaim, wanted["metadata"]["name"])
            return found if found is not None else await self._client.create(AddressClaim, wanted)


def claim_body(vni: int, address: str, network: Key, port: Key, port_id: str) -> dict[str, Any]:
    """Give the claim on an address for a port."""
    return {
        "metadata": {"name": address_claim_name(vni, address)},
        "spec": {
            "network": {"namespace": network[0], "name": network[1]},
            "vni": vni,
            "address": address,
            "claimRef": {"kind": "Port", "namespace": port[0], "name": port[1], "instance": port_id},
        },
    }


def _port_of(claim: AddressClaim) -> Key:
    return claim.spec.claim_ref.namespace, claim.spec.claim_ref.name
