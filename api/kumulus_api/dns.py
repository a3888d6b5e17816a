"""DNSZone, DNSRecord and the claim on a zone's domain (Designate's zones and recordsets)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import (
    Column,
    Definition,
    Kind,
    LocalReference,
    Model,
    Rule,
    Status,
    ruled,
    validated,
)
from kumulus_api.claims import ClaimReference

_LABEL = "[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?"

_EMAIL = r"^[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@([A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,63}$"

Domain = Annotated[str, Field(min_length=4, max_length=240, pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.){2,}$")]
"""A zone's domain in lower case, with at least two labels and the dot of the root at its end: `example.test.`"""

RecordName = Annotated[str, Field(min_length=1, max_length=254, pattern=rf"^(@|(\*|{_LABEL})(\.{_LABEL})*\.?)$")]
"""A name in a zone, in lower case: relative (`www`, `*.apps`), `@` for the zone itself, or absolute with a dot at its
end."""

TTL = Annotated[int, Field(ge=0, le=2147483647)]
"""Seconds for which an answer may be kept (RFC 2181, section 8)."""


class DNSZoneSpec(Model):
    """The domain, and what its start of authority says."""

    domain: Annotated[
        Domain,
        Field(
            json_schema_extra=ruled(
                Rule("self == oldSelf", "domain cannot change: make another zone"),
                Rule(
                    "!(self in ['in-addr.arpa.', 'ip6.arpa.'])",
                    "domain is where all reverse names are: name the part of your addresses, as 0.0.10.in-addr.arpa.",
                ),
            )
        ),
    ]
    """With a dot at its end: `example.test.`, or for addresses `0.0.10.in-addr.arpa.`. Only one zone has it."""
    email: Annotated[str, Field(max_length=254, pattern=_EMAIL)]
    """Who answers for the zone."""
    ttl: TTL = 3600
    """Of records that do not say their own."""
    description: Annotated[str, Field(max_length=1024)] = ""


class DNSZoneStatus(Status):
    """What was published; conditions."""

    serial: Annotated[int, Field(ge=0, le=4294967295)] | None = None
    """Of the start of authority: grows with each published change (RFC 1982)."""
    records: Annotated[int, Field(ge=0)] | None = None
    """Published records, the zone's own (SOA, NS) left out and automatic ones counted."""
    nameservers: Annotated[list[Annotated[str, Field(max_length=254)]], Field(max_length=16)] | None = None
    """The servers that the parent zone has to name."""


class DNSZoneReason(StrEnum):
    """Reasons of a DNSZone's Ready condition."""

    PUBLISHED = "Published"
    DOMAIN_TAKEN = "DomainTaken"
    """Another zone has the domain, or another project has a zone above or below it."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    TOO_LARGE = "TooLarge"
    NO_NAME_SERVER = "NoNameServer"
    """The cloud was installed without one."""


class DNSZone(Kind):
    """A domain whose names the cloud's name servers answer for (Designate's zone)."""

    definition: ClassVar = Definition(
        plural="dnszones",
        short_names=("kzone",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Domain", ".spec.domain"),
            Column("Serial", ".status.serial", "integer"),
            Column("Records", ".status.records", "integer"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    )

    spec: DNSZoneSpec
    status: DNSZoneStatus | None = None


class RecordType(StrEnum):
    """Types of records."""

    A = "A"
    AAAA = "AAAA"
    CNAME = "CNAME"
    MX = "MX"
    NS = "NS"
    PTR = "PTR"
    SRV = "SRV"
    TXT = "TXT"
    CAA = "CAA"
    SSHFP = "SSHFP"


class DNSRecordSpec(Model):
    """A name, a type, and all values that the name has of the type."""

    zone: Annotated[
        LocalReference,
        Field(json_schema_extra=ruled(Rule("self == oldSelf", "zone cannot change: make another record"))),
    ]
    """The DNSZone, of the same namespace."""
    name: Annotated[
        RecordName, Field(json_schema_extra=ruled(Rule("self == oldSelf", "name cannot change: make another record")))
    ]
    """Relative to the zone (`www`, `*.apps`), `@` for the zone itself, or absolute with a dot at its end."""
    type: Annotated[
        RecordType, Field(json_schema_extra=ruled(Rule("self == oldSelf", "type cannot change: make another record")))
    ]
    ttl: TTL | None = None
    """The zone's if it is not given."""
    records: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=2048, pattern=r"^[ -~]+$")]],
        Field(min_length=1, max_length=64, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ]
    """The values as zone files have them: `10 mail.example.test.` for MX. Names in them are absolute, with a dot at
    their end. A TXT value is one text, or in quotes as zone files have it: `"one" "two"`."""
    description: Annotated[str, Field(max_length=1024)] = ""

    model_config = validated(
        Rule(
            "self.type != 'A' || self.records.all(r, isIP(r) && ip(r).family() == 4)",
            "a value of type A is not an IPv4 address",
            ".records",
        ),
        Rule(
            "self.type != 'AAAA' || self.records.all(r, isIP(r) && ip(r).family() == 6)",
            "a value of type AAAA is not an IPv6 address",
            ".records",
        ),
        Rule("self.type != 'CNAME' || self.records.size() == 1", "a CNAME has one value", ".records"),
    )


class DNSRecordStatus(Status):
    """Conditions."""


class DNSRecordReason(StrEnum):
    """Reasons of a DNSRecord's Ready condition."""

    PUBLISHED = "Published"
    ZONE_UNKNOWN = "ZoneUnknown"
    ZONE_NOT_READY = "ZoneNotReady"
    NAME_INVALID = "NameInvalid"
    VALUE_INVALID = "ValueInvalid"
    CONFLICT = "Conflict"
    """Another record has the name and the type, or there is a CNAME with the name."""


class DNSRecord(Kind):
    """All values that a name of a zone has of one type (Designate's recordset)."""

    definition: ClassVar = Definition(
        plural="dnsrecords",
        short_names=("krec",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Zone", ".spec.zone.name"),
            Column("Name", ".spec.name"),
            Column("Type", ".spec.type"),
            Column("Value", ".spec.records[0]"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        in_all=False,
    )

    spec: DNSRecordSpec
    status: DNSRecordStatus | None = None


class DNSZoneClaimSpec(Model):
    """A domain and the zone that holds it."""

    domain: Domain
    claim_ref: ClaimReference

    model_config = validated(Rule("self.domain == oldSelf.domain", "a claim keeps its value", ".domain"))


class DNSZoneClaim(Kind):
    """A domain, held for a zone. Its name is the domain's, without the dot at its end."""

    definition: ClassVar = Definition(
        plural="dnszoneclaims",
        namespaced=False,
        columns=(
            Column("Domain", ".spec.domain"),
            Column("Namespace", ".spec.claimRef.namespace"),
            Column("Zone", ".spec.claimRef.name"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        in_all=False,
    )

    spec: DNSZoneClaimSpec


def zone_claim_name(domain: str) -> str:
    """Give the name of the claim on a domain."""
    return domain.removesuffix(".")
