"""Which project may use which image (pure), and the index that tells without a look through all of them."""

from __future__ import annotations

from collections import defaultdict
from typing import Protocol

from kumulus_api import PUBLIC_NAMESPACE, Image, ImageAcceptance, Reference
from kumulus_api.image import ImageVisibility
from kumulus_api.server_status import ScheduledReason
from kumulus_operator.refusal import refuse, shown
from kumulus_operator.views import Key, View
from kumulus_operator.waiting import Need


class Acceptances:
    """Who has accepted which image, kept with each change."""

    def __init__(self) -> None:
        self._of_image: defaultdict[Key, dict[Key, None]] = defaultdict(dict)
        self._of_project: defaultdict[tuple[str, Key], set[str]] = defaultdict(set)

    def seen(self, former: ImageAcceptance | None, new: ImageAcceptance | None) -> None:
        """Take in an acceptance as it was and as it is; None is "not there"."""
        if former is not None:
            project, image = former.key[0], accepted_key(former)
            self._of_image[image].pop(former.key, None)
            self._of_project[project, image].discard(former.key[1])
            if not self._of_image[image]:
                del self._of_image[image]
            if not self._of_project[project, image]:
                del self._of_project[project, image]
        if new is not None:
            self._of_image[accepted_key(new)][new.key] = None
            self._of_project[new.key[0], accepted_key(new)].add(new.key[1])

    def accepted(self, project: str, image: Key) -> bool:
        """Give whether a project has accepted an image, shared with it or not."""
        return (project, image) in self._of_project

    def of_image(self, image: Key) -> list[Key]:
        """Give all acceptances of an image."""
        return list(self._of_image.get(image, ()))


class ImageCatalog(Protocol):
    """What is looked into."""

    @property
    def images(self) -> View[Image]: ...  # noqa: D102
    @property
    def acceptances(self) -> Acceptances: ...  # noqa: D102


def accepted_key(acceptance: ImageAcceptance) -> Key:
    """Give the image that is accepted."""
    return acceptance.spec.image.namespace, acceptance.spec.image.name


def offered(project: str, image: Image) -> bool:
    """Give whether a project may use an image as far as its owner is concerned."""
    if open_to(project, image):
        return True
    return image.spec.visibility is ImageVisibility.SHARED and project in image.spec.members


def open_to(project: str, image: Image) -> bool:
    """Give whether a project may use an image that it has not accepted."""
    return image.key[0] in (project, PUBLIC_NAMESPACE) or image.spec.visibility is ImageVisibility.PUBLIC


def visible_image(project: str, reference: Reference, catalog: ImageCatalog) -> Image | None:
    """Give the image that a reference leads to, if the project may use it."""
    key = (reference.namespace or project, reference.name)
    image = catalog.images.get(*key)
    if image is None or open_to(project, image):
        return image
    return image if offered(project, image) and catalog.acceptances.accepted(project, key) else None


def usable_image(project: str, reference: Reference, catalog: ImageCatalog) -> Image:
    """Give the image that a reference leads to.

    Raises:
        Refused: it is deactivated; or it is absent, not shared or not accepted, which get the same text: names of
            other projects are not disclosed.
    """
    image, name = visible_image(project, reference, catalog), shown(project, reference)
    if image is None:
        remedy = "goes on when it is made"
        if is_foreign(project, reference):
            remedy = f"goes on when it is there, is shared with {project} and has an ImageAcceptance in {project}"
        message = f"reference: image {name} was not found; transient: {remedy}"
        raise refuse(ScheduledReason.IMAGE_NOT_FOUND, message, *needs_of(project, reference))
    if not image.spec.active:
        message = f"image: {name} is deactivated; transient: goes on when its spec.active is true again"
        raise refuse(ScheduledReason.IMAGE_DEACTIVATED, message, *needs_of(project, reference))
    return image


def still_usable(project: str, reference: Reference, catalog: ImageCatalog) -> None:
    """Refuse to use an image once more that a server has.

    One of the project's own, or a public one, may have been deleted: that hides nothing, and hosts know its bytes.

    Raises:
        Refused: as `usable_image`.
    """
    if is_foreign(project, reference) or visible_image(project, reference, catalog) is not None:
        usable_image(project, reference, catalog)


def is_foreign(project: str, reference: Reference) -> bool:
    """Give whether a reference leads to another project."""
    return (reference.namespace or project) not in (project, PUBLIC_NAMESPACE)


def needs_of(project: str, reference: Reference) -> frozenset[Need]:
    """Give everything whose change may let a project use an image."""
    namespace, name = reference.namespace or project, reference.name
    image: Need = ("Image", namespace, name)
    if not is_foreign(project, reference):
        return frozenset({image})
    return frozenset({image, acceptance_need(project, (namespace, name))})


def acceptance_need(project: str, image: Key) -> Need:
    """Give the need for a project's acceptance of an image."""
    return ("ImageAcceptance", project, "/".join(image))
