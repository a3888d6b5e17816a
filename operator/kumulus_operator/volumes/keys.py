"""Keys of encrypted volumes: made once, copied with what they open, deleted with it; neither kept nor logged."""

from __future__ import annotations

import base64
import secrets
from typing import Final

from kumulus_api import FINALIZER, Volume, VolumeClass
from kumulus_api.volume import VolumeAssignment, VolumeReason
from kumulus_api.volume_encryption import KEY_FINALIZER, KEY_SECRET_PREFIX, AssignedEncryption, KeySecret
from kumulus_operator.cloud import Cloud
from kumulus_operator.refusal import refuse
from kumulus_operator.servers.userdata import content_of
from kumulus_operator.waiting import Need
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import AlreadyExists, Forbidden
from kumulus_runtime.resources import SECRET

_SHORTEST, _LONGEST = 32, 1024
_RANDOM_BYTES: Final = 32
_TYPE: Final = "kumulus.dev/volume-key"


def encryption_for(volume: Volume, found: VolumeClass | None) -> AssignedEncryption | None:
    """Give how a volume that is no copy is encrypted; None if it is not (pure).

    Raises:
        Refused: a key is given for a class that does not encrypt.
    """
    asked = found.spec.encryption if found is not None else None
    own = volume.spec.encryption
    if asked is None:
        if own is None:
            return None
        name = f"volume class {found.metadata.name}" if found is not None else "a volume without class"
        message = f"encryption: {name} is not encrypted; permanent: leave spec.encryption out, or use another class"
        raise refuse(VolumeReason.CLASS_NOT_ENCRYPTED, message)
    secret = own.secret if own is not None else _made_secret(volume)
    return AssignedEncryption(cipher=asked.cipher, key_size=asked.key_size, secret=secret, made=own is None)


def encryption_of_copy(volume: Volume, origin: VolumeAssignment | None) -> AssignedEncryption | None:
    """Give how a copy is encrypted: as what it lies on, by the same key, which it has a Secret of its own with (pure).

    A key of the user's own is not copied.
    """
    theirs = origin.encryption if origin is not None else None
    if theirs is None or not theirs.made:
        return theirs
    return theirs.model_copy(update={"secret": _made_secret(volume)})


def _made_secret(volume: Volume) -> KeySecret:
    return KeySecret(name=f"{KEY_SECRET_PREFIX}{volume.metadata.uid}")


async def have_key(
    cloud: Cloud, volume: Volume, place: VolumeAssignment, origin: AssignedEncryption | None = None
) -> Volume:
    """Have the key of a volume before the volume is put in its place; give the volume as it is then.

    Args:
        cloud: what the operator works with.
        volume: as it is.
        place: that it gets.
        origin: of a copy, how what it is of is encrypted.

    Raises:
        Refused: the Secret with the key is missing, or what is in it is no key.
        Conflict: the volume was changed meanwhile.
    """
    given = place.encryption
    if given is None:
        return volume
    namespace = volume.key[0]
    if not given.made:
        await key_content(cloud.client, namespace, given.secret)
        return volume
    if KEY_FINALIZER not in volume.metadata.finalizers:
        metadata = {
            "resourceVersion": volume.metadata.resource_version,
            "finalizers": [*volume.metadata.finalizers, KEY_FINALIZER],
        }
        body = await cloud.client.patch_merge(Volume, volume.key[1], {"metadata": metadata}, namespace)
        cloud.take(Volume, body)
        volume = Volume.model_validate(body)
    if origin is not None:
        content = await key_content(cloud.client, namespace, origin.secret)
    else:
        content = base64.b64encode(secrets.token_bytes(_RANDOM_BYTES))
    await _make(cloud.client, volume, given.secret, content)
    return volume


async def _make(client: KubeClient, volume: Volume, where: KeySecret, content: bytes) -> None:
    body = {
        "metadata": {
            "name": where.name,
            "namespace": volume.key[0],
            "annotations": {"kumulus.dev/volume": volume.key[1]},
        },
        "type": _TYPE,
        "immutable": True,
        "data": {where.key: base64.b64encode(content).decode()},
    }
    try:
        await client.create(SECRET, body)
    except AlreadyExists:
        return  # made for this very volume, before its place was written


async def key_content(client: KubeClient, namespace: str, where: KeySecret) -> bytes:
    """Give the key that a Secret holds, as QEMU takes it: without an end of line.

    Raises:
        Refused: it is absent, or no key; the message has nothing of it.
    """
    need: Need = (SECRET.kind, namespace, where.name)
    try:
        body = await client.get(SECRET, where.name, namespace)
    except Forbidden:
        message = f"encryption: Secret {where.name} cannot be read; transient: goes on when the project's roles hold"
        raise refuse(VolumeReason.KEY_NOT_FOUND, message, need) from None
    content = content_of(body, SECRET.kind, where.key) if body is not None else None
    if content is None:
        message = (
            f"encryption: key {where.key} of Secret {where.name} was not found; transient: goes on when it is there"
        )
        raise refuse(VolumeReason.KEY_NOT_FOUND, message, need)
    content = content.removesuffix(b"\n").removesuffix(b"\r")
    if not _SHORTEST <= len(content) <= _LONGEST or not _is_text(content):
        message = (
            f"encryption: key {where.key} of Secret {where.name} has {len(content)} bytes; {_SHORTEST} to {_LONGEST} "
            "bytes of text are asked for, such as `openssl rand -base64 32` gives; transient: goes on when it is so"
        )
        raise refuse(VolumeReason.KEY_INVALID, message, need)
    return content


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


async def drop_key(cloud: Cloud, volume: Volume) -> bool:
    """Delete the key that was made for a volume whose data is gone; give whether that was what was left to do.

    From then on nobody can read what may be left of the volume on a disk. The proof is live: the Volume is being
    deleted, and whoever had its data has let go of it.
    """
    namespace, name = volume.key
    if KEY_FINALIZER not in volume.metadata.finalizers or FINALIZER in volume.metadata.finalizers:
        return False
    body = await cloud.client.get(Volume, name, namespace)
    live = Volume.model_validate(body) if body is not None else None
    if live is None or live.metadata.uid != volume.metadata.uid:
        return True
    if not live.deleting or FINALIZER in live.metadata.finalizers:
        return False
    place = live.spec.assignment
    given = place.encryption if place is not None else None
    where = given.secret if given is not None and given.made else _made_secret(live)
    await cloud.client.delete(SECRET, where.name, namespace)
    await cloud.client.remove_finalizer(Volume, name, KEY_FINALIZER, namespace, uid=live.metadata.uid)
    return True
