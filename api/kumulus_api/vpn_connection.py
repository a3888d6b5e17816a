"""VPNConnection: a tunnel from a Router to another site (Neutron's IPsec site connection with its policies)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import (
    CIDRText,
    Column,
    Definition,
    HostName,
    IPAddressText,
    Kind,
    LocalReference,
    Model,
    ObjectName,
    Rule,
    Status,
    Timestamp,
    UUIDText,
    ruled,
    validated,
    whole,
)

Identity = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9]([A-Za-z0-9.@_-]*[A-Za-z0-9])?$")]
"""How one end calls itself to the other: an address, a domain name, or a name with an @ (RFC 7296)."""

_NETWORKS = Rule(
    "self.all(c, isCIDR(c) && cidr(c).ip().family() == 4 && cidr(c) == cidr(c).masked() && cidr(c).prefixLength() > 0)",
    "each is an IPv4 network such as 10.20.0.0/16, without bits beyond its prefix",
)
SiteNetworks = Annotated[list[CIDRText], Field(max_length=16, json_schema_extra=ruled(_NETWORKS))]
"""IPv4 networks at one of the two sites."""


class IKEVersion(StrEnum):
    """How the two agree on keys."""

    IKE_V2 = "IKEv2"
    IKE_V1 = "IKEv1"
    """Main mode, for peers that know nothing else."""


class VPNEncryption(StrEnum):
    """Ciphers; those that are weak today are not among them."""

    AES128 = "AES128"
    AES192 = "AES192"
    AES256 = "AES256"
    AES128_GCM = "AES128GCM"
    """It proves integrity itself."""
    AES256_GCM = "AES256GCM"


class VPNIntegrity(StrEnum):
    """By what a changed packet is noticed, and keys are derived."""

    SHA256 = "SHA256"
    SHA384 = "SHA384"
    SHA512 = "SHA512"


class DHGroup(StrEnum):
    """Diffie-Hellman groups by their numbers at IANA."""

    GROUP_14 = "Group14"
    """2048 bits."""
    GROUP_15 = "Group15"
    """3072 bits."""
    GROUP_16 = "Group16"
    """4096 bits."""
    GROUP_19 = "Group19"
    """NIST P-256."""
    GROUP_20 = "Group20"
    """NIST P-384."""
    GROUP_21 = "Group21"
    """NIST P-521."""
    GROUP_31 = "Group31"
    """Curve25519."""


class IKEPolicy(Model):
    """How the two prove who they are and agree on keys (Neutron's ikepolicy)."""

    version: IKEVersion = IKEVersion.IKE_V2
    encryption: VPNEncryption = VPNEncryption.AES256
    integrity: VPNIntegrity = VPNIntegrity.SHA256
    dh_group: DHGroup = Field(default=DHGroup.GROUP_14, alias="dhGroup")
    lifetime_seconds: Annotated[int, Field(ge=600, le=604800)] = 86400
    """New keys are agreed on before."""

    model_config = validated(
        Rule(
            "self.version != 'IKEv1' || !self.encryption.endsWith('GCM')",
            "IKEv1 has no ciphers that prove integrity themselves: choose one without GCM",
            ".encryption",
        )
    )


class ESPPolicy(Model):
    """How packets are encrypted (Neutron's ipsecpolicy: ESP in tunnel mode)."""

    encryption: VPNEncryption = VPNEncryption.AES256
    integrity: VPNIntegrity = VPNIntegrity.SHA256
    pfs: DHGroup = DHGroup.GROUP_14
    """Perfect forward secrecy: each new key comes from an exchange of its own."""
    lifetime_seconds: Annotated[int, Field(ge=600, le=86400)] = 3600
    """New keys are agreed on before."""


class VPNInitiator(StrEnum):
    """Who begins."""

    BIDIRECTIONAL = "Bidirectional"
    """Either end."""
    RESPONSE_ONLY = "ResponseOnly"
    """The peer alone."""


class DPDAction(StrEnum):
    """What becomes of a connection whose peer is dead."""

    RESTART = "Restart"
    """It is begun anew; with initiator ResponseOnly it waits for the peer."""
    CLEAR = "Clear"
    """It ends. With initiator Bidirectional the next attempt to connect follows half a minute later."""
    DISABLED = "Disabled"
    """Nobody asks whether the peer lives."""


class DeadPeerDetection(Model):
    """How it is noticed that the peer is gone (Neutron's dpd)."""

    action: DPDAction = DPDAction.RESTART
    interval_seconds: Annotated[int, Field(ge=5, le=3600)] = 30
    """A peer that has been still for so long is asked."""
    timeout_seconds: Annotated[int, Field(ge=10, le=86400)] = 120
    """Of IKEv1: a peer that says nothing for so long is dead. With IKEv2 it is after six questions in 53 seconds."""

    model_config = validated(
        Rule("self.timeoutSeconds > self.intervalSeconds", "timeoutSeconds is above intervalSeconds", ".timeoutSeconds")
    )


class PreSharedKey(Model):
    """Where the key lies that both ends have."""

    secret: ObjectName
    """A Secret of the namespace."""
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")] = "psk"
    """The key of the Secret: 8 … 1024 bytes; a line's end after them does not count."""

    model_config = whole()


class TunnelTerms(Model):
    """What a user says of a tunnel, and hosts are told as it is."""

    peer_address: Annotated[
        IPAddressText,
        Field(
            json_schema_extra=ruled(
                Rule(
                    "isIP(self) && ip(self).family() == 4 && ip(self).isGlobalUnicast()",
                    "peerAddress is not the IPv4 address of one machine",
                )
            )
        ),
    ]
    """Where the peer's VPN gateway is reached from the router's external network."""
    peer_cidrs: Annotated[SiteNetworks, Field(min_length=1)] = Field(alias="peerCIDRs")
    """The peer's networks: what is sent there goes through the tunnel, or nowhere."""
    ike: IKEPolicy = Field(default_factory=IKEPolicy)
    esp: ESPPolicy = Field(default_factory=ESPPolicy)
    initiator: VPNInitiator = VPNInitiator.BIDIRECTIONAL
    dpd: DeadPeerDetection = Field(default_factory=DeadPeerDetection)
    mtu: Annotated[int, Field(ge=576, le=8900)] = 1360
    """The largest packet in the tunnel, in bytes: about 90 are added outside. A router's tunnels have the least of
    theirs."""


class VPNConnectionAssignment(TunnelTerms):
    """What the operator decided. It survives a restore from a backup."""

    model_config = whole()

    up: bool = True
    """False while it is to be down: by its user, or since something that it needs is gone."""
    router_id: UUIDText = Field(alias="routerID")
    host: HostName
    """The host that leads the router out, unless the standby has taken over."""
    standby: HostName | None = None
    local_address: IPAddressText
    """The router's in the external network."""
    local_id: Identity = Field(alias="localID")
    peer_id: Identity = Field(alias="peerID")
    local_subnets: Annotated[list[CIDRText], Field(min_length=1, max_length=64)]
    psk_version: Annotated[str, Field(max_length=32, pattern=r"^[0-9A-Za-z]+$")]
    """The resourceVersion of the Secret with the key; hosts ask the operator for what that holds."""


class VPNConnectionSpec(TunnelTerms):
    """The two ends, what lies behind them, and how they speak to each other."""

    description: Annotated[str, Field(max_length=1024)] = ""
    router: Annotated[
        LocalReference,
        Field(json_schema_extra=ruled(Rule("self == oldSelf", "router cannot change: make another VPNConnection"))),
    ]
    peer_id: Identity | None = Field(default=None, alias="peerID")
    """`peerAddress` if it is not given."""
    local_id: Identity | None = Field(default=None, alias="localID")
    """The router's external address if it is not given."""
    local_subnets: SiteNetworks = Field(default_factory=list)
    """Networks of the router that the peer reaches: all IPv4 subnets that the router joins if it is empty."""
    psk: PreSharedKey
    admin_state_up: bool = True
    """False ends the tunnel, and what is sent to `peerCIDRs` goes nowhere."""
    assignment: VPNConnectionAssignment | None = None
    """Written by the operator only."""

    model_config = validated(
        Rule(
            "!isIP(self.peerAddress) || self.peerCIDRs.all(c, !isCIDR(c) || !cidr(c).containsIP(self.peerAddress))",
            "peerCIDRs contain peerAddress, which is reached outside the tunnel",
            ".peerCIDRs",
        ),
    )


class VPNConnectionConditionType(StrEnum):
    """Conditions of a VPNConnection beside Ready."""

    ESTABLISHED = "Established"
    """Whether packets pass; told by the agent of the host that leads the router out."""


class VPNConnectionReason(StrEnum):
    """Reasons of a VPNConnection's conditions."""

    ESTABLISHED = "Established"
    CONNECTING = "Connecting"
    WAITING_FOR_PEER = "WaitingForPeer"
    """The peer begins."""
    WAITING_FOR_HOST = "WaitingForHost"
    """The router's gateway host has not told of it yet."""
    NOT_ESTABLISHED = "NotEstablished"
    AUTHENTICATION_FAILED = "AuthenticationFailed"
    """The two have different keys, or one does not call itself what the other expects."""
    NO_PROPOSAL_CHOSEN = "NoProposalChosen"
    """They have no cipher, integrity or group in common."""
    NETWORKS_DIFFER = "NetworksDiffer"
    """Each has other networks for the two sites."""
    PEER_UNREACHABLE = "PeerUnreachable"
    """It does not answer."""
    PEER_GONE = "PeerGone"
    """The peer has ended it, or died."""
    PACKAGE_MISSING = "PackageMissing"
    """The host has no strongSwan."""
    KEY_NOT_FETCHED = "KeyNotFetched"
    """The host could not get the key from the operator."""
    DAEMON_FAILED = "DaemonFailed"
    """charon does not do what it is asked for."""
    TAKEN_DOWN = "TakenDown"
    """Its condition Ready says why."""
    DOWN = "AdminStateDown"
    ROUTER_NOT_FOUND = "RouterNotFound"
    NO_GATEWAY = "NoGateway"
    """The router has no IPv4 address in an external network."""
    SUBNETS_INVALID = "SubnetsInvalid"
    """localSubnets are not the router's, or it has none."""
    NETWORKS_OVERLAP = "NetworksOverlap"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 - a reason
    KEY_INVALID = "KeyInvalid"
    QUOTA_EXCEEDED = "QuotaExceeded"
    TOO_MANY_NETWORKS = "TooManyNetworks"
    """Behind the tunnels of its router."""


class VPNConnectionStatus(Status):
    """What became of it: `host`, `peer` and `since` are told by the agent of the host that leads the router out."""

    host: HostName | None = None
    """The host that has told."""
    peer: Annotated[str, Field(max_length=64, pattern=r"^[0-9.:]+$")] | None = None
    """Where the peer speaks from, with its port, while packets pass."""
    since: Timestamp | None = None
    """Since when they do."""
    local_address: IPAddressText | None = None
    """What the peer has to name as its own peer."""


class VPNConnection(Kind):
    """A tunnel from a Router to another site (Neutron's IPsec site connection)."""

    definition: ClassVar = Definition(
        plural="vpnconnections",
        short_names=("kvpn",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Router", ".spec.router.name"),
            Column("Local", ".status.localAddress"),
            Column("Peer", ".spec.peerAddress"),
            Column("Host", ".status.host", priority=1),
            Column("Since", ".status.since", "date", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".spec.assignment.host", ".spec.assignment.standby"),
    )

    spec: VPNConnectionSpec
    status: VPNConnectionStatus | None = None
