"""The note on an interface of the host that was taken: how it was, to be given back so."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NOTE = re.compile(r"kumulus:([0-9a-f]{6}):(up|down):(.*)", re.DOTALL)


@dataclass(frozen=True)
class Taken:
    """The note on an interface that was taken: the network's number, whether it was up, and its alias before."""

    vni: int
    up: bool
    alias: str = ""

    def note(self) -> str:
        """Give it as text."""
        return f"kumulus:{self.vni:06x}:{'up' if self.up else 'down'}:{self.alias}"

    @classmethod
    def read(cls, alias: str) -> Taken | None:
        """Read the note of an interface; None if there is none."""
        found = _NOTE.fullmatch(alias)
        return cls(int(found[1], 16), found[2] == "up", found[3]) if found is not None else None
