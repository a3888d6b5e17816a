"""Plan what a VolumeBackup is called, who works on it, and what it says (pure).

Nobody adds to a chain while objects of it are removed, and nothing is removed while somebody adds to it: both stand in
the assignments, which one process decides on, one after the other.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kumulus_api import Server, Volume, VolumeBackup, VolumeSnapshot
from kumulus_api.volume import VolumeAssignment
from kumulus_api.volume_backup import BackupAssignment, BackupReason, BackupSeal, VolumeBackupStatus
from kumulus_operator.refusal import Refusal
from kumulus_operator.volume_backups.root_disks import follows, of_server
from kumulus_operator.waiting import CAPACITY, Need, any_of
from kumulus_runtime.conditions import set_condition


@dataclass(frozen=True)
class World:
    """What a decision on a backup looks at.

    Attributes:
        volume: that it is of, if it is there.
        snapshot: that it is of, likewise.
        server: whose root disk it is of, likewise.
        holder: the server that has the volume.
        others: the other backups of the namespace.
        volumes: all volumes of the namespace.
        able: hosts that are Ready and speak.
        lost: hosts that never return.
    """

    volume: Volume | None = None
    snapshot: VolumeSnapshot | None = None
    server: Server | None = None
    holder: Server | None = None
    others: Collection[VolumeBackup] = ()
    volumes: Collection[Volume] = ()
    able: Collection[str] = ()
    lost: Collection[str] = ()


def is_whole(backup: VolumeBackup) -> bool:
    """Give whether the bucket has the backup."""
    return backup.status is not None and backup.status.digest is not None


def has_ended(backup: VolumeBackup) -> bool:
    """Give whether nobody adds to the bucket for a backup any more."""
    return is_whole(backup) or (backup.status is not None and backup.status.failed)


def being_made(volume_id: str, backups: Collection[VolumeBackup]) -> str:
    """Give the name of a backup for which a host reads a volume; empty if there is none."""
    return next((item.metadata.name for item in backups if _adds(item) and source_id(item) == volume_id), "")


def chain_of(backup: VolumeBackup) -> str | None:
    """Give the id of the full backup that a backup shares its chunks with, as far as it is known."""
    given, status = backup.spec.assignment, backup.status
    chain = given.chain if given is not None else None
    return chain or (status.chain if status is not None else None)


def plan(backup: VolumeBackup, world: World) -> BackupAssignment | Refusal | None:
    """Give what a backup is assigned; a refusal if it has to wait; None if all is assigned that is to be.

    Raises nothing; what is refused is looked at again when one of its needs changes.
    """
    given = backup.spec.assignment
    if given is None:
        return None if backup.deleting else _begin(backup, world)
    if backup.deleting:
        return _remove(backup, given, world)
    if has_ended(backup):
        return _elsewhere(given, world) if verify_due(backup) else None
    if backup.spec.source.existing is not None:
        return _elsewhere(given, world)
    place = world.volume.spec.assignment if world.volume is not None else None
    if place is not None and place.volume_id == given.volume_id and place.host != given.host:
        return given.model_copy(update={"host": place.host})  # It follows its volume from host to host.
    moved = follows(given, world.server)
    return given.model_copy(update={"host": moved}) if moved else None


def verify_due(backup: VolumeBackup) -> bool:
    """Give whether a backup is to be read back."""
    wanted, status = backup.spec.verify, backup.status
    done = status.verified.request if status is not None and status.verified is not None else None
    return wanted is not None and is_whole(backup) and wanted != done


def _begin(backup: VolumeBackup, world: World) -> BackupAssignment | Refusal:
    source = backup.spec.source
    if source.existing is not None:
        return _existing(source.existing, world)
    if source.server is not None:
        found = of_server(source.server.name, backup.key[0], world.server)
    else:
        found = _of_volume(backup, world) if source.volume is not None else _of_snapshot(backup, world)
    if isinstance(found, Refusal):
        return found
    busy = next((item for item in world.others if _adds(item) and source_id(item) == _source_id(found)), None)
    if busy is not None:
        return _waits(f"backup {busy.metadata.name} of it is being made", backup)
    own = found.model_copy(update={"backup_id": str(uuid.uuid4())})
    if backup.spec.incremental:
        return _follow(backup, own, world)
    return own.model_copy(update={"chain": own.backup_id})


def _follow(backup: VolumeBackup, own: BackupAssignment, world: World) -> BackupAssignment | Refusal:
    """Have a backup follow the newest of its volume or root disk."""
    parent = parent_of(_source_id(own) or "", world.others)
    if parent is None or parent.spec.assignment is None:
        message = "incremental: there is no earlier backup of it; transient: goes on when one is whole"
        return Refusal(BackupReason.NO_PARENT, message, frozenset({any_of("VolumeBackup", backup.key[0])}))
    chain = chain_of(parent)
    going = next((item for item in world.others if chain_of(item) == chain and _goes(item)), None)
    if going is not None:
        return _waits(f"backup {going.metadata.name} of the same chain is being removed", backup)
    return own.model_copy(update={"chain": chain, "parent": parent.spec.assignment.backup_id})


def parent_of(of: str, others: Collection[VolumeBackup]) -> VolumeBackup | None:
    """Give the newest whole backup that stays of a volume, or of an instance's root disk, by its id."""
    fit = [item for item in others if is_whole(item) and not item.deleting and source_id(item) == of]
    return max(fit, key=_taken, default=None)


