"""The certificates between hosts as QEMU wants them: a folder of files with names of its own."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Final

from kumulus_agent.storage.atomic import write_file

_KEPT: Final = 3
"""Folders: a service that its host's systemd starts again looks into the one that it was started with."""
_KEY_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"


def tls_folder(root: Path, host_pem: bytes, authorities: bytes) -> Path:
    """Have a folder of certificates; other content has another folder, so that its name says whether it is up to date.

    Blocks.

    Args:
        root: only root reads it.
        host_pem: key and certificate of this host.
        authorities: whose certificates are taken.

    Raises:
        OSError: it cannot be written.
    """
    folder = root / hashlib.sha256(host_pem + b"\0" + authorities).hexdigest()[:16]
    if not (folder / "ca-cert.pem").exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key, begin, certificate = host_pem.partition(_KEY_BEGIN)
        for end in ("server", "client"):
            write_file(folder / f"{end}-key.pem", key)
            write_file(folder / f"{end}-cert.pem", begin + certificate)
        write_file(folder / "ca-cert.pem", authorities)  # the last: it says that all are there
    folders = sorted((item for item in root.iterdir() if item.is_dir()), key=lambda item: item.stat().st_mtime)
    for former in folders[:-_KEPT]:
        if former != folder:
            shutil.rmtree(former, ignore_errors=True)
    return folder
