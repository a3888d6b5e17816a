"""pydantic models become schemas that an API server takes."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import ConfigDict, Field

from kumulus_api import KINDS, AddressClaim, Kind, Port, Project, Server
from kumulus_api.base import Column, Definition, Model, Rule, first_broken, list_map, ruled, validated
from kumulus_api.schema import Schema, SchemaError, definition_of, field_docs, model_schema
from kumulus_api.server_status import ServerStatus


class Colour(StrEnum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


class Inner(Model):
    """The inside."""

    name: Annotated[str, Field(max_length=8)]
    count: Annotated[int, Field(ge=1, le=9)] = 3


class Outer(Model):
    """The outside."""

    colour: Colour = Colour.RED
    """Which
    colour."""
    inner: Inner | None = None
    many: Annotated[list[Inner], Field(max_length=2, json_schema_extra=list_map("name"))] = Field(default_factory=list)
    unique: Annotated[set[Colour], Field(max_length=2)] = Field(default_factory=set)
    only: Literal["one"] = "one"
    above: Annotated[int, Field(gt=0, lt=10)]
    big: int
    made: Inner = Field(default_factory=lambda: Inner(name="x"))

    model_config = validated(Rule("self.above > 1", "above is too small", ".above")) | ConfigDict(extra="forbid")


def nodes(schema: Schema) -> Iterator[Schema]:
    """Give a schema and all schemas below it."""
    yield schema
    for child in schema.get("properties", {}).values():
        yield from nodes(child)
    if "items" in schema:
        yield from nodes(schema["items"])


def outer() -> Schema:
    """Give the schema of Outer as of a spec."""
    return model_schema(Outer, "Outer", defaults=True)


def root(kind: type[Kind]) -> Schema:
    """Give the schema of a kind's objects."""
    schema: Schema = definition_of(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def test_references_are_inlined() -> None:
    """A structural schema has no $ref: what it stands for is in its place, with the field's own words."""
    inner = outer()["properties"]["inner"]
    assert inner["type"] == "object"
    assert inner["description"] == "The inside."
    assert inner["properties"]["count"] == {
        "type": "integer",
        "format": "int32",
        "default": 3,
        "minimum": 1,
        "maximum": 9,
    }
    assert inner["required"] == ["name"]


def test_what_the_api_server_refuses_is_translated() -> None:
    """null, const, titles, closed objects, numeric exclusive bounds and uniqueItems never reach the API server."""
    words = {word for node in nodes(outer()) for word in node}
    assert not words & {
        "anyOf", "oneOf", "allOf", "$ref", "$defs", "title", "const", "additionalProperties", "exclusiveMinimum",
        "exclusiveMaximum", "uniqueItems", "prefixItems", "discriminator", "nullable",
    }  # fmt: skip
    properties = outer()["properties"]
    assert properties["only"]["enum"] == ["one"]
    assert (properties["above"]["minimum"], properties["above"]["maximum"]) == (1, 9)
    assert properties["unique"]["x-kubernetes-list-type"] == "set"
    assert properties["big"]["format"] == "int64"


def test_enums_lists_rules_and_docs_are_kept() -> None:
    """Enums keep their values and default, lists their keys, models their rules, fields their docstrings."""
    schema = outer()
    assert schema["properties"]["colour"] == {
        "type": "string",
        "description": "Which colour.",
        "default": "red",
        "enum": ["red", "blue"],
    }
    many = schema["properties"]["many"]
    assert (many["x-kubernetes-list-type"], many["x-kubernetes-list-map-keys"]) == ("map", ["name"])
    assert many["default"] == []
    assert schema["x-kubernetes-validations"] == [
        {"fieldPath": ".above", "message": "above is too small", "rule": "self.above > 1"}
    ]
    assert schema["required"] == ["above", "big"]


def test_made_defaults_are_complete() -> None:
    """A default that is an object is written in full, since CEL judges it before its fields are filled."""
    assert outer()["properties"]["made"]["default"] == {"name": "x", "count": 3}


def test_status_has_no_defaults() -> None:
    """A default in a status would be an observation that nobody made."""
    assert all("default" not in node for node in nodes(model_schema(Outer, "Outer", defaults=False)))


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (str, "a string without maxLength"),
        (list[Inner], "a list without maxItems"),
        (int | Annotated[str, Field(max_length=3)], "2 types in one field"),
        (float, "a float"),
        (Annotated[tuple[int, int], Field()], "prefixItems"),
    ],
)
def test_what_cannot_be_said_is_refused(field: Any, said: str) -> None:
    """A model that a structural schema cannot express, or CEL cannot afford, fails when the CRDs are made."""

    class Wrong(Model):
        """Wrong."""

        field_: ClassVar[None] = None
        bad: field

    Wrong.model_rebuild(force=True)
    with pytest.raises(SchemaError, match=rf"Wrong\.bad.*{said}") as error:
        model_schema(Wrong, "Wrong", defaults=True)
    assert "Wrong.bad" in str(error.value)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_kinds_say_everything_a_user_expects(kind: type[Kind]) -> None:
    """Each kind has a description, a column for its age, the category kumulus, and a status subresource if a status."""
    spec = definition_of(kind)["spec"]
    version = spec["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    assert schema["description"]
    assert ("all" in spec["names"]["categories"]) == kind.definition.in_all
    assert "kumulus" in spec["names"]["categories"]
    assert version["additionalPrinterColumns"][-1]["name"] == "Age"
    assert ("status" in schema["properties"]) == ("status" in version.get("subresources", {}))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_columns_and_selectors_point_at_fields(kind: type[Kind]) -> None:
    """A printer column or selectable field that names no field of the schema would be silently empty."""
    schema = root(kind)
    paths = [column.path for column in kind.definition.columns] + list(kind.definition.selectable)
    for path in paths:
        node = schema
        for name in path.split("[")[0].strip(".").split("."):
            if name == "metadata":
                break
            node = node["properties"][name]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_rules_name_fields_that_exist(kind: type[Kind]) -> None:
    """A rule's fieldPath leads to a field of the model that has the rule."""
    for node in nodes(root(kind)):
        for rule in node.get("x-kubernetes-validations", []):
            if "fieldPath" in rule:
                assert rule["fieldPath"].removeprefix(".") in node["properties"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_list_keys_are_required(kind: type[Kind]) -> None:
    """The keys of a list map are fields that every item has."""
    for node in nodes(root(kind)):
        for key in node.get("x-kubernetes-list-map-keys", []):
            assert key in node["items"]["required"]


def test_base_class_docstrings_are_found() -> None:
    """A field that comes from a base class keeps the docstring that it has there."""
    assert field_docs(ServerStatus)["conditions"].startswith("The object's state")


def test_optional_spec_has_a_default() -> None:
    """A kind whose spec may be left out gets it from the API server, so that no reader meets an object without."""
    schema = root(Project)
    assert "required" not in schema
    assert schema["properties"]["spec"]["default"] == {"description": "", "roles": [], "quota": {}}


def test_definition_of_a_small_kind() -> None:
    """The whole definition of a small kind is what one would write by hand."""

    class PebbleSpec(Model):
        """What it is."""

        weight: Annotated[int, Field(ge=1, le=100)]
        """Grams."""

    class Pebble(Kind):
        """A small stone."""

        definition: ClassVar = Definition(
            plural="pebbles",
            short_names=("pb",),
            columns=(Column("Weight", ".spec.weight", "integer", 1),),
            selectable=(".spec.weight",),
            rules=(Rule("self.metadata.name != 'x'", "not x"),),
        )
        spec: PebbleSpec

    Pebble.model_rebuild(_types_namespace={"PebbleSpec": PebbleSpec})
    assert definition_of(Pebble) == {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "pebbles.kumulus.dev"},
        "spec": {
            "group": "kumulus.dev",
            "scope": "Namespaced",
            "names": {
                "kind": "Pebble",
                "listKind": "PebbleList",
                "plural": "pebbles",
                "singular": "pebble",
                "categories": ["all", "kumulus"],
                "shortNames": ["pb"],
            },
            "versions": [
                {
                    "name": "v1alpha1",
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [
                        {"name": "Weight", "type": "integer", "jsonPath": ".spec.weight", "priority": 1}
                    ],
                    "selectableFields": [{"jsonPath": ".spec.weight"}],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": "A small stone.",
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": {
                                    "type": "object",
                                    "description": "What it is.",
                                    "required": ["weight"],
                                    "properties": {
                                        "weight": {
                                            "type": "integer",
                                            "format": "int32",
                                            "description": "Grams.",
                                            "minimum": 1,
                                            "maximum": 100,
                                        }
                                    },
                                },
                            },
                            "x-kubernetes-validations": [{"rule": "self.metadata.name != 'x'", "message": "not x"}],
                        }
                    },
                }
            ],
        },
    }


