"""Reconcile a VolumeTransfer: offer a volume, and go when the other project has it."""

from __future__ import annotations

from datetime import UTC, datetime

from kumulus_api import Volume, VolumeTransfer
from kumulus_operator.bodies import identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.refusal import Refusal
from kumulus_operator.views import Key
from kumulus_operator.volume_transfers.giving import hindrance_of
from kumulus_operator.volume_transfers.plan import is_of, offered, transfer_status


class VolumeTransferController:
    """Answers offers.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> None:
        """Bring one offer up to date."""
        cloud = self._cloud
        cloud.volume_transfer_waiters.forget(key)
        transfer = cloud.volume_transfers.get(*key)
        if transfer is None or transfer.deleting:
            return
        cloud.volume_transfer_waiters.wait(key, {("Volume", key[0], transfer.spec.volume.name)})
        volume = cloud.volumes.get(key[0], transfer.spec.volume.name)
        of = offered(transfer, volume)
        if of is not None:
            transfer = await cloud.assign(transfer, of)
        taker = self._taker(transfer)
        if taker is not None and not is_of(transfer, volume):
            # The giver's Volume is gone: it is done.
            cloud.events.post(identity(transfer), "Transferred", f"volume {taker.key[0]}/{taker.key[1]} has it")
            await cloud.client.delete(VolumeTransfer, key[1], key[0], uid=transfer.metadata.uid)
            return
        refusal: Refusal | None = hindrance_of(cloud, transfer)
        name = taker.metadata.name if taker is not None else ""
        status = transfer_status(transfer, refusal, name, datetime.now(UTC))
        await cloud.tell(transfer, status, [refusal] if refusal is not None and not name else [])

    def _taker(self, transfer: VolumeTransfer) -> Volume | None:
        """Give the Volume that has what was offered."""
        taken = (item for item in self._cloud.volumes.in_namespace(transfer.spec.project) if is_of(transfer, item))
        return next(taken, None)
