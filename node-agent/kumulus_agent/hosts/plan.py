"""The status of this machine's Host as a pure function of what was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kumulus_agent.compute.abilities import Abilities
from kumulus_agent.storage.room import Room
from kumulus_api.host import (
    FAILOVER_PACKAGE,
    VPN_PACKAGES,
    ConsoleEndpoint,
    DiskPressureReason,
    HostConditionType,
    HostStatus,
    HugePages,
    Inventory,
    RevokedInstance,
    UnclaimedInstance,
    Versions,
)
from kumulus_api.image_store import KeptImage
from kumulus_api.passthrough import FoundDevices
from kumulus_api.provider import PhysicalNetwork
from kumulus_api.quantities import format_quantity
from kumulus_api.storage_usage import ShareUsage, StorageUsage
from kumulus_runtime.conditions import get_condition, set_condition

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What booting a tiny guest has shown: how guests run here (`kvm`, `qemu`), or why they do not."""

    virtualization: str = ""
    failure: str = ""


def proven(virt: str | None, failures: Mapping[str, str], asked: str) -> SelfTest:
    """Say what a self-test has shown.

    Args:
        virt: how guests run here; None if none does.
        failures: why a way that was tried does not work.
        asked: `kvm` if they shall run so and no other way.
    """
    why = "; ".join(f"{way}: {reason}" for way, reason in sorted(failures.items()))
    if virt is None:
        return SelfTest(failure=why)
    if asked == "kvm" and virt != "kvm":
        return SelfTest(virt, f"KVM is asked for and does not work: {why}")
    return SelfTest(virt)


@dataclass(frozen=True, slots=True)
class Machine:
    """What does not change while the machine runs; `memory` and `disk` in bytes."""

    boot_id: str
    architecture: str
    vcpus: int
    memory: int
    disk: int
    kernel: str
    agent: str
    traits: tuple[str, ...] = ()
    online: frozenset[int] = frozenset()
    """Its CPUs by number."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the Host's status is made of.

    Attributes:
        machine: the machine.
        tunnel_address: where VXLAN comes in.
        libvirt: version of libvirtd, empty while it does not answer.
        qemu: version of QEMU.
        missing_packages: programs and packages that are not there.
        self_test: None until it has run.
        disk_trouble: what is wrong with the disk that holds guests, or empty.
        unclaimed: instances that no Server claims.
        gone: revoked instances that are shown to be gone.
        console: where the guests' consoles are served, or None.
        abilities: what guests can be given.
        dedicated: how many CPUs are set aside for servers with CPUs of their own.
        physical: the physical networks that are mapped here.
        devices: what there is of those that servers may be given; None if there may be none.
        taken_over: routers that lead out here instead of on the host that they are assigned to.
        images: those that it keeps.
        small_tables: the kernel's tables that are too small, and cannot be made larger from here; None before that is
            known.
        storage: what is to be told of folders; None while that is not known.
        pressed: file systems of which the reserve is being used; None while that is not known.
        shares: what is to be told of those that are mounted here.
    """

    machine: Machine
    tunnel_address: str
    libvirt: str
    qemu: str
    missing_packages: tuple[str, ...]
    self_test: SelfTest | None
    disk_trouble: str
    unclaimed: tuple[UnclaimedInstance, ...]
    gone: tuple[RevokedInstance, ...]
    console: ConsoleEndpoint | None = None
    abilities: Abilities = field(default_factory=Abilities)
    dedicated: int = 0
    physical: tuple[PhysicalNetwork, ...] = ()
    devices: FoundDevices | None = None
    taken_over: tuple[str, ...] = ()
    images: tuple[KeptImage, ...] = ()
    small_tables: tuple[str, ...] | None = None
    storage: tuple[StorageUsage, ...] | None = None
    pressed: tuple[Room, ...] | None = None
    shares: tuple[ShareUsage, ...] = ()


def acknowledged(
    revoked: Iterable[Mapping[str, Any]], here: Mapping[str, int], remains: Iterable[str]
) -> tuple[RevokedInstance, ...]:
    """Give those of `spec.revoked` that are shown to be gone.

    Args:
        revoked: the entries.
        here: epoch of each domain by instance id, from a look at libvirt.
        remains: ids of the instances of which files exist without a domain.
    """
    left = set(remains)
    return tuple(
        RevokedInstance(instance_id=entry["instanceID"], epoch=entry["epoch"])
        for entry in revoked
        if here.get(entry["instanceID"], entry["epoch"] + 1) > entry["epoch"] and entry["instanceID"] not in left
    )


def own_status(status: Mapping[str, Any]) -> Object:
    """Give a Host's status without what the operator says there: to repeat it would keep it as it is now."""
    conditions = [item for item in status.get("conditions") or [] if item["type"] != HostConditionType.DRAINED]
    return {**status, "conditions": conditions} if "conditions" in status else dict(status)


