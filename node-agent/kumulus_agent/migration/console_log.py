"""The console log of a guest goes along with it, to the last word that it said here."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final

import structlog

from kumulus_agent.compute.qemu_process import PROC
from kumulus_agent.consoles.log import carried, earlier
from kumulus_agent.migration.channels import Denied
from kumulus_agent.migration.tunnel import Tunnel

_LAST_WORD_SECONDS: Final = 3.0
_LOOKS: Final = 0.02
_log = structlog.stdlib.get_logger(__name__)


async def send_log(tunnel: Tunnel, log: Path, *, ended: bool) -> None:
    """Have the target keep what a guest has written here; no migration fails for it.

    Args:
        tunnel: to the target.
        log: the guest's console log.
        ended: the guest has ended here: all that it has said is waited for.
    """
    copy = log.with_name(f".{log.name}.sent")
    try:
        if ended:
            await _written(log)
        await asyncio.to_thread(lambda: copy.write_bytes(carried(log)))
        await tunnel.send_file(copy, earlier(log).name)
    except (Denied, OSError, TimeoutError) as error:
        _log.warning("the console log stays behind", log=str(log), error=str(error))
    finally:
        copy.unlink(missing_ok=True)


async def _written(log: Path) -> None:
    """Wait until virtlogd, which reads the guest's last words from a pipe, has let go of the log."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORD_SECONDS):
            while await asyncio.to_thread(is_being_written, log):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(_LOOKS)


def is_being_written(log: Path, proc: Path = PROC) -> bool:
    """Say whether virtlogd has a log open."""
    try:
        wanted = log.stat()
    except FileNotFoundError:
        return False
    for process in proc.iterdir():
        try:
            ours = process.name.isdecimal() and (process / "comm").read_text() == "virtlogd\n"
            if ours and any(os.path.samestat(wanted, held) for held in _open_files(process)):
                return True
        except OSError:
            continue  # it has ended
    return False


def _open_files(process: Path) -> list[os.stat_result]:
    found = []
    for descriptor in (process / "fd").iterdir():
        try:
            found.append(descriptor.stat())
        except OSError:
            continue  # it was closed
    return found
