"""This host's certificate for its consoles: made once, kept on its disk, pinned by its hash in the Host's status."""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from kumulus_agent.storage.atomic import write_file
from kumulus_runtime.certificates.issuing import context_of, issue_apart

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class HostCertificate:
    """A certificate and its key in one file, and the SHA-256 of the certificate in hexadecimal."""

    chain: Path
    fingerprint: str

    def context(self) -> ssl.SSLContext:
        """Give the TLS context that serves with it."""
        return context_of(self.chain)


async def host_certificate(directory: Path, name: str) -> HostCertificate:
    """Give the certificate in a directory, which is made with it where there is none that can be used.

    Args:
        directory: readable by nobody else.
        name: the host's name.

    Raises:
        OSError, RuntimeError, TimeoutError: it cannot be made.
    """
    chain = directory / "console.pem"
    found = await asyncio.to_thread(_read, chain)
    if found is None:
        issued = await issue_apart([name])
        await asyncio.to_thread(_write, chain, issued[2] + issued[1])
        found = await asyncio.to_thread(_read, chain)
    if found is None:
        raise RuntimeError(f"{chain} was written and cannot be read as a certificate and its key")
    return found


def _write(chain: Path, content: bytes) -> None:
    chain.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(chain, content)


def _read(chain: Path) -> HostCertificate | None:
    try:
        found = _CERTIFICATE.search(chain.read_bytes())
        if found is None:
            return None
        context_of(chain)
        fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0].decode())).hexdigest()
    except (FileNotFoundError, ValueError, ssl.SSLError):
        return None
    return HostCertificate(chain, fingerprint)
