"""The system's certificates are read where a connection needs them, and nowhere else."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from kumulus_runtime.certificates.program import Issued, issue
from kumulus_runtime.trust import read_when_used

NAME = "images.example.org"


@pytest.fixture
def issued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Issued:
    """A server's certificate, whose authority is the only one that the system trusts."""
    pems = issue([NAME])
    (tmp_path / "trusted.pem").write_bytes(pems.authority)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    return pems


def shake_hands(client: ssl.SSLContext, pems: Issued, folder: Path) -> None:
    """Connect a client to a server with that certificate, in memory."""
    (folder / "server.pem").write_bytes(pems.certificate + pems.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up, server_hostname=NAME), context.wrap_bio(up, down, server_side=True)]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)


def test_certificates_are_read_for_the_first_connection(issued: Issued, tmp_path: Path) -> None:
    """A context that was made beforehand has no certificate in memory, and trusts whom the system trusts when used."""
    with read_when_used():
        context = ssl.create_default_context()
    assert context.cert_store_stats()["x509"] == 0
    shake_hands(context, issued, tmp_path)
    assert context.cert_store_stats()["x509"] == 1
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(context, issue([NAME]), tmp_path)


@pytest.mark.usefixtures("issued")
def test_other_contexts_read_at_once() -> None:
    """Once libraries are imported, contexts are made as ever."""
    with read_when_used():
        pass
    assert ssl.create_default_context().cert_store_stats()["x509"] == 1


@pytest.mark.parametrize("package", ["kumulus_operator", "kumulus_agent.main", "kumulus_console"])
def test_processes_begin_without_the_systems_certificates(package: str) -> None:
    """What aiohttp makes for connections without a TLS context of their own is not read by importing a process."""
    code = (
        f"import {package}, gc, ssl\n"
        "contexts = [found for found in gc.get_objects() if isinstance(found, ssl.SSLContext)]\n"
        "assert len(contexts) == 2, contexts\n"
        "assert not any(context.cert_store_stats()['x509'] for context in contexts)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
