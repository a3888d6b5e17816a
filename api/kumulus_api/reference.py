"""Reference pages: one Markdown page per kind, from the models' docstrings and the generated schema."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum

from kumulus_api import KINDS
from kumulus_api.base import API_VERSION, Kind
from kumulus_api.schema import Schema, clean, definition_of

MARK = "Made from api/kumulus_api by `make generate`. Change the models, not this file."
"""In every generated file."""

NOTE = f"<!-- {MARK} -->"


_KIND_NAMES = {kind.__name__ for kind in KINDS}


def _cell(text: str) -> str:
    """Give text that is safe in a cell of a Markdown table."""
    return text.replace("\n", " ").replace("|", "\\|")


def _type(node: Schema) -> str:
    """Give a field's type in words."""
    if node["type"] == "array":
        return f"list of {_type(node['items'])}"
    if "additionalProperties" in node:
        return f"map of {_type(node['additionalProperties'])}"
    if "enum" in node:
        return "one of " + ", ".join(f"`{value}`" for value in node["enum"])
    return str(node["type"])


def _limits(node: Schema) -> str:
    """Give a field's bounds and default in words."""
    parts = []
    if "minimum" in node or "maximum" in node:
        parts.append(f"{node.get('minimum', '…')} to {node.get('maximum', '…')}")
    if "maxLength" in node and "enum" not in node:
        parts.append(f"up to {node['maxLength']} characters")
    if "maxProperties" in node:
        parts.append(f"up to {node['maxProperties']} keys")
    if "maxItems" in node:
        parts.append(f"{node.get('minItems', 0)} to {node['maxItems']} items")
    if "pattern" in node:
        parts.append(f"`{node['pattern']}`")
    if "default" in node and node["default"] not in ("", [], {}):
        value = node["default"]
        parts.append(f"default `{str(value).lower() if isinstance(value, bool) else value}`")
    return "; ".join(parts)


def _rows(node: Schema, prefix: str) -> list[str]:
    """Give a table row for each field below a node, depth first."""
    rows: list[str] = []
    required = set(node.get("required", ()))
    for name, child in node.get("properties", {}).items():
        path = f"{prefix}.{name}"
        cells = (
            f"`{path}`" + (" *" if name in required else ""),
            _type(child),
            _limits(child),
            child.get("description", ""),
        )
        rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        inner = child["items"] if child["type"] == "array" else child
        rows += _rows(inner, f"{path}[]" if child["type"] == "array" else path)
    return rows


def _rules(node: Schema, path: str) -> list[str]:
    """Give what the API server checks beyond types, as list items."""
    lines = [
        f"- `{path}{rule.get('fieldPath', '')}`: {rule['message']}" for rule in node.get("x-kubernetes-validations", ())
    ]
    for name, child in node.get("properties", {}).items():
        lines += _rules(child, f"{path}.{name}".lstrip("."))
    if "items" in node:
        lines += _rules(node["items"], f"{path}[]")
    return lines


def _enumerations(module: str) -> Iterator[tuple[str, type[StrEnum]]]:
    """Give what a module defines, in its order; nothing if there is no such module."""
    for name, value in (vars(sys.modules[module]) if module in sys.modules else {}).items():
        if isinstance(value, type) and issubclass(value, StrEnum) and value.__module__ == module:
            yield name, value


def _words(kind: type[Kind]) -> list[str]:
    """Give the condition types and reasons that stand beside a kind, or in the module of its status."""
    lines: list[str] = []
    for name, value in (*_enumerations(kind.__module__), *_enumerations(f"{kind.__module__}_status")):
        if not name.endswith(("Reason", "ConditionType")):
            continue
        # tenancy.py and network.py hold two kinds each; the reasons there are of the one they are named for.
        if name.removesuffix("Reason") in _KIND_NAMES - {kind.__name__}:
            continue
        lines += ["", clean(value.__doc__ or ""), "", ", ".join(f"`{item.value}`" for item in value)]
    return lines


def page(kind: type[Kind]) -> str:
    """Give the reference page of a kind in Markdown."""
    definition = definition_of(kind)
    names = definition["spec"]["names"]
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    lines = [
        NOTE,
        "",
        f"# {kind.__name__}",
        "",
        clean(kind.__doc__ or ""),
        "",
        f"- `apiVersion: {API_VERSION}`, `kind: {kind.__name__}`",
        f"- {'namespaced' if kind.definition.namespaced else 'without namespace'}",
        f"- `kubectl get {', '.join([names['plural'], *names.get('shortNames', [])])}`",
    ]
    if kind.definition.selectable:
        fields = ", ".join(f"`{path.lstrip('.')}`" for path in kind.definition.selectable)
        lines.append(f"- field selectors: {fields}")
    for name in ("spec", "status"):
        node = schema["properties"].get(name)
        if node is None:
            continue
        lines += ["", f"## {name}", "", node.get("description", ""), ""]
        lines += ["| field (* required) | type | limits | meaning |", "|---|---|---|---|", *_rows(node, name)]
    if rules := _rules(schema, ""):
        lines += ["", "## Rules", "", "The API server refuses an object that breaks one of these.", "", *rules]
    if words := _words(kind):
        lines += ["", "## Conditions", *words]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Give all pages by file name, the list of kinds as `index.md`."""
    index = [NOTE, "", "# Kinds", "", "| kind | scope | what it is |", "|---|---|---|"]
    for kind in KINDS:
        scope = "namespace" if kind.definition.namespaced else "cluster"
        index.append(
            f"| [{kind.__name__}]({kind.__name__.lower()}.md) | {scope} | {_cell(clean(kind.__doc__ or ''))} |"
        )
    return {f"{kind.__name__.lower()}.md": page(kind) for kind in KINDS} | {"index.md": "\n".join(index) + "\n"}