def host_status(generation: int, old: Mapping[str, Any], facts: Facts) -> Object:
    """Make the whole status; equal to `old` if nothing changed."""
    machine = facts.machine
    status = HostStatus(
        boot_id=machine.boot_id,
        tunnel_address=facts.tunnel_address or None,
        console=facts.console,
        virtualization=(facts.self_test.virtualization or None) if facts.self_test else None,
        architecture=machine.architecture,
        traits=sorted({*machine.traits, *facts.abilities.traits, *_virtualization(facts.self_test)}),
        inventory=_inventory(facts),
        physical_networks=list(facts.physical),
        devices=facts.devices,
        versions=Versions(kernel=machine.kernel, libvirt=facts.libvirt, qemu=facts.qemu, agent=machine.agent),
        missing_packages=list(facts.missing_packages),
        taken_over=list(facts.taken_over),
        images=list(facts.images),
        storage=list(facts.storage or ()),
        shares=list(facts.shares),
        unclaimed_instances=sorted(facts.unclaimed, key=lambda instance: instance.instance_id),
        observed_revoked=sorted(facts.gone, key=lambda instance: (instance.instance_id, instance.epoch)),
    ).dump()
    conditions: list[Object] = list(old.get("conditions") or [])
    for kind, (holds, reason, message) in _conditions(facts).items():
        conditions = set_condition(conditions, kind, holds, reason, message, generation)
    return status | {"observedGeneration": generation, "conditions": conditions}


def _inventory(facts: Facts) -> Inventory:
    machine, pages = facts.machine, facts.abilities.huge_pages
    huge_pages = [HugePages(size=format_quantity(size), count=count) for size, count in sorted(pages.items())]
    return Inventory(
        vcpus=machine.vcpus - facts.dedicated,
        dedicated_vcpus=facts.dedicated or None,
        memory=format_quantity(machine.memory),
        disk=format_quantity(machine.disk),
        numa_nodes=facts.abilities.numa_nodes,
        huge_pages=huge_pages or None,
    )


def _virtualization(test: SelfTest | None) -> tuple[str, ...]:
    """Give the trait that tells how guests run here, once a guest has run."""
    return (f"COMPUTE_VIRT_{test.virtualization.upper()}",) if test is not None and test.virtualization else ()


def _conditions(facts: Facts) -> dict[HostConditionType, tuple[bool | None, str, str]]:
    test, missing = facts.self_test, facts.missing_packages
    parts: dict[HostConditionType, tuple[bool | None, str, str]] = {
        HostConditionType.HYPERVISOR_CONNECTED: (
            (True, "Connected", "") if facts.libvirt else (False, "NotConnected", "libvirtd does not answer")
        ),
        HostConditionType.PACKAGES_PRESENT: (
            (False, "PackagesMissing", "not found on the host: " + ", ".join(missing))
            if missing
            else (True, "Present", "")
        ),
        HostConditionType.DISK_HEALTHY: (
            (False, "DiskTrouble", facts.disk_trouble) if facts.disk_trouble else (True, "Written", "")
        ),
        HostConditionType.SELF_TEST_PASSED: (
            (None, "Running", "the self-test has not ended yet")
            if test is None
            else (False, "GuestDidNotBoot", test.failure)
            if test.failure
            else (True, "GuestBooted", f"by {test.virtualization}")
        ),
    }
    bad = [(kind, part) for kind, part in parts.items() if part[0] is not True]
    if facts.small_tables is not None:
        small = "tenants can fill what others need; set on the machine: " + "; ".join(facts.small_tables)
        large = (False, "TooSmall", small) if facts.small_tables else (True, "Large", "")
        parts[HostConditionType.TABLES_LARGE] = large
    if facts.pressed is not None:
        parts[HostConditionType.DISK_PRESSURE] = _pressure(facts.pressed)
    if set(missing) <= VPN_PACKAGES | {FAILOVER_PACKAGE}:
        bad = [(kind, part) for kind, part in bad if kind is not HostConditionType.PACKAGES_PRESENT]
    if not facts.tunnel_address:
        bad.append((HostConditionType.READY, (False, "NoTunnelAddress", "neither node IP nor tunnel address is set")))
    if bad:
        kind, (_, reason, message) = bad[0]
        return parts | {HostConditionType.READY: (False, reason, message or kind.value)}
    return parts | {HostConditionType.READY: (True, "AgentReady", "")}


def _pressure(pressed: Iterable[Room]) -> tuple[bool, str, str]:
    # In steps: a number that moves with each look would be a write each time.
    worst = min(pressed, key=lambda room: room.free, default=None)
    if worst is None:
        return False, DiskPressureReason.ENOUGH_ROOM, ""
    message = (
        f"less than {format_quantity(worst.reserve)} of {format_quantity(worst.capacity)} are free: guests stand still "
        "when nothing is left; remove servers, volumes or snapshots, or have guests discard what they do not need"
    )
    return True, DiskPressureReason.RESERVE_IN_USE, message


def remembered_self_test(old: Mapping[str, Any], boot_id: str) -> SelfTest | None:
    """Give the result that the status tells of, if the host has not booted since: a new agent changes no condition."""
    passed = get_condition(list(old.get("conditions") or []), HostConditionType.SELF_TEST_PASSED) or {}
    if old.get("bootID") != boot_id or passed.get("status") != "True":
        return None
    return SelfTest(str(old.get("virtualization") or ""))


def differs(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Say whether the status has to be written."""
    return any(old.get(name) != value for name, value in new.items()) or bool(set(old) - set(new))
