"""A server's certificate, made by a process of its own.

The library that makes it takes a sixth of the operator's memory and is needed once in a process's life.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    authority, certificate, key = await run_apart(_PROGRAM, *names)
    return authority.encode(), certificate.encode(), key.encode()


async def run_apart(program: Path, *arguments: str, given: Mapping[str, str] | None = None) -> Any:
    """Run a program that works with certificates in a process of its own, and give the JSON that it prints.

    Args:
        program: its file. As a module it would import its package, and with it what the caller has in memory already.
        arguments: of its command line.
        given: what it reads from its standard input, as JSON; None for nothing.

    Raises:
        RuntimeError: the process ended badly.
        TimeoutError: it took more than a minute.
    """
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), *arguments, stdin=nothing if given is None else pipe, stdout=pipe
    )
    async with asyncio.timeout(_DEADLINE_SECONDS):
        output, _ = await process.communicate(None if given is None else json.dumps(given).encode())
    if process.returncode != 0:
        raise RuntimeError(f"no certificate could be made: its process ended with {process.returncode}")
    return json.loads(output)


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
