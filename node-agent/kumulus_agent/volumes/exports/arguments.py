"""How QEMU's NBD server is started, to export a volume and to have one that another host exports (pure)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from kumulus_agent.volumes.drivers.protocol import Format

ORGANIZATION: Final = "kumulus:hosts"
"""As it stands in the certificates of hosts."""
_LONGEST: Final = 64
"""Characters of a host's name that its certificate's subject has room for."""
RECONNECT_SECONDS: Final = 300
"""For so long a guest's requests wait for the host of its volume; those that wait for longer fail."""
_CLIENTS: Final = 8
"""Connections at once: those of a guest's host and, while it migrates, of its target, and of what comes after them."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A volume as its host exports it.

    Attributes:
        volume_id: which is the export's name.
        path: of the layer that is written.
        format: of that layer.
        address: of this host's, where the server listens.
        port: TCP.
        through: whether the file system can do without the host's page cache.
    """

    volume_id: str
    path: Path
    format: Format
    address: str
    port: int
    through: bool


def export_unit(volume_id: str) -> str:
    """Give the name of the service that exports a volume."""
    return f"kumulus-export-{volume_id}"


def import_unit(volume_id: str) -> str:
    """Give the name of the service that has a volume of another host."""
    return f"kumulus-import-{volume_id}"


def volume_of_unit(unit: str) -> str:
    """Give the volume of a service of either kind; empty for another service."""
    for prefix in ("kumulus-export-", "kumulus-import-"):
        if unit.startswith(prefix):
            return unit.removeprefix(prefix)
    return ""


def allowed(hosts: frozenset[str]) -> str:
    """Give the object that says whose certificates are taken: these hosts' and no others.

    A host whose name is cut off in its certificate is not let in: another could be called the same.
    """
    rules = [
        {"match": name, "policy": "allow", "format": "exact"}
        for host in sorted(hosts)
        if len(host) <= _LONGEST
        # GnuTLS has written a subject's parts in the one order and in the other.
        for name in (f"O={ORGANIZATION},CN={host}", f"CN={host},O={ORGANIZATION}")
    ]
    return json.dumps({"qom-type": "authz-list", "id": "allowed", "rules": rules, "policy": "deny"})


def export_argv(exported: Exported, tls: Path, hosts: frozenset[str]) -> tuple[str, ...]:
    """Give the command that exports a volume.

    What was acknowledged is on the disk: the guest on the other host goes on when this one has lost its power, and
    would never learn that a cache was lost.

    Args:
        exported: the volume.
        tls: folder of the certificates.
        hosts: which may have it.
    """
    return (
        *_server(_CLIENTS, "directsync" if exported.through else "writethrough"),
        f"--format={exported.format}",
        f"--bind={exported.address}",
        f"--port={exported.port}",
        f"--export-name={exported.volume_id}",
        "--object",
        f"tls-creds-x509,id=tls,endpoint=server,dir={_value(tls)},verify-peer=yes",
        "--object",
        allowed(hosts),
        "--tls-creds=tls",
        "--tls-authz=allowed",
        str(exported.path),
    )


def import_argv(
    volume_id: str, host: str, where: tuple[str, int], tls: Path, socket: Path, *, wait: int = RECONNECT_SECONDS
) -> tuple[str, ...]:
    """Give the command that has a volume of another host on a socket of this one.

    Args:
        volume_id: which is the export's name.
        host: whose certificate is taken.
        where: its address and port.
        tls: folder of the certificates.
        socket: for the guest's disk.
        wait: seconds for which requests wait for the other host.
    """
    options = {
        "driver": "nbd",
        "server.type": "inet",
        "server.host": where[0],
        "server.port": str(where[1]),
        "export": volume_id,
        "tls-creds": "tls",
        "tls-hostname": host,
        "reconnect-delay": str(wait),
    }
    return (
        *_server(_CLIENTS, "writeback"),
        f"--export-name={volume_id}",
        f"--socket={socket}",
        "--object",
        f"tls-creds-x509,id=tls,endpoint=client,dir={_value(tls)},verify-peer=yes",
        "--image-opts",
        ",".join(f"{name}={_value(value)}" for name, value in options.items()),
    )


def _server(clients: int, cache: Literal["directsync", "writethrough", "writeback"]) -> tuple[str, ...]:
    return ("qemu-nbd", "--persistent", f"--shared={clients}", f"--cache={cache}", "--discard=unmap")


def _value(value: object) -> str:
    """Give a value of an option list: in those a comma is doubled."""
    return str(value).replace(",", ",,")
