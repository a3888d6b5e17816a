"""An image's bytes from the user's machine: the Image is made if absent, and the file sent until it is there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from pathlib import Path
from typing import Any

from kumulus_api.base import API_VERSION
from kumulus_api.console import token_hash
from kumulus_api.image import ImageReason
from kumulus_api.upload_messages import PASSING, Done, Refused
from kumulus_cli import kubectl
from kumulus_cli.image_file import ImageFile, UploadError, Wish, format_of, name_of, wanted
from kumulus_cli.kubectl import KubectlError
from kumulus_cli.progress import shown
from kumulus_cli.sending import Broken, Sending, Show
from kumulus_cli.session import Session
from kumulus_cli.stream import ConsoleError

__all__ = ["UploadError", "run"]
_KIND = "images.kumulus.dev"
_HOST_SECONDS = 30
_NAMED = ("{.status.conditions[?(@.type=='Ready')].reason}", "{.status.importHost}")
"""What is waited for: that the operator says anything of the Image, and then that it names a host."""
_ATTEMPTS = 14
"""Connections one after the other that bring nothing, until it is given up: three minutes."""
_LONGEST_PAUSE = 15.0
_FOR_GOOD = frozenset({401, 403})
"""Statuses of HTTP: another token would meet the same."""
_REFUSED = frozenset(
    {
        ImageReason.CHECKSUM_MISMATCH.value,
        ImageReason.UNSAFE.value,
        ImageReason.CORRUPT.value,
        ImageReason.FORMAT_MISMATCH.value,
        ImageReason.TOO_LARGE.value,
    }
)
_SERVER_SAYS = "Error from server ("
_PASSES = ("ServiceUnavailable", "Timeout", "InternalError", "TooManyRequests", "ServerTimeout")
Object = dict[str, Any]


def run(path: Path, wish: Wish, namespace: str | None) -> None:
    """Upload a file, and say what became of it.

    Args:
        path: the file.
        wish: what the user says of the image.
        namespace: None for that of the current context.

    Raises:
        UploadError: it is not uploaded.
        KubectlError: the API server refuses.
    """
    file = ImageFile(path)
    try:
        name = wish.name or name_of(path)
        image = _found_or_made(file, name, wish, namespace)
        metadata = image["metadata"]
        began = time.monotonic()
        with shown(name, file.size) as show:
            sending = Sending(file, secrets.token_hex(16), show)
            try:
                _Attempts(sending, show, metadata["namespace"], name).until_done()
            except KeyboardInterrupt:
                show.say(f"interrupted at {sending.done} of {file.size} bytes: the same command goes on from there")
                raise
            if not sending.all_sent:
                file.go_to(file.size)
            seconds = time.monotonic() - began
            show.say(f"image {metadata['namespace']}/{name} is ready: {file.size} bytes in {seconds:.0f} s")
            show.say(f"sha256:{file.sha256}")
    finally:
        file.close()


def _found_or_made(file: ImageFile, name: str, wish: Wish, namespace: str | None) -> Object:
    scope = ["--namespace", namespace] if namespace else []
    text = kubectl.run("get", _KIND, name, *scope, "--ignore-not-found", "--output", "json")
    if not text.strip():
        kubectl.create(wanted(name, format_of(file.path, wish.format), file.size, wish, namespace))
        return kubectl.get(_KIND, name, namespace)
    image: Object = json.loads(text)
    fits(image, file, wish)
    return image


def fits(image: Object, file: ImageFile, wish: Wish) -> None:
    """Judge whether a file can be sent to an image that is there already.

    Raises:
        UploadError: it cannot.
    """
    name, spec, other = image["metadata"]["name"], image["spec"], "choose another --name, or delete it first"
    if "upload" not in spec["source"]:
        raise UploadError(f"image {name} exists already, and comes from elsewhere: {other}")
    if _ready(image).get("status") == "True":
        raise UploadError(f"image {name} exists already, and is whole ({image['status'].get('digest')}): {other}")
    for what, said, there in (
        ("format", wish.format, spec["format"]),
        ("checksum", wish.checksum, spec.get("checksum", "")),
    ):
        if said and said != there:
            raise UploadError(f"image {name} exists already with {what} {there or 'none'}, not {said}: {other}")
    format_of(file.path, spec["format"])


class _Attempts:
    """Sends until it is there.

    Args:
        sending: of the file.
        show: tells the user.
        namespace: of the Image.
        name: of the Image.
    """

    def __init__(self, sending: Sending, show: Show, namespace: str, name: str) -> None:
        self._sending = sending
        self._show = show
        self._key = (namespace, name)
        self._host = ""
        self._best = -1

    def until_done(self) -> None:
        """Send over one connection after the other.

        Raises:
            UploadError: another would not help, or many brought nothing.
            KubectlError: the API server refuses already the first.
        """
        failures = 0
        while (why := self._once()) is not None:
            done = self._sending.done
            failures = 1 if done > self._best else failures + 1
            self._best = max(self._best, done)
            if failures > _ATTEMPTS:
                raise UploadError(f"{why}; {done} bytes are there: the same command goes on from there")
            pause = min(_LONGEST_PAUSE, 2.0 ** (failures - 1))
            self._show.say(f"{why}; goes on in {pause:.0f} s")
            time.sleep(pause)

    def _once(self) -> str | None:
        """Try once; give why it is not there yet, or None if it is."""
        try:
            image = _named(*self._key)
            ready = _ready(image)
            if ready.get("status") == "True":
                return None
            if self._sending.all_sent and ready.get("reason") in _REFUSED:
                raise UploadError(f"{ready['reason']}: {ready['message']}")
            self._moved(image["status"]["importHost"])
            answer = _sent(self._sending, image)
        except (Broken, ConsoleError, KubectlError) as error:
            if self._best < 0 and isinstance(error, KubectlError):
                raise
            if _for_good(error):
                raise UploadError(str(error)) from error
            return str(error)
        if isinstance(answer, Done):
            return None
        if answer.refused not in PASSING:
            raise UploadError(f"{answer.refused}: {answer.message}")
        return answer.message

    def _moved(self, host: str) -> None:
        if self._host and host != self._host:
            self._show.say(f"host {self._host} takes it no more: {host} was named, and the upload begins anew")
        self._host = host


def _named(namespace: str, name: str) -> Object:
    """Give the Image when a host is named that takes its bytes."""
    image: Object = {}
    for awaited in ("", *_NAMED):
        if awaited:
            with contextlib.suppress(KubectlError):
                waited = [f"--for=jsonpath={awaited}", f"--timeout={_HOST_SECONDS}s"]
                kubectl.run("wait", f"{_KIND}/{name}", "--namespace", namespace, *waited)
        image = kubectl.get(_KIND, name, namespace)
        if (image.get("status") or {}).get("importHost"):
            return image
        if _ready(image).get("reason") == ImageReason.QUOTA_EXCEEDED.value:
            break
    why = _ready(image).get("message") or "the operator has not looked at it yet"
    raise UploadError(f"no host takes the bytes of image {name}: {why}")


def _sent(sending: Sending, image: Object) -> Done | Refused:
    with kubectl.private_proxy() as socket:
        return asyncio.run(sending.once(socket, _session(image)))


def _session(image: Object) -> Session:
    """Make leave to send the bytes once: the user's own credentials make it, a token that only we know uses it."""
    token, metadata = secrets.token_urlsafe(32), image["metadata"]
    name = metadata["name"]
    session = Session(
        metadata["namespace"], f"{name[:200].rstrip('-.')}-{secrets.token_hex(4)}", name, token, "imageuploads"
    )
    owner = {"apiVersion": image["apiVersion"], "kind": image["kind"], "name": name, "uid": metadata["uid"]}
    kubectl.create(
        {
            "apiVersion": API_VERSION,
            "kind": "ImageUpload",
            "metadata": {"name": session.name, "namespace": session.namespace, "ownerReferences": [owner]},
            "spec": {"image": {"name": name}, "tokenHash": token_hash(token)},
        }
    )
    return session


def _ready(image: Object) -> Object:
    conditions = (image.get("status") or {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == "Ready"), {})


def _for_good(error: Exception) -> bool:
    """Give whether it will be the same however often one tries."""
    if isinstance(error, ConsoleError):
        return error.status in _FOR_GOOD
    said = str(error)
    return _SERVER_SAYS in said and not any(f"{_SERVER_SAYS}{word}" in said for word in _PASSES)
