"""What became of a LoadBalancer."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kumulus_api.base import HostName, IPAddressText, Model, Name, ObjectName, Status


class LoadBalancerConditionType(StrEnum):
    """Conditions of a LoadBalancer beside Ready."""

    SERVING = "Serving"
    """Whether its host takes connections for it; told by the agent of the one that has the addresses."""
    STANDBY = "Standby"
    """Whether another host takes over by itself when that one is heard of no more; told by the operator."""


class LoadBalancerReason(StrEnum):
    """Reasons of a LoadBalancer's conditions."""

    BALANCING = "Balancing"
    WAITING_FOR_HOST = "WaitingForHost"
    """Its host has not said yet that it serves."""
    NOT_SERVING = "NotServing"
    CONFIG_REFUSED = "ConfigRefused"
    """HAProxy refuses what was made of it; what ran before runs on."""
    NETWORK_FAILED = "NetworkFailed"
    QUOTA_EXCEEDED = "QuotaExceeded"
    NETWORK_NOT_FOUND = "NetworkNotFound"
    NETWORK_NOT_READY = "NetworkNotReady"
    ADDRESS_INVALID = "AddressInvalid"
    ADDRESS_IN_USE = "AddressInUse"
    ADDRESSES_EXHAUSTED = "AddressesExhausted"
    MEMBER_INVALID = "MemberInvalid"
    """A member that is the load balancer itself."""
    PORT_IN_USE = "PortInUse"
    """Its port's name is another port's."""
    SECURITY_GROUP_NOT_FOUND = "SecurityGroupNotFound"
    SECURITY_GROUP_NOT_READY = "SecurityGroupNotReady"
    SECURITY_GROUP_CONFLICT = "SecurityGroupConflict"
    """Some of its port's groups are stateful, and others are not."""
    NO_HOST = "NoHost"
    """No Ready host reaches its network."""
    TOO_MANY_MEMBERS = "TooManyMembers"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 - a reason
    CERTIFICATE_INVALID = "CertificateInvalid"
    CERTIFICATE_NOT_FETCHED = "CertificateNotFetched"
    """The host could not get a certificate from the operator."""
    TAKES_OVER = "TakesOver"
    NO_STANDBY = "NoStandby"
    """No other host can serve it."""
    KEEPALIVED_MISSING = "KeepalivedMissing"
    """One of its two hosts has no keepalived: the operator moves the addresses, and later."""
    NO_ADDRESS_FOR_STANDBY = "NoAddressForStandby"
    """Its network has no further address, or the port's name is another's: the operator moves the addresses."""


class MemberState(StrEnum):
    """What is known of a member."""

    UP = "Up"
    DOWN = "Down"
    NO_ADDRESS = "NoAddress"
    """Its Server has no address in the network."""
    NOT_CHECKED = "NotChecked"
    """Its pool has no healthCheck: it gets connections."""


class MemberStatus(Model):
    """A member as the host sees it."""

    listener: Name
    name: ObjectName
    state: MemberState


class LoadBalancerStatus(Status):
    """What became of it: `host` and `members` are told by the agent of the host that has the addresses."""

    host: HostName | None = None
    """The host that has told."""
    members: Annotated[
        list[MemberStatus], Field(max_length=8192, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ] = Field(default_factory=list)
    """Written when a state changes."""
    address: IPAddressText | None = None
    """Where it listens."""
