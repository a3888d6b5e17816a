"""Print an instance's console log: `python -m kumulus_agent.console_log INSTANCE [--tail LINES]`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from uuid import UUID

_BLOCK = 65536


def tail(path: Path, lines: int) -> bytes:
    """Give the last lines of a file, or all of it where `lines` is 0; an absent file is empty.

    The end is looked for from behind, in blocks: a log may be larger than memory.
    """
    try:
        with path.open("rb") as file:
            if lines <= 0:
                return file.read()
            position, data = file.seek(0, os.SEEK_END), b""
            while position > 0 and data.count(b"\n") <= lines:
                step = min(_BLOCK, position)
                position = file.seek(position - step)
                data = file.read(step) + data
                file.seek(position)
    except FileNotFoundError:
        return b""
    return b"".join(data.splitlines(keepends=True)[-lines:])


def console_log(state_dir: Path, instance_id: str, lines: int) -> bytes:
    """Give the console log of an instance, the rotated part before the present one.

    Raises:
        ValueError: the id is no UUID.
    """
    path = state_dir / "instances" / str(UUID(instance_id)) / "console.log"
    present = tail(path, lines)
    have = len(present.splitlines())
    if lines > 0 and have >= lines:
        return present
    return tail(path.with_name("console.log.0"), lines - have if lines > 0 else 0) + present


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="kumulus_agent.console_log", description=__doc__)
    parser.add_argument("instance", type=UUID, help="instance id, as in spec.assignment.instanceID")
    parser.add_argument("--tail", type=int, default=0, metavar="LINES", help="only the last lines")
    arguments = parser.parse_args(argv)
    state_dir = Path(os.environ.get("KUMULUS_STATE_DIR", "/var/lib/kumulus"))
    sys.stdout.buffer.write(console_log(state_dir, str(arguments.instance), arguments.tail))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
