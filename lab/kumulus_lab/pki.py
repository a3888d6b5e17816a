"""The lab's certificate authority, its certificates and the kubeconfigs made of them."""

import base64
import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALIDITY = datetime.timedelta(days=3650)
_CLOCK_SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Identity:
    """Whom a certificate names.

    Attributes:
        name: the files' name: ``<name>.crt``, ``<name>.key``.
        common_name: the Kubernetes user.
        groups: the Kubernetes groups.
        hosts: DNS names and IP addresses it may serve as.
    """

    name: str
    common_name: str
    groups: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


class Authority:
    """A certificate authority in a folder; each file is made once and found again later."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory = directory
        self._key = self._ensure_key("ca")
        self.certificate = self._ensure_own_certificate()

    def path(self, name: str) -> Path:
        """The path of one of its files."""
        return self.directory / name

    def ensure(self, identity: Identity) -> None:
        """Make ``<name>.key`` and ``<name>.crt`` (server and client use) unless they exist."""
        target = self.path(f"{identity.name}.crt")
        if target.exists():
            return
        key = self._ensure_key(identity.name)
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in identity.groups]
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, identity.common_name))
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = self._builder(x509.Name(subject), key.public_key()).add_extension(usage, critical=False)
        if identity.hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(_names(identity.hosts)), critical=False)
        _write(target, builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def ensure_signing_pair(self, name: str) -> None:
        """Make ``<name>.key`` and ``<name>.pub`` for ServiceAccount tokens unless they exist."""
        public = self._ensure_key(name).public_key()
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        _write(self.path(f"{name}.pub"), pem)

    def ensure_kubeconfig(self, identity: Identity, server: str) -> Path:
        """Make ``<name>.conf``, a kubeconfig with everything embedded; return its path."""
        self.ensure(identity)
        target = self.path(f"{identity.name}.conf")
        if not target.exists():
            cluster = {"server": server, "certificate-authority-data": self._embedded("ca.crt")}
            user = {
                "client-certificate-data": self._embedded(f"{identity.name}.crt"),
                "client-key-data": self._embedded(f"{identity.name}.key"),
            }
            _write(target, yaml.safe_dump(kubeconfig(cluster, user)).encode())
        return target

    def _embedded(self, name: str) -> str:
        return base64.b64encode(self.path(name).read_bytes()).decode()

    def _ensure_key(self, name: str) -> ec.EllipticCurvePrivateKey:
        path = self.path(f"{name}.key")
        if path.exists():
            key = serialization.load_pem_private_key(path.read_bytes(), None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError(f"{path} is not an elliptic curve key; remove it")
            return key
        key = ec.generate_private_key(ec.SECP256R1())
        encoding, layout = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        _write(path, key.private_bytes(encoding, layout, serialization.NoEncryption()))
        return key

    def _ensure_own_certificate(self) -> x509.Certificate:
        path = self.path("ca.crt")
        if path.exists():
            return x509.load_pem_x509_certificate(path.read_bytes())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kumulus-lab")])
        builder = self._builder(name, self._key.public_key(), issuer=name)
        certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(
            self._key, hashes.SHA256()
        )
        _write(path, certificate.public_bytes(serialization.Encoding.PEM))
        return certificate

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, issuer: x509.Name | None = None
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + _VALIDITY)
        )


def kubeconfig(cluster: dict[str, str], user: dict[str, str]) -> dict[str, object]:
    """A kubeconfig of one cluster, one user and the context of the two, all called ``lab``."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "lab", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    }


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _write(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    draft = path.with_suffix(f"{path.suffix}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)
