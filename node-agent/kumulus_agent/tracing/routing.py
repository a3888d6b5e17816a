"""A packet's way through the routers of this host: translated, routed, judged by a firewall, translated."""

from __future__ import annotations

from dataclasses import replace

from kumulus_agent.network.groups import Flow
from kumulus_agent.routers.firewall import chain_of, group_of
from kumulus_agent.routers.here import RouterLink
from kumulus_agent.tracing import answers, told
from kumulus_agent.tracing.connections import INVALID
from kumulus_agent.tracing.nft import Frame, pass_hook
from kumulus_agent.tracing.state import Address, RouterView
from kumulus_agent.tracing.state import Way as Route
from kumulus_agent.tracing.way import AGENT, Ended, Way
from kumulus_agent.vpn.config import DEVICE as TUNNEL
from kumulus_api.network_trace import HopKind, LegOutcome, LegStart
from kumulus_api.network_trace import TraceVerdict as Verdict

_FOREIGN = "a router of another project"


class Routing(Way):
    """The part of a way that lies in routers."""

    async def _route(self, link: str) -> None:
        """Let a router pass on what comes by one of its links, or answer it."""
        router = self._routers[link]
        if router.external and not self._own(router):
            message = "what a router of another project does is not shown"
            self._end(HopKind.ROUTER, _FOREIGN, Verdict.UNKNOWN, message)
        await self._through(await self._seen(router), router, link)

    def _own(self, router: RouterLink) -> bool:
        return router.router[0] == self._namespace

    def _named(self, router: RouterLink) -> str:
        return "/".join(router.router) if self._own(router) else _FOREIGN

    async def _seen(self, router: RouterLink) -> RouterView:
        view = await self._view(router.namespace)
        if view is None:
            message = f"its namespace {router.namespace} is not on this host"
            remedy = "the agent makes it again within two minutes; " + AGENT
            self._end(HopKind.ROUTER, self._named(router), Verdict.DROPPED, message, remedy)
        return view

    async def _through(self, view: RouterView, router: RouterLink, link: str) -> None:
        came, name = self._frame.flow, self._named(router)
        frame = self._translated(view, "prerouting", self._inside(view, router, link), name)
        way = await self._world.route(router.namespace, frame.flow, link)
        self._has_way(way, frame.flow, name)
        if way is None or way.local:
            await self._answered(view, router, came, frame)
            return
        frame = self._filtered(view, replace(frame, outgoing=way.link), router)
        if way.link == TUNNEL:
            self._tunnelled(view, router, came, frame)
        await self._sent(view, router, came, frame, way)

    def _inside(self, view: RouterView, router: RouterLink, link: str) -> Frame:
        own = frozenset(address for found in view.addresses.values() for address in found)
        known = self._known_at(router.namespace)
        return Frame(self._frame.flow, incoming=link, local=own, answer=self._frame.answer, known=known)

    def _has_way(self, way: Route | None, flow: Flow, name: str) -> None:
        if way is None:
            message = f"the router has no route to {flow.destination}"
            remedy = "give it an interface in that network, a static route, or an external gateway"
            self._end(HopKind.ROUTER, name, Verdict.DROPPED, message, remedy)
        if way.refused:
            self._end(HopKind.ROUTER, name, Verdict.DROPPED, way.refused, AGENT)

    async def _answered(self, view: RouterView, router: RouterLink, came: Flow, frame: Frame) -> None:
        """Say what becomes of a packet that is for the router itself."""
        name, target, own = self._named(router), frame.flow.destination, self._own(router)
        passage = pass_hook(view.rules, self._families(), "input", frame)
        if passage.dropped:
            self._drop(told.dropped(HopKind.ROUTER, name, passage.dropped))
        if self._leg.answer:
            message = f"{target} is the router's own address, and it knows no connection that this answers"
            remedy = "look whether the gateway has just moved to another host: what it translated has ended then"
            self._end(HopKind.ROUTER, name, Verdict.DROPPED, message, remedy)
        network = self._network_of(self._frame.incoming)
        self._frame = passage.frame
        self._pass(HopKind.ROUTER, name, f"{target} is the router's own address")
        self._note(router.namespace, came, passage.frame)
        raise Ended(
            LegOutcome.DELIVERED,
            vni=network.key.vni if network is not None else None,
            answered_by=LegStart.ROUTER if own else None,
            router=router.router[1] if own else "",
        )

    def _tunnelled(self, view: RouterView, router: RouterLink, came: Flow, frame: Frame) -> None:
        """Have a packet leave by a VPN: charon's own routes lead there while a connection is established."""
        name, own = self._named(router), self._own(router)
        frame = self._translated(view, "postrouting", frame, name)
        self._frame = frame
        self._note(router.namespace, came, frame)
        message = "it goes by a VPNConnection, which is established, to another site, where it is not followed"
        self._pass(HopKind.EXTERNAL, name, message)
        raise Ended(
            LegOutcome.TUNNELLED,
            answered_by=LegStart.SITE if own else None,
            router=router.router[1] if own else "",
        )

    async def _sent(self, view: RouterView, router: RouterLink, came: Flow, frame: Frame, way: Route) -> None:
        """Have a router put a packet onto a link."""
        name = self._named(router)
        hop = way.via or frame.flow.destination
        mac = await self._next_mac(view, way.link, hop)
        outer = self._routers.get(way.link)
        if not mac and not (outer is not None and outer.external):
            message = f"the router knows nobody on this host or another who has {hop}"
            remedy = "look whether a running server has the address"
            self._end(HopKind.ROUTER, name, Verdict.DROPPED, message, remedy)
        through = f"by {way.via}" if way.via is not None else "directly"
        self._pass(HopKind.ROUTER, name, f"it is routed {through} to {frame.flow.destination}")
        frame = self._translated(view, "postrouting", frame, name)
        self._note(router.namespace, came, frame)
        self._frame = Frame(frame.flow, view.macs.get(way.link, ""), mac, way.link, answer=self._frame.answer)

    def _filtered(self, view: RouterView, frame: Frame, router: RouterLink) -> Frame:
        """Have the firewall of a centralised router judge the packet, with all else that does so there."""
        name, own = self._named(router), self._own(router)
        passage = pass_hook(view.rules, self._families(), "forward", frame)
        asked = [found for chain in passage.path if (found := group_of(chain)) is not None]
        if asked and not own:
            message = "what the firewall of a router of another project does is not shown"
            self._end(HopKind.FIREWALL, name, Verdict.UNKNOWN, message)
        if frame.answer and router.firewall.guards and own:
            hop = answers.of_firewall(frame, name, asked, dropped=passage.dropped)
            if hop is not None and passage.dropped:
                self._drop(hop)
            self._hops += [hop] if hop is not None else []
        for direction, group in asked:
            passed = passage.dropped != chain_of(direction, group)
            hop = told.firewall(router.firewall, direction, group, frame.flow, passed=passed)
            self._hops.append(hop)
            if not passed:
                raise Ended(LegOutcome.DROPPED)
        if passage.dropped and frame.answer and frame.state == INVALID:
            self._drop(answers.unknown_to(name, passage.dropped))
        if passage.dropped:
            self._drop(told.dropped(HopKind.ROUTER, name, passage.dropped))
        return passage.frame

    def _translated(self, view: RouterView, hook: str, frame: Frame, name: str) -> Frame:
        """Have the router's own rules see the packet."""
        passage = pass_hook(view.rules, self._families(), hook, frame)
        if passage.dropped:
            self._drop(told.dropped(HopKind.ROUTER, name, passage.dropped))
        before, after = frame.flow, passage.frame.flow
        undone = ", as what the connection began with is put back" if passage.frame.connection is not None else ""
        if after.destination != before.destination or after.second != before.second:
            message = f"{told.point(before)} leads to {told.point(after)}{undone}"
            self._pass(HopKind.TRANSLATION, name, message)
        if after.source != before.source:
            self._pass(HopKind.TRANSLATION, name, f"{before.source} leaves as {after.source}{undone}")
        return passage.frame

    async def _next_mac(self, view: RouterView, link: str, hop: Address) -> str:
        known = view.neighbours.get((link, hop))
        network = self._network_of(link)
        if known or network is None:
            return known or ""
        vni = network.key.vni
        # A router asks for others on its own host.
        return await self._answering(vni, hop) or network.known.get(hop, "") or await self._holding(vni, hop)

    async def _from_router(self) -> None:
        """Have a router of the project answer by itself."""
        router, view = await self._router_named()
        name, flow = "/".join(router.router), self._frame.flow
        way = await self._world.route(router.namespace, flow, "")
        self._has_way(way, flow, name)
        frame = replace(self._inside(view, router, ""), outgoing=way.link if way is not None else "")
        frame = self._translated(view, "output", frame, name)
        if way is not None:
            await self._sent(view, router, flow, frame, way)

    async def _from_site(self) -> None:
        """Let an answer in that comes by a router's VPN."""
        router, view = await self._router_named()
        name = "/".join(router.router)
        if TUNNEL not in view.macs:
            message = "the router holds no tunnel on this host now, by which an answer could come"
            self._end(HopKind.ROUTER, name, Verdict.DROPPED, message, "look at the conditions of the VPNConnection")
        self._pass(HopKind.EXTERNAL, name, "it comes by a VPNConnection from another site, if somebody there answers")
        self._frame = replace(self._frame, incoming=TUNNEL)
        await self._through(view, router, TUNNEL)

    async def _router_named(self) -> tuple[RouterLink, RouterView]:
        """Give the router that the leg begins at."""
        wanted = (self._namespace, self._leg.router or "")
        found = next((item for item in self._routers.values() if item.router == wanted), None)
        if found is None:
            self._end(HopKind.ROUTER, wanted[1], Verdict.DROPPED, "the router is not on this host any more", AGENT)
        return found, await self._seen(found)
