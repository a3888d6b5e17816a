"""Tell both sides of a shared image: its members what it is, its owner who has accepted it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kumulus_api import Image, ImageAcceptance
from kumulus_api.image import ImageVisibility
from kumulus_api.image_acceptance import ImageAcceptanceReason, OfferedImage
from kumulus_operator.cloud import Cloud
from kumulus_operator.images.held import is_ready
from kumulus_operator.images.sharing import Acceptances, accepted_key, offered
from kumulus_operator.views import Key
from kumulus_runtime.conditions import set_condition

_MANAGER = "kumulus-operator-sharing"
"""A field manager of its own: an image is imported and accepted at different times."""


class AcceptanceController:
    """Answers acceptances.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> None:
        """Bring the status of one acceptance up to date."""
        cloud = self._cloud
        acceptance = cloud.image_acceptances.get(*key)
        if acceptance is None or acceptance.deleting:
            return
        image = cloud.images.get(*accepted_key(acceptance))
        status = acceptance_status(acceptance, image, datetime.now(UTC))
        if status is not None:
            await cloud.write_status(acceptance, status)


class MembersController:
    """Tells owners who has accepted their images.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> None:
        """Bring the list of one image up to date."""
        image = self._cloud.images.get(*key)
        if image is None:
            return
        wanted = accepted_by(image, self._cloud.acceptances)
        found = image.status.accepted_by if image.status is not None else None
        if wanted != (found or []):
            await self._cloud.write_status(image, {"acceptedBy": wanted} if wanted else {}, manager=_MANAGER)


def accepted_by(image: Image, acceptances: Acceptances) -> list[str]:
    """Give the members of an image that have accepted it (pure)."""
    if image.spec.visibility is not ImageVisibility.SHARED:
        return []
    return sorted(project for project in image.spec.members if acceptances.accepted(project, image.key))


def acceptance_status(acceptance: ImageAcceptance, image: Image | None, now: datetime) -> dict[str, Any] | None:
    """Give the status of an acceptance, or None if it says so already (pure).

    Args:
        acceptance: as it is.
        image: the one that it names; None if it is not there. One that is not offered gives the same answer.
        now: the present.
    """
    project, generation = acceptance.key[0], acceptance.metadata.generation
    shown = "/".join(accepted_key(acceptance))
    found = acceptance.status.dump() if acceptance.status is not None else {}
    former = found.get("conditions", [])
    wanted: dict[str, Any] = {"observedGeneration": generation}
    if image is not None and offered(project, image):
        reason, message = ImageAcceptanceReason.ACCEPTED, f"servers of {project} may use image {shown}"
        wanted |= {
            "conditions": set_condition(former, "Ready", True, reason, message, generation, now),
            "image": offered_image(image).dump(),
        }
    else:
        reason = ImageAcceptanceReason.NOT_SHARED
        message = f"image {shown} is not there or not shared with {project}; transient: goes on when it is"
        wanted["conditions"] = set_condition(former, "Ready", False, reason, message, generation, now)
    return None if wanted == found else wanted


def offered_image(image: Image) -> OfferedImage:
    """Give what a project is told of an image that it cannot read (pure)."""
    spec, status = image.spec, image.status
    return OfferedImage(
        ready=is_ready(image),
        active=spec.active,
        hidden=spec.hidden,
        visibility=spec.visibility,
        format=spec.format,
        digest=status.digest if status is not None else None,
        size=status.size if status is not None else None,
        virtual_size=status.virtual_size if status is not None else None,
        min_disk=spec.min_disk,
        min_memory=spec.min_memory,
        architecture=spec.architecture,
        required_traits=spec.required_traits,
        properties=spec.properties,
    )
