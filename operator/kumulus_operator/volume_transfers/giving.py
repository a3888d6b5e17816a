"""Give a volume of one project to another: one write on the giver's Volume decides, and all that follows is repeatable.

The folder of the volume is named by its id and stays where it is. What happens, each step by the Volume that it is of:

1. The giver's Volume says `givenTo`, by a write that fails if anything about it was changed. No server gets it from
   then on, and no host does anything for it.
2. The taker's Volume gets the assignment, with the volume's id. If it is deleted before that, the first step is taken
   back before it is let go.
3. The giver's Volume is deleted, and let go without its host, once a live read shows that the taker's has it.
"""

from __future__ import annotations

from kumulus_api import FINALIZER, Volume, VolumeTransfer
from kumulus_api.volume import GivenTo, VolumeAssignment, VolumeOrigin, VolumeReason
from kumulus_api.volume_transfer import VolumeTransferReason
from kumulus_operator.cloud import Cloud
from kumulus_operator.refusal import Refusal, refuse
from kumulus_operator.views import Key
from kumulus_operator.volume_backups.plan import being_made
from kumulus_operator.volume_transfers.plan import hindrance, is_of
from kumulus_operator.volumes.binding import work_on, write_place
from kumulus_operator.volumes.classes import check_size, may_use
from kumulus_operator.volumes.intake import snapshots_of
from kumulus_operator.waiting import Need
from kumulus_runtime.errors import Forbidden


def offer_of(cloud: Cloud, volume: Volume) -> VolumeTransfer | None:
    """Give the offer of a volume, if there is one; what it says of its volume holds (pure)."""
    offers = cloud.volume_transfers.in_namespace(volume.key[0])
    return next((item for item in offers if not item.deleting and is_of(item, volume)), None)


def hindrance_of(cloud: Cloud, transfer: VolumeTransfer) -> Refusal | None:
    """Say why what is offered cannot be given now, or None (pure)."""
    key = transfer.key[0], transfer.spec.volume.name
    volume = cloud.volumes.get(*key)
    if volume is not None and transfer.spec.assignment is not None and not is_of(transfer, volume):
        volume = None
    snapshots = [item.metadata.name for item in snapshots_of(cloud, key)] if volume is not None else []
    return hindrance(volume, key[1], snapshots, _busy(cloud, volume) if volume is not None else "")


def _busy(cloud: Cloud, volume: Volume) -> str:
    place = volume.spec.assignment
    backup = being_made(place.volume_id, cloud.volume_backups.in_namespace(volume.key[0])) if place is not None else ""
    return f"makes backup {backup} of it" if backup else work_on(cloud, volume)


async def taken_place(cloud: Cloud, volume: Volume) -> VolumeAssignment | None:
    """Give the place of a Volume that takes one from another project; None if it takes none.

    Raises:
        Refused: there is no such offer for its project, or it cannot be taken.
        Conflict: the giver's Volume was changed meanwhile; the reconcile is repeated.
    """
    source = volume.spec.source.transfer if volume.spec.source is not None else None
    if source is None:
        return None
    project, offer = volume.key[0], (source.namespace, source.name)
    transfer = cloud.volume_transfers.get(*offer)
    need: Need = ("VolumeTransfer", *offer)
    if transfer is None or transfer.deleting or transfer.spec.project != project:
        # Which of these it is, is not for others to know.
        message = f"transfer {'/'.join(offer)} was not found; transient: goes on when it is there for project {project}"
        raise refuse(VolumeReason.SOURCE_NOT_FOUND, message, need)
    given = cloud.volumes.get(transfer.key[0], transfer.spec.volume.name)
    place = given.spec.assignment if given is not None else None
    taker = GivenTo(namespace=project, name=volume.metadata.name)
    if given is None or place is None or not is_of(transfer, given):
        message = f"transfer {'/'.join(offer)}: its volume is not there any more; permanent: ask for another"
        raise refuse(VolumeReason.SOURCE_NOT_READY, message, need)
    if place.given_to not in (None, taker):
        message = f"transfer {'/'.join(offer)}: another Volume takes it; permanent: delete this one"
        raise refuse(VolumeReason.SOURCE_NOT_READY, message, need)
    _check(cloud, volume, given, transfer)
    if place.given_to is None:
        await write_place(cloud, given, place.model_copy(update={"given_to": taker}))
    cloud.queues.volumes.add(given.key)
    return VolumeAssignment(
        volume_id=place.volume_id,
        host=place.host,
        volume_class=place.volume_class,
        folder=place.folder,
        size=volume.spec.size,
        limits=place.limits,
        multi_attach=place.multi_attach,
        # Of itself: where its data is not, no blank one is made in its place.
        origin=VolumeOrigin(volume_id=place.volume_id),
    )


