"""One reconcile per Server: observe, plan, apply, tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from kumulus_agent import metrics
from kumulus_agent.servers.capacity import Capacity, refusal
from kumulus_agent.servers.desired import Desired, Key, read_desired
from kumulus_agent.servers.errors import StartGivenUp, StepFailed
from kumulus_agent.servers.instances import Instances
from kumulus_agent.servers.notices import notices
from kumulus_agent.servers.observe import Observer, Sighting
from kumulus_agent.servers.plan import Action, Plan, Power, Step, plan
from kumulus_agent.servers.remove import remove_instance, unplug
from kumulus_agent.servers.report import Reporter
from kumulus_agent.servers.start import Actuators, start_server
from kumulus_agent.servers.status import Found, Part, started_parts
from kumulus_api import FINALIZER, Server
from kumulus_api.host import UnclaimedInstance
from kumulus_api.server import ObservedPowerState, ReadyReason, ServerConditionType
from kumulus_runtime.logs import log
from kumulus_runtime.store import Store

Logger = structlog.stdlib.BoundLogger


@dataclass
class _Outcome:
    """What applying a plan has brought."""

    durations: dict[str, int] | None = None
    failure: StepFailed | None = None
    wait: float | None = None


@dataclass(frozen=True)
class ServerController:
    """Brings the instances of a Server to what the API asks."""

    observer: Observer
    actuators: Actuators
    instances: Instances
    store: Store
    reporter: Reporter
    capacity: Callable[[], Capacity]
    volume_changed: Callable[[Key], None] = lambda _key: None

    async def reconcile(self, key: Key) -> float | None:
        """Handle one Server; give the seconds after which to look again, if any."""
        body = self.store.get(Server, key[1], key[0])
        stored = read_desired(body) if body is not None and self._is_ours(body) else None
        ids = self.instances.of(key) | ({stored.instance_id} if stored else set())
        waits = []
        for instance_id in sorted(ids):
            sighting = await self.observer.look(key, instance_id, stored)
            waits.append(await self._settle(sighting))
        return min((wait for wait in waits if wait is not None), default=None)

    def _is_ours(self, body: dict[str, Any]) -> bool:
        assignment = body["spec"].get("assignment") or {}
        return bool(assignment.get("host") == self.actuators.settings.node_name)

    def _is_going(self, key: Key) -> bool:
        body = self.store.get(Server, key[1], key[0])
        return body is None or "deletionTimestamp" in body["metadata"]

    async def _settle(self, sighting: Sighting) -> float | None:
        planned = plan(sighting.desired, sighting.observed, sighting.claim, self.actuators.settings.stop_seconds)
        self._remember(sighting, planned)
        outcome = _Outcome(wait=planned.look_again)
        for step in planned.steps:
            await self._step(sighting, step, outcome)
            if outcome.failure is not None:
                break
        given_up = isinstance(outcome.failure, StartGivenUp)
        if sighting.desired is not None and not given_up:
            self._announce(sighting, sighting.desired, planned, outcome)
            if planned.ready is not None:
                await self._tell(sighting, sighting.desired, planned, outcome)
            if {Action.START, Action.REMOVE} & planned.actions:
                self.volumes_changed(sighting.desired)
        return outcome.wait

    def _announce(self, sighting: Sighting, desired: Desired, planned: Plan, outcome: _Outcome) -> None:
        told = self.reporter.told(desired)
        found = notices(planned, sighting.observed.power, told, failure=outcome.failure, durations=outcome.durations)
        for notice in found:
            self.reporter.announce(desired, notice)

    def volumes_changed(self, desired: Desired) -> None:
        """Have the volumes of an instance looked at."""
        for volume in desired.volumes:
            self.volume_changed((desired.key[0], volume.volume))

    def _remember(self, sighting: Sighting, planned: Plan) -> None:
        if sighting.state is None:
            if not sighting.observed.remains and Action.START not in planned.actions:
                self.instances.gone(sighting.instance_id)
            return
        self.instances.keys[sighting.instance_id] = (sighting.state.namespace, sighting.state.name)
        if sighting.observed.power in {Power.OFF, Power.CRASHED} or self._ignored_the_button(sighting):
            self.instances.off(sighting.instance_id)
        if Action.REPORT not in planned.actions:
            self.instances.claimed(sighting.instance_id)

    def _ignored_the_button(self, sighting: Sighting) -> bool:
        """Whether the guest runs on and may: the next wish to stop it begins with the button again."""
        pressed = sighting.observed.stopping_for
        late = pressed is not None and pressed >= self.actuators.settings.stop_seconds
        return late and sighting.desired is not None and sighting.desired.running

    async def _step(self, sighting: Sighting, step: Step, outcome: _Outcome) -> None:
        logger = log(f"Server {_name(sighting)}").bind(instance=sighting.instance_id)
        logger.info(step.action.value, reason=step.reason)
        if step.action is Action.START and sighting.desired is not None:
            await self._start(sighting.desired, outcome, logger)
            return
        await _VERBS[step.action](self, sighting)

    async def _start(self, desired: Desired, outcome: _Outcome, logger: Logger) -> None:
        try:
            self._check_capacity(desired)
            with self.instances.starting(desired.key) as unwanted:
                if self._is_going(desired.key):  # seen after this look at it began
                    unwanted.set()
                outcome.durations = await start_server(self.actuators, desired, unwanted)
        except StartGivenUp as failure:
            outcome.failure = failure
            outcome.wait = 0.0
            logger.info("start given up", reason=failure.message)
            return
        except StepFailed as failure:
            outcome.failure = failure
            outcome.wait = self.instances.failed(desired.instance_id, lasting=failure.lasting)
            metrics.STARTS.labels(result=failure.reason.value).inc()
            logger.warning("start failed", error=failure.message, reason=failure.reason, retry_in=outcome.wait)
            return
        self.instances.keys[desired.instance_id] = desired.key
        self.instances.started(desired.instance_id)
        logger.info("started", milliseconds=outcome.durations)

    def _check_capacity(self, desired: Desired) -> None:
        others = []
        for instance_id, (namespace, name) in self.instances.keys.items():
            body = self.store.get(Server, name, namespace)
            other = read_desired(body) if body is not None else None
            if other is not None and other.instance_id == instance_id:
                others.append(other)
        why = refusal(desired, others, self.capacity())
        if why:
            raise StepFailed(ReadyReason.HOST_FULL, why)

    async def _carry(self, sighting: Sighting) -> None:
        if sighting.desired is not None:
            desired = sighting.desired
            self.actuators.networks.hold(desired.instance_id, desired.key[1], desired.ports)
            await self.actuators.networks.ensure(desired.networks)

    async def _plug(self, sighting: Sighting) -> None:
        for port in sighting.desired.ports if sighting.desired else ():
            await self.actuators.datapath.plug(port.tap, port.network.vni)

    async def _press(self, sighting: Sighting) -> None:
        self.instances.pressed(sighting.instance_id)
        await self.actuators.hypervisor.shutdown_graceful(sighting.instance_id)

    async def _switch_off(self, sighting: Sighting) -> None:
        await self.actuators.hypervisor.destroy(sighting.instance_id)
        self.instances.off(sighting.instance_id)

    async def _forget_shutdown(self, sighting: Sighting) -> None:
        # libvirt keeps the reason for which a domain is off with its definition; the next start defines it anew.
        await self.actuators.hypervisor.undefine(sighting.instance_id)

    async def _record_shutdown(self, sighting: Sighting) -> None:
        await self.actuators.hypervisor.record_guest_shutdown(sighting.instance_id)

    async def _unplug(self, sighting: Sighting) -> None:
        ports = sighting.desired.ports if sighting.desired else ()
        await unplug(self.actuators, sighting.instance_id, ports)

    async def _remove(self, sighting: Sighting) -> None:
        ports = sighting.desired.ports if sighting.desired else ()
        await remove_instance(self.actuators, sighting.instance_id, ports)
        self.instances.gone(sighting.instance_id)
        self.instances.changed()

    async def _release(self, sighting: Sighting) -> None:
        desired = sighting.desired
        if desired is None:
            return
        await self.reporter.ports_released(desired)
        namespace, name = desired.key
        await self.actuators.client.remove_finalizer(Server, name, FINALIZER, namespace, uid=desired.uid)

    async def _report(self, sighting: Sighting) -> None:
        state = sighting.state
        if state is not None:
            running = sighting.observed.power in {Power.RUNNING, Power.PAUSED, Power.STOPPING}
            self.instances.report(
                UnclaimedInstance(
                    instance_id=state.instance_id,
                    namespace=state.namespace,
                    name=state.name,
                    epoch=state.epoch,
                    running=running,
                )
            )

    async def _tell(self, sighting: Sighting, desired: Desired, planned: Plan, outcome: _Outcome) -> None:
        failure = outcome.failure
        if failure is not None:
            parts = {failure.part: Part(status=False, reason=failure.detail, message=failure.message)}
            found = Found(
                _FAILED_POWER.get(sighting.observed.power, ObservedPowerState.STOPPED),
                failure.reason,
                failure.message,
                {part: value for part, value in parts.items() if isinstance(part, ServerConditionType)},
            )
        else:
            assert planned.ready is not None  # noqa: S101 - _settle has asked
            wired = planned.power in {ObservedPowerState.RUNNING, ObservedPowerState.PAUSED}
            found = Found(
                planned.power, planned.ready, planned.message, started_parts() if wired else {}, outcome.durations
            )
        await self.reporter.server(desired, found)
        wired = failure is None and planned.power in {ObservedPowerState.RUNNING, ObservedPowerState.PAUSED}
        new = outcome.durations is not None and sighting.observed.power is Power.ABSENT
        await self.reporter.ports(desired, wired=wired, new=new)


_FAILED_POWER = {Power.CRASHED: ObservedPowerState.CRASHED}
_Verb = Callable[[ServerController, Sighting], Awaitable[None]]
_VERBS: dict[Action, _Verb] = {
    Action.CARRY: ServerController._carry,  # noqa: SLF001 - the table of this class's own verbs
    Action.PLUG: ServerController._plug,  # noqa: SLF001
    Action.PRESS_POWER_BUTTON: ServerController._press,  # noqa: SLF001
    Action.SWITCH_OFF: ServerController._switch_off,  # noqa: SLF001
    Action.FORGET_SHUTDOWN: ServerController._forget_shutdown,  # noqa: SLF001
    Action.RECORD_SHUTDOWN: ServerController._record_shutdown,  # noqa: SLF001
    Action.UNPLUG: ServerController._unplug,  # noqa: SLF001
    Action.REMOVE: ServerController._remove,  # noqa: SLF001
    Action.RELEASE: ServerController._release,  # noqa: SLF001
    Action.REPORT: ServerController._report,  # noqa: SLF001
}


def _name(sighting: Sighting) -> str:
    key = sighting.desired.key if sighting.desired else None
    if key is None and sighting.state is not None:
        key = (sighting.state.namespace, sighting.state.name)
    return "/".join(key) if key else sighting.instance_id
