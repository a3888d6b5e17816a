"""How long to wait before what has ended by itself is started again."""

from __future__ import annotations

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0


def restart_pause(deaths: int) -> float:
    """Give the seconds after which a DHCP server that has ended so many times in a row is started again."""
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 3.0 ** min(deaths - 1, 16))
