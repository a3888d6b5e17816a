"""What opens the layers of an encrypted volume, and what is said when it does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kumulus_agent.storage.errors import Retryable, Terminal

_CRYPT_METHOD: Final = slice(32, 36)
_NONE: Final = bytes(4)
_MAGIC: Final = b"QFI\xfb"


class KeyMissing(Retryable):
    """The key cannot be had."""

    reason = "EncryptionKeyMissing"


class KeyWrong(Retryable):
    """The key is another one than the data was encrypted with."""

    reason = "EncryptionKeyWrong"


class NotEncrypted(Terminal):
    """The data of a volume that is said to be encrypted lies in the clear."""

    reason = "VolumeNotEncrypted"


class KeyNeeded(Terminal):
    """A file is encrypted, and nobody knows of a key."""

    reason = "VolumeKeyUnknown"


@dataclass(frozen=True, slots=True)
class VolumeKey:
    """What the layers of a volume, and of its copies, are encrypted with.

    Attributes:
        content: what unlocks them (LUKS' passphrase).
        bits: of AES, 128 or 256.
    """

    content: bytes = field(repr=False)
    bits: int = 256


def is_encrypted(path: Path) -> bool:
    """Give whether a file is a qcow2 layer whose data is encrypted, by its header (docs/interop/qcow2.txt)."""
    with path.open("rb") as file:
        head = file.read(_CRYPT_METHOD.stop)
    return head.startswith(_MAGIC) and head[_CRYPT_METHOD] != _NONE


def check_encryption(path: Path, *, wanted: bool) -> None:
    """Check that a layer is encrypted, or that it is not.

    Raises:
        NotEncrypted, KeyNeeded: it is the other.
    """
    found = is_encrypted(path)
    if wanted and not found:
        raise NotEncrypted(
            f"{path} is not encrypted, though its volume shall be: another file was put there; put the right one back"
        )
    if found and not wanted:
        raise KeyNeeded(f"{path} is encrypted, and no key is known for its volume: restore the Volume with its key")
