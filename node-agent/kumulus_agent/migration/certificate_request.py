"""Make a key and a certificate request for a host, as a program: the library that it needs is large and seldom used.

Its argument is the node's name; it prints both in PEM as JSON.
"""

from __future__ import annotations

import json
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ORGANIZATION = "kumulus:hosts"


def make_request(node: str) -> dict[str, str]:
    """Give `key` and `request`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, node[:64]),
        ]
    )
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(node)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {"key": private.decode(), "request": request.public_bytes(pem).decode()}


if __name__ == "__main__":
    json.dump(make_request(sys.argv[1]), sys.stdout)
