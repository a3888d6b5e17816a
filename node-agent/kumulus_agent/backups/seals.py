"""What makes chunks of encrypted volumes unreadable in the bucket, and tells them apart from others all the same.

A chunk is sealed by AES-SIV (RFC 5297), with a key that comes of the volume's by HKDF (RFC 5869): the same bytes at the
same place of the same chain give the same chunk, so that what the chain has is not put again, and no others do. Chunks
are known by the digest of what is in the bucket: whoever has no key can compare them, too.
"""

from __future__ import annotations

import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

OVERHEAD: Final = 16
"""Bytes by which a sealed chunk is longer."""
_SIV_KEY: Final = 64
_MARK: Final = 32
_ABOUT: Final = b"kumulus.dev volume backup v1"


class WrongSeal(Exception):
    """A chunk was not sealed with this key for this place."""


class Seal:
    """Seals the chunks of a chain.

    Args:
        key: of the volume.
        chain: id of the chain.

    Attributes:
        mark: tells keys apart, and nothing of them.
    """

    def __init__(self, key: bytes, chain: str) -> None:
        derived = HKDF(algorithm=SHA256(), length=_SIV_KEY + _MARK, salt=None, info=_ABOUT).derive(key)
        self._siv = AESSIV(derived[:_SIV_KEY])
        self._chain = chain.encode()
        self.mark = derived[_SIV_KEY:].hex()

    def close(self, index: int, data: bytes | bytearray) -> bytes:
        """Seal the chunk with a number."""
        return self._siv.encrypt(bytes(data), self._place(index))

    def open(self, index: int, content: bytes) -> bytes:
        """Give the bytes of the chunk with a number.

        Raises:
            WrongSeal: it is another.
        """
        try:
            return self._siv.decrypt(content, self._place(index))
        except InvalidTag as error:
            raise WrongSeal(f"chunk {index} was sealed with another key, or for another place") from error

    def _place(self, index: int) -> list[bytes]:
        return [self._chain, struct.pack(">Q", index)]
