"""What the machine must offer; every finding is one line that says what to do."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from kumulus_lab import commands
from kumulus_lab.errors import CommandFailed, Unsuitable
from kumulus_lab.settings import LabSettings

DISK_NEEDED = 15 * 1024**3
"""Bytes: builds and their caches 6 GB, images 3 GB, the rest for guests."""
_FILESYSTEMS = ("overlay", "tmpfs")
# iproute2 may not be installed yet: the bridge is asked of the kernel (SIOCBRADDBR of linux/sockios.h).
_MAKE_BRIDGE = "import fcntl, socket; fcntl.ioctl(socket.socket(socket.AF_UNIX), 0x89A0, b'probe0\\0')"


def check(settings: LabSettings) -> None:
    """Look at everything and report all findings at once.

    Raises:
        Unsuitable: one line per finding.
    """
    checks: tuple[Callable[[LabSettings], str | None], ...] = (_root, _debian, _disk, _filesystems, _namespaces)
    findings = []
    for look in checks:
        finding = look(settings)
        if finding is not None:
            findings.append(finding)
        if finding is not None and look is _root:
            break  # the others would only repeat it
    if findings:
        raise Unsuitable("\n".join(findings))


def _root(_: LabSettings) -> str | None:
    return None if os.geteuid() == 0 else "not root: namespaces and bridges need it; call it with sudo"


def _debian(_: LabSettings) -> str | None:
    return None if shutil.which("apt-get") else "no apt-get: the lab installs its parts on Debian-like machines only"


def _disk(settings: LabSettings) -> str | None:
    for folder in (settings.state, settings.cache):
        free = shutil.disk_usage(existing_parent(folder)).free
        if free < DISK_NEEDED:
            return (
                f"{free / 1024**3:.1f} GiB free at {folder}, {DISK_NEEDED / 1024**3:.0f} GiB needed: "
                "free some, or set KUMULUS_LAB_STATE and KUMULUS_CACHE to another disk"
            )
    return None


def existing_parent(path: Path) -> Path:
    """The path itself or the nearest folder above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def _filesystems(_: LabSettings) -> str | None:
    if shutil.which("modprobe"):
        commands.run(["modprobe", "--all", "overlay", "br_netfilter", "vxlan"], check=False)
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
    absent = [name for name in _FILESYSTEMS if name not in known]
    return f"the kernel has no {', '.join(absent)} filesystem: containers need it" if absent else None


def _namespaces(_: LabSettings) -> str | None:
    kinds = ["--net", "--mount", "--uts", "--pid", "--cgroup", "--fork"]
    try:
        commands.run(["unshare", *kinds, sys.executable, "-c", _MAKE_BRIDGE])
    except CommandFailed as error:
        said = str(error).splitlines()[-1]
        return f"namespaces or bridges cannot be made ({said}): run on a machine of its own or in a privileged one"
    return None
