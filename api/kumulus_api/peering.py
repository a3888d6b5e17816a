"""Peering of a Network with the Kubernetes cluster: who is granted it, what is asked for, what was decided."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kumulus_api.base import CIDRText, HostName, MACAddress, Model, Name, Rule, validated, whole


class Peering(Model):
    """What of the cluster and of the network reach each other; the Project has to be granted it."""

    from_pods: bool = False
    """The cluster's pods reach the network's servers, as far as their security groups let them; of IPv4."""
    to_services: bool = False
    """Servers reach the cluster's Services by their cluster addresses; of IPv4."""
    security_groups: Annotated[list[Name], Field(max_length=8)] = Field(default_factory=list)
    """Security groups of the namespace of which pods count as members: rules that name one as remote group let them in.
    Without any, rules let them in by the addresses that they have in the network (`spec.assignment.hosts`)."""


class PeeringGrant(Model):
    """What an administrator lets the networks of a project have of the cluster."""

    from_pods: Annotated[list[CIDRText], Field(max_length=64)] = Field(default_factory=list)
    """Ranges in which a subnet lies that pods reach: each host of the cluster sends there what is meant for it."""
    to_services: bool = False
    """Whether servers may reach the cluster's Services."""

    model_config = validated(
        Rule(
            "self.fromPods.all(p, isCIDR(p) && cidr(p).ip().family() == 4 && cidr(p) == cidr(p).masked())",
            "a range is not an IPv4 network such as 10.128.0.0/16",
            ".fromPods",
        ),
    )


class AssignedPeer(Model):
    """How the pods of a host appear in the network."""

    host: HostName
    mac: MACAddress
    addresses: Annotated[list[CIDRText], Field(min_length=1, max_length=16)]
    """With the prefix length of their subnets, of which each has one."""


class NetworkAssignment(Model):
    """What the operator decided of the peering."""

    model_config = whole()

    from_pods: bool = False
    """Whether pods reach any of it: each host carries the network then."""
    subnets: Annotated[list[CIDRText], Field(max_length=16)] = Field(default_factory=list)
    """Those that pods reach; no other network has them, or any part of them."""
    hosts: Annotated[list[AssignedPeer], Field(max_length=2000)] = Field(default_factory=list)
    pods: Annotated[list[CIDRText], Field(max_length=16)] = Field(default_factory=list)
    """Where pods are: only these, and what a Service leads there, reach servers."""
    security_groups: Annotated[list[Name], Field(max_length=8)] = Field(default_factory=list)
    services: Annotated[list[CIDRText], Field(max_length=16)] = Field(default_factory=list)
    """Where Services are that servers reach; none if they reach none."""


class PeeringReason(StrEnum):
    """Reasons of a Network's Peered condition."""

    PEERED = "Peered"
    NOT_GRANTED = "NotGranted"
    """The Project has no leave for it, or not for this subnet."""
    OVERLAPS_NETWORK = "OverlapsNetwork"
    """Pods reach another Network there already."""
    OVERLAPS_CLUSTER = "OverlapsCluster"
    """The cluster's own pods, Services or nodes are there."""
    CLUSTER_RANGES_UNKNOWN = "ClusterRangesUnknown"
    """The operator was not told where pods and Services are."""
    ADDRESSES_EXHAUSTED = "AddressesExhausted"
    NO_IPV4_SUBNET = "NoIPv4Subnet"
    """There is none, or for Services none with DHCP."""
    NETWORK_NOT_READY = "NetworkNotReady"
