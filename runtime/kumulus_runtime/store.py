"""What the watches have shown so far, to be read without asking the API server."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kumulus_runtime.resources import Kind, ResourceLike, resource_of

Object = dict[str, Any]
# Named here, because inside the class `list` is a method.
Objects = list[Object]
KindRef = type[Kind] | ResourceLike | str
IndexFunction = Callable[[Mapping[str, Any]], Iterable[str]]
_Key = tuple[str, str]


class Store:
    """Raw objects by kind, namespace and name, fed by kopf's ``on.event`` or by `KubeClient.watch`.

    It may lag behind: nothing is destroyed because something is not here (architecture, rule 9). Objects are shared
    and must not be changed. ``managedFields`` are dropped, they are often half of an object.
    """

    def __init__(self) -> None:
        self._objects: dict[str, dict[_Key, Object]] = {}
        self._functions: dict[str, dict[str, IndexFunction]] = {}
        self._indexes: dict[tuple[str, str], dict[str, set[_Key]]] = {}

    def apply(self, event_type: str | None, obj: Mapping[str, Any]) -> None:
        """Take over one event.

        Args:
            event_type: ADDED, MODIFIED, DELETED, or None as kopf has it for the initial list.
            obj: the object with its kind. One older than the stored one is ignored.
        """
        if event_type == "SYNCED":
            return
        kind, key = str(obj["kind"]), _key(obj)
        stored = self._objects.setdefault(kind, {})
        old = stored.get(key)
        if old is not None and _is_older(obj, old):
            return
        if old is not None:
            self._unindex(kind, key, old)
        if event_type == "DELETED":
            stored.pop(key, None)
            return
        slim = {part: value for part, value in obj.items() if part != "metadata"}
        slim["metadata"] = {part: value for part, value in obj["metadata"].items() if part != "managedFields"}
        stored[key] = slim
        for index, function in self._functions.get(kind, {}).items():
            self._index(kind, index, function, key)

    def get(self, kind: KindRef, name: str, namespace: str | None = None) -> Object | None:
        """The object, or None if no watch has shown it."""
        return self._objects.get(_name_of(kind), {}).get((namespace or "", name))

    def list(self, kind: KindRef, namespace: str | None = None) -> Objects:
        """All objects of a kind, or those of one namespace, ordered by namespace and name."""
        found = self._objects.get(_name_of(kind), {})
        return [found[key] for key in sorted(found) if namespace is None or key[0] == namespace]

    def add_index(self, kind: KindRef, index: str, function: IndexFunction) -> None:
        """Let objects be found by what they refer to, e.g. Servers by their Network.

        Args:
            kind: whose objects.
            index: name to ask for.
            function: the values under which an object is found.
        """
        name = _name_of(kind)
        self._functions.setdefault(name, {})[index] = function
        for key in self._objects.get(name, {}):
            self._index(name, index, function, key)

    def by_index(self, kind: KindRef, index: str, value: str) -> Objects:
        """The objects found under a value, ordered by namespace and name.

        Raises:
            KeyError: no such index was added.
        """
        name = _name_of(kind)
        if index not in self._functions.get(name, {}):
            raise KeyError(f"{name} has no index {index!r}: call add_index first")
        keys = self._indexes.get((name, index), {}).get(value, set())
        return [self._objects[name][key] for key in sorted(keys)]

    def _index(self, kind: str, index: str, function: IndexFunction, key: _Key) -> None:
        values = self._indexes.setdefault((kind, index), {})
        for value in function(self._objects[kind][key]):
            values.setdefault(value, set()).add(key)

    def _unindex(self, kind: str, key: _Key, old: Object) -> None:
        for index, function in self._functions.get(kind, {}).items():
            values = self._indexes.setdefault((kind, index), {})
            for value in function(old):
                keys = values.get(value, set())
                keys.discard(key)
                if not keys:
                    values.pop(value, None)


def _name_of(kind: KindRef) -> str:
    return kind if isinstance(kind, str) else resource_of(kind).kind


def _key(obj: Mapping[str, Any]) -> _Key:
    return obj["metadata"].get("namespace") or "", obj["metadata"]["name"]


def _is_older(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether both are numbered and ``new`` has the lower number.

    Since Kubernetes 1.35 resourceVersions of one kind are documented to be comparable as integers.
    """
    new_version, old_version = (part["metadata"].get("resourceVersion") or "" for part in (new, old))
    if not (new_version.isdigit() and old_version.isdigit()):
        return False
    return int(new_version) < int(old_version)
