"""The kinds that the operator watches and decides on."""

from __future__ import annotations

import kumulus_api
from kumulus_api import (
    AddressClaim,
    ConsoleSession,
    DNSRecord,
    FloatingIP,
    ImageUpload,
    Kind,
    NetworkEndpoints,
    Port,
    Server,
)

_OTHERS: tuple[type[Kind], ...] = (ConsoleSession, ImageUpload)
"""Live for minutes, between a user and the console proxy: nothing is decided by them."""

KINDS: tuple[type[Kind], ...] = tuple(kind for kind in kumulus_api.KINDS if kind not in _OTHERS)

MANY: tuple[type[Kind], ...] = (Server, Port, AddressClaim, NetworkEndpoints, DNSRecord, FloatingIP)
"""Those that come by the ten thousand, or change with them: our own client watches them, see
`kumulus_operator.watching`."""