class Ruled(Model):
    """What has a rule."""

    model_config = validated(Rule("true", "of the model"))


class Holder(Model):
    """What has a rule beside its field's."""

    one: Annotated[Ruled | None, Field(json_schema_extra=ruled(Rule("true", "of the field")))] = None


def test_a_fields_rules_stand_beside_those_of_its_model() -> None:
    """A rule on a field takes none of the rules away that its model has."""
    one = model_schema(Holder, "Holder", defaults=True)["properties"]["one"]
    assert [rule["message"] for rule in one["x-kubernetes-validations"]] == ["of the model", "of the field"]


def test_one_rule_tells_the_first_breach() -> None:
    """Conditions that are asked only where something does not hold are one rule, which tells the first breach."""
    rule = first_broken("self.x", (("self.a", "a is wrong"), ("self.b", "b is wrong")), "a and b are right", ".x")
    assert rule.schema() == {
        "rule": "self.x || ((self.a) && (self.b))",
        "message": "a and b are right",
        "messageExpression": "!(self.a) ? 'a is wrong' : 'b is wrong'",
        "fieldPath": ".x",
    }


def test_a_message_is_a_cel_literal() -> None:
    """A message that would end its literal is refused when the CRDs are made."""
    with pytest.raises(ValueError, match="without quotes"):
        first_broken("self.x", (("self.a", "a's wrong"),), "a is right")


@pytest.mark.parametrize("kind", [Server, Port, AddressClaim])
def test_what_one_writer_writes_as_a_whole_has_one_owner(kind: type[Kind]) -> None:
    """References, conditions and decisions are owned as a whole, so that no owner is noted for each of their fields."""
    spec = root(kind)["properties"]["spec"]["properties"]
    parts = [spec[name] for name in ("assignment", "claimRef", "network", "image", "flavor") if name in spec]
    status = root(kind)["properties"].get("status", {}).get("properties", {})
    parts += [status["conditions"]["items"]] if status else []
    assert parts
    assert all(part["x-kubernetes-map-type"] == "atomic" for part in parts)
