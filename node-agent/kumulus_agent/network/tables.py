"""The kernel's tables that all tenants of a host share: made so large that what each may put there leaves others room.

They are of the machine's first network namespace, and for all namespaces: tracked connections, of which each namespace
may have so many (`nf_conntrack_max`; all ports of a host are in one), and neighbours that were asked for, of which all
namespaces together may (`gc_thresh3`). What a port may put into the first is bounded by `limits`, what a router may put
into the second by `routers.asking`; the tables have to hold the sum. Memory that is not needed is not taken.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SETTINGS: Final = Path("/proc/sys/net")
NEIGHBOURS: Final = 65536
"""Of each family: 436 routers that scan as fast as they may have 150 each."""
_ENTRY: Final = 384
"""Bytes of a tracked connection with its extensions, at most."""
_SHARE: Final = 32
"""One part in so many of the machine's memory may be tracked connections."""


def wanted(physical: int) -> dict[str, int]:
    """Give what each table has to hold at least, by setting, in the order of writing, on a machine of so many bytes.

    A port that has as many connections as it may takes 3 MiB (`limits.CONNECTIONS`), so the table holds those of one
    port for each 96 MiB of memory: 170 ports on a machine of 16 GiB, 682 of 64 GiB.
    """
    connections = physical // _SHARE // _ENTRY
    return {
        "netfilter/nf_conntrack_buckets": connections // 4,
        "netfilter/nf_conntrack_max": connections,
        **{
            f"{family}/neigh/default/gc_thresh{number}": NEIGHBOURS >> (3 - number)
            for family in ("ipv4", "ipv6")
            for number in (3, 2)
        },
    }


def enlarge(least: Mapping[str, int], settings: Path = SETTINGS) -> tuple[str, ...]:
    """Raise what is smaller, and lower nothing; give what should be larger and may not be changed from here.

    Args:
        least: as `wanted` gives it.
        settings: /proc/sys/net of the first namespace.
    """
    return tuple(small for name, value in least.items() if (small := _raise(settings / name, name, value)))


def _raise(file: Path, name: str, least: int) -> str:
    found = 0
    try:
        found = int(file.read_text())
        if found >= least:
            return ""
        file.write_text(str(least))
        found = int(file.read_text())
    except (OSError, ValueError):
        pass  # Of another namespace's, or of a kernel that lacks it: the machine's owner may set it.
    # The kernel rounds what it takes.
    return "" if found >= least * 9 // 10 else f"net.{name.replace('/', '.')}={least} (it is {found or 'not seen'})"


def enlarge_all() -> tuple[str, ...]:
    """Make the tables of this machine large enough, as far as that may be done from here; see `enlarge`."""
    return enlarge(wanted(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
