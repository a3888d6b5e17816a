"""Claims: a scarce value is an object that is named by the value, so that its creation is the lock."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.addresses import canonical
from kumulus_api.base import (
    Column,
    Definition,
    IPAddressText,
    Kind,
    Model,
    Name,
    ObjectName,
    Reference,
    Rule,
    Timestamp,
    validated,
    whole,
)
from kumulus_api.provider import Segment


class ClaimReference(Model):
    """Who holds the claim: the object and the instance of it."""

    kind: Annotated[str, Field(max_length=63)]
    namespace: Name
    name: ObjectName
    instance: Annotated[str, Field(max_length=36)]
    """The claimant's identity: a Port's `portID`, a Router's `routerID`, a FloatingIP's `floatingIPID`, of a Network or
    DNSZone the `metadata.uid` at the time."""

    model_config = whole()


class AddressClaimSpec(Model):
    """An address of a network and who holds it."""

    network: Reference
    vni: Annotated[int, Field(ge=1, le=16777215)]
    address: IPAddressText
    claim_ref: ClaimReference
    released_at: Timestamp | None = None
    """When the claimant was found gone; the claim goes after the quarantine."""

    model_config = validated(
        Rule("self.address == oldSelf.address && self.vni == oldSelf.vni", "a claim keeps its value"),
    )


class AddressClaim(Kind):
    """An address of a network, held for a port, router or floating IP. The two make its name: `vni-4097-10-0-0-5`."""

    definition: ClassVar = Definition(
        plural="addressclaims",
        namespaced=False,
        columns=(
            Column("Address", ".spec.address"),
            Column("Namespace", ".spec.claimRef.namespace"),
            Column("Kind", ".spec.claimRef.kind", priority=1),
            Column("Holder", ".spec.claimRef.name"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        in_all=False,
    )

    spec: AddressClaimSpec


class NetworkIDClaimSpec(Model):
    """A network's number, or a segment of a physical network, and the network that holds it."""

    vni: Annotated[int, Field(ge=1, le=16777215)] | None = None
    segment: Segment | None = None
    claim_ref: ClaimReference
    released_at: Timestamp | None = None

    model_config = validated(
        Rule("has(self.vni) != has(self.segment)", "a claim is on a number or on a segment"),
        Rule(
            "has(self.vni) == has(oldSelf.vni) && (!has(self.vni) || self.vni == oldSelf.vni)"
            " && (!has(self.segment) || self.segment == oldSelf.segment)",
            "a claim keeps its value",
        ),
    )


class NetworkIDClaim(Kind):
    """A network's number, `vni-4097`, or a provider network's segment, `segment-physnet1-vlan-100`, held for it."""

    definition: ClassVar = Definition(
        plural="networkidclaims",
        namespaced=False,
        columns=(
            Column("VNI", ".spec.vni", "integer"),
            Column("Physical", ".spec.segment.physicalNetwork", priority=1),
            Column("Namespace", ".spec.claimRef.namespace"),
            Column("Network", ".spec.claimRef.name"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        in_all=False,
    )

    spec: NetworkIDClaimSpec


def network_id_claim_name(vni: int) -> str:
    """Give the name of the claim on a VXLAN network identifier."""
    return f"vni-{vni}"


def address_claim_name(vni: int, address: str) -> str:
    """Give the name of the claim on an address of a network, however it is spelled: dots and colons become dashes."""
    return f"vni-{vni}-{canonical(address).replace('.', '-').replace(':', '-')}".rstrip("-")
