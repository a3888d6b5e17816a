"""Running a host command: an argument list, a deadline, no shell."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kumulus_agent.execution import execute
from kumulus_agent.network.errors import CommandFailed

DEADLINE_SECONDS = 20.0


async def run(argv: Sequence[str], *, stdin: bytes = b"", allowed: Collection[int] = (0,)) -> bytes:
    """Run `argv` and return its standard output.

    Args:
        argv: the command and its arguments.
        stdin: what it reads.
        allowed: the exit codes that count as success.

    Raises:
        CommandFailed: it could not be started, ended with another exit code, or took longer than DEADLINE_SECONDS.
    """
    try:
        done = await execute(argv, deadline=DEADLINE_SECONDS, stdin=stdin)
    except TimeoutError as error:
        raise CommandFailed(f"{' '.join(argv)} did not end within {DEADLINE_SECONDS:.0f} s") from error
    except OSError as error:
        raise CommandFailed(f"{argv[0]} could not be started: {error}; is it installed on the host?") from error
    if done.code not in allowed:
        raise CommandFailed(f"{' '.join(argv)} ended with {done.code}: {done.said}")
    return done.output
