"""Compare an image with a signature, as a program: the library that it needs is large and seldom used.

Reads ``{"publicKey": PEM, "value": base64, "digest": "sha256:<hex>"}`` on standard input. Says on standard output, in
JSON, whether the signature is of a file with that digest by that key, and what is wrong if not.
"""

from __future__ import annotations

import base64
import json
import resource
import sys
from typing import Final

from kumulus_agent.execution import execute
from kumulus_agent.storage.errors import Retryable, SignatureInvalid

_MEMORY_BYTES: Final = 512 << 20
_SECONDS: Final = 30.0
_AGAIN: Final = "sign these bytes (cosign sign-blob --key), and make a new image"


async def verify_signature(public_key: str, value: str, digest: str) -> None:
    """Verify the signature of a file, in a process of its own.

    Args:
        public_key: in PEM, of ECDSA.
        value: the signature of the file's SHA-256 in DER, in base64: what `cosign sign-blob` prints.
        digest: ``sha256:<hex>`` of the file.

    Raises:
        SignatureInvalid: it is of other bytes, or by another key, or cannot be read.
        Retryable: it could not be verified.
    """
    asked = json.dumps({"publicKey": public_key, "value": value, "digest": digest}).encode()
    argv = (sys.executable, "-m", "kumulus_agent.storage.signature")
    try:
        done = await execute(argv, deadline=_SECONDS, stdin=asked)
    except TimeoutError as error:
        raise Retryable(f"the signature was not verified in {_SECONDS:.0f} s") from error
    if done.code != 0:
        raise Retryable(f"the signature could not be verified: {done.said[-300:]}")
    answer = json.loads(done.output)
    if not answer["good"]:
        raise SignatureInvalid(f"the image's signature is refused: {answer['why']}, of bytes with {digest}; {_AGAIN}")


def judge(public_key: str, value: str, digest: str) -> str:
    """Say what is wrong with a signature; nothing if it is good."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.asymmetric import ec, utils  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        key = load_pem_public_key(public_key.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        return f"spec.signature.publicKey is no key in PEM ({error})"
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return "spec.signature.publicKey is not of ECDSA"
    try:
        signature = base64.b64decode(value, validate=True)
        key.verify(signature, bytes.fromhex(digest.partition(":")[2]), ec.ECDSA(utils.Prehashed(SHA256())))
    except InvalidSignature:
        return "spec.signature.value is not by that key"
    except ValueError as error:
        return f"spec.signature.value is no signature in base64 ({error})"
    return ""


def main() -> None:
    """Judge what comes on standard input."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    asked = json.load(sys.stdin)
    why = judge(asked["publicKey"], asked["value"], asked["digest"])
    json.dump({"good": not why, "why": why}, sys.stdout)


if __name__ == "__main__":
    main()
