"""List and watch that survives restarts, silence and compaction of the API server."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

import structlog

from kumulus_runtime.errors import ApiError, Expired, Retryable, error_from_status
from kumulus_runtime.resources import ResourceLike, object_path, with_type

# The API server sends a bookmark each minute; a longer silence is a dead connection (NAT, power-off).
IDLE_SECONDS = 70.0
_FIRST_DELAY = 0.5
_LONGEST_DELAY = 30.0
_WATCH_SECONDS = (300, 600)
_TURN = 100
"""Objects of a list that are shown before others may do something."""

Event = tuple[str, dict[str, Any]]
_Key = tuple[str, str]

_log = structlog.stdlib.get_logger(__name__)


class Source(Protocol):
    """What is needed of a client; `kumulus_runtime.api_client.KubeClient` is one."""

    async def list(
        self, kind: Any, namespace: str | None = None, label_selector: str = "", field_selector: str = ""
    ) -> tuple[list[dict[str, Any]], str]:
        """All objects and the resourceVersion of the list."""

    def stream(
        self, path: str, query: Mapping[str, str] | None = None, *, idle_timeout: float | None = None
    ) -> AsyncIterator[bytes]:
        """Lines of a long answer."""


async def list_and_watch(
    source: Source,
    resource: ResourceLike,
    namespace: str | None,
    selectors: Mapping[str, str],
    listed_again: Callable[[], None] = lambda: None,
) -> AsyncIterator[Event]:
    """Yield what `kumulus_runtime.api_client.KubeClient.watch` promises; errors are logged and waited out."""
    known: dict[_Key, dict[str, Any]] = {}
    version: str | None = None
    synced = False
    failures = 0
    while True:
        try:
            if version is None:
                items, listed = await source.list(
                    resource, namespace, selectors["labelSelector"], selectors["fieldSelector"]
                )
                for number, event in enumerate(_changes(known, items)):
                    if number % _TURN == _TURN - 1:
                        await asyncio.sleep(0)
                    yield event
                version, items = listed, []
                if synced:
                    listed_again()
                else:
                    synced = True
                    yield "SYNCED", {}
            async for kind_of_event, item in _watch_once(source, resource, namespace, selectors, version):
                failures = 0
                version = item["metadata"]["resourceVersion"]
                if kind_of_event != "BOOKMARK":
                    _remember(known, kind_of_event, item)
                    yield kind_of_event, item
            delay = random.uniform(0.0, _FIRST_DELAY)  # noqa: S311 - spreads load, protects nothing
        except Expired:
            version = None
            delay = random.uniform(0.0, _FIRST_DELAY)  # noqa: S311
        except ApiError as error:
            # Rights and CRDs may still be on their way, so every refusal is waited out too.
            failures += 1
            delay = _delay(failures, error)
            _log.warning("watch interrupted", kind=resource.kind, error=str(error), retry_in=round(delay, 2))
        await asyncio.sleep(delay)


async def _watch_once(
    source: Source, resource: ResourceLike, namespace: str | None, selectors: Mapping[str, str], version: str
) -> AsyncIterator[Event]:
    """One watch request until the server ends it.

    Raises:
        ApiError: also those that arrive as an ERROR event.
    """
    query = dict(selectors) | {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": version,
        "timeoutSeconds": str(random.randint(*_WATCH_SECONDS)),  # noqa: S311
    }
    path = object_path(resource, namespace)
    async for line in source.stream(path, query, idle_timeout=IDLE_SECONDS):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except ValueError as error:
            raise Retryable(0, "BrokenStream", f"watch of {path}: a line is not JSON") from error
        if event["type"] == "ERROR":
            raise error_from_status(event["object"], asked=f"watch of {path}")
        yield event["type"], with_type(resource, event["object"])


def _changes(known: dict[_Key, dict[str, Any]], items: list[dict[str, Any]]) -> list[Event]:
    """The events that lead from what is known to the list; ``known`` is brought up to date."""
    present = {_key(item): item for item in items}
    events: list[Event] = [("DELETED", known.pop(key)) for key in sorted(known.keys() - present.keys())]
    for key, item in present.items():
        events.append(("MODIFIED" if key in known else "ADDED", item))
        _remember(known, "ADDED", item)
    return events


def _remember(known: dict[_Key, dict[str, Any]], kind_of_event: str, item: dict[str, Any]) -> None:
    if kind_of_event == "DELETED":
        known.pop(_key(item), None)
        return
    identity = {part: item["metadata"].get(part) for part in ("name", "namespace", "uid")}
    known[_key(item)] = {
        "apiVersion": item["apiVersion"],
        "kind": item["kind"],
        "metadata": {part: value for part, value in identity.items() if value is not None},
    }


def _key(item: dict[str, Any]) -> _Key:
    return item["metadata"].get("namespace") or "", item["metadata"]["name"]


def _delay(failures: int, error: ApiError) -> float:
    ceiling = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(failures, 10))
    least = error.delay if isinstance(error, Retryable) else 0.0
    return max(least, random.uniform(ceiling / 2, ceiling))  # noqa: S311
