"""The tunnels of the routers that this host leads out, kept equal to what the API says of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import structlog

from kumulus_agent import metrics
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.network.names import router_namespace
from kumulus_agent.networks.pauses import restart_pause
from kumulus_agent.routers.here import Undecided
from kumulus_agent.vpn.charon import Charons
from kumulus_agent.vpn.config import Tunnel
from kumulus_agent.vpn.report import HereTunnel, Told, outcome, tunnel_status, was_up_last
from kumulus_agent.vpn.sessions import Established, Session
from kumulus_api import VPNConnection
from kumulus_api.vpn_connection import VPNConnectionAssignment, VPNConnectionReason
from kumulus_runtime.api_client import KubeClient, NotFound
from kumulus_runtime.workqueue import Retry, WorkQueue

_log = structlog.stdlib.get_logger(__name__)
MANAGER = "kumulus-agent"
_AGAIN_SECONDS = 30.0
"""Between two attempts to connect."""
_RETRY_SECONDS = 5.0
_PACKAGES_SECONDS = 60.0
_STEADY_SECONDS = 60.0
_CHANGING_SECONDS = 2.0
"""Where host and standby change places an object leaves one watch and enters the other."""
_Object = tuple[str, str]
Fetch = Callable[[str, str], Awaitable[bytes]]


class KeyMissing(NetworkError):
    """A key could not be had: connections go on with what charon has."""


class LedOut(Protocol):
    """Tells which routers this host leads out."""

    router_changed: Callable[[str], None]

    def leads_out(self, router_id: str) -> Path | None:
        """Give the file of a router's namespace if this host leads it out now; raises Undecided."""


