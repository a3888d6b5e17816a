"""The base of every kind: what a model says of its CustomResourceDefinition.

A kind is a pydantic model with `spec` and `status`; class attributes carry what OpenAPI has no word for (scope, short
names, printer columns, CEL rules). Field names are camelCase on the wire and snake_case in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP = "kumulus.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

FINALIZER = f"{GROUP}/agent"
"""On every Server, Volume and user-made Port from creation; goes when the host has been cleaned up."""

IN_USE = f"{GROUP}/in-use"
"""On every Network, SecurityGroup (but `default`), Router, FloatingIP, LoadBalancer and Project from creation;
goes when nothing uses it, or is in it."""

PUBLIC_NAMESPACE = "kumulus-public"
"""Images and Networks here are readable by the members of all projects."""

PROJECT_LABEL = f"{GROUP}/project"
"""On a namespace: the name of the Project that it belongs to."""

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""A DNS label (RFC 1123)."""

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""A DNS subdomain name (RFC 1123), which is what Kubernetes allows as the name of most objects."""

HostName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    ),
]
"""The name of a Host, which is that of its Node: a DNS subdomain (RFC 1123), often a name with its domain."""

Quantity = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$")]
"""A Kubernetes quantity of bytes without sign and exponent, such as `512Mi`."""

MACAddress = Annotated[str, Field(max_length=17, pattern=r"^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$")]
"""A unicast MAC address in lower case (IEEE 802)."""

IPAddressText = Annotated[str, Field(min_length=2, max_length=45, pattern=r"^[0-9a-fA-F:.]+$")]
"""An IPv4 or IPv6 address; CEL's `isIP` judges it."""

CIDRText = Annotated[str, Field(min_length=4, max_length=49, pattern=r"^[0-9a-fA-F:.]+/[0-9]{1,3}$")]
"""An IPv4 or IPv6 network with its prefix length; CEL's `isCIDR` judges it."""

UUIDText = Annotated[str, Field(min_length=36, max_length=36, pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
"""A UUID in lower case (RFC 9562)."""

Digest = Annotated[str, Field(max_length=135, pattern=r"^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$")]
"""A checksum with its algorithm: `sha256:` and 64 or `sha512:` and 128 hexadecimal digits."""

Trait = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[A-Z][A-Z0-9_]*$")]
"""A trait as Placement spells it: `HW_CPU_X86_AVX2`; one's own begin with `CUSTOM_`."""

CUSTOM_RESOURCE = "^CUSTOM_[A-Z0-9_]{1,248}$"
"""Placement's resource classes that administrators make up: `CUSTOM_LICENSE`."""
ASKED_RESOURCE = "^(VGPU|CUSTOM_[A-Z0-9_]{1,248})$"
"""Those that a flavor may ask for."""
CustomResources = Annotated[dict[str, Annotated[int, Field(ge=1, le=2147483647)]], Field(max_length=32)]
"""How many of each custom resource class."""

LabelMap = Annotated[dict[str, Annotated[str, Field(max_length=255)]], Field(max_length=64)]
"""Keys and values that are matched."""

Text = Annotated[str, Field(max_length=1024)]
Timestamp = Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})]


class Model(BaseModel):
    """A part of an object. Unknown fields are kept out, as the API server prunes them."""

    # A validator takes memory: those of parts that nobody reads by themselves, and of kinds that a process does not
    # use, are never built.
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True, defer_build=True
    )

    def dump(self) -> dict[str, Any]:
        """Give the wire form: camelCase keys, absent fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


@dataclass(frozen=True)
class Rule:
    """A CEL rule of a CRD schema (`x-kubernetes-validations`).

    The API server evaluates every rule at every write, of the status too, and each field that a rule reads costs as
    much as the object has fields. So what concerns one field stands on the field (`ruled`), and what is told in several
    ways but begins with the same question is one rule (`first_broken`).
    """

    rule: str
    message: str
    field_path: str = ""
    message_expression: str = ""
    """CEL that gives the message; `message` is what the reference says."""

    def schema(self) -> dict[str, Any]:
        """Give the rule as it stands in the schema."""
        out: dict[str, Any] = {"rule": self.rule, "message": self.message}
        if self.message_expression:
            out["messageExpression"] = self.message_expression
        return out | ({"fieldPath": self.field_path} if self.field_path else {})


def first_broken(unless: str, conditions: Sequence[tuple[str, str]], message: str, field_path: str = "") -> Rule:
    """Give one rule for several conditions, which are looked at only where `unless` does not hold.

    Args:
        unless: CEL; what nearly always holds, and reads little.
        conditions: CEL and the message that tells of its breach; the first that is broken is told.
        message: what they say together, for the reference.
        field_path: of the field that they all concern.
    """
    rule = f"{unless} || ({' && '.join(f'({condition})' for condition, _ in conditions)})"
    *others, (_, last) = conditions
    choices = "".join(f"!({condition}) ? {_quoted(told)} : " for condition, told in others)
    return Rule(rule, message, field_path, choices + _quoted(last))


def _quoted(text: str) -> str:
    if "'" in text or "\\" in text:
        raise ValueError(f"a message without quotes and backslashes is wanted, not {text!r}")
    return f"'{text}'"


@dataclass(frozen=True)
class Column:
    """A printer column of `kubectl get`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


