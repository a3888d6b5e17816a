"""The steps by which a provider network gets its uplink and leaves it again (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kumulus_agent.network import names
from kumulus_agent.network.state import Link, NetworkDesired, Observed, Uplink
from kumulus_agent.network.steps import DeleteLink, SetLink, Step, set_link
from kumulus_agent.network.taken import Taken


@dataclass(frozen=True)
class TakeInterface(Step):
    """Move an interface of the host into the datapath, with the note of how it was."""

    note: str


@dataclass(frozen=True)
class GiveBack(Step):
    """Move an interface back to the host, with the state and the alias that it had."""

    up: bool
    alias: str


@dataclass(frozen=True)
class CreateVlan(Step):
    """Make a VLAN device on an interface of the host."""

    interface: str
    vlan: int

    @property
    def note(self) -> str:
        """What is noted on the device: what it is made of."""
        return vlan_note(self.interface, self.vlan)


def vlan_note(interface: str, vlan: int) -> str:
    """Give what is noted on a VLAN device."""
    return f"VLAN {vlan} on {interface}"


def given_back(name: str, taken: Taken, reason: str) -> GiveBack:
    """Give the step by which the host gets an interface as it was."""
    return GiveBack(name, reason, taken.up, taken.alias)


def plan_uplink(desired: NetworkDesired, observed: Observed) -> Iterator[Step]:
    """Yield the steps that join a provider network to its physical network, or part them.

    An interface that is nowhere now is not waited for: the Host tells of it, and its return is seen.
    """
    wanted, uplink = desired.uplink_port, desired.uplink
    for name, taken in observed.taken_by(desired.vni).items():
        if name != wanted:
            yield given_back(name, taken, "the network does not leave the host by it")
    yield from _former_vlan(desired, observed)
    if uplink is None or wanted is None:
        return
    making, link = (_flat if uplink.vlan is None else _vlan)(desired.vni, uplink, observed)
    yield from making
    if link is None:
        return
    joining = tuple(set_link(link, link.mtu, desired.bridge))
    yield from joining
    if joining and link.mtu != desired.mtu:
        yield SetLink(desired.bridge, "a bridge takes the MTU of its ports until it is told one", desired.mtu, None)


Made = tuple[tuple[Step, ...], Link | None]
"""The steps that make a port, and the port as it is then; None if it cannot be."""


def _flat(vni: int, uplink: Uplink, observed: Observed) -> Made:
    name = uplink.interface
    link = observed.links.get(name)
    if link is not None:  # perhaps another network's still, which gives it back
        return (), link if name in observed.taken_by(vni) else None
    found = observed.interfaces.get(name)
    if found is None or found.taken:
        return (), None
    note = Taken(vni, found.up, found.alias).note()
    return (TakeInterface(name, "absent", note),), Link(name, "", found.mtu, up=False)


def _vlan(vni: int, uplink: Uplink, observed: Observed) -> Made:
    name, number = names.vlan(vni), uplink.vlan or 0
    link, interface = observed.links.get(name), observed.interfaces.get(uplink.interface)
    if link is not None and link.alias == vlan_note(uplink.interface, number):
        return (), link
    if interface is None:
        return (), None
    return (CreateVlan(name, "absent", uplink.interface, number),), Link(name, "vlan", interface.mtu, up=False)


def _former_vlan(desired: NetworkDesired, observed: Observed) -> Iterator[Step]:
    name = names.vlan(desired.vni)
    link, uplink = observed.links.get(name), desired.uplink
    if link is not None and (uplink is None or link.alias != _note_of(uplink)):
        yield DeleteLink(name, f"found {link.alias or 'half made'}")


def _note_of(uplink: Uplink) -> str:
    return vlan_note(uplink.interface, uplink.vlan) if uplink.vlan is not None else ""
