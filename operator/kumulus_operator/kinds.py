"""The kinds that the operator watches and decides on."""

from __future__ import annotations

import kumulus_api
from kumulus_api import ConsoleSession, Kind

_OTHERS: tuple[type[Kind], ...] = (ConsoleSession,)
"""Live for minutes, between a user and the console proxy: nothing is decided by them."""

KINDS: tuple[type[Kind], ...] = tuple(kind for kind in kumulus_api.KINDS if kind not in _OTHERS)
