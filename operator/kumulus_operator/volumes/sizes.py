"""How large volumes were admitted (pure)."""

from __future__ import annotations

from kumulus_api import Volume
from kumulus_api.quantities import parse_quantity


def given_size(volume: Volume) -> int:
    """Give the bytes that a volume was admitted with."""
    place, status = volume.spec.assignment, volume.status
    if place is not None and place.size is not None:
        return parse_quantity(place.size)
    if status is not None and status.size_bytes is not None:
        return status.size_bytes  # bound before sizes were noted
    return parse_quantity(volume.spec.size)
