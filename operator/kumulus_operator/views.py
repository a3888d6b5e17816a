"""Typed, indexed reading of what the watches have shown."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Hashable, Iterator
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from kumulus_api import Kind

Key = tuple[str, str]
"""Namespace (empty for a cluster-scoped kind) and name."""

KindT = TypeVar("KindT", bound=Kind)
NameT = TypeVar("NameT", bound=Hashable)

_LOG = logging.getLogger(__name__)
_TOMBSTONES = 4096


def key_of(body: dict[str, Any]) -> Key:
    """Give namespace and name of an object."""
    return body["metadata"].get("namespace") or "", body["metadata"]["name"]


def version_of(body: dict[str, Any]) -> int:
    """Give the resourceVersion as a number; since Kubernetes 1.35 they may be compared (KEP-5504)."""
    text = str(body["metadata"].get("resourceVersion") or "0")
    return int(text) if text.isdigit() else 0


def reindex(index: defaultdict[NameT, set[Key]], item: Key, former: set[NameT], new: set[NameT]) -> None:
    """Have an object stand in an index under its new names and no more under its former ones; empty sets go."""
    for name in former - new:
        index[name].discard(item)
        if not index[name]:
            del index[name]
    for name in new - former:
        index[name].add(item)


class View(Generic[KindT]):
    """The newest known state of all objects of a kind.

    Takes watch events as well as the answers to own writes, so that a decision sees what was decided before it. What
    is older than what is known is dropped; a deletion is remembered, so that a late answer cannot bring it back.
    """

    def __init__(self, kind: type[KindT]) -> None:
        self.kind = kind
        self._objects: dict[Key, tuple[int, KindT]] = {}
        self._by_namespace: dict[str, dict[str, KindT]] = {}
        self._deleted: dict[str, None] = {}

    def put(self, body: dict[str, Any]) -> tuple[KindT | None, KindT | None]:
        """Take an object as seen; give the former and the new state (the same object if nothing is newer).

        Raises nothing: an object that the model refuses (made under another version's schema) is logged and left out.
        """
        key, version = key_of(body), version_of(body)
        known = self._objects.get(key)
        former = known[1] if known else None
        if body["metadata"].get("uid") in self._deleted or (known is not None and version <= known[0]):
            return former, former
        try:
            item = self.kind.model_validate(body)
        except ValidationError as error:
            _LOG.error("%s %s/%s does not follow its schema and is left out: %s", self.kind.__name__, *key, error)
            return former, former
        self._objects[key] = (version, item)
        self._by_namespace.setdefault(key[0], {})[key[1]] = item
        return former, item

    def drop(self, body: dict[str, Any]) -> KindT | None:
        """Take an object as deleted; give what was known of it, or None if a successor has its name already."""
        key, uid = key_of(body), body["metadata"].get("uid", "")
        self._deleted[uid] = None
        if len(self._deleted) > _TOMBSTONES:
            del self._deleted[next(iter(self._deleted))]
        known = self._objects.get(key)
        if known is None or (uid and known[1].metadata.uid != uid):
            return None
        del self._objects[key]
        self._by_namespace[key[0]].pop(key[1], None)
        return known[1]

    def get(self, namespace: str, name: str) -> KindT | None:
        """Give an object, or None."""
        known = self._objects.get((namespace, name))
        return known[1] if known else None

    def in_namespace(self, namespace: str) -> list[KindT]:
        """Give all objects of a namespace."""
        return list(self._by_namespace.get(namespace, {}).values())

    def __iter__(self) -> Iterator[KindT]:
        return iter([item for _, item in self._objects.values()])

    def __len__(self) -> int:
        return len(self._objects)