@dataclass(frozen=True)
class Resource:
    """Where the API server serves a kind."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool


@dataclass(frozen=True)
class Definition:
    """What a CustomResourceDefinition says beside its schema."""

    plural: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    selectable: tuple[str, ...] = ()
    in_all: bool = True
    rules: tuple[Rule, ...] = field(default=())


def ruled(*rules: Rule) -> dict[str, Any]:
    """Give the `json_schema_extra` that puts CEL rules on a field, beside those of its model."""
    return {"x-kubernetes-validations": [rule.schema() for rule in rules]}


def validated(*rules: Rule) -> ConfigDict:
    """Give the `model_config` that puts CEL rules on a model."""
    return ConfigDict(json_schema_extra=ruled(*rules))


def whole(*rules: Rule) -> ConfigDict:
    """Give the `model_config` of a part that one writer writes as a whole, with CEL rules.

    The API server notes one owner for it instead of one for each field. Those notes are nearly half of a placed Server,
    and are read, compared and sent at every write.
    """
    return ConfigDict(json_schema_extra={"x-kubernetes-map-type": "atomic"} | (ruled(*rules) if rules else {}))


def list_map(*keys: str) -> dict[str, Any]:
    """Give the `json_schema_extra` of a list whose items are told apart by `keys`."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


class Reference(Model):
    """A reference to an object, in the referrer's own namespace unless it says otherwise."""

    name: ObjectName
    namespace: Name | None = None

    model_config = whole()


class LocalReference(Model):
    """A reference to an object of the same namespace, or to one without namespace."""

    name: ObjectName

    model_config = whole()


class Condition(Model):
    """One aspect of an object's state, as Kubernetes' API conventions describe it."""

    type: Annotated[str, Field(max_length=64)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(min_length=1, max_length=64)]
    message: Annotated[str, Field(max_length=2048)] = ""
    last_transition_time: Timestamp
    observed_generation: int | None = None

    model_config = whole()


class Status(Model):
    """What every status has."""

    observed_generation: int | None = None
    """The generation that this status was made from."""
    conditions: Annotated[list[Condition], Field(max_length=16, json_schema_extra=list_map("type"))] = Field(
        default_factory=list
    )
    """The object's state, `Ready` being the summary."""


class OwnerReference(Model):
    """The owner of an object, for garbage collection."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Model):
    """The part of an object's metadata that Kumulus reads."""

    name: str = ""
    namespace: str | None = None
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)
    owner_references: list[OwnerReference] = Field(default_factory=list)


class Kind(Model):
    """A custom resource. A subclass sets `definition`, `spec` and, where it has one, `status`."""

    definition: ClassVar[Definition]

    metadata: ObjectMeta = Field(default_factory=ObjectMeta)

    @classmethod
    def resource(cls) -> Resource:
        """Give where the API server serves this kind."""
        return Resource(GROUP, VERSION, cls.definition.plural, cls.__name__, cls.definition.namespaced)

    @property
    def key(self) -> tuple[str, str]:
        """Namespace (empty for a cluster-scoped kind) and name."""
        return (self.metadata.namespace or "", self.metadata.name)

    @property
    def deleting(self) -> bool:
        """Whether deletion was asked for."""
        return self.metadata.deletion_timestamp is not None
