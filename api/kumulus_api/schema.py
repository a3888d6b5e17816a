"""pydantic models → structural CustomResourceDefinitions.

pydantic writes JSON Schema 2020-12; the API server takes a subset of OpenAPI 3.0 and refuses the rest. What pydantic
says in another way is translated here (references, null, constants, exclusive bounds); what has no translation, and
what would break the budget of CEL rules (a string or list without bound), raises SchemaError when the CRDs are made.

    SchemaError(ValueError)    a model that cannot be a structural schema; names the field
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass, field
from functools import cache
from typing import Any, get_args

from pydantic.fields import FieldInfo

from kumulus_api.base import Definition, Kind, Model

Schema = dict[str, Any]

_ORDER = (
    "type",
    "format",
    "description",
    "default",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
    "properties",
    "items",
    "additionalProperties",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-validations",
)
"""The keywords that a schema may have, in the order in which they are written."""

_INT32_MAX = 2**31 - 1


class SchemaError(ValueError):
    """A model that cannot be written as a structural schema."""


def clean(text: str) -> str:
    """Give a docstring as a description: its paragraphs, each on one line."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in paragraphs)


@cache
def field_docs(model: type[Model]) -> dict[str, str]:
    """Give the docstrings below a model's fields, those of its bases included, by Python name."""
    docs: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not (issubclass(cls, Model) and cls is not Model):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        if not isinstance(tree, ast.ClassDef):
            continue
        for statement, after in zip(tree.body, tree.body[1:], strict=False):
            if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                docs[statement.target.id] = clean(str(after.value.value))
    return docs


@cache
def _models() -> dict[str, type[Model]]:
    """Give every model of the API by its class name, which is its name under `$defs`."""
    found: dict[str, type[Model]] = {}
    todo = list(Model.__subclasses__())
    while todo:
        cls = todo.pop()
        if found.setdefault(cls.__name__, cls) is not cls:
            raise SchemaError(
                f"two models are called {cls.__name__}: {cls.__module__}, {found[cls.__name__].__module__}"
            )
        todo.extend(cls.__subclasses__())
    return found


@dataclass(frozen=True)
class _Converter:
    """Turns one JSON Schema of pydantic into a structural schema."""

    defs: dict[str, Schema]
    defaults: bool
    """Whether defaults are kept: in a spec they are, in a status a default would be nobody's observation."""
    models: dict[str, type[Model]] = field(default_factory=_models)

    def convert(self, node: Schema, path: str, model: type[Model] | None = None) -> Schema:
        """Give the structural schema of `node`; `model` is the class whose properties it has, if any."""
        node, model = self._resolve(node, path, model)
        out: Schema = {}
        for key, value in node.items():
            out |= self._keyword(key, value, path)
        if "properties" in node:
            out["properties"] = self._properties(node["properties"], path, model)
            out.setdefault("type", "object")
        if "items" in node:
            out["items"] = self.convert(node["items"], f"{path}[]")
            out.setdefault("x-kubernetes-list-type", "atomic")
        if isinstance(node.get("additionalProperties"), dict):
            out["additionalProperties"] = self.convert(node["additionalProperties"], f"{path}{{}}")
        if not self.defaults:
            out.pop("default", None)
        _check(out, path)
        return {key: out[key] for key in _ORDER if key in out}

    def _resolve(self, node: Schema, path: str, model: type[Model] | None) -> tuple[Schema, type[Model] | None]:
        """Put what a `$ref`, or the one choice beside null, stands for in its place; what is said beside it wins."""
        while True:
            if "$ref" in node:
                name = node["$ref"].removeprefix("#/$defs/")
                model = self.models.get(name)
                node = _beside(self.defs[name], {key: value for key, value in node.items() if key != "$ref"})
                continue
            for word in ("anyOf", "allOf"):
                if word in node:
                    choices = [choice for choice in node[word] if choice != {"type": "null"}]
                    if len(choices) != 1:
                        raise SchemaError(f"{path}: {len(choices)} types in one field; a structural schema has one")
                    node = _beside(choices[0], {key: value for key, value in node.items() if key != word})
                    break
            else:
                return node, model

    def _keyword(self, key: str, value: Any, path: str) -> Schema:
        """Give what a keyword of pydantic's is called by the API server."""
        if key in ("title", "properties", "items", "$defs") or (key, value) in (
            ("additionalProperties", False),
            ("default", None),
        ):
            return {}
        match key, value:
            case "additionalProperties", dict():
                return {}  # converted where it is known what is in it
            case "const", _:
                key, value = "enum", [value]
            case "description", str():
                value = clean(value)
            case "exclusiveMinimum", int():
                key, value = "minimum", value + 1
            case "exclusiveMaximum", int():
                key, value = "maximum", value - 1
            case "uniqueItems", _:
                key, value = "x-kubernetes-list-type", "set"
        if key not in _ORDER:
            raise SchemaError(f"{path}: {key} has no place in a structural schema")
        return {key: value}

    def _properties(self, nodes: dict[str, Schema], path: str, model: type[Model] | None) -> dict[str, Schema]:
        """Give the properties with the docstrings and made defaults, which pydantic's schema leaves out."""
        if model is None:
            raise SchemaError(f"{path}: an object that is no model")
        out: dict[str, Schema] = {}
        docs = field_docs(model)
        for name, info in model.model_fields.items():
            alias = info.alias or name
            node = dict(nodes[alias])
            if name in docs:
                node["description"] = docs[name]
            if info.default_factory is not None:
                node["default"] = _made_default(info)
            out[alias] = self.convert(node, f"{path}.{alias}")
        return out


