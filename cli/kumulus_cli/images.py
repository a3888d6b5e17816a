"""The images that a project may use: its own, those that it accepted, and those of everybody."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from kumulus_api import GROUP, PUBLIC_NAMESPACE, Condition, Image, ImageAcceptance, Kind
from kumulus_api.image import ImageVisibility
from kumulus_api.quantities import format_quantity
from kumulus_cli import kubectl

_KINDS: tuple[type[Kind], ...] = (Image, ImageAcceptance)
_HEADERS = ("NAME", "NAMESPACE", "VISIBILITY", "STATE", "FORMAT", "SIZE", "MIN-DISK", "MIN-MEMORY")
_MIB = 2**20


@dataclass(frozen=True)
class UsableImage:
    """An image as a Server names it.

    Attributes:
        name: of the Image.
        namespace: of the Image; a Server of another one has to say it.
        visibility: Private, Shared or Public.
        state: Ready, Deactivated, or why it is not Ready.
        format: as `spec.format`.
        size: bytes of the file, if they are known.
        min_disk: as `spec.minDisk`.
        min_memory: as `spec.minMemory`.
        hidden: whether it is left out of lists.
    """

    name: str
    namespace: str
    visibility: str
    state: str
    format: str
    size: int | None
    min_disk: str | None
    min_memory: str | None
    hidden: bool


def read(namespace: str | None) -> tuple[list[UsableImage], str]:
    """Read the images that a project may use; give them and a note on what could not be read.

    Args:
        namespace: of the project; None for that of the current context.

    Raises:
        KubectlError: the project may not be read.
    """
    found, note = _listed(namespace), ""
    try:
        found += _listed(PUBLIC_NAMESPACE)
    except kubectl.KubectlError as error:
        note = f"images of {PUBLIC_NAMESPACE} cannot be read: {error}"
    return usable(found), note


def _listed(namespace: str | None) -> list[Kind]:
    kinds = {kind.__name__: kind for kind in _KINDS}
    plurals = ",".join(f"{kind.definition.plural}.{GROUP}" for kind in _KINDS)
    scope = ["--namespace", namespace] if namespace else []
    items = json.loads(kubectl.run("get", plurals, *scope, "--output", "json"))["items"]
    return [kinds[body["kind"]].model_validate(body) for body in items]


def usable(found: Iterable[Kind]) -> list[UsableImage]:
    """Give the images among objects, one's own first, each once (pure).

    Args:
        found: Images of the project and of kumulus-public, and ImageAcceptances there, which tell of others' images.
    """
    out: dict[tuple[str, str], UsableImage] = {}
    for item in found:
        image = (
            _own(item) if isinstance(item, Image) else _accepted(item) if isinstance(item, ImageAcceptance) else None
        )
        if image is not None:
            out.setdefault((image.namespace, image.name), image)
    return list(out.values())


def _own(image: Image) -> UsableImage:
    spec, status = image.spec, image.status
    ready, reason = _ready(status.conditions if status is not None else [])
    public = image.key[0] == PUBLIC_NAMESPACE
    return UsableImage(
        name=image.metadata.name,
        namespace=image.key[0],
        visibility="Public" if public else spec.visibility.value,
        state=_state(ready, spec.active, reason),
        format=spec.format.value,
        size=status.size if status is not None else None,
        min_disk=spec.min_disk,
        min_memory=spec.min_memory,
        hidden=spec.hidden,
    )


def _accepted(acceptance: ImageAcceptance) -> UsableImage | None:
    """Give what a project knows of an image that it accepted; None if it may not use it."""
    told = acceptance.status.image if acceptance.status is not None else None
    public = told is not None and told.visibility is ImageVisibility.PUBLIC
    if told is None or (acceptance.key[0] == PUBLIC_NAMESPACE and not public):
        return None
    return UsableImage(
        name=acceptance.spec.image.name,
        namespace=acceptance.spec.image.namespace,
        visibility=told.visibility.value,
        state=_state(told.ready, told.active, "NotReady"),
        format=told.format.value,
        size=told.size,
        min_disk=told.min_disk,
        min_memory=told.min_memory,
        hidden=told.hidden,
    )


def _ready(conditions: Sequence[Condition]) -> tuple[bool, str]:
    found = next((item for item in conditions if item.type == "Ready"), None)
    return (found.status == "True", found.reason) if found is not None else (False, "NotReady")


def _state(ready: bool, active: bool, reason: str) -> str:
    if not ready:
        return reason
    return "Ready" if active else "Deactivated"


def text_of(images: Sequence[UsableImage]) -> str:
    """Give a table (pure)."""
    if not images:
        return "no images: see docs/how-to/image-sharing.md\n"
    rows = [_HEADERS, *(_row(image) for image in images)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADERS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"


def _row(image: UsableImage) -> tuple[str, ...]:
    size = format_quantity(-(-image.size // _MIB) * _MIB) if image.size is not None else "-"
    told = (image.name, image.namespace, image.visibility, image.state, image.format, size)
    return (*told, image.min_disk or "-", image.min_memory or "-")


def json_of(images: Sequence[UsableImage]) -> str:
    """Give them for programs (pure)."""
    return json.dumps([asdict(image) for image in images], indent=2) + "\n"
