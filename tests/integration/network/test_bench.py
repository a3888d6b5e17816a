"""The bench of a host's network, at a small size: what measures must run when it is needed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"
SMALL = "import asyncio, network; print(len(asyncio.run(network.measure(network.Size(10, 20))).rule_change_ms))"


async def test_a_small_host_is_measured():
    """The agent that the bench makes of its parts converges, is found converged, and takes changed rules."""
    bench = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SMALL, cwd=BENCH, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(120):
            told, errors = await bench.communicate()
    finally:
        if bench.returncode is None:
            bench.kill()
    assert (bench.returncode, told.splitlines()[-1:]) == (0, [b"20"]), errors.decode()
