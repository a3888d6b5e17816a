"""All that a domain is made of, decided by others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kumulus_agent.passthrough.facts import Passed
from kumulus_api.hardware import Hardware
from kumulus_api.volume_limits import AssignedLimits


@dataclass(frozen=True, slots=True)
class Encryption:
    """How libvirt opens an encrypted disk (LUKS in qcow2).

    Attributes:
        secret: uuid of libvirt's secret with the key; see `kumulus_agent.compute.volume_keys`.
        below: the files that the image lies on, from the top; the same key opens them.
    """

    secret: str
    below: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk.

    Attributes:
        path: absolute path of the image file on the host; or of the socket behind which it is exported.
        format: the image's format, never guessed by QEMU.
        target: device name in the guest if its bus is virtio, ``vda`` … ``vdy``.
        serial: at most 20 characters, seen in the guest as ``/dev/disk/by-id/virtio-<serial>``.
        readonly: the guest cannot write.
        cache: ``none`` bypasses the host's page cache; ``writeback`` where the file system has no O_DIRECT
            (see :func:`kumulus_agent.storage.direct_io.cache_mode`).
        export: its name, if it is exported behind a socket; empty for a file.
        encryption: of the image, which is qcow2 then; None if it is not encrypted.
        limits: how fast the guest may use it; None for as fast as it can.
        shareable: other guests may write to it too, maybe on other hosts; it is raw then, and past the page cache.
    """

    path: str
    format: Literal["qcow2", "raw"]
    target: str
    serial: str
    readonly: bool = False
    cache: Literal["none", "writeback"] = "none"
    export: str = ""
    encryption: Encryption | None = None
    limits: AssignedLimits | None = None
    shareable: bool = False


@dataclass(frozen=True, slots=True)
class Nic:
    """A NIC on a tap that exists already in libvirtd's network namespace; ``mtu`` in bytes goes to the guest."""

    tap: str
    mac: str
    mtu: int


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """All that a domain is made of.

    Attributes:
        instance_id: the Server's immutable id, a UUID; also the domain's uuid.
        namespace: the Server's namespace.
        name: the Server's name.
        epoch: the assignment's epoch.
        vcpus: number of virtual CPUs.
        memory_bytes: guest memory; rounded up to a KiB.
        virt: ``kvm`` or ``qemu`` (emulation).
        disks: in boot order.
        nics: in the guest's order.
        seed_path: a NoCloud ISO image, or None.
        config_drive: OpenStack's config drive, an ISO image, or None.
        console_log: file that receives the serial console, written and rotated by virtlogd; or None.
        serial_socket: unix socket on which QEMU offers the serial console to one reader at a time; or None.
        graphics: the guest has a screen and a keyboard, reached by VNC through libvirt alone.
        image_digest: ``sha256:…`` of the root disk's base, or empty.
        guest_shutdown: RFC 3339 time at which the guest powered itself off, or empty.
        action: uid of the ServerAction that this start belongs to, or empty.
        power_changes: the Server's count of changes of powerState at this start.
        cd: file of the CD in the guest's drive; None for no drive.
        rescue: id of the rescue that this is the guest of, or empty.
        hardware: what the machine is made of where somebody has asked for it.
        nvram: file of UEFI's variables; only with that firmware.
        cpus: of the host, one for each virtual CPU, if these are dedicated; else empty.
        shared_cpus: of the host, for all that is not dedicated; empty for all there are.
        passed: what it has of the host; it is not migrated while it runs.
        max_vcpus: up to so many virtual CPUs can be plugged in while it runs; 0 for none.
        max_memory_bytes: up to so much memory can be plugged in while it runs; 0 for none. An emulated guest that can
            be given memory must not be migrated while it runs: see `emulated_memory`.
    """

    instance_id: str
    namespace: str
    name: str
    epoch: int
    vcpus: int
    memory_bytes: int
    virt: Literal["kvm", "qemu"]
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...] = ()
    seed_path: str | None = None
    config_drive: str | None = None
    console_log: str | None = None
    serial_socket: str | None = None
    graphics: bool = False
    image_digest: str = ""
    guest_shutdown: str = ""
    action: str = ""
    power_changes: int = 0
    rescue: str = ""
    cd: str | None = None
    hardware: Hardware = field(default_factory=Hardware)
    nvram: str | None = None
    cpus: tuple[int, ...] = ()
    shared_cpus: tuple[int, ...] = ()
    passed: tuple[Passed, ...] = ()
    max_vcpus: int = 0
    max_memory_bytes: int = 0

    @property
    def most_vcpus(self) -> int:
        """Virtual CPUs that it has, with those that can be plugged in."""
        return self.vcpus if self.hardware.fixed_size else max(self.vcpus, self.max_vcpus)

    @property
    def most_memory(self) -> int:
        """Bytes that it has, with those that can be plugged in."""
        return self.memory_bytes if self.hardware.fixed_size else max(self.memory_bytes, self.max_memory_bytes)
