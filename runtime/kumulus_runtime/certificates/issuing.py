"""A server's certificate, made by a process of its own.

The library that makes it takes a sixth of the operator's memory and is needed once in a process's life.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

Pems = tuple[bytes, bytes, bytes]
"""The authority's certificate, the server's certificate and its key."""
_PROGRAM = Path(__file__).with_name("program.py")
_DEADLINE_SECONDS = 60.0


async def issue_apart(names: Sequence[str]) -> Pems:
    """Make an authority and a server certificate for DNS names.

    Raises:
        RuntimeError: the process ended badly.
        TimeoutError: it took more than a minute.
    """
    # Run as a file: as a module it would import this package, and with it what the operator has in memory already.
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(_PROGRAM), *names, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(_DEADLINE_SECONDS):
        output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the certificate could not be made: its process ended with {process.returncode}")
    authority, certificate, key = json.loads(output)
    return authority.encode(), certificate.encode(), key.encode()


def server_context(issued: Pems) -> ssl.SSLContext:
    """Give the TLS context that serves with a certificate."""
    with tempfile.TemporaryDirectory() as folder:
        chain = Path(folder) / "chain.pem"
        chain.touch(mode=0o600)
        chain.write_bytes(issued[2] + issued[1])
        return context_of(chain)


def context_of(chain: Path, key: Path | None = None) -> ssl.SSLContext:
    """Give the TLS context that serves with a certificate in a file, whose key is there too or in a file of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(chain, key)
    return context
