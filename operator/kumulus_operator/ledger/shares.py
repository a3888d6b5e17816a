"""What the shares of volume classes have, and what was promised of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kumulus_api import Host, VolumeClass
from kumulus_api.quantities import format_quantity, parse_quantity
from kumulus_api.volume import VolumeReason
from kumulus_api.volume_class import DriverName, VolumeClassSpec
from kumulus_operator.refusal import Refusal
from kumulus_operator.waiting import any_of


@dataclass(frozen=True, slots=True)
class Share:
    """The file system of a share, as hosts tell of it: capacity and what is free, in bytes."""

    capacity: int
    free: int


class ShareBook:
    """Shared classes, what hosts tell of their shares, and bytes that volumes on them were promised.

    Args:
        fresh: gives whether a host renews its Lease.

    Attributes:
        promised: bytes by class; of Local classes too, on all hosts.
    """

    def __init__(self, fresh: Callable[[str], bool]) -> None:
        self.promised: Counter[str] = Counter()
        self._fresh = fresh
        self._classes: dict[str, VolumeClassSpec] = {}
        self._told: dict[str, Mapping[str, Share]] = {}

    def class_seen(self, name: str, volume_class: VolumeClass | None) -> None:
        """Take a class in, or out."""
        if volume_class is not None:
            self._classes[name] = volume_class.spec
        else:
            self._classes.pop(name, None)

    def host_seen(self, name: str, host: Host | None) -> frozenset[str]:
        """Take in what a host tells of shares; give the classes of which it tells something new."""
        status = host.status if host is not None else None
        now = {
            item.volume_class: Share(parse_quantity(item.capacity), parse_quantity(item.free))
            for item in (status.shares if status is not None else ())
        }
        former = self._told.pop(name, {})
        if now:
            self._told[name] = now
        return frozenset(key for key in former.keys() | now.keys() if former.get(key) != now.get(key))

    def share_of(self, name: str) -> Share | None:
        """Give the share of a class: the least of what hosts tell that speak, or have spoken; None if none does."""
        found = {host: shares[name] for host, shares in self._told.items() if name in shares}
        heard = [share for host, share in found.items() if self._fresh(host)] or list(found.values())
        if not heard:
            return None
        return Share(min(item.capacity for item in heard), min(item.free for item in heard))

    def refusal(self, name: str, more: int) -> Refusal | None:
        """Say why volumes of a class are not promised so many bytes more, or None; those of Local ones hosts judge."""
        spec = self._classes.get(name)
        if spec is None or spec.driver is not DriverName.SHARED:
            return None
        if spec.overcommit is None and not spec.reserved_percent:
            return None
        share = self.share_of(name)
        if share is None:
            message = (
                f"volume class {name}: {format_quantity(more)} more is asked for, and no host has told how large its "
                "share is; transient: goes on when a host has mounted it"
            )
            return Refusal(VolumeReason.CLASS_FULL, message, frozenset({any_of("VolumeClass", "")}))
        return _judged(name, spec, share, (more, self.promised[name]))


def _judged(name: str, spec: VolumeClassSpec, share: Share, asked: tuple[int, int]) -> Refusal | None:
    more, promised = asked
    kept = share.capacity * (spec.reserved_percent or 0) // 100
    ratio = float(spec.overcommit) if spec.overcommit is not None else None
    within = ratio is None or promised + more <= (share.capacity - kept) * ratio
    # Without a ratio only what stays free is looked at.
    fits = share.free - kept > 0 if ratio is None else more <= (share.free - kept) * ratio
    if within and fits:
        return None
    terms = [f"at ratio {spec.overcommit}"] if ratio is not None else []
    terms += [f"with {spec.reserved_percent}% ({format_quantity(kept)}) kept free"] if kept else []
    message = (
        f"volume class {name}: {format_quantity(more)} more is asked for, {format_quantity(promised)} are promised, "
        f"{format_quantity(share.free)} of {format_quantity(share.capacity)} are free, {' '.join(terms)}; transient: "
        "goes on when volumes of the class are deleted, its share is larger, or its ratio is"
    )
    return Refusal(VolumeReason.CLASS_FULL, message, frozenset({any_of("VolumeClass", "")}))