def _taken(backup: VolumeBackup) -> tuple[str, str]:
    return (backup.status.taken_at if backup.status is not None else None) or "", backup.metadata.name


def _existing(backup_id: str, world: World) -> BackupAssignment | Refusal:
    same = (item for item in world.others if item.spec.assignment is not None)
    known = next((item for item in same if item.spec.assignment and item.spec.assignment.backup_id == backup_id), None)
    if known is not None:
        message = f"backup {known.metadata.name} has this id; permanent: use that one"
        return Refusal(BackupReason.KNOWN_ALREADY, message)
    host = min(world.able, default=None)
    if host is None:
        return _no_host()
    return BackupAssignment(backup_id=backup_id, host=host)


def _of_volume(backup: VolumeBackup, world: World) -> BackupAssignment | Refusal:
    """Give where a volume is; the ids are made later."""
    volume, name = world.volume, backup.spec.source.volume.name if backup.spec.source.volume is not None else ""
    need = frozenset({("Volume", backup.key[0], name)})
    if volume is None or volume.deleting:
        message = f"reference: volume {name} was not found; transient: goes on when it is made"
        return Refusal(BackupReason.VOLUME_NOT_FOUND, message, need)
    place = volume.spec.assignment
    if place is None or volume.status is None or volume.status.size_bytes is None:
        message = f"volume {name} has no data yet: no server has used it; transient: goes on when one has"
        return Refusal(BackupReason.VOLUME_NOT_READY, message, need)
    if (kept_back := _kept_back(place, name, need)) is not None:
        return kept_back
    if place.given_to is not None or place.moving is not None:
        message = f"volume {name} is given away or moves to another class; transient: goes on when it is there"
        return Refusal(BackupReason.VOLUME_NOT_READY, message, need)
    moving = world.holder.spec.assignment if world.holder is not None else None
    if place.attached_to is not None and moving is not None and moving.target is not None:
        message = f"server {place.attached_to}, which has volume {name}, migrates; transient: goes on when it is there"
        return Refusal(BackupReason.MIGRATING, message, need)
    return BackupAssignment(
        backup_id=place.volume_id,
        host=place.host,
        volume_id=place.volume_id,
        volume_class=place.volume_class,
        folder=place.folder,
        seal=_seal(volume),
    )


def _of_snapshot(backup: VolumeBackup, world: World) -> BackupAssignment | Refusal:
    wanted = backup.spec.source.volume_snapshot
    name, snapshot = wanted.name if wanted is not None else "", world.snapshot
    given = snapshot.spec.assignment if snapshot is not None and not snapshot.deleting else None
    taken = snapshot is not None and snapshot.status is not None and snapshot.status.restore_size is not None
    if given is None or not taken:
        message = f"there is no Ready snapshot {name}; transient: goes on when there is"
        need = frozenset({("VolumeSnapshot", backup.key[0], name)})
        return Refusal(BackupReason.SNAPSHOT_NOT_FOUND, message, need)
    place = world.volume.spec.assignment if world.volume is not None else None
    if place is not None and place.encryption is not None and place.encryption.made:
        return _encrypted(f"the volume of snapshot {name}")
    return BackupAssignment(
        backup_id=given.snapshot_id,
        host=given.host,
        volume_id=given.volume_id,
        snapshot_id=given.snapshot_id,
        volume_class=given.volume_class,
        folder=given.folder,
        seal=_seal(world.volume),
    )


def _kept_back(place: VolumeAssignment, name: str, need: frozenset[Need]) -> Refusal | None:
    """Give why a volume is not backed up by what it is."""
    if place.encryption is not None and place.encryption.made:
        return _encrypted(f"volume {name}")
    if not place.multi_attach:
        return None
    message = f"volume {name} is for several servers; transient: goes on when it is of a class without multiAttach"
    return Refusal(BackupReason.MULTI_ATTACH, message, need)


def _seal(volume: Volume | None) -> BackupSeal | None:
    place = volume.spec.assignment if volume is not None else None
    if volume is None or place is None or place.encryption is None:
        return None
    return BackupSeal(volume=volume.metadata.name, encryption=place.encryption)


def _encrypted(what: str) -> Refusal:
    message = (
        f"the key of {what} was made with it and goes with it: nobody could read its backups then; permanent: copy its "
        "data to a volume with a key of your own (spec.encryption), or back it up from within the server"
    )
    return Refusal(BackupReason.VOLUME_ENCRYPTED, message)


