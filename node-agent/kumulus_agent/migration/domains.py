"""Blocking verbs of a migration on libvirt's objects; they raise libvirtError."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import libvirt

from kumulus_agent.compute.devices import devices_of, volume_of
from kumulus_agent.compute.devices_xml import file_of
from kumulus_agent.compute.domain_xml import METADATA_URI
from kumulus_agent.compute.elements import E, Element, parse, write
from kumulus_agent.compute.passed_xml import without_passed
from kumulus_agent.migration.channels import Sockets
from kumulus_agent.migration.plan import State, View
from kumulus_agent.volumes.drivers.layers import FIRST

FIRST_DOWNTIME: Final = 100
LAST_DOWNTIME: Final = 3000
"""Milliseconds: how long the guest may stand still at first, and at most. A guest whose last changes do not go over in
the one is given ever more, up to the other."""
_STILL: Final = frozenset(
    {
        libvirt.VIR_DOMAIN_PAUSED_MIGRATION,
        libvirt.VIR_DOMAIN_PAUSED_STARTING_UP,
    }
)
_TORN: Final = frozenset(
    {
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY),
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED),
        (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY),
        (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED),
    }
)
_UNFINISHED: Final = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DAEMON)
"""What libvirtd ended as it began again: of a guest on its way, one whose CPUs it found not to have begun
(`qemuMigrationDstRecover`)."""
_STATES: Final = {
    libvirt.VIR_DOMAIN_RUNNING: State.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: State.RUNNING,
    libvirt.VIR_DOMAIN_PMSUSPENDED: State.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: State.RUNNING,
}


@dataclass(frozen=True, slots=True)
class Wish:
    """How to migrate.

    Attributes:
        epoch: of the domain at the target.
        bandwidth: MiB/s, None for all there is.
        auto_converge: slow the guest down if it must be.
        post_copy: allow the switch to post-copy.
        volumes: ids of those that the guest has by the API.
        shared: of these, those that any host finds where they are.
    """

    epoch: int
    bandwidth: int | None = None
    auto_converge: bool = True
    post_copy: bool = False
    volumes: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Done:
    """What libvirt measured, in milliseconds; None where it did not."""

    downtime: int | None
    total: int | None


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes of the job that goes on, memory and disks together; `passes` over the memory, those of changes included."""

    done: int
    total: int
    passes: int = 0

    @property
    def percent(self) -> int:
        """Give 0 to 99: the end is told otherwise."""
        return min(99, 100 * self.done // self.total) if self.total else 0


def view(domain: Any) -> View:
    """Look at a domain."""
    code, reason = domain.state()
    if (code, reason) in _TORN:
        # libvirt keeps the job of one that broke until it is taken up again.
        return View(State.TORN, persistent=bool(domain.isPersistent()))
    if code == libvirt.VIR_DOMAIN_PAUSED:
        state = State.STILL if reason in _STILL else State.PAUSED
    else:
        state = _STATES.get(code, State.OFF)
    busy, unfinished = False, (code, reason) == _UNFINISHED
    if domain.isActive():
        with contextlib.suppress(libvirt.libvirtError):
            busy = domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE
    return View(state, busy, bool(domain.isPersistent()), unfinished)


def view_of(conn: Any, instance_id: str) -> View:
    """Look at an instance; absent is an answer."""
    try:
        return view(conn.lookupByUUIDString(instance_id))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return View(State.ABSENT)
        raise


def progress(domain: Any) -> Progress | None:
    """Give how far the domain's job is; None if there is none."""
    stats = domain.jobStats()
    if stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return None
    return Progress(
        int(stats.get("data_processed", 0)), int(stats.get("data_total", 0)), int(stats.get("memory_iteration", 0))
    )


def allow_downtime(domain: Any, milliseconds: int) -> None:
    """Let the guest stand still for longer; without a migration it changes nothing."""
    with contextlib.suppress(libvirt.libvirtError):
        domain.migrateSetMaxDowntime(milliseconds)


def start_post_copy(domain: Any) -> None:
    """Have the guest go on at the target; begun already, or over, is success."""
    with contextlib.suppress(libvirt.libvirtError):
        domain.migrateStartPostCopy()


def with_epoch(xml: str, epoch: int) -> str:
    """Give a domain's XML with another epoch in our metadata.

    The guest carries the epoch of its new assignment from its first moment at the target: neither half is ever taken
    for the other.

    Raises:
        ValueError: it has no metadata of ours.
    """
    root = parse(xml)
    found = root.find(f"metadata/{{{METADATA_URI}}}instance")
    if found is None:
        raise ValueError("the domain has no metadata of ours")
    found.set("epoch", str(epoch))
    return write(root)


def written_disks(xml: str, shared: frozenset[str] = frozenset()) -> list[str]:
    """Give the targets (`vda` …) of the disks that the guest can write, but for shared volumes: those are copied."""
    root = parse(xml)
    disks = root.findall("devices/disk[@device='disk']")
    copied = (disk for disk in disks if disk.find("readonly") is None and _volume(disk) not in shared)
    return [str(disk.find("target").get("dev")) for disk in copied]  # type: ignore[union-attr]


def on_first_layers(xml: str, shared: frozenset[str]) -> str:
    """Have each volume that is copied lie where the target has made it: in one new layer, whatever it was here."""
    root = parse(xml)
    for disk in root.iterfind("devices/disk"):
        source, driver, volume_id = disk.find("source"), disk.find("driver"), _volume(disk)
        if source is None or driver is None or not volume_id or volume_id in shared:
            continue
        path = PurePosixPath(str(source.get("file")))
        folder = path.with_suffix("") if path.suffix == ".raw" else path.parent
        source.set("file", str(folder / FIRST))
        driver.set("type", "qcow2")
        for below in disk.findall("backingStore"):
            disk.remove(below)  # and of one that is encrypted nothing is told: there is nothing
        if source.find("encryption") is not None:
            disk.insert(list(disk).index(source) + 1, E.backingStore())
    return write(root)


def _unbuffered(xml: str, shared: frozenset[str]) -> bool:
    """Give whether what a guest has written to shared volumes is on the share."""
    disks = (disk for disk in parse(xml).iterfind("devices/disk") if _volume(disk) in shared)
    drivers = (disk.find("driver") for disk in disks if disk.find("readonly") is None)
    return all(driver is not None and driver.get("cache") in ("none", "directsync") for driver in drivers)


def _volume(disk: Element) -> str:
    return volume_of(file_of(disk) or "/")


def stored_xml(domain: Any, epoch: int) -> str:
    """Give the definition from which the domain would start, with another epoch, and without this host's devices."""
    xml = str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))
    return with_epoch(without_passed(xml), epoch)


