"""Kill a guest's QEMU at once, and never another process."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
PID_FILES: Final = Path("/run/libvirt/qemu")


def kill_qemu(name: str, instance_id: str) -> bool:
    """Send SIGKILL to the QEMU that runs this instance.

    The process is held by a pidfd before it is looked at, so a recycled pid cannot be hit.

    Args:
        name: the domain's name.
        instance_id: the domain's uuid.

    Returns:
        False if no such process is visible from here: libvirt then has to end it in its own time.
    """
    return any(_kill_verified(pid, name, instance_id) for pid in _candidates(name, instance_id))


def is_qemu_of(arguments: list[bytes], name: str, instance_id: str) -> bool:
    """Say whether a command line is that of the instance's QEMU as libvirt starts it."""
    if not arguments or b"qemu" not in Path(os.fsdecode(arguments[0])).name.encode():
        return False
    pairs = list(itertools.pairwise(arguments))
    named = any(
        flag == b"-name" and value.split(b",")[0] in (f"guest={name}".encode(), name.encode()) for flag, value in pairs
    )
    return named and (b"-uuid", instance_id.encode()) in pairs


def _candidates(name: str, instance_id: str) -> list[int]:
    try:
        pid = int((PID_FILES / f"{name}.pid").read_text())
    except (OSError, ValueError):
        pid = 0
    if pid and is_qemu_of(_arguments(pid), name, instance_id):
        return [pid]
    # libvirtd may live in another PID namespace than its pid file is read from.
    pids = [int(entry) for entry in os.listdir(PROC) if entry.isdecimal()]  # noqa: PTH208 - thousands of entries
    return [pid for pid in pids if is_qemu_of(_arguments(pid), name, instance_id)]


def _arguments(pid: int) -> list[bytes]:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _kill_verified(pid: int, name: str, instance_id: str) -> bool:
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not is_qemu_of(_arguments(pid), name, instance_id):
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        return True
    finally:
        os.close(handle)
