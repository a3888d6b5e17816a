"""Of a disk: what it lies on, how it is opened, how fast it may be (pure)."""

from __future__ import annotations

from typing import Final

from kumulus_agent.compute.domain_spec import Encryption
from kumulus_agent.compute.elements import E, Element, parse
from kumulus_api.volume_limits import AssignedLimits

LIMITS: Final = {
    "total_bytes": "total_bytes_sec",
    "read_bytes": "read_bytes_sec",
    "write_bytes": "write_bytes_sec",
    "total_iops": "total_iops_sec",
    "read_iops": "read_iops_sec",
    "write_iops": "write_iops_sec",
}
"""What libvirt calls our limits."""


def source_elements(path: str, encryption: Encryption | None) -> list[Element]:
    """Give a disk's `source`; of one that is encrypted also all that it lies on, since libvirt finds no keys itself."""
    if encryption is None:
        return [E.source(file=path)]
    backing = E.backingStore()
    for file in reversed(encryption.below):
        source = E.source(_encryption(encryption.secret), file=file)
        backing = E.backingStore(E.format(type="qcow2"), source, backing, type="file")
    return [E.source(_encryption(encryption.secret), file=path), backing]


def _encryption(secret: str) -> Element:
    return E.encryption(E.secret(type="passphrase", uuid=secret), format="luks")


def encryption_of(xml: str, path: str) -> list[Element]:
    """Give how a domain's disk on a file is opened, as its `source` says; nothing if it is not encrypted."""
    for source in parse(xml).iterfind("devices/disk/source"):
        found = source.find("encryption/secret")
        if source.get("file") == path and found is not None:
            return [_encryption(str(found.get("uuid")))]
    return []


def tune_of(limits: AssignedLimits | None) -> dict[str, int]:
    """Give limits by libvirt's names, 0 where there is none.

    Bursts that are not above what holds for ever are none, as QEMU takes it.
    """
    given = limits.model_dump(exclude_none=True) if limits is not None else {}
    found: dict[str, int] = {}
    for ours, theirs in LIMITS.items():
        base, burst = int(given.get(ours, 0)), int(given.get(f"{ours}_burst", 0))
        more = burst if base and burst > base else 0
        found |= {theirs: base, f"{theirs}_max": more}
        found[f"{theirs}_max_length"] = int(given.get("burst_seconds", 1)) if more else 0
    return found


def told_tune(disk: Element) -> dict[str, int]:
    """Give the limits that a disk's element tells, by libvirt's names, 0 where there is none."""
    told = disk.find("iotune")
    given = {item.tag: int(item.text or 0) for item in told} if told is not None else {}
    return {name: given.get(name, 0) for name in tune_of(None)}


def tune_element(limits: AssignedLimits) -> Element:
    """Give a disk's `iotune`."""
    found = E.iotune()
    # libvirt's schema has its elements in this order: all limits, all bursts, all lengths.
    for ending in ("_sec", "_sec_max", "_sec_max_length"):
        for name, value in tune_of(limits).items():
            if name.endswith(ending) and value:
                found.append(getattr(E, name)(str(value)))
    return found
