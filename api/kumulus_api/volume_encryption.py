"""Encryption of volumes at rest: what a class asks for, and where a volume's key lies (Cinder's encryption type)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from kumulus_api.base import FINALIZER, Model, ObjectName, whole

KEY_FINALIZER: Final = f"{FINALIZER.partition('/')[0]}/volume-key"
"""On a Volume whose key the operator has made: the key goes, then this."""

KEY_SECRET_PREFIX: Final = "volume-key-"  # noqa: S105 - a name
"""How the names of the Secrets begin that the operator makes; the volume's id follows."""

KEY_NAME: Final = "key"
"""Where the key lies in such a Secret."""


class Cipher(StrEnum):
    """How blocks are encrypted, as dm-crypt spells it."""

    AES_XTS = "aes-xts-plain64"


class VolumeClassEncryption(Model):
    """LUKS, done by QEMU on the host where the server runs."""

    cipher: Cipher = Cipher.AES_XTS
    key_size: Annotated[int, Field(json_schema_extra={"enum": [256, 512]})] = 512
    """Bits of XTS's two keys together: 512 is AES-256."""


class KeySecret(Model):
    """A key of a Secret in the volume's namespace: 32 to 1024 bytes that nobody can guess."""

    name: ObjectName
    key: Annotated[str, Field(min_length=1, max_length=253)] = KEY_NAME

    model_config = whole()


class VolumeEncryption(Model):
    """A key of the user's own, in the place of one that is made."""

    secret: KeySecret

    model_config = whole()


class AssignedEncryption(Model):
    """How a volume is encrypted, from its first block on, and where its key lies."""

    cipher: Cipher
    key_size: int
    secret: KeySecret
    made: bool = False
    """The Secret was made for this volume, and goes with it."""

    model_config = whole()
