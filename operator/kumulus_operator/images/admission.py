"""Admit an Image by the project's quota: nothing is imported before."""

from __future__ import annotations

from kumulus_api import Image
from kumulus_api.image import ImageReason
from kumulus_operator.cloud import Cloud
from kumulus_operator.images.book import size_of
from kumulus_operator.refusal import refuse
from kumulus_operator.waiting import quota


def admit(cloud: Cloud, image: Image) -> None:
    """Count an image.

    Raises:
        Refused: the project has as much as it may, or may have so many bytes and nobody has said how many are sent.
    """
    project, upload = image.key[0], image.spec.source.upload
    limited = cloud.quota_of(project).image_gigabytes is not None
    if limited and upload is not None and upload.size is None and image.key not in cloud.image_book:
        message = (
            "quota: spec.source.upload.size is needed where a quota limits the bytes of images; "
            "permanent: make the image anew with it"
        )
        raise refuse(ImageReason.QUOTA_EXCEEDED, message, quota(project))
    excess = cloud.image_book.admit(image.key, size_of(image))
    if excess is None:
        return
    message = (
        f"quota of project {project}: {excess}; "
        "transient: admitted when images of the project are deleted or its quota is raised"
    )
    raise refuse(ImageReason.QUOTA_EXCEEDED, message, quota(project))