class VPNsHere:
    """Keeps the tunnels of this host.

    Args:
        client: to reach the API server.
        routers: those of this host.
        charons: what runs in them.
        host: this host's name.
        key: fetches the key of a VPNConnection, by its namespace and name; raises KeyMissing.
        lacking: gives the packages that the host has not.
    """

    def __init__(
        self,
        client: KubeClient,
        routers: LedOut,
        charons: Charons,
        host: str,
        *,
        key: Fetch,
        lacking: Callable[[], tuple[str, ...]],
    ) -> None:
        self._client, self._routers, self._charons, self._host = client, routers, charons, host
        self._key, self._lacking = key, lacking
        self._own: dict[_Object, HereTunnel] = {}
        self._spare: dict[_Object, HereTunnel] = {}
        self._status: dict[_Object, dict[str, Any]] = {}
        """As it is, or was written last."""
        self._keys: dict[str, bytes] = {}
        """By `Tunnel.key_label`; also of the tunnels that another host has now, so that none is asked for then."""
        self._tried: dict[str, float] = {}
        """When this end began to connect last, by the connections' names."""
        self._deaths: dict[str, int] = {}
        self._closed = False
        self._synced = (asyncio.Event(), asyncio.Event())
        self.queue: WorkQueue[str] = WorkQueue("vpns")
        routers.router_changed = self._router_changed
        charons.changed = self._daemon_changed
        charons.ended = self._lost

    async def follow(self) -> None:
        """Watch the connections of this host; never returns."""
        async with asyncio.TaskGroup() as group:
            for field, found, synced in (("host", self._own, 0), ("standby", self._spare, 1)):
                group.create_task(self._follow(f"spec.assignment.{field}={self._host}", found, self._synced[synced]))

    async def reconcile(self, router_id: str) -> None:
        """Have one router's tunnels as they should be.

        Raises:
            Retry: charon does not do it, or a key cannot be had now; what can be had is there.
        """
        if not self._known():
            return
        every = self._of(router_id)
        for here in every:
            if not here.tunnel.terms.up and here.tunnel.terms.host == self._host:
                await self._tell(here, (VPNConnectionReason.TAKEN_DOWN, "the condition Ready says why"), None)
        wanted = [here for here in every if here.tunnel.terms.up]
        missing = [] if not wanted else await self._fetch(wanted)
        try:
            netns = self._routers.leads_out(router_id)
        except Undecided:
            return  # and what runs goes on
        if not wanted or netns is None:
            if await self._charons.absent(_name(router_id)):
                _log.info("tunnels ended", router=router_id)
            self._again_unless(missing)
            return
        lacking = self._lacking()
        if lacking:
            text = f"host {self._host} lacks {', '.join(lacking)}: install them there"
            await self._tell_all(wanted, (VPNConnectionReason.PACKAGE_MISSING, text))
            self.queue.add_after(router_id, _PACKAGES_SECONDS)
            return
        try:
            await self._serve(router_id, netns, wanted)
        except NetworkError as error:
            if self._closed:
                return  # it was we who hung up
            _log.warning("tunnels are not as they should be", router=router_id, error=str(error))
            await self._tell_all(wanted, (VPNConnectionReason.DAEMON_FAILED, str(error)[:500]))
            raise Retry(_RETRY_SECONDS, str(error)) from error
        self._again_unless(missing)

    async def sweep(self) -> None:
        """End what is left of routers that have no tunnel here."""
        if self._known():
            kept = {here.tunnel.terms.router_id for here in self._here().values()}
            await self._charons.sweep({_name(router_id) for router_id in kept})

    async def close(self) -> None:
        """Speak with no charon any more; they go on."""
        self._closed = True
        await self._charons.close()

    def _again_unless(self, missing: list[str]) -> None:
        if missing:
            raise Retry(_RETRY_SECONDS, missing[0])

    async def _serve(self, router_id: str, netns: Path, wanted: list[HereTunnel]) -> None:
        tunnels = [here.tunnel for here in wanted]
        session, started = await self._charons.ensure(_name(router_id), netns, tunnels)
        done = await session.ensure(tunnels, self._keys)
        if started or done:
            _log.info("tunnels changed", router=router_id, started=started, done=done)
        begun = {item.rpartition(" ")[2] for item in done}
        for label in begun:
            self._tried[label] = time.monotonic()
        known = await session.keys()
        states = await session.established()
        for here in wanted:
            tunnel = here.tunnel
            if tunnel.key_label not in known:
                text = "the operator does not give the key; tried again in some seconds"
                await self._tell(here, (VPNConnectionReason.KEY_NOT_FETCHED, text), None)
                continue
            await self._connect(session, tunnel, states)
            await self._told(session, here, states, begun=tunnel.label in begun)
        if any(not _complete(here.tunnel, states) for here in wanted):
            self.queue.add_after(router_id, _AGAIN_SECONDS)

    async def _connect(self, session: Session, tunnel: Tunnel, states: dict[str, Established | None]) -> None:
        """Begin again where this end is to, but not all the time."""
        now, label = time.monotonic(), tunnel.label
        if not tunnel.begins or _complete(tunnel, states) or now - self._tried.get(label, -1e9) < _AGAIN_SECONDS - 1:
            return
        state = states.get(label)
        if label in states and state is None:
            return
        self._tried[label] = now
        await session.initiate(tunnel, set(tunnel.children) - (state.passing if state is not None else set()))

    async def _told(
        self, session: Session, here: HereTunnel, states: dict[str, Established | None], *, begun: bool
    ) -> None:
        tunnel = here.tunnel
        state, old = states.get(tunnel.label), self._status.get(_key(here), {})
        told = outcome(
            tunnel,
            state,
            connecting=tunnel.label in states,
            alert=session.alert(tunnel),
            was_up=was_up_last(old) and not begun,
        )
        await self._tell(here, told, state)

    async def _fetch(self, wanted: list[HereTunnel]) -> list[str]:
        """Have the keys of tunnels; give why some cannot be had."""
        faults = []
        labels = {here.tunnel.key_label for here in self._here().values()}
        for label in self._keys.keys() - labels:
            del self._keys[label]
        for here in wanted:
            tunnel = here.tunnel
            if tunnel.key_label not in self._keys:
                try:
                    self._keys[tunnel.key_label] = await self._key(tunnel.namespace, tunnel.name)
                except KeyMissing as error:
                    faults.append(str(error))
        return faults

    def _here(self) -> dict[_Object, HereTunnel]:
        return self._spare | self._own

    def _of(self, router_id: str) -> list[HereTunnel]:
        found = self._here().items()
        return [here for _, here in sorted(found, key=lambda item: item[0]) if here.tunnel.terms.router_id == router_id]

    def _known(self) -> bool:
        return all(each.is_set() for each in self._synced)

    def _router_changed(self, router_id: str) -> None:
        if self._of(router_id) or _name(router_id) in self._charons.names():
            self.queue.add(router_id)

    def _daemon_changed(self, name: str) -> None:
        for router_id in self._routers_named(name):
            self.queue.add(router_id)

    def _lost(self, name: str, seconds: float) -> None:
        """Have the tunnels of a router made again whose charon has ended by itself."""
        for router_id in self._routers_named(name):
            deaths = self._deaths[name] = 1 if seconds >= _STEADY_SECONDS else self._deaths.get(name, 0) + 1
            pause = restart_pause(deaths)
            _log.warning("charon has ended", router=router_id, after=round(seconds, 1), restart_in=pause)
            metrics.SERVICE_EXITS.labels(service="vpn").inc()
            self._tried.clear()
            self.queue.add_after(router_id, pause)

    def _routers_named(self, name: str) -> set[str]:
        known = {here.tunnel.terms.router_id for here in self._here().values()}
        return {router_id for router_id in known if _name(router_id) == name}

    async def _tell_all(self, wanted: list[HereTunnel], told: Told) -> None:
        for here in wanted:
            await self._tell(here, told, None)

    async def _tell(self, here: HereTunnel, told: Told, state: Established | None) -> None:
        key = _key(here)
        status = tunnel_status(here, self._host, self._status.get(key, {}), told, state, now=datetime.now(UTC))
        if status is None or self._here().get(key) != here:
            return
        metadata = {"name": key[1], "namespace": key[0], "uid": here.uid}
        try:
            body = await self._client.apply_status(
                VPNConnection, {"metadata": metadata, "status": status}, manager=MANAGER
            )
        except NotFound:
            return
        _log.info("tunnel", namespace=key[0], name=key[1], reason=told[0].value)
        self._status[key] = body.get("status") or {}
        metrics.STATUS_WRITES.labels(kind="VPNConnection").inc()

    async def _follow(self, selector: str, found: dict[_Object, HereTunnel], synced: asyncio.Event) -> None:
        async for event, body in self._client.watch(VPNConnection, field_selector=selector):
            if event == "SYNCED":
                synced.set()
                if self._known():
                    self._look({here.tunnel.terms.router_id for here in self._here().values()})
                continue
            metadata = body["metadata"]
            key = (metadata.get("namespace") or "", metadata["name"])
            assignment = (body.get("spec") or {}).get("assignment")
            former = found.get(key)
            if event == "DELETED" and former is not None and former.tunnel.terms.standby is not None:
                asyncio.get_running_loop().call_later(_CHANGING_SECONDS, self._forget, found, key, former)
            elif event == "DELETED" or assignment is None:
                self._forget(found, key, former)
            else:
                terms = VPNConnectionAssignment.model_validate(assignment)
                found[key] = HereTunnel(Tunnel(*key, terms), metadata["uid"], metadata.get("generation", 0))
                self._status[key] = body.get("status") or {}
                if found[key] != former:
                    self._look({here.tunnel.terms.router_id for here in (former, found[key]) if here is not None})

    def _forget(self, found: dict[_Object, HereTunnel], key: _Object, known: HereTunnel | None) -> None:
        if known is not None and found.get(key) is known:
            del found[key]
            if key not in self._here():
                self._status.pop(key, None)
            self._look({known.tunnel.terms.router_id})

    def _look(self, routers: set[str]) -> None:
        for router_id in routers:
            self.queue.add(router_id)


def _complete(tunnel: Tunnel, states: dict[str, Established | None]) -> bool:
    state = states.get(tunnel.label)
    return state is not None and state.passing >= set(tunnel.children)


def _key(here: HereTunnel) -> _Object:
    return here.tunnel.namespace, here.tunnel.name


def _name(router_id: str) -> str:
    return router_namespace(router_id, "")
