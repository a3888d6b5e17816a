"""The load balancers of this host, kept equal to what the API says of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from kumulus_agent import metrics
from kumulus_agent.failover.notices import Role
from kumulus_agent.load_balancers.certificates import CertificatesMissing, forget_others, lacking, store, there
from kumulus_agent.load_balancers.desired import HereBalancer
from kumulus_agent.load_balancers.haproxy import ConfigRefused, HAProxies, digits
from kumulus_agent.load_balancers.haproxy_config import Files, render
from kumulus_agent.load_balancers.members import BalancerMembers
from kumulus_agent.load_balancers.pair import pair_of
from kumulus_agent.load_balancers.place import Places
from kumulus_agent.load_balancers.report import MemberStates, balancer_status
from kumulus_agent.load_balancers.stats import Unanswered
from kumulus_agent.load_balancers.udp.here import Datagrams
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.networks.carried import CarriedNetworks
from kumulus_agent.networks.pauses import restart_pause
from kumulus_agent.routers.pair import Pair
from kumulus_api import LoadBalancer
from kumulus_api.load_balancer import LoadBalancerAssignment
from kumulus_api.load_balancer_status import LoadBalancerReason, MemberState
from kumulus_runtime.api_client import ApiError, KubeClient, NotFound
from kumulus_runtime.workqueue import Retry, WorkQueue

_log = structlog.stdlib.get_logger(__name__)
MANAGER = "kumulus-agent"
_LOOK_SECONDS = 2.0
"""Between two looks at the members: HAProxy tells nobody when one comes or goes."""
_COMPARE_SECONDS = 120.0
_RETRY_SECONDS = 5.0
_STEADY_SECONDS = 60.0
_CHANGING_SECONDS = 2.0
_SERVED_ON = {LoadBalancerReason.CONFIG_REFUSED, LoadBalancerReason.CERTIFICATE_NOT_FETCHED}
"""Faults with which what can be served is served."""
_Object = tuple[str, str]
Fetch = Callable[[str, str], Awaitable[dict[str, str]]]


class LoadBalancersHere:
    """Keeps the load balancers of this host, and has their networks carried.

    Args:
        client: to reach the API server.
        places: their namespaces.
        proxies: what runs in them.
        networks: those of this host.
        members: this host, and its part in those that two hosts share.
        certificates: fetches those of a load balancer's listeners, by its namespace and name.
    """

    def __init__(
        self,
        client: KubeClient,
        places: Places,
        proxies: HAProxies,
        networks: CarriedNetworks,
        members: BalancerMembers,
        *,
        certificates: Fetch,
    ) -> None:
        self._members = members
        self._certificates = certificates
        self._client = client
        self._places = places
        self._proxies = proxies
        self._networks = networks
        self._host = members.host
        self._known: dict[_Object, HereBalancer] = {}
        self._status: dict[_Object, dict[str, Any]] = {}
        """As it is, or was written last."""
        self._here: dict[str, HereBalancer] = {}
        self._faults: dict[str, tuple[LoadBalancerReason, str]] = {}
        self._serving: set[str] = set()
        self._deaths: dict[str, int] = {}
        self._synced = [asyncio.Event() for _ in range(2)]
        self.known = asyncio.Event()
        self.taken_over_changed: Callable[[], None] = lambda: None
        """Called when `taken_over` may be another."""
        members.changed = self._role_changed
        self.queue: WorkQueue[str] = WorkQueue("load-balancers")
        self._datagrams = Datagrams(self.queue.add)
        # Applying less than the API knows would cut off the connections that there are.
        networks.awaited.append(self.known)
        proxies.on_exit(self._lost)

    @property
    def pairs(self) -> list[Pair]:
        """Those that this host and another share."""
        return [balancer.pair for balancer in self._here.values() if balancer.pair is not None]

    @property
    def taken_over(self) -> tuple[str, ...]:
        """Those that are served here though they are assigned to another host."""
        standing_by = (pair.router_id for pair in self.pairs if not pair.active)
        return tuple(sorted(item for item in standing_by if self._members.role(item) is Role.MASTER))

    async def follow(self) -> None:
        """Watch the load balancers of this host and their members; never returns."""
        own, spare = (f"spec.assignment.{field}={self._host}" for field in ("host", "standby"))
        async with asyncio.TaskGroup() as group:
            for selector, synced in zip((own, spare), self._synced, strict=True):
                group.create_task(self._follow(selector, synced))
            group.create_task(self._keep_looking())
            group.create_task(self._keep_comparing())

    async def reconcile(self, balancer_id: str) -> None:
        """Have one load balancer served as it should be, or remove it.

        Raises:
            Retry: the kernel or HAProxy refused, or something cannot be had now; what can be served is.
        """
        balancer = self._here.get(balancer_id)
        if balancer is None:
            await self._remove(balancer_id)
            return
        try:
            await self._serve(balancer)
        except NetworkError as error:
            _log.warning("load balancer not served as it should be", balancer=balancer_id, error=str(error))
            await self._failed(balancer, _reason(error), str(error))
            raise Retry(_RETRY_SECONDS, str(error)) from error
        except ExceptionGroup as group:
            await self._failed(balancer, LoadBalancerReason.NETWORK_FAILED, str(group.exceptions[0]))
            raise Retry(_RETRY_SECONDS, str(group.exceptions[0])) from group
        self._faults.pop(balancer_id, None)
        self._serving.add(balancer_id)
        await self._look(balancer)

    async def _serve(self, balancer: HereBalancer) -> None:
        given, balancer_id = balancer.assignment, balancer.balancer_id
        await self._networks.ensure([balancer.network], running=True)
        facts = self._networks.facts(given.vni)
        if facts is None:
            raise NetworkError(f"network {balancer.network.name} was given up just now")
        if balancer.pair is None:
            await self._members.leave(balancer_id)
        else:
            await self._members.connect()
        anew = await self._places.ensure(balancer.place(facts.mtu))
        if anew:
            _log.info("load balancer joined to its network", balancer=balancer_id, network=balancer.network.name)
        addresses = [item.partition("/")[0] for item in given.addresses]
        files = self._proxies.files(balancer_id)
        missing = await self._fetch(balancer, files)
        certificates = there(given.listeners, files)
        config = render(given.listeners, addresses, files, certificates)
        for done in await self._proxies.ensure(balancer_id, config, self._places.path(balancer_id)):
            _log.info("load balancer changed", balancer=balancer_id, done=done)
        forget_others(files, certificates.values())
        await self._pass_datagrams(balancer)
        haproxy = self._proxies.tracked(balancer_id)
        await self._members.join(balancer, self._places.path(balancer_id), haproxy, anew=anew)
        if missing is not None:
            self._serving.add(balancer_id)
            raise missing

    async def _pass_datagrams(self, balancer: HereBalancer) -> None:
        netns = self._places.path(balancer.balancer_id)
        self._datagrams.ask(balancer, netns, self._told_down(balancer))
        for done in await self._datagrams.ensure(balancer, netns, await self._states(balancer)):
            _log.info("load balancer changed", balancer=balancer.balancer_id, done=done)

    async def _states(self, balancer: HereBalancer) -> MemberStates:
        """Give how the members are.

        Raises:
            Unanswered: HAProxy does not answer.
        """
        return await self._proxies.members(balancer.balancer_id) | self._datagrams.states(balancer)

    def _told_down(self, balancer: HereBalancer) -> frozenset[tuple[str, str]]:
        told = self._status.get((balancer.namespace, balancer.name), {}).get("members", [])
        return frozenset((item["listener"], item["name"]) for item in told if item["state"] == MemberState.DOWN)

    async def _fetch(self, balancer: HereBalancer, files: Files) -> CertificatesMissing | None:
        """Have the certificates of listeners whose TLS ends here; give why some cannot be had."""
        listeners = balancer.assignment.listeners
        if not lacking(listeners, files):
            return None
        try:
            store(listeners, files, await self._certificates(balancer.namespace, balancer.name))
        except CertificatesMissing as error:
            return error
        names = lacking(listeners, files)
        return (
            CertificatesMissing(f"the operator gives no certificate of listener {', '.join(names)}") if names else None
        )

    async def _failed(self, balancer: HereBalancer, reason: LoadBalancerReason, message: str) -> None:
        """Tell why a load balancer is not served as it should be; with a refused configuration it serves on."""
        self._faults[balancer.balancer_id] = (reason, message[:1000])
        if reason not in _SERVED_ON:
            self._serving.discard(balancer.balancer_id)
        if reason is LoadBalancerReason.NOT_SERVING:  # the other host may do better
            await self._members.leave(balancer.balancer_id)
        await self._tell(balancer, None)

    async def _remove(self, balancer_id: str) -> None:
        self._serving.discard(balancer_id)
        self._faults.pop(balancer_id, None)
        self._deaths.pop(balancer_id, None)
        self._datagrams.forget(balancer_id)
        await self._members.leave(balancer_id)
        ended = await self._proxies.absent(balancer_id)
        gone = await self._places.remove(balancer_id)
        await self._networks.release(balancer_id)
        await self._members.connect()
        if ended or gone:
            _log.info("load balancer removed", balancer=balancer_id)

    async def sweep(self) -> None:
        """Remove what is left of load balancers that this host has no more."""
        if self.known.is_set():
            await self._members.sweep({pair.router_id for pair in self.pairs})
            await self._proxies.sweep(self._here.keys())
            await self._places.sweep(self._here.keys())

    async def close(self) -> None:
        """Watch no process any more; they go on."""
        self._members.close()
        self._datagrams.close()
        self._proxies.close()

    def _lost(self, name: str, seconds: float) -> None:
        """Have a load balancer served again whose HAProxy has ended by itself."""
        balancer_id = next((item for item in self._here if digits(item) == name), None)
        if balancer_id is None:
            return
        self._serving.discard(balancer_id)
        deaths = self._deaths[balancer_id] = 1 if seconds >= _STEADY_SECONDS else self._deaths.get(balancer_id, 0) + 1
        pause = restart_pause(deaths)
        _log.warning("HAProxy has ended", balancer=balancer_id, after=round(seconds, 1), restart_in=pause)
        metrics.SERVICE_EXITS.labels(service="load-balancer").inc()
        self.queue.add_after(balancer_id, pause)

    async def _follow(self, selector: str, synced: asyncio.Event) -> None:
        async for event, body in self._client.watch(LoadBalancer, field_selector=selector):
            if event == "SYNCED":
                synced.set()
                if all(each.is_set() for each in self._synced):
                    self._settle()
                    self.known.set()
                continue
            key = (body["metadata"].get("namespace") or "", body["metadata"]["name"])
            given = (body.get("spec") or {}).get("assignment")
            assignment = LoadBalancerAssignment.model_validate(given) if given is not None else None
            known = self._known.get(key)
            if event == "DELETED" and known is not None and known.pair is not None and not _deleted(body):
                # Where host and standby change places it leaves one watch and enters the other.
                asyncio.get_running_loop().call_later(_CHANGING_SECONDS, self._forget, key, known)
            elif event == "DELETED" or assignment is None or not self._concerns(assignment):
                self._forget(key, known)
            else:
                metadata = body["metadata"]
                self._known[key] = HereBalancer(
                    *key, metadata["uid"], metadata.get("generation", 0), assignment, self._host
                )
                self._status[key] = body.get("status") or {}
            if self.known.is_set():
                self._settle()

    def _concerns(self, assignment: LoadBalancerAssignment) -> bool:
        """Whether something of a load balancer is here; a standby that the operator moves it to has nothing before."""
        return assignment.host == self._host or pair_of(assignment, self._host) is not None

    def _forget(self, key: _Object, known: HereBalancer | None) -> None:
        if known is not None and self._known.get(key) is known:
            del self._known[key]
            self._status.pop(key, None)
            if self.known.is_set():
                self._settle()

    def _role_changed(self, balancer_id: str) -> None:
        self.queue.add(balancer_id)
        self.taken_over_changed()

    def _settle(self) -> None:
        """Hold the ports of what is here, and have what differs looked at."""
        former, self._here = self._here, {item.balancer_id: item for item in self._known.values()}
        for balancer_id in former.keys() | self._here.keys():
            before, now = former.get(balancer_id), self._here.get(balancer_id)
            if before == now:
                continue
            if now is not None and (before is None or before.assignment != now.assignment):
                self._networks.hold(balancer_id, now.name, now.ports(), {now.own_group: now.rules()})
            self.queue.add(balancer_id)
        self.taken_over_changed()

    async def _look(self, balancer: HereBalancer) -> None:
        """Tell how the members are, if that is news."""
        if balancer.balancer_id not in self._serving:
            return
        try:
            found = await self._states(balancer)
        except Unanswered as error:
            _log.warning("HAProxy does not answer", balancer=balancer.balancer_id, error=str(error))
            return
        if self._datagrams.differs(balancer, found):
            # Told when it is so.
            self.queue.add(balancer.balancer_id)
            return
        await self._tell(balancer, found)

    async def _tell(self, balancer: HereBalancer, found: MemberStates | None) -> None:
        if not self._speaks(balancer):
            return
        key = (balancer.namespace, balancer.name)
        fault = self._faults.get(balancer.balancer_id)
        status = balancer_status(balancer, self._status.get(key, {}), fault, found, datetime.now(UTC))
        if status is None or self._here.get(balancer.balancer_id) != balancer:
            return
        metadata = {"name": balancer.name, "namespace": balancer.namespace, "uid": balancer.uid}
        try:
            body = await self._client.apply_status(
                LoadBalancer, {"metadata": metadata, "status": status}, manager=MANAGER
            )
        except NotFound:
            return
        self._status[key] = body.get("status") or {}
        metrics.STATUS_WRITES.labels(kind="LoadBalancer").inc()

    def _speaks(self, balancer: HereBalancer) -> bool:
        """Whether this host is the one of two that tells: it serves, or should and has nothing by which it could."""
        if balancer.pair is None:
            return True
        role = self._members.role(balancer.balancer_id)
        faulty = balancer.pair.active and balancer.balancer_id in self._faults
        return role is Role.MASTER or (role is None and faulty)

    async def _keep_looking(self) -> None:
        """Look at the members of all load balancers, for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS * random.uniform(0.75, 1.25))  # noqa: S311 - spread, no secret
            for balancer in list(self._here.values()):
                try:
                    await self._look(balancer)
                except ApiError as error:
                    _log.warning("members could not be told", balancer=balancer.balancer_id, error=str(error))

    async def _keep_comparing(self) -> None:
        """Now and then look whether others have changed something, not on all hosts at once."""
        while True:
            await asyncio.sleep(_COMPARE_SECONDS * random.uniform(0.75, 1.25))  # noqa: S311 - spread, no secret
            for balancer_id in self._here:
                self.queue.add(balancer_id)


def _deleted(body: dict[str, Any]) -> bool:
    """Whether an object that left a watch is being deleted, and does not only belong to others now."""
    return bool(body["metadata"].get("deletionTimestamp"))


def _reason(error: NetworkError) -> LoadBalancerReason:
    if isinstance(error, ConfigRefused):
        return LoadBalancerReason.CONFIG_REFUSED
    if isinstance(error, CertificatesMissing):
        return LoadBalancerReason.CERTIFICATE_NOT_FETCHED
    return LoadBalancerReason.NOT_SERVING if isinstance(error, Unanswered) else LoadBalancerReason.NETWORK_FAILED