def _beside(node: Schema, said: Schema) -> Schema:
    """Give a schema with what a field says beside it, which wins; the rules of both hold."""
    rules = "x-kubernetes-validations"
    both = node | said
    return both | {rules: [*node[rules], *said[rules]]} if rules in node and rules in said else both


def _made_default(info: FieldInfo) -> Any:
    """Give what a field's default factory makes, in the wire form.

    It is written in full: CEL rules judge a default as it stands, before its own fields are filled.
    """
    made = info.get_default(call_default_factory=True, validated_data={})
    if isinstance(made, list):
        return [item.dump() if isinstance(item, Model) else item for item in made]
    return made.dump() if isinstance(made, Model) else made


def _check(node: Schema, path: str) -> None:
    """Refuse what CEL's cost budget cannot bear and what clients would read differently; add integer formats."""
    kind = node.get("type")
    if kind == "string" and "enum" not in node and "maxLength" not in node:
        raise SchemaError(f"{path}: a string without maxLength")
    if kind == "array" and "maxItems" not in node:
        raise SchemaError(f"{path}: a list without maxItems")
    if "additionalProperties" in node and "maxProperties" not in node:
        raise SchemaError(f"{path}: a map without maxProperties")
    if kind == "number":
        raise SchemaError(f"{path}: a float; clients round them differently, use an integer of a smaller unit")
    if kind == "integer":
        node["format"] = "int32" if node.get("maximum", _INT32_MAX + 1) <= _INT32_MAX else "int64"


def model_schema(model: type[Model], path: str, *, defaults: bool) -> Schema:
    """Give the structural schema of a model.

    Args:
        model: the model.
        path: where it stands, for errors: `Server.spec`.
        defaults: whether the models' defaults become the API server's.

    Raises:
        SchemaError: the model says something that a structural schema cannot.
    """
    raw = model.model_json_schema(by_alias=True)
    return _Converter(raw.pop("$defs", {}), defaults).convert(raw, path, model)


def part(kind: type[Kind], name: str) -> type[Model] | None:
    """Give the model of a kind's `spec` or `status`, None if it has none."""
    info = kind.model_fields.get(name)
    if info is None:
        return None
    choices = [info.annotation, *get_args(info.annotation)]
    return next(choice for choice in choices if isinstance(choice, type) and issubclass(choice, Model))


def _object_schema(kind: type[Kind]) -> Schema:
    """Give the schema of the whole object."""
    spec, status = part(kind, "spec"), part(kind, "status")
    if spec is None:
        raise SchemaError(f"{kind.__name__} has no spec")
    spec_schema = model_schema(spec, f"{kind.__name__}.spec", defaults=True)
    required = kind.model_fields["spec"].is_required()
    if not required:
        spec_schema = {"type": "object", "default": _made_default(kind.model_fields["spec"])} | spec_schema
    out: Schema = {
        "type": "object",
        "description": clean(kind.__doc__ or ""),
        **({"required": ["spec"]} if required else {}),
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec_schema,
        },
    }
    if status is not None:
        out["properties"]["status"] = model_schema(status, f"{kind.__name__}.status", defaults=False)
    if kind.definition.rules:
        out["x-kubernetes-validations"] = [rule.schema() for rule in kind.definition.rules]
    return out


def _columns(definition: Definition) -> list[Schema]:
    return [
        {
            "name": column.name,
            "type": column.type,
            "jsonPath": column.path,
            **({"priority": column.priority} if column.priority else {}),
        }
        for column in definition.columns
    ]


def definition_of(kind: type[Kind]) -> Schema:
    """Give the CustomResourceDefinition of a kind, as apiextensions.k8s.io/v1 wants it.

    Raises:
        SchemaError: a model of it cannot be a structural schema.
    """
    resource, definition = kind.resource(), kind.definition
    version: Schema = {
        "name": resource.version,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": _columns(definition),
        "schema": {"openAPIV3Schema": _object_schema(kind)},
    }
    if part(kind, "status") is not None:
        version["subresources"] = {"status": {}}
    if definition.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in definition.selectable]
    names: Schema = {
        "kind": resource.kind,
        "listKind": f"{resource.kind}List",
        "plural": resource.plural,
        "singular": resource.kind.lower(),
        "categories": [*(["all"] if definition.in_all else []), "kumulus"],
    }
    if definition.short_names:
        names["shortNames"] = list(definition.short_names)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {
            "group": resource.group,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": names,
            "versions": [version],
        },
    }
