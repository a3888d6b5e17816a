"""What a guest is told about itself: what its seed said when it started, and what the API says now."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from kumulus_agent.metadata.ec2 import Guest
from kumulus_agent.servers.desired import Desired, DesiredPort, Key, read_desired
from kumulus_agent.servers.guest_password import GuestPasswords, Kept
from kumulus_agent.servers.instance_files import instance_files
from kumulus_agent.servers.instances import Instances
from kumulus_agent.settings import AgentSettings
from kumulus_agent.storage.seed import Seed, SeedNic, read_seed
from kumulus_api import Server
from kumulus_api.hardware import DiskBus
from kumulus_runtime.store import Store

_KEPT: Final = 8
"""Answers kept in memory, one for each of so many guests: one that boots asks many times in a row."""
_ANSWERS: Final = {
    Kept.WRITTEN: HTTPStatus.OK,
    Kept.TOLD_BEFORE: HTTPStatus.CONFLICT,
    Kept.UNFIT: HTTPStatus.BAD_REQUEST,
    Kept.NOT_NOW: HTTPStatus.SERVICE_UNAVAILABLE,
}
_ROOTS: Final = {DiskBus.VIRTIO: "vda", DiskBus.IDE: "hda"}


def seed_nics(ports: Iterable[DesiredPort], guest_mtu: int) -> tuple[SeedNic, ...]:
    """Give the NICs that a guest is told of.

    Args:
        ports: in its order.
        guest_mtu: bytes, where the port's network says nothing else.
    """
    return tuple(
        SeedNic(f"eth{number}", port.mac, port.mtu or guest_mtu, told=port.addresses)
        for number, port in enumerate(ports)
    )


class Told:
    """Looks up what guests of this host are told.

    User data and keys are those of the start: agents may not read Secrets, and the seed that the guest has is here.

    Args:
        settings: of the process.
        store: what the watch has shown of Servers.
        instances: whose the instances here are.
        passwords: where those go that guests tell.
    """

    def __init__(self, settings: AgentSettings, store: Store, instances: Instances, passwords: GuestPasswords) -> None:
        self._passwords = passwords
        self._settings = settings
        self._store = store
        self._instances = instances
        self._answers: OrderedDict[str, tuple[object, Guest]] = OrderedDict()

    async def guest(self, instance_id: str) -> Guest | None:
        """Give what a guest is told; None if its seed is not here."""
        files = instance_files(self._settings.instances_dir, instance_id)
        seed_file = files.seed
        state = await asyncio.to_thread(_state, seed_file)
        if state is None:
            return None
        key = self._instances.keys.get(instance_id)
        body = self._store.get(Server, key[1], key[0]) if key is not None else None
        version = (state, key, body["metadata"].get("resourceVersion") if body is not None else None)
        known = self._answers.get(instance_id)
        if known is not None and known[0] == version:
            self._answers.move_to_end(instance_id)
            return known[1]
        desired = read_desired(body) if body is not None else None
        record = await files.read_record()
        try:
            seed = await asyncio.to_thread(lambda: read_seed(seed_file.read_bytes()))
        except (OSError, ValueError):
            return None
        if desired is not None and desired.instance_id == instance_id:
            status = (body.get("status") or {}) if body is not None else {}
            password, public = str(status.get("guestPassword", "")), _public(status)
            found = replace(guest_of(seed, desired, self._settings.guest_mtu), password=password, public=public)
        else:
            found = unclaimed(seed, *(record or (key or ("", ""), ())))
        self._answers[instance_id] = (version, found)
        while len(self._answers) > _KEPT:
            self._answers.popitem(last=False)
        return found

    async def keep_password(self, instance_id: str, text: str) -> HTTPStatus:
        """Keep what a guest tells as its password, encrypted; give what is answered, as Nova does."""
        key = self._instances.keys.get(instance_id)
        kept = await self._passwords.keep(key, instance_id, text) if key is not None else Kept.NOT_NOW
        return _ANSWERS[kept]


def guest_of(seed: Seed, desired: Desired, guest_mtu: int) -> Guest:
    """Give what a guest is told of which the API knows.

    Args:
        seed: of its last start.
        desired: the instance now.
        guest_mtu: bytes.
    """
    bus = desired.hardware.disk_bus or DiskBus.VIRTIO
    now = replace(
        seed,
        nics=seed_nics(desired.ports, guest_mtu),
        metadata=dict(desired.metadata),
        project=desired.key[0],
        zone=desired.zone,
    )
    return Guest(
        seed=now,
        address=_first_address(desired.ports),
        flavor=desired.flavor,
        image=desired.image.digest if desired.image is not None else "",
        root=_ROOTS.get(bus, "sda"),
    )


def unclaimed(seed: Seed, key: Key, ports: Sequence[DesiredPort]) -> Guest:
    """Give what a guest is told that is on its way here, or that no Server claims any more.

    Args:
        seed: of its last start.
        key: the Server's namespace and name when it was recorded.
        ports: those recorded.
    """
    addresses = {port.mac: port.addresses for port in ports}
    nics = tuple(replace(nic, told=addresses.get(nic.mac, ())) for nic in seed.nics)
    return Guest(seed=replace(seed, nics=nics, project=key[0]), address=_first_address(ports))


def _first_address(ports: Iterable[DesiredPort]) -> str:
    addresses = (address for port in ports for address in port.addresses)
    return next((address for address in addresses if ip_address(address).version == 4), "")


def _public(status: Mapping[str, Any]) -> str:
    """Give the first floating address of IPv4, as Nova does."""
    addresses = (str(item["address"]) for item in status.get("floatingIPs") or ())
    return next((address for address in addresses if ip_address(address).version == 4), "")


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