def _remove(backup: VolumeBackup, given: BackupAssignment, world: World) -> BackupAssignment | Refusal | None:
    if not given.remove:
        chain = chain_of(backup)
        adding = next((item for item in world.others if chain and chain_of(item) == chain and _adds(item)), None)
        if adding is not None:
            return _waits(f"backup {adding.metadata.name} of the same chain is being made", backup)
        restored = next((item for item in world.volumes if _restores(item, given.backup_id)), None)
        if restored is not None:
            message = f"deletion: volume {restored.metadata.name} is being restored from it; transient: goes on then"
            need: Need = ("Volume", *restored.key)
            return Refusal(BackupReason.IN_USE, message, frozenset({need}))
        given = given.model_copy(update={"remove": True})
    moved = _elsewhere(given, world)
    if moved is None and given != backup.spec.assignment:
        return given
    return moved


def _elsewhere(given: BackupAssignment, world: World) -> BackupAssignment | Refusal | None:
    """Have another host do what needs the bucket only, if its own does not speak."""
    if given.host in world.able or not _may_move(given, world):
        return None
    host = min(world.able, default=None)
    return given.model_copy(update={"host": host}) if host is not None else _no_host()


def _may_move(given: BackupAssignment, world: World) -> bool:
    """Of what may have left something on its host that host clears up itself, unless it is lost."""
    return not given.remove or given.host in world.lost or _source_id(given) is None


def _restores(volume: Volume, backup_id: str) -> bool:
    place = volume.spec.assignment
    origin = place.origin.backup if place is not None and place.origin is not None else None
    made = volume.status is not None and volume.status.size_bytes is not None
    return origin is not None and origin.backup_id == backup_id and not made and not volume.deleting


def _adds(backup: VolumeBackup) -> bool:
    """Give whether a host may be adding to the chain of a backup."""
    given = backup.spec.assignment
    return given is not None and backup.spec.source.existing is None and not has_ended(backup) and not backup.deleting


def _goes(backup: VolumeBackup) -> bool:
    return backup.spec.assignment is not None and backup.spec.assignment.remove


def source_id(backup: VolumeBackup) -> str | None:
    """Give the id of the volume, or of the instance whose root disk, a backup is of, as far as it is known."""
    return _source_id(backup.spec.assignment) if backup.spec.assignment is not None else None


def _source_id(given: BackupAssignment) -> str | None:
    return given.root_disk.instance_id if given.root_disk is not None else given.volume_id


def _waits(what: str, backup: VolumeBackup) -> Refusal:
    need = any_of("VolumeBackup", backup.key[0])
    return Refusal(BackupReason.WAITING, f"{what}; transient: goes on then", frozenset({need}))


def _no_host() -> Refusal:
    message = "placement: no host is Ready that could ask the bucket; transient: goes on when one is"
    return Refusal(BackupReason.NO_HOST, message, frozenset({CAPACITY}))


def backup_status(
    backup: VolumeBackup, excess: str | None, refusal: Refusal | None, world: World, now: datetime
) -> dict[str, Any] | None:
    """Give the condition of a backup, or None if it has it already.

    Args:
        backup: as it is.
        excess: by what it would exceed the quota, or None.
        refusal: why it waits.
        world: what was looked at.
        now: the present.
    """
    found = backup.status.dump().get("conditions", []) if backup.status is not None else []
    ready, reason, message = _ready(backup, excess, refusal, world)
    conditions = set_condition(found, "Ready", ready, reason, message, backup.metadata.generation, now)
    return None if conditions == found else {"conditions": conditions}


def _ready(backup: VolumeBackup, excess: str | None, refusal: Refusal | None, world: World) -> tuple[bool, str, str]:
    given, status = backup.spec.assignment, backup.status
    if excess is not None and given is None:
        message = f"quota: {excess}; transient: made when backups are deleted or the quota is raised"
        return False, BackupReason.QUOTA_EXCEEDED, message
    if refusal is not None and (given is None or backup.deleting):
        return False, refusal.reason, refusal.message
    if status is not None and status.fault is not None:
        return False, status.fault.reason, status.fault.message
    if backup.deleting:
        return False, BackupReason.REMOVING, f"host {given.host if given is not None else '-'} removes its objects"
    return _kept(given, status, world)


def _kept(given: BackupAssignment | None, status: VolumeBackupStatus | None, world: World) -> tuple[bool, str, str]:
    if status is None or status.digest is None:
        return _unmade(given, world)
    if status.verified is not None and not status.verified.sound:
        return False, BackupReason.DAMAGED, status.verified.message
    return True, BackupReason.AVAILABLE, f"the bucket has it: {status.size} bytes, {status.stored_bytes or 0} put"


def _unmade(given: BackupAssignment | None, world: World) -> tuple[bool, str, str]:
    host = given.host if given is not None else ""
    if host in world.lost:
        message = f"host {host}, which had what it is of, was given up; permanent: delete the backup"
        return False, BackupReason.HOST_LOST, message
    return False, BackupReason.MAKING, f"host {host} makes it"
