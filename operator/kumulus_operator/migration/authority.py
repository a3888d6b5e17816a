"""The authority of the hosts' certificates, as a program: the library that it needs is large and seldom used.

It reads JSON from its standard input and writes JSON: `{}` gives a new authority, `{authority, key, request, node}` the
certificate for a request, or why it is refused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ORGANIZATION = "kumulus:hosts"
_AUTHORITY_LIFETIME = timedelta(days=14)
_LIFETIME = timedelta(days=7)
_EARLIER = timedelta(minutes=10)
_PEM = serialization.Encoding.PEM


class Refused(Exception):
    """The request is not what a host may ask for."""


def make_authority(now: datetime) -> dict[str, str]:
    """Make an authority; give its certificate and key in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Kumulus host authority")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + _AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {"authority": certificate.public_bytes(_PEM).decode(), "key": private.decode()}


def sign(given: Mapping[str, str], now: datetime) -> str:
    """Give the certificate for a request, in PEM.

    Raises:
        Refused: the request asks for another name than the node's, or does not prove its key.
    """
    node = given["node"]
    try:
        request = x509.load_pem_x509_csr(given["request"].encode())
    except ValueError as error:
        raise Refused(f"the request cannot be read: {error}") from error
    _check(request, node)
    authority = x509.load_pem_x509_certificate(given["authority"].encode())
    key = serialization.load_pem_private_key(given["key"].encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key is not one that this program made")
    issuer = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        x509.CertificateBuilder()
        .subject_name(subject(node))
        .issuer_name(authority.subject)
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(min(now + _LIFETIME, authority.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(node)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(_PEM)
        .decode()
    )


def subject(node: str) -> x509.Name:
    """Give the subject of a host's certificate; the name proper stands in the alternative name, which has no limit."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, node[:64]),
        ]
    )


def _check(request: x509.CertificateSigningRequest, node: str) -> None:
    if not request.is_signature_valid:
        raise Refused("the request is not signed with its own key")
    if not isinstance(request.public_key(), ec.EllipticCurvePublicKey):
        raise Refused("the key is not one on an elliptic curve")
    if request.subject != subject(node):
        raise Refused(f"the subject {request.subject.rfc4514_string()} is not that of host {node}")
    for extension in request.extensions:
        names = extension.value
        if not isinstance(names, x509.SubjectAlternativeName):
            raise Refused(f"the extension {extension.oid.dotted_string} is not for hosts")
        if list(names) != [x509.DNSName(node)]:
            raise Refused(f"it asks for other names than {node}")


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )


def answer(given: Mapping[str, str], now: datetime) -> dict[str, str]:
    """Do what the program does."""
    if "request" not in given:
        return make_authority(now)
    try:
        return {"certificate": sign(given, now)}
    except Refused as refused:
        return {"refused": str(refused)}


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin), datetime.now(UTC)), sys.stdout)
