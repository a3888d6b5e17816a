"""Blocking verbs on libvirt's secrets, which hold volumes' keys while something is asked of libvirtd.

Each has the id of its volume. It is ephemeral (in libvirtd's memory, never on a disk) and private (libvirtd gives it to
QEMU and to no client, encrypted with a key of that domain's own). A guest that runs needs it no more.
"""

from __future__ import annotations

from typing import Any

import libvirt

from kumulus_agent.compute.elements import E, write


def show_key(conn: Any, volume_id: str, key: bytes) -> None:
    """Have libvirtd know the key of a volume."""
    about = E.secret(E.uuid(volume_id), E.description("key of a volume"), ephemeral="yes", private="yes")
    secret = conn.secretDefineXML(write(about))
    try:
        secret.setValue(key)
    except libvirt.libvirtError:
        secret.undefine()
        raise


def hide_key(conn: Any, volume_id: str) -> None:
    """Have libvirtd forget the key of a volume; absent is success."""
    try:
        conn.secretLookupByUUIDString(volume_id).undefine()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SECRET:
            raise
