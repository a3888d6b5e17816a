"""Reconcile a Volume: quota, where a copy lies, growth, revert, release by a gone server, deletion."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from kumulus_api import FINALIZER, Server, Volume
from kumulus_api.volume import VolumeAssignment
from kumulus_operator.cloud import Cloud
from kumulus_operator.refusal import Refusal, Refused
from kumulus_operator.views import Key
from kumulus_operator.volume_transfers.giving import give, take_back, taken_place
from kumulus_operator.volumes.binding import (
    copy_place,
    grown,
    origin_encryption,
    retuned,
    reverting,
    work_on,
    write_place,
)
from kumulus_operator.volumes.classes import assigned_image, class_of
from kumulus_operator.volumes.holders import released
from kumulus_operator.volumes.intake import snapshots_of
from kumulus_operator.volumes.keys import drop_key, encryption_for, have_key
from kumulus_operator.volumes.limits import unmet_limits
from kumulus_operator.volumes.plan import Refusals, admitted_before, volume_status
from kumulus_operator.volumes.retyping import retyping, with_room
from kumulus_operator.waiting import quota

_LOOK_AGAIN = 30.0
"""Seconds after which it is asked whether the host still speaks that has something to do with a shared volume."""


class VolumeController:
    """Admits, releases and lets go volumes.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> float | None:
        """Bring one volume to its desired state."""
        cloud = self._cloud
        try:
            return await self._bring(key)
        finally:
            cloud.volume_keys.follow(key, cloud.volume_waiters.needs_of(key))

    async def _bring(self, key: Key) -> float | None:
        cloud = self._cloud
        volume = cloud.volumes.get(*key)
        if volume is None or volume.deleting:
            cloud.volume_waiters.forget(key)
        if volume is None:
            return None
        if volume.spec.assignment is not None and volume.spec.assignment.given_to is not None:
            if not await drop_key(cloud, volume):
                await self._give(volume)
            return None
        volume = await self._elsewhere(volume)
        if volume.deleting and (await drop_key(cloud, volume) or await self._let_go(volume)):
            return None
        known = cloud.ledger.volume_admitted(key)
        excess = cloud.ledger.admit_volume(volume, counted=admitted_before(volume))
        bound, refusals = volume.spec.assignment is not None, Refusals()
        if bound:
            volume = await self._release(volume)
        if not volume.deleting and (bound or excess is None):
            volume, refusals = await self._change(volume)
        refusals = replace(refusals, limits=self._unmet_limits(volume))
        needs = refusals.needs | ({quota(key[0])} if excess is not None and not bound else frozenset())
        cloud.volume_waiters.settle(key, needs)
        names = [item.metadata.name for item in snapshots_of(cloud, key)]
        silent = self._exporter_silent(volume)
        status = volume_status(volume, excess, datetime.now(UTC), refusals=refusals, snapshots=names, silent=silent)
        await self._write_status(volume, status)
        if not bound and excess is None and not known:
            cloud.wake(("Volume", *key))
        exported = volume.spec.assignment is not None and volume.spec.assignment.exported_to is not None
        return _LOOK_AGAIN if exported or self._waits_for_host(volume) else None

    def _unmet_limits(self, volume: Volume) -> Refusal | None:
        """Say why the limits that a volume asks for do not hold as they are, or None."""
        cloud, place = self._cloud, volume.spec.assignment
        if volume.spec.qos is None:
            return None
        if place is not None:
            return unmet_limits(volume, cloud.volume_classes.get("", place.volume_class or ""))
        try:
            return unmet_limits(volume, class_of(volume, cloud))
        except Refused:
            return None  # Its Ready says so.

    def _exporter_silent(self, volume: Volume) -> bool:
        """Give whether the server of an exported volume waits for a host that does not speak."""
        place = volume.spec.assignment
        return place is not None and place.exported_to is not None and self._cloud.host_silent(place.host)

    def _waits_for_host(self, volume: Volume) -> bool:
        """Give whether something is to be done with a shared volume, by whichever host speaks."""
        place = volume.spec.assignment
        if place is None or place.folder is None or (place.attached_to is not None and not place.multi_attach):
            return False
        if place.moving is not None or place.left is not None:
            return False  # A part of it lies on that host alone.
        return volume.deleting or bool(work_on(self._cloud, volume))

    async def _elsewhere(self, volume: Volume) -> Volume:
        """Have another host do what a silent one does not with a shared volume; give the volume as it is then."""
        cloud, place = self._cloud, volume.spec.assignment
        if place is None or not self._waits_for_host(volume) or not cloud.host_silent(place.host):
            return volume
        able = (host.name for host in cloud.host_facts() if host.ready and host.fresh and not host.decommissioned)
        host = min(able, default=None)
        if host is None:
            return volume
        return await write_place(cloud, volume, place.model_copy(update={"host": host}))

    async def _change(self, volume: Volume) -> tuple[Volume, Refusals]:
        """Give a volume the place, the size or the snapshot that it asks for; give it as it is then, and why it is not.

        Raises:
            Conflict: it was changed meanwhile; the reconcile is repeated.
        """
        cloud = self._cloud
        if volume.spec.assignment is None:
            try:
                wanted = await taken_place(cloud, volume) or copy_place(cloud, volume)
                if wanted is None:
                    encryption_for(volume, class_of(volume, cloud))
                    assigned_image(volume, cloud)  # It is made for the first server; what hinders that is told now.
                else:
                    volume = await have_key(cloud, volume, wanted, origin_encryption(cloud, volume.key[0], wanted))
                    volume = await write_place(cloud, volume, wanted)
            except Refused as refused:
                return volume, Refusals(making=refused.refusal)
            return volume, Refusals()
        larger, growth = grown(cloud, volume)
        if larger is not None:
            volume, growth = await self._written(volume, larger)
        tuned = retuned(cloud, volume)
        if tuned is not None:
            volume = await write_place(cloud, volume, tuned)
        back, revert = reverting(cloud, volume)
        if back is not None:
            volume = await write_place(cloud, volume, back)
        elsewhere, retype = with_room(cloud, volume, retyping(cloud, volume))
        if elsewhere is not None:
            volume, retype = await self._written(volume, elsewhere)
        return volume, Refusals(growth=growth, revert=revert, retype=retype)

    async def _written(self, volume: Volume, place: VolumeAssignment) -> tuple[Volume, Refusal | None]:
        """Write a place; give the volume as it is then, and why there is no room for it."""
        try:
            return await write_place(self._cloud, volume, place), None
        except Refused as refused:
            return volume, refused.refusal

    async def _write_status(self, volume: Volume, status: dict[str, Any] | None) -> None:
        if status is not None:
            await self._cloud.write_status(volume, status)

    async def _let_go(self, volume: Volume) -> bool:
        """Remove the finalizer of a volume that no host has, or whose host never returns; give whether it was so."""
        cloud = self._cloud
        live = await cloud.client.get(Volume, volume.metadata.name, volume.metadata.namespace)
        if live is None or live["metadata"]["uid"] != volume.metadata.uid:
            return True
        current = Volume.model_validate(live)
        place = current.spec.assignment
        host = cloud.hosts.get("", place.host) if place is not None else None
        if place is not None and place.folder is not None:
            return False  # Any host removes it.
        if not current.deleting or (place is not None and (host is None or not host.spec.decommissioned)):
            return False
        await take_back(cloud, current)
        name, namespace = current.metadata.name, current.metadata.namespace
        await cloud.client.remove_finalizer(Volume, name, FINALIZER, namespace, uid=current.metadata.uid)
        return True

    async def _give(self, volume: Volume) -> None:
        """End a volume that another project has, or gets."""
        refusal = await give(self._cloud, volume)
        self._cloud.volume_waiters.settle(volume.key, refusal.needs if refusal is not None else ())
        if refusal is None:
            return
        status = volume_status(volume, None, datetime.now(UTC), refusals=Refusals(making=refusal))
        await self._write_status(volume, status)

    async def _release(self, volume: Volume) -> Volume:
        """Take the holders off a volume that are gone: their agents have unplugged the volume by then.

        Returns:
            The volume as it is now.
        """
        cloud = self._cloud
        place, namespace = volume.spec.assignment, volume.key[0]
        gone = []
        for name in place.holders if place is not None else ():
            if cloud.servers.get(namespace, name) is not None or cloud.ledger.assumed((namespace, name)):
                continue
            live = await cloud.client.get(Server, name, namespace)
            if live is None:
                gone.append(name)
            else:
                cloud.take(Server, live)
        return await write_place(cloud, volume, released(place, gone)) if place is not None and gone else volume
