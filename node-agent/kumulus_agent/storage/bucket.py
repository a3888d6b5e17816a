"""One transfer with an S3 service, in a process of its own: `python -m kumulus_agent.storage.bucket`.

What it is to do stands on standard input as JSON (see `Bucket` in `bucket_apart.py`), its answer on standard output.
The library that it loads is not to stay in the agent's memory, nor are the keys.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, Final

import obstore
from obstore.exceptions import NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

Object = dict[str, Any]
_PIECE: Final = 16 << 20
_AT_ONCE: Final = 4
_REQUEST_SECONDS: Final = 300
_LONGEST_MESSAGE: Final = 300


class Refused(Exception):
    """The end of a transfer; `kind` says what the agent makes of it: Failed, Denied, Absent, TooLarge or Changed."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def open_bucket(request: Object) -> S3Store:
    """Give the bucket of a request."""
    endpoint, bucket = request["endpoint"].rstrip("/"), request["bucket"]
    if not request["pathStyle"]:
        scheme, _, host = endpoint.partition("://")
        endpoint = f"{scheme}://{bucket}.{host}"
    access, secret = request.get("accessKeyID"), request.get("secretAccessKey")
    if request.get("keys"):
        folder = Path(request["keys"])
        access, secret = (
            (folder / name).read_text().strip() for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        )
    return S3Store(
        bucket,
        endpoint=endpoint,
        region=request["region"],
        virtual_hosted_style_request=not request["pathStyle"],
        checksum_algorithm="SHA256",  # the service compares each part
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=15),
            "timeout": timedelta(seconds=_REQUEST_SECONDS),
        },
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=60)},
        **({"access_key_id": access, "secret_access_key": secret} if access else {"skip_signature": True}),
    )


def head(store: S3Store, request: Object) -> Object:
    """Give size and version of an object."""
    found = obstore.head(store, request["key"])
    return {"size": found["size"], "etag": found["e_tag"] or ""}


def put(store: S3Store, request: Object) -> Object:
    """Put a file, whole or not at all, and read it back; one that is there with these bytes is left.

    A multipart upload is no object before its last request.
    """
    file, key, digest = Path(request["file"]), request["key"], request["digest"]
    size = file.stat().st_size
    if not _holds(store, key, size, digest):
        obstore.put(store, key, file, use_multipart=True, chunk_size=_PIECE, max_concurrency=_AT_ONCE)
        if not _holds(store, key, size, digest):
            obstore.delete(store, key)
            raise Refused("Failed", f"what {key} has in the bucket is not what was put there")
    return {"size": size}


def _holds(store: S3Store, key: str, size: int, digest: str) -> bool:
    try:
        if obstore.head(store, key)["size"] != size:
            return False
    except (NotFoundError, FileNotFoundError):
        return False
    sha256 = hashlib.sha256()
    for piece in _pieces(store, key, 0, size):
        sha256.update(piece)
    return f"sha256:{sha256.hexdigest()}" == digest


def get(store: S3Store, request: Object) -> Object:
    """Fetch an object into a file, from where that ends."""
    key, file = request["key"], Path(request["file"])
    found = obstore.head(store, key)
    if request.get("etag") and (found["e_tag"] or "") != request["etag"]:
        raise Refused("Changed", f"{key} is another one than when its transfer began")
    size = found["size"]
    if size > request["limit"]:
        raise Refused("TooLarge", f"{key} has {size} bytes, {request['limit']} are allowed; use a smaller image")
    digests, done = (hashlib.sha256(), hashlib.sha512()), 0
    with file.open("a+b") as part:
        _alone(part)
        part.seek(0)
        while block := part.read(1 << 20):
            for each in digests:
                each.update(block)
            done += len(block)
        if done > size:
            raise Refused("Changed", f"{key} has {size} bytes, {done} have come")
        for piece in _pieces(store, key, done, size):
            part.write(piece)
            part.flush()  # what came counts, whatever becomes of us
            for each in digests:
                each.update(piece)
    return {"size": size, "sha256": digests[0].hexdigest(), "sha512": digests[1].hexdigest()}


def _alone(part: IO[bytes]) -> None:
    """See that no process which outlived its agent still writes a file."""
    try:
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused("Failed", f"another process writes {part.name}") from None


def _pieces(store: S3Store, key: str, start: int, size: int) -> Iterator[memoryview]:
    for offset in range(start, size, _PIECE):
        length = min(_PIECE, size - offset)
        piece = memoryview(obstore.get_range(store, key, start=offset, length=length))
        if len(piece) != length:
            raise Refused("Failed", f"{key} gave {len(piece)} of {length} bytes")
        yield piece


def remove(store: S3Store, request: Object) -> Object:
    """Remove all objects below a prefix; none is success."""
    found = [item["path"] for items in obstore.list(store, request["prefix"]) for item in items]
    for path in found:
        obstore.delete(store, path)
    return {"removed": len(found)}


def names(store: S3Store, request: Object) -> Object:
    """Give the keys of all objects below a prefix."""
    return {"keys": [item["path"] for items in obstore.list(store, request["prefix"]) for item in items]}


Verb = Callable[[S3Store, Object], Object]
_VERBS: Final[Mapping[str, Verb]] = {"head": head, "put": put, "get": get, "remove": remove, "names": names}


def answer(request: Object, verbs: Mapping[str, Verb] = _VERBS) -> Object:
    """Do what is asked; give the answer, or `refused` and a `message`."""
    try:
        return verbs[request["verb"]](open_bucket(request), request)
    except Refused as error:
        return {"refused": error.kind, "message": str(error)}
    except OSError as error:
        absent = isinstance(error, FileNotFoundError) and error.filename is None  # the library's word for 404
        kind = "NoRoom" if error.errno is not None and error.errno in _NO_ROOM else "Absent" if absent else "Failed"
        return {"refused": kind, "message": _short(error)}
    except (PermissionDeniedError, UnauthenticatedError) as error:
        return {"refused": "Denied", "message": _short(error)}
    except Exception as error:  # noqa: BLE001 - the library has one class for each kind of service's answer
        return {"refused": "Failed", "message": _short(error)}


_NO_ROOM: Final = frozenset({28, 122})
"""ENOSPC and EDQUOT."""


def _short(error: Exception) -> str:
    text = str(error)
    first = text.split("\n", maxsplit=1)[0].removesuffix('<?xml version="1.0" encoding="UTF-8"?>')
    told = " ".join(found.group(1) for word in ("Code", "Message") if (found := re.search(f"<{word}>(.*?)<", text)))
    return f"{first[:_LONGEST_MESSAGE]} {told[:_LONGEST_MESSAGE]}".strip() or type(error).__name__


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin))))
