"""What an upload's token opens: a pure judgement of the session and its image."""

from __future__ import annotations

from http import HTTPStatus

from kumulus_api import ImageUpload
from kumulus_console.sessions import Object, Refusal, made_after


def upload_of(session: ImageUpload, image: Object | None) -> tuple[str, str]:
    """Give the host that takes the bytes of the image that a session is for, and the path at its agent.

    Args:
        session: the session.
        image: the Image that it names, as it is now; None if there is none.

    Raises:
        Refusal: 404 if there is no such image any more, 403 if it is another, 409 if it takes no bytes now.
    """
    name, namespace = session.spec.image.name, session.metadata.namespace
    if image is None:
        raise Refusal(HTTPStatus.NOT_FOUND, f"there is no image {name} in {namespace}")
    if made_after(image, session):
        raise Refusal(HTTPStatus.FORBIDDEN, f"image {name} is another than the one that the upload was made for")
    if "upload" not in image["spec"]["source"]:
        raise Refusal(HTTPStatus.CONFLICT, f"image {name} comes from elsewhere: nothing is uploaded to it")
    host = (image.get("status") or {}).get("importHost")
    if host is None:
        raise Refusal(HTTPStatus.CONFLICT, f"image {name} has no host yet that takes its bytes: try again")
    return host, f"/v1/images/{namespace}/{name}/{image['metadata']['uid']}/upload"
