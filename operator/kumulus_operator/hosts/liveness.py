"""Whether hosts still renew their Leases, judged by the own monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kumulus_runtime.lease import host_of_lease


@dataclass(frozen=True)
class Beat:
    """The last change of a host's Lease.

    Attributes:
        renewed: the text of `renewTime`.
        seen_at: monotonic seconds when it was seen to change.
        confirmed: it changed before our eyes, or was young by the wall clock when first seen. A Lease of an unknown
            age is enough not to call the host silent yet, but not to place servers there.
    """

    renewed: str
    seen_at: float
    confirmed: bool


class Liveness:
    """Beats of all hosts.

    Args:
        silence: seconds without a change after which a host is silent.
    """

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._beats: dict[str, Beat] = {}

    def see(self, lease: dict[str, Any], now: float, wall: datetime) -> str | None:
        """Take a Lease as seen; give the host if it begins to be fresh by this.

        Args:
            lease: of the system namespace; those that are not of a host are passed over.
            now: monotonic seconds.
            wall: the present, with time zone.
        """
        host = host_of_lease(lease["metadata"]["name"])
        renewed = lease.get("spec", {}).get("renewTime")
        if host is None or not renewed:
            return None
        known = self._beats.get(host)
        if known is not None and known.renewed == renewed:
            return None
        was_fresh = self.fresh(host, now)
        confirmed = known is not None or abs(_age(renewed, wall)) < self._silence
        self._beats[host] = Beat(renewed, now, confirmed)
        return host if confirmed and not was_fresh else None

    def expect(self, host: str, now: float) -> None:
        """Take note of a host, so that its silence is counted from now on if it has no Lease at all."""
        self._beats.setdefault(host, Beat("", now, confirmed=False))

    def fresh(self, host: str, now: float) -> bool:
        """Give whether the host certainly renewed within the limit."""
        beat = self._beats.get(host)
        return beat is not None and beat.confirmed and now - beat.seen_at < self._silence

    def silent_in(self, host: str, now: float) -> float:
        """Give the seconds until the host counts as silent: 0 if it does already."""
        beat = self._beats.get(host)
        return max(0.0, beat.seen_at + self._silence - now) if beat is not None else self._silence

    def silent_for(self, host: str, now: float) -> float:
        """Give the seconds since the host counts as silent; 0 if it does not."""
        beat = self._beats.get(host)
        return max(0.0, now - beat.seen_at - self._silence) if beat is not None else 0.0


def _age(renewed: str, wall: datetime) -> float:
    try:
        return (wall - datetime.fromisoformat(renewed.replace("Z", "+00:00"))).total_seconds()
    except ValueError:
        return float("inf")
