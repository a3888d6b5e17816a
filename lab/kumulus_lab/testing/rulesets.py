"""Rules of nftables as text, without what packets have put there."""

from __future__ import annotations

import re
from typing import Final

from kumulus_agent.network.limits import KERNELS
from kumulus_agent.routers.asking import KERNELS as KERNELS_OF_ROUTERS

_SETS: Final = "|".join(map(re.escape, sorted(KERNELS | KERNELS_OF_ROUTERS)))
_NOTED: Final = re.compile(rf"(\tset (?:{_SETS}) \{{[^}}]*?)\s*elements = \{{[^}}]*\}}")


def settled(listed: str) -> str:
    """Leave out of `nft list ruleset` the elements of sets that the kernel adds to by itself."""
    return _NOTED.sub(r"\1", listed)