def carry_over(sockets: Sockets, instance_id: str, wish: Wish, *, again: bool = False) -> Done:
    """Migrate a running domain through the tunnel; returns when it runs at the target and is gone here.

    Only what differs from the image is copied: the target has made an overlay of the same size over the same image,
    which it has under the same path, as its name is its digest.

    Args:
        sockets: of the tunnel.
        instance_id: of the guest.
        wish: how to migrate.
        again: take a post-copy up that broke.

    Raises:
        ValueError: a volume is being attached or detached: of one that is not in the guest nothing would be copied.
    """
    with _opened(str(sockets.local)) as here, _opened(str(sockets.control)) as there:
        domain = here.lookupByUUIDString(instance_id)
        live = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE)
        plugged = devices_of(live)
        if plugged.volumes != wish.volumes:
            raise ValueError("a volume is being attached or detached")
        if plugged.bound - wish.shared:
            raise ValueError("a volume lies on this host with snapshots or copies of it, or is read-only")
        if wish.shared and not _unbuffered(live, wish.shared):
            raise ValueError(
                "a shared volume is written through this host's page cache, of which the other knows nothing"
            )
        params: dict[str, Any] = {
            libvirt.VIR_MIGRATE_PARAM_URI: f"unix://{sockets.memory}",
            libvirt.VIR_MIGRATE_PARAM_DISKS_URI: f"unix://{sockets.disks}",
            libvirt.VIR_MIGRATE_PARAM_DEST_XML: on_first_layers(with_epoch(live, wish.epoch), wish.shared),
            libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: on_first_layers(stored_xml(domain, wish.epoch), wish.shared),
            libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS: written_disks(live, wish.shared),
        }
        if wish.bandwidth is not None:
            params[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = wish.bandwidth
            if wish.post_copy:
                params[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY] = wish.bandwidth
        flags = (
            libvirt.VIR_MIGRATE_LIVE
            | libvirt.VIR_MIGRATE_PERSIST_DEST
            | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
            | libvirt.VIR_MIGRATE_NON_SHARED_INC
            | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
        )
        if wish.shared:
            # libvirt knows some file systems by name that hosts share; the driver knows ours by its marker.
            flags |= libvirt.VIR_MIGRATE_UNSAFE
        if wish.auto_converge:
            flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
        if wish.post_copy:
            flags |= libvirt.VIR_MIGRATE_POSTCOPY
        if again:
            flags |= libvirt.VIR_MIGRATE_POSTCOPY_RESUME
        allow_downtime(domain, FIRST_DOWNTIME)
        return _measured(domain.migrate3(there, params, flags))


def ask(sockets: Sockets, verb: Callable[[Any], Any]) -> Any:
    """Ask the target's libvirtd through the tunnel."""
    with _opened(str(sockets.control)) as there:
        return verb(there)


@contextlib.contextmanager
def _opened(socket: str) -> Any:
    conn = libvirt.open(f"qemu+unix:///system?socket={socket}")
    try:
        yield conn
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            conn.close()


def _measured(arrived: Any) -> Done:
    try:
        stats = arrived.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    except libvirt.libvirtError:
        return Done(None, None)
    return Done(stats.get("downtime"), stats.get("time_elapsed"))
