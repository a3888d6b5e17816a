"""Signatures of images, made as cosign and openssl make them."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kumulus_agent.storage.errors import SignatureInvalid
from kumulus_agent.storage.signature import judge, verify_signature

CONTENT = b"an image"
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
VALUE = base64.b64encode(KEY.sign(CONTENT, ec.ECDSA(hashes.SHA256()))).decode()


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    """Give the public key."""
    public, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(public, form).decode()


async def test_what_was_signed_is_taken() -> None:
    """A signature of these bytes by that key is good, also by larger keys."""
    await verify_signature(pem(KEY), VALUE, DIGEST)
    large = ec.generate_private_key(ec.SECP384R1())
    value = base64.b64encode(large.sign(CONTENT, ec.ECDSA(hashes.SHA256()))).decode()
    assert judge(pem(large), value, DIGEST) == ""


@pytest.mark.parametrize(
    ("key", "value", "digest", "says"),
    [
        (pem(OTHER), VALUE, DIGEST, "not by that key"),
        (pem(KEY), VALUE, "sha256:" + "0" * 64, "not by that key"),
        (pem(KEY), "A" * 96, DIGEST, "not by that key"),
        (pem(KEY), "A" * 65, DIGEST, "base64"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", VALUE, DIGEST, "no key"),
        (pem(rsa.generate_private_key(65537, 2048)), VALUE, DIGEST, "ECDSA"),
    ],
)
async def test_all_else_is_refused(key: str, value: str, digest: str, says: str) -> None:
    """Another key, other bytes, and what is no signature are told apart, and refused for good."""
    with pytest.raises(SignatureInvalid, match=says) as caught:
        await verify_signature(key, value, digest)
    assert "make a new image" in str(caught.value)
