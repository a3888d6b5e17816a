"""Which servers have a root disk that can be backed up, and what a backup keeps of them beside it (pure)."""

from __future__ import annotations

from kumulus_api import Reference, Server
from kumulus_api.quantities import parse_quantity
from kumulus_api.server_status import ServerConditionType
from kumulus_api.volume_backup import BackedUpRootDisk, BackupAssignment, BackupReason
from kumulus_operator.refusal import Refusal


def has_root_disk(server: Server) -> bool:
    """Give whether a server has a root disk that is no Volume: its host makes it at the first start."""
    status = server.status
    if server.spec.assignment is None or server.spec.boot_volume is not None or status is None:
        return False
    # A later start that fails says so in the condition, and takes no disk away.
    cached = any(item.type == ServerConditionType.IMAGE_READY and item.status == "True" for item in status.conditions)
    return cached or bool(status.start_durations)


def root_disk_size(server: Server | None) -> int:
    """Give the bytes of a server's root disk; 0 if it has none."""
    given = server.spec.assignment if server is not None else None
    return parse_quantity(given.resources.root_disk) if given is not None else 0


def of_server(name: str, namespace: str, server: Server | None) -> BackupAssignment | Refusal:
    """Give where the root disk of a server is, and whose; the backup's own ids are made later.

    Args:
        name: of the server.
        namespace: of its project.
        server: if it is there.
    """
    need = frozenset({("Server", namespace, name)})
    if server is None or server.deleting:
        message = f"reference: server {name} was not found; transient: goes on when it is made"
        return Refusal(BackupReason.SERVER_NOT_FOUND, message, need)
    if server.spec.boot_volume is not None:
        message = f"server {name} boots from a volume and has no root disk; permanent: make a backup of that volume"
        return Refusal(BackupReason.BOOTS_FROM_VOLUME, message)
    given = server.spec.assignment
    if given is None or not has_root_disk(server):
        message = f"server {name} has no root disk yet: it was never started; transient: goes on when it was"
        return Refusal(BackupReason.SERVER_NOT_READY, message, need)
    if given.target is not None:
        message = f"server {name} migrates; transient: goes on when it is there"
        return Refusal(BackupReason.MIGRATING, message, need)
    image = given.image
    return BackupAssignment(
        backup_id=given.instance_id,
        host=given.host,
        root_disk=BackedUpRootDisk(
            instance_id=given.instance_id,
            server=name,
            flavor=given.flavor,
            image=Reference(name=image.name, namespace=image.namespace) if image is not None else None,
            image_properties=image.properties if image is not None else None,
            min_memory=image.min_memory if image is not None else None,
        ),
    )


def follows(given: BackupAssignment, server: Server | None) -> str:
    """Give the host that a root disk has moved to while its backup waits; empty if it is where it was."""
    place = server.spec.assignment if server is not None else None
    if given.root_disk is None or place is None or place.instance_id != given.root_disk.instance_id:
        return ""
    return place.host if place.host != given.host else ""
