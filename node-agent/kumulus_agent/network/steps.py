"""What all plans of the datapath are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kumulus_agent.network.state import Link


@dataclass(frozen=True)
class Step:
    """One thing to do: on which interface (or table), and why."""

    target: str
    reason: str


@dataclass(frozen=True)
class SetLink(Step):
    """Set MTU and bridge of an interface, and bring it up."""

    mtu: int
    master: str | None


@dataclass(frozen=True)
class DeleteLink(Step):
    """Delete an interface."""


def set_link(link: Link, mtu: int, master: str | None) -> Iterator[Step]:
    """Yield the step that an interface needs to be up with that MTU in that bridge."""
    if (link.mtu, link.master, link.up) != (mtu, master, True):
        found = f"mtu {link.mtu}, port of {link.master}, {'up' if link.up else 'down'}"
        yield SetLink(link.name, f"found {found}", mtu, master)
