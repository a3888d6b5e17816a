"""kopf, told to watch and to write nothing."""

from typing import Any, cast

import kopf

_FINALIZER = "kumulus.dev/kopf"
_NO_ESSENCE = cast(kopf.BodyEssence, {})


class _NoProgress(kopf.ProgressStorage):
    """Keeps no progress: a reconcile looks at the world instead."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps no copy of the spec in the object, and makes none of it: only handlers of changes would compare it."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        # kopf's own copies the whole object at each event, which is a third of what an event costs.
        return _NO_ESSENCE

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


def configure(settings: kopf.OperatorSettings, *, field_selectors: dict[tuple[str, str], str] | None = None) -> None:
    """Set up kopf for processes that use it only to watch; to be called in ``@kopf.on.startup()``.

    Only ``on.event`` and ``index`` handlers may be used: change handlers, timers and daemons make kopf write a
    finalizer or annotations into the objects of users.

    Args:
        settings: as given to the startup handler.
        field_selectors: by group and plural, e.g. ``{("kumulus.dev", "servers"): "spec.assignment.host=h1"}``.
    """
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.networking.enforce_retry_after = True
    # As kubectl and our own client do it.
    settings.networking.trust_env = True
    settings.watching.chunk_size = 500
    settings.watching.inactivity_timeout = 70
    settings.watching.connect_timeout = 5
    settings.execution.default_backoff = 5
    settings.persistence.finalizer = _FINALIZER
    settings.persistence.progress_storage = _NoProgress()
    settings.persistence.diffbase_storage = _NoDiffBase()
    for resource, selector in (field_selectors or {}).items():
        settings.watching.field_selectors[resource] = selector
