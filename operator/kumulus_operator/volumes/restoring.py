"""Put a volume that is restored from a backup where there is room."""

from __future__ import annotations

import hashlib
import uuid

from kumulus_api import Volume, VolumeClass
from kumulus_api.quantities import parse_quantity
from kumulus_api.volume import AssignedBackup, VolumeAssignment, VolumeOrigin, VolumeReason
from kumulus_api.volume_class import DriverName
from kumulus_api.volume_encryption import AssignedEncryption
from kumulus_operator.cloud import Cloud
from kumulus_operator.placement.facts import Amounts
from kumulus_operator.placement.usage import bytes_of
from kumulus_operator.refusal import refuse
from kumulus_operator.volume_backups.plan import chain_of, is_whole
from kumulus_operator.volumes.classes import check_size, class_of
from kumulus_operator.volumes.holders import for_several
from kumulus_operator.volumes.keys import encryption_for
from kumulus_operator.volumes.limits import limits_of
from kumulus_operator.waiting import CAPACITY


def restored_place(cloud: Cloud, volume: Volume) -> VolumeAssignment:
    """Give the place of a volume that is made of a backup: on the host that made the backup, if that has room.

    Raises:
        Refused: the backup is missing, not Ready, or larger; only one of both is encrypted; no host has room.
    """
    source, namespace = volume.spec.source, volume.key[0]
    name = source.volume_backup.name if source is not None and source.volume_backup is not None else ""
    backup, need = cloud.volume_backups.get(namespace, name), ("VolumeBackup", namespace, name)
    if backup is None:
        message = f"backup {name} was not found; transient: goes on when it is made"
        raise refuse(VolumeReason.SOURCE_NOT_FOUND, message, need)
    given, status, chain = backup.spec.assignment, backup.status, chain_of(backup)
    if backup.deleting or not is_whole(backup) or given is None or status is None or chain is None:
        message = f"backup {name} is not Ready; transient: goes on when it is"
        raise refuse(VolumeReason.SOURCE_NOT_READY, message, need)
    check_size(volume, status.size or 0, f"backup {name}")
    found = class_of(volume, cloud)
    if for_several(found):
        name = found.metadata.name if found is not None else ""
        message = f"class {name} is for several servers; permanent: restore into another class, then ask for this one"
        raise refuse(VolumeReason.MULTI_ATTACH, message)
    encryption = _encryption(volume, name, found, sealed=status.sealed)
    share = found.spec.shared if found is not None and found.spec.driver is DriverName.SHARED else None
    class_name = found.metadata.name if found is not None else None
    asked = bytes_of(class_name, parse_quantity(volume.spec.size)) if share is None else Amounts()
    host = _host(cloud, asked, given.host)
    if host is None:
        message = f"placement: no host is Ready that has {volume.spec.size} of disk; transient: goes on when one has"
        raise refuse(VolumeReason.HOST_FULL, message, CAPACITY)
    backup_id, digest = given.backup_id, status.digest or ""
    return VolumeAssignment(
        volume_id=str(uuid.uuid4()),
        host=host,
        volume_class=class_name,
        folder=share.folder if share is not None else None,
        size=volume.spec.size,
        encryption=encryption,
        limits=limits_of(found, parse_quantity(volume.spec.size), volume.spec.qos),
        origin=VolumeOrigin(backup=AssignedBackup(backup_id=backup_id, chain=chain, digest=digest)),
    )


def _encryption(volume: Volume, backup: str, found: VolumeClass | None, *, sealed: bool) -> AssignedEncryption | None:
    """Give how a volume is encrypted that is made of a backup: like what that is of, with its key."""
    encrypts = found is not None and found.spec.encryption is not None
    what = f"class {found.metadata.name}" if found is not None else "a volume without class"
    if encrypts and not sealed:
        message = f"{what} is encrypted, and backup {backup} is not; permanent: name another class"
        raise refuse(VolumeReason.ENCRYPTED, message)
    if sealed and not encrypts:
        message = f"backup {backup} is encrypted, and {what} is not; permanent: name a class that encrypts"
        raise refuse(VolumeReason.ENCRYPTED, message)
    if sealed and volume.spec.encryption is None:
        message = (
            f"backup {backup} is encrypted with the key that its volume had; permanent: make another volume, with that "
            "key's Secret in spec.encryption"
        )
        raise refuse(VolumeReason.KEY_NOT_FOUND, message)
    return encryption_for(volume, found)


def _host(cloud: Cloud, asked: Amounts, former: str) -> str | None:
    """Give the host for a restored volume: the one that made the backup, or else one that goes by its name.

    So the volumes of a server come to one host again, each by itself and in any order: else no server could have them
    all. Hosts are ranked as by highest random weight (Thaler and Ravishankar, 1998).
    """
    fit = [
        host.name
        for host in cloud.host_facts()
        if host.ready and host.fresh and host.schedulable and not host.maintenance and not host.decommissioned
        if cloud.ledger.promises.no_room(host.name, asked) is None
        if cloud.ledger.free_on(host.name).disk >= host.disk_of(asked)
    ]
    return max(fit, key=lambda name: (name == former, _weight(former, name)), default=None)


def _weight(former: str, name: str) -> bytes:
    return hashlib.blake2s(f"{former}/{name}".encode()).digest()
