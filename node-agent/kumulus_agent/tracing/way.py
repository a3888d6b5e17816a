"""What every part of a packet's way over a host is told with: its hops, the packet as it is, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import NoReturn

from kumulus_agent.network import names
from kumulus_agent.network.groups import Flow
from kumulus_agent.routers.here import RouterLink
from kumulus_agent.tracing.connections import UNTRACKED, Connection, reply
from kumulus_agent.tracing.forwarding import addresses_of
from kumulus_agent.tracing.nft import Frame, Passage, Ruleset, pass_hook
from kumulus_agent.tracing.state import Address, Bridges, Hop, NetworkHere, PortHere, Result, RouterView, World
from kumulus_api.network_trace import HopKind, LegOutcome, LegStart, TracedConnection, TracedPacket, TraceLeg
from kumulus_api.network_trace import TraceVerdict as Verdict

AGENT = "read the log of the host's agent, and the conditions of Host and Network"
_OUTCOMES = {
    Verdict.PASSED: LegOutcome.DELIVERED,
    Verdict.DROPPED: LegOutcome.DROPPED,
    Verdict.UNKNOWN: LegOutcome.UNKNOWN,
}


class Ended(Exception):
    """The way over this host is over.

    Attributes:
        peer: tunnel address of the next host.
        vni: the network by which the packet left, or by which it came to who answers it.
        answered_by: where the answer begins.
        port: the Port that answers.
        router: the Router that does, or by whose VPNConnection the answer comes.
        sought: the address that nobody here has.
    """

    def __init__(  # noqa: PLR0913 - what a report says of the end
        self,
        outcome: LegOutcome,
        *,
        peer: str = "",
        vni: int | None = None,
        answered_by: LegStart | None = None,
        port: str = "",
        router: str = "",
        sought: str = "",
    ) -> None:
        super().__init__(outcome)
        self.outcome, self.peer, self.vni = outcome, peer, vni
        self.answered_by, self.port, self.router, self.sought = answered_by, port, router, sought


class Way:
    """One leg of a trace, as far as it has come.

    Args:
        world: this host.
        namespace: of the trace: of other projects' ports and routers nothing is told.
        leg: where the packet comes in.
    """

    def __init__(self, world: World, namespace: str, leg: TraceLeg) -> None:
        self._world, self._namespace, self._leg = world, namespace, leg
        self._hops: list[Hop] = []
        self._views: dict[str, RouterView | None] = {}
        packet = leg.packet
        self._frame = Frame(flow_of(packet), packet.source_mac or "", packet.destination_mac or "", answer=leg.answer)
        self._known = [_connection(item) for item in leg.connections]
        self._made: list[Connection] = []
        self._bridges: Bridges
        self._ports: Mapping[str, PortHere] = {}
        self._networks: Mapping[int, NetworkHere] = {}
        self._routers: Mapping[str, RouterLink] = {}

    def _result(self, end: Ended) -> Result:
        frame = self._frame
        return Result(
            end.outcome,
            tuple(self._hops),
            frame.flow,
            end.peer,
            end.vni,
            (frame.source_mac, frame.destination_mac),
            tuple(self._made),
            end.answered_by,
            end.port,
            end.router,
            end.sought,
        )

    def _pass(self, what: HopKind, name: str, message: str) -> None:
        self._hops.append(Hop(what, name, Verdict.PASSED, message))

    def _end(self, what: HopKind, name: str, verdict: Verdict, message: str, remedy: str = "") -> NoReturn:
        """Add the last hop, and end.

        Raises:
            Ended: always.
        """
        self._hops.append(Hop(what, name, verdict, message, remedy))
        raise Ended(_OUTCOMES[verdict])

    def _drop(self, hop: Hop) -> NoReturn:
        self._hops.append(hop)
        raise Ended(LegOutcome.DROPPED)

    def _waiting(self, what: HopKind, name: str, message: str, remedy: str) -> NoReturn:
        """End where another host may have what is shared; without another, nobody has it."""
        if self._leg.others:
            self._pass(what, name, f"{message}: {', '.join(self._leg.others)} is asked")
            raise Ended(LegOutcome.WAITING)
        self._end(what, name, Verdict.DROPPED, f"{message}, nor is it anywhere else", remedy)

    def _families(self) -> tuple[str, str]:
        return ("inet", "ip6" if self._frame.flow.source.version == 6 else "ip")

    def _known_at(self, place: str) -> tuple[Connection, ...]:
        return tuple(item for item in self._known if item.place == place)

    def _note(self, place: str, begun: Flow, frame: Frame, mac: str = "") -> None:
        """Note what a namespace tracks since the first packet has passed it."""
        if not self._leg.answer and frame.state != UNTRACKED:
            made = Connection(place, frame.zone, begun, frame.flow, mac)
            if made not in self._made:
                self._made.append(made)

    def _hook(self, rules: Ruleset, families: tuple[str, ...], hook: str) -> Passage:
        passage = pass_hook(rules, families, hook, self._frame)
        self._frame = passage.frame
        return passage

    def _network_of(self, link: str) -> NetworkHere | None:
        """Give the network of whose bridge an interface is a port."""
        found = self._bridges.links.get(link)
        return next((n for n in self._networks.values() if found and n.applied.bridge == found.master), None)

    async def _answering(self, vni: int, address: Address) -> str:
        """Give the MAC with which a router or a port of this host answers for an address in a network; "" if none."""
        bridge = names.bridge(vni)
        for link, router in self._routers.items():
            end = self._bridges.links.get(link)
            if end is not None and end.master == bridge:
                view = await self._view(router.namespace)
                if view is not None and address in view.addresses.get(link, ()):
                    return view.macs.get(link, "")
        for tap, known in addresses_of(self._bridges.rules).items():
            end = self._bridges.links.get(tap)
            if end is not None and end.master == bridge and address in known and tap in self._ports:
                return self._ports[tap].port.mac
        return ""

    async def _holding(self, vni: int, address: Address) -> str:
        """Ask the guests here whose ports may use an address besides their own; give the MAC that has it, or ""."""
        asked = [here for here in self._ports.values() if here.network.vni == vni and _may_use(here, address)]
        found = await asyncio.gather(*(self._world.answers(here, address) for here in asked))
        held = [(here, mac) for here, mac in zip(asked, found, strict=True) if mac]
        for here, mac in held:
            own = here.key[0] == self._namespace
            name = "/".join(here.key) if own else "a port of another project"
            self._pass(
                HopKind.NETWORK, name, f"of the ports that may use {address} this one answers for it, with {mac}"
            )
        return held[0][1] if held else ""

    async def _view(self, namespace: str) -> RouterView | None:
        if namespace not in self._views:
            self._views[namespace] = await self._world.router(namespace)
        return self._views[namespace]

    @property
    def _wanted(self) -> Flow:
        """The answer that the packet's sender takes."""
        return reply(flow_of(self._leg.first or self._leg.packet))


def flow_of(packet: TracedPacket) -> Flow:
    """Read a packet's addresses and ports."""
    source, destination = ip_address(packet.source), ip_address(packet.destination)
    return Flow(packet.protocol, source, destination, packet.first, packet.second)


def packet_of(flow: Flow, macs: Iterable[str] = ("", "")) -> TracedPacket:
    """Write a packet's addresses and ports."""
    source, destination = macs
    return TracedPacket(
        source=str(flow.source),
        destination=str(flow.destination),
        protocol=flow.protocol,
        first=flow.first,
        second=flow.second,
        source_mac=source or None,
        destination_mac=destination or None,
    )


def _may_use(here: PortHere, address: Address) -> bool:
    """Whether a port may have an address that is not its own."""
    port = here.port
    return not port.secured or any(address in network for network in port.ranges)


def _connection(item: TracedConnection) -> Connection:
    return Connection(item.place, item.zone, flow_of(item.begun), flow_of(item.left), item.begun.source_mac or "")