def _check(cloud: Cloud, volume: Volume, given: Volume, transfer: VolumeTransfer) -> None:
    """Check that a volume can be taken as it is asked for.

    Raises:
        Refused: it cannot.
    """
    place, offer = given.spec.assignment, "/".join(transfer.key)
    needs: tuple[Need, ...] = (("VolumeTransfer", *transfer.key), ("Volume", *given.key))
    if place is None or place.given_to is None:
        refusal = hindrance_of(cloud, transfer)
        if refusal is not None:
            # What the giver has to do is told to the giver.
            message = f"transfer {offer} is not ready: {VolumeTransferReason(refusal.reason).value}; transient"
            raise refuse(VolumeReason.SOURCE_NOT_READY, message, *needs)
    name = place.volume_class if place is not None else None
    found = cloud.volume_classes.get("", name) if name is not None else None
    wanted = volume.spec.volume_class
    if (wanted is not None and wanted.name != name) or (found is not None and not may_use(found, volume.key[0])):
        message = f"transfer {offer}: it is of another class, or of one that is not for project {volume.key[0]}"
        raise refuse(VolumeReason.SOURCE_ELSEWHERE, f"{message}; permanent: leave spec.volumeClass out, or ask for it")
    size = given.status.size_bytes if given.status is not None else None
    check_size(volume, size or 0, f"transfer {offer}")


async def take_back(cloud: Cloud, volume: Volume) -> None:
    """Take back what was given to a Volume that goes and has not got it.

    Raises:
        Conflict: the giver's Volume was changed meanwhile; the reconcile is repeated.
    """
    source = volume.spec.source.transfer if volume.spec.source is not None else None
    if source is None or volume.spec.assignment is not None:
        return
    for given in list(cloud.volumes.in_namespace(source.namespace)):
        place = given.spec.assignment
        if place is not None and place.given_to == GivenTo(namespace=volume.key[0], name=volume.metadata.name):
            await write_place(cloud, given, place.model_copy(update={"given_to": None}))


async def give(cloud: Cloud, volume: Volume) -> Refusal | None:
    """Delete a Volume that was given away, and let it go without its host, once the other has it; say what hinders.

    Raises:
        ApiError: the API server cannot be asked.
    """
    place = volume.spec.assignment
    taker = place.given_to if place is not None else None
    if place is None or taker is None:
        return None
    key: Key = (taker.namespace, taker.name)
    live = await cloud.client.get(Volume, taker.name, taker.namespace)
    has = Volume.model_validate(live).spec.assignment if live is not None else None
    if has is not None and has.volume_id == place.volume_id:
        if not volume.deleting:
            try:
                await cloud.client.delete(Volume, volume.metadata.name, volume.key[0], uid=volume.metadata.uid)
            except Forbidden as error:
                return Refusal(VolumeReason.TRANSFERRED, f"volume {'/'.join(key)} has it, and this one stays: {error}")
        await cloud.let_go(volume, FINALIZER)
        return None
    if live is None and volume.deleting:
        await cloud.let_go(volume, FINALIZER)  # The taker has had it, and removed it.
        return None
    cloud.queues.volumes.add(key)
    message = f"volume {'/'.join(key)} gets it; transient: this one goes then"
    return Refusal(VolumeReason.TRANSFERRED, message, frozenset({("Volume", *key)}))


def withheld(cloud: Cloud, volume: Volume) -> Refusal | None:
    """Give why a server cannot have a volume that is being given away, or None (pure)."""
    place = volume.spec.assignment
    offer = offer_of(cloud, volume)
    if offer is None and (place is None or place.given_to is None):
        return None
    name = offer.metadata.name if offer is not None else volume.metadata.name
    message = f"volume {volume.metadata.name} is being given away (transfer {name}); transient: free without the offer"
    return Refusal(VolumeReason.TRANSFERRED, message, frozenset({("Volume", *volume.key)}))
