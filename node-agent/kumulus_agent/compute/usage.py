"""What guests have used, in one question to libvirt for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import libvirt

WANTED: Final = (
    libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_BLOCK
)
# A guest whose monitor is busy is told of without its disks, and holds nobody up.
HOW: Final = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Traffic of one disk since the guest's start; `device` is its name in the domain, e.g. vda."""

    device: str
    read_bytes: int
    written_bytes: int
    reads: int
    writes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a running guest uses.

    Attributes:
        cpu_seconds: CPU time of its QEMU since its start.
        vcpus: virtual CPUs.
        memory: bytes that it was given.
        resident: bytes that its QEMU occupies on the host.
        disks: by device.
    """

    cpu_seconds: float
    vcpus: int
    memory: int
    resident: int
    disks: tuple[DiskUsage, ...]


def read_usage(conn: Any) -> dict[str, Usage]:
    """Ask for all running domains; give their usage by uuid."""
    return {domain.UUIDString(): parse_usage(found) for domain, found in conn.getAllDomainStats(WANTED, HOW)}


def parse_usage(found: Mapping[str, Any]) -> Usage:
    """Interpret libvirt's typed parameters (virConnectGetAllDomainStats); what is not given counts as 0."""

    def number(key: str) -> int:
        return int(found.get(key, 0))

    disks: list[DiskUsage] = []
    for index in range(number("block.count")):
        block = f"block.{index}."
        # A backing image is listed after its disk, under the same name.
        if f"{block}backingIndex" in found and any(disk.device == found.get(f"{block}name") for disk in disks):
            continue
        disks.append(
            DiskUsage(
                str(found.get(f"{block}name", "")),
                number(f"{block}rd.bytes"),
                number(f"{block}wr.bytes"),
                number(f"{block}rd.reqs"),
                number(f"{block}wr.reqs"),
            )
        )
    return Usage(
        cpu_seconds=number("cpu.time") / 1e9,
        vcpus=number("vcpu.current"),
        memory=number("balloon.current") * 1024,
        resident=number("balloon.rss") * 1024,
        disks=tuple(disks),
    )
