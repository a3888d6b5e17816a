"""One reconcile per Server: observe, plan, apply, tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog

from kumulus_agent import metrics
from kumulus_agent.actions.rebuild import fetch_image, rebuild_root
from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.guest.agents import GuestAgents
from kumulus_agent.guest.passwords import Errand, Passwords
from kumulus_agent.images.copies import DiskCopies, Wish
from kumulus_agent.servers.capacity import Capacity, refusal
from kumulus_agent.servers.desired import Desired, Key, read_desired
from kumulus_agent.servers.devices import attach, detach, let_go
from kumulus_agent.servers.errors import StartGivenUp, StepFailed
from kumulus_agent.servers.failing import failing_as
from kumulus_agent.servers.grow import grow
from kumulus_agent.servers.guest_password import GuestPasswords
from kumulus_agent.servers.instances import Instances
from kumulus_agent.servers.journal import Entry, write_entry
from kumulus_agent.servers.notices import notices
from kumulus_agent.servers.observe import Observer, Sighting
from kumulus_agent.servers.outcome import WIRED, Outcome, found_after
from kumulus_agent.servers.plan import plan
from kumulus_agent.servers.plan_power import growth
from kumulus_agent.servers.remove import remove_instance, unplug
from kumulus_agent.servers.report import Reporter
from kumulus_agent.servers.start import Actuators, resume_server, start_server
from kumulus_agent.servers.terms import ALIVE, Action, Plan, Power, Report, Step
from kumulus_agent.servers.volume_disks import limit_root
from kumulus_agent.volumes.copying import settle_guest
from kumulus_api import FINALIZER, Server
from kumulus_api.host import UnclaimedInstance
from kumulus_api.server_action import ActionPhase, ActionType
from kumulus_api.server_status import ReadyReason, ServerConditionType
from kumulus_runtime.logs import log
from kumulus_runtime.store import Store

Logger = structlog.stdlib.BoundLogger


@dataclass(frozen=True)
class ServerController:
    """Brings the instances of a Server to what the API asks."""

    observer: Observer
    actuators: Actuators
    instances: Instances
    store: Store
    reporter: Reporter
    capacity: Callable[[], Capacity]
    copies: DiskCopies
    guests: GuestAgents
    passwords: Passwords
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
        limit = self.actuators.settings.stop_seconds
        planned = plan(sighting.desired, sighting.observed, sighting.claim, limit, sighting.act)
        self._remember(sighting, planned)
        outcome = Outcome(wait=planned.look_again)
        for step in planned.steps:
            await self._step(sighting, step, outcome)
            if outcome.failure is not None:
                break
        given_up = isinstance(outcome.failure, StartGivenUp)
        if sighting.desired is not None and not given_up:
            self._announce(sighting, sighting.desired, planned, outcome)
            # An image that cannot be had for an act changes nothing about the guest.
            if planned.ready is not None and outcome.failed is not Action.FETCH:
                await self._tell(sighting, sighting.desired, planned, outcome)
            if {Action.START, Action.REMOVE, Action.ATTACH, Action.DETACH} & planned.actions:
                self.volumes_changed(sighting.desired)
            await self._report_act(sighting, planned, outcome)
        return outcome.wait

    async def _report_act(self, sighting: Sighting, planned: Plan, outcome: Outcome) -> None:
        """Tell how an act has ended: after the status, which then shows what it has brought."""
        if sighting.act is None:
            return
        report, failure = planned.report, outcome.failure
        if failure is not None:
            report = Report(ActionPhase.FAILED, failure.reason.value, f"{sighting.act.type}: {failure.message}")
        if report is not None:
            await self.reporter.act(sighting.act, _key_of(sighting), report)
            outcome.wait = 0.0

    def _announce(self, sighting: Sighting, desired: Desired, planned: Plan, outcome: Outcome) -> None:
        told = self.reporter.told(desired)
        found = notices(planned, sighting.observed.power, told, failure=outcome.failure, durations=outcome.durations)
        for notice in found:
            self.reporter.announce(desired, notice)

    def volumes_changed(self, desired: Desired) -> None:
        """Have the volumes of an instance looked at."""
        for volume in desired.all_volumes:
            self.volume_changed((desired.key[0], volume.volume))

    def _remember(self, sighting: Sighting, planned: Plan) -> None:
        key = sighting.desired.key if sighting.desired is not None else None
        self.guests.found(key, sighting.instance_id, sighting.observed, planned)
        if sighting.state is None:
            if not sighting.observed.remains and Action.START not in planned.actions:
                self.instances.gone(sighting.instance_id)
            return
        self.instances.keys[sighting.instance_id] = (sighting.state.namespace, sighting.state.name)
        self.instances.bases[sighting.instance_id] = sighting.state.image_digest
        if sighting.observed.power not in ALIVE or self._ignored_the_button(sighting):
            self.instances.off(sighting.instance_id)
        if Action.REPORT not in planned.actions:
            self.instances.claimed(sighting.instance_id)

    def _ignored_the_button(self, sighting: Sighting) -> bool:
        """Whether the guest runs on and may: the next wish to stop it begins with the button again."""
        pressed = sighting.observed.stopping_for
        desired = sighting.desired
        if desired is None or pressed is None or not desired.running:
            return False
        own = desired.stop_seconds
        return pressed >= (self.actuators.settings.stop_seconds if own is None else own)

    async def _step(self, sighting: Sighting, step: Step, outcome: Outcome) -> None:
        logger = log(f"Server {_name(sighting)}").bind(instance=sighting.instance_id)
        logger.info(step.action.value, reason=step.reason)
        try:
            await _VERBS[step.action](self, sighting, outcome)
        except StartGivenUp as failure:
            outcome.failure = failure
            outcome.wait = 0.0
            logger.info("start given up", reason=failure.message)
            return
        except StepFailed as failure:
            outcome.failure = failure
            outcome.failed = step.action
            outcome.wait = self.instances.failed(sighting.instance_id, lasting=failure.lasting)
            if step.action is Action.START:
                metrics.STARTS.labels(result=failure.reason.value).inc()
            told = {"error": failure.message, "reason": failure.reason, "retry_in": outcome.wait}
            logger.warning("step failed", step=step.action.value, **told)

    async def _start(self, sighting: Sighting, outcome: Outcome) -> None:
        desired, act = sighting.desired, sighting.act
        if desired is None:
            return
        if act is not None and act.type is ActionType.REBUILD and act.image is not None:
            desired = replace(desired, image=act.image)
        self.check_capacity(desired)
        await let_go(self.actuators, desired, desired.leaving_ports)
        from_memory = sighting.observed.power is Power.SUSPENDED and act is None
        with self._wanted(desired) as unwanted:
            begin = resume_server if from_memory else start_server
            begun = await begin(self.actuators, desired, unwanted, act.uid if act is not None else "")
        outcome.durations = begun.milliseconds
        outcome.passed = sighting.observed.passed if from_memory else begun.passed
        self.instances.keys[desired.instance_id] = desired.key
        self.instances.started(desired.instance_id)
        log(f"Server {_name(sighting)}").bind(instance=sighting.instance_id).info(
            "started", milliseconds=outcome.durations
        )

    @contextmanager
    def _wanted(self, desired: Desired) -> Iterator[asyncio.Event]:
        """Give an event that is set when what takes long inside is not wanted any more."""
        with self.instances.starting(desired.key) as unwanted:
            if self._is_going(desired.key):  # seen after this look at it began
                unwanted.set()
            yield unwanted

    async def _fetch(self, sighting: Sighting, _outcome: Outcome) -> None:
        if sighting.desired is not None and sighting.act is not None and sighting.act.image is not None:
            with self._wanted(sighting.desired) as unwanted:
                await fetch_image(self.actuators, sighting.act.image, unwanted)

    async def _rebuild(self, sighting: Sighting, outcome: Outcome) -> None:
        if sighting.desired is not None and sighting.act is not None and sighting.act.image is not None:
            with self._wanted(sighting.desired) as unwanted:
                await rebuild_root(self.actuators, sighting.desired, sighting.act.image, unwanted)
            outcome.passed = ()
            await GuestPasswords(self.actuators.client, self.store).forget(sighting.desired)
            files = self.actuators.files(sighting.instance_id)
            await write_entry(files, sighting.act.uid, Entry(rebuilt=True))

    async def _copy_disk(self, sighting: Sighting, _outcome: Outcome) -> None:
        act, desired = sighting.act, sighting.desired
        if act is not None and desired is not None:
            offline = sighting.observed.power not in ALIVE
            ids = (sighting.instance_id, act.uid, act.name)
            self.copies.begin(Wish(desired.key, *ids, image=act.image_name, offline=offline))

    async def _set_password(self, sighting: Sighting, _outcome: Outcome) -> None:
        act, desired = sighting.act, sighting.desired
        if act is not None and desired is not None:
            self.passwords.begin(Errand(desired.key, sighting.instance_id, act.uid, act.name, act.user))

    def check_capacity(self, desired: Desired) -> None:
        """Compare with what is placed here.

        Raises:
            StepFailed: the instance does not fit.
        """
        others = []
        for instance_id, (namespace, name) in self.instances.keys.items():
            body = self.store.get(Server, name, namespace)
            other = read_desired(body) if body is not None else None
            if other is not None and other.instance_id == instance_id:
                others.append(other)
        why = refusal(desired, others, self.capacity())
        if why:
            raise StepFailed(ReadyReason.HOST_FULL, why)

    async def _pause(self, sighting: Sighting, _outcome: Outcome) -> None:
        await self.actuators.hypervisor.pause(sighting.instance_id)
        await self._note_wish(sighting, _outcome)

    async def _resume(self, sighting: Sighting, _outcome: Outcome) -> None:
        desired, instance_id = sighting.desired, sighting.instance_id
        volumes = [volume.volume_id for volume in desired.all_volumes] if desired is not None else []
        # It may stand still for a volume that is just being switched to its copy.
        async with self.actuators.shelves.held(volumes):
            if volumes:
                async with failing_as(ReadyReason.START_FAILED, ServerConditionType.VOLUMES_READY, "VolumeFailed"):
                    await settle_guest(self.actuators.hypervisor, instance_id)
            await self.actuators.hypervisor.resume(instance_id)

    async def _save(self, sighting: Sighting, _outcome: Outcome) -> None:
        await self._note_wish(sighting, _outcome)
        try:
            await self.actuators.hypervisor.save(sighting.instance_id)
        except HypervisorError as error:
            raise StepFailed(ReadyReason.SUSPEND_FAILED, str(error)) from error

    async def _note_wish(self, sighting: Sighting, _outcome: Outcome) -> None:
        if sighting.desired is not None:
            changes = sighting.desired.power_changes
            await self.actuators.hypervisor.note_power_changes(sighting.instance_id, changes)

    async def _carry(self, sighting: Sighting, _outcome: Outcome) -> None:
        if sighting.desired is not None:
            desired = sighting.desired
            self.actuators.networks.hold(desired.instance_id, desired.key[1], desired.all_ports)
            if sighting.observed.regrouped:
                await self.actuators.files(desired.instance_id).write_record(desired.key, desired.all_ports)
            await self.actuators.networks.ensure(desired.networks, running=True)

    async def _plug(self, sighting: Sighting, _outcome: Outcome) -> None:
        there = sighting.observed.devices
        for port in sighting.desired.ports if sighting.desired else ():
            if there is None or port.mac in there.macs:
                await self.actuators.datapath.plug(port.tap, port.network.vni)

    async def _attach(self, sighting: Sighting, outcome: Outcome) -> None:
        if sighting.desired is not None and sighting.observed.devices is not None:
            outcome.change(await attach(self.actuators, sighting.desired, sighting.observed))

    async def _detach(self, sighting: Sighting, outcome: Outcome) -> None:
        if sighting.desired is not None and sighting.observed.devices is not None:
            outcome.change(await detach(self.actuators, sighting.desired, sighting.observed))

    async def _press(self, sighting: Sighting, _outcome: Outcome) -> None:
        self.instances.pressed(sighting.instance_id)
        await self.actuators.hypervisor.shutdown_graceful(sighting.instance_id)

    async def _press_for_action(self, sighting: Sighting, _outcome: Outcome) -> None:
        # Written down first: whoever goes on waits for what may have been pressed, and does not press again.
        if sighting.act is not None:
            files = self.actuators.files(sighting.instance_id)
            await write_entry(files, sighting.act.uid, Entry(pressed=time.time()))
        await self.actuators.hypervisor.shutdown_graceful(sighting.instance_id)

    async def _forget_failures(self, sighting: Sighting, _outcome: Outcome) -> None:
        self.instances.forget_failures(sighting.instance_id)

    async def _switch_off(self, sighting: Sighting, _outcome: Outcome) -> None:
        await self.actuators.hypervisor.switch_off(sighting.instance_id)
        self.instances.off(sighting.instance_id)

    async def _forget_shutdown(self, sighting: Sighting, outcome: Outcome) -> None:
        # libvirt keeps the reason for which a domain is off with its definition; the next start defines it anew.
        await self.actuators.hypervisor.undefine(sighting.instance_id, keep=True)
        outcome.passed = ()

    async def _give_back(self, sighting: Sighting, outcome: Outcome) -> None:
        await self.actuators.hypervisor.give_back(sighting.instance_id)
        outcome.passed = ()

    async def _record_shutdown(self, sighting: Sighting, _outcome: Outcome) -> None:
        await self.actuators.hypervisor.record_guest_shutdown(sighting.instance_id)

    async def _grow(self, sighting: Sighting, outcome: Outcome) -> None:
        wanted = growth(sighting.desired, sighting.observed) if sighting.desired is not None else None
        if wanted is not None:
            outcome.size, outcome.wait = await grow(self.actuators.hypervisor, sighting.instance_id, *wanted)

    async def _limit(self, sighting: Sighting, _outcome: Outcome) -> None:
        if sighting.desired is not None:
            await limit_root(self.actuators.hypervisor, sighting.desired)

    async def _unplug(self, sighting: Sighting, _outcome: Outcome) -> None:
        ports = sighting.desired.all_ports if sighting.desired else ()
        await unplug(self.actuators, sighting.instance_id, ports)

    async def _remove(self, sighting: Sighting, _outcome: Outcome) -> None:
        ports = sighting.desired.all_ports if sighting.desired else ()
        await remove_instance(self.actuators, sighting.instance_id, ports)
        self.instances.gone(sighting.instance_id)
        self.instances.changed()

    async def _release(self, sighting: Sighting, _outcome: Outcome) -> None:
        desired = sighting.desired
        if desired is None:
            return
        await self.reporter.ports_released(desired, desired.all_ports)
        namespace, name = desired.key
        await self.actuators.client.remove_finalizer(Server, name, FINALIZER, namespace, uid=desired.uid)

    async def _report(self, sighting: Sighting, _outcome: Outcome) -> None:
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

    async def _tell(self, sighting: Sighting, desired: Desired, planned: Plan, outcome: Outcome) -> None:
        found = found_after(sighting.observed, desired, planned, outcome, acting=sighting.act is not None)
        found = replace(found, guest_agent=self.guests.of(sighting.instance_id, found.power, planned))
        # Who takes an unplugged port next is told of it by the Server: by then this host has had its last word.
        await self.reporter.ports_released(desired, [p for p in desired.leaving_ports if p.port_id in found.detached])
        await self.reporter.server(desired, found)
        wired = outcome.failure is None and planned.power in WIRED
        new = outcome.durations is not None and sighting.observed.power is Power.ABSENT
        there = [port for port in outcome.devices.connected(desired) if port.name not in found.held_up.ports]
        await self.reporter.ports(desired, there, wired=wired, new=new)


_Verb = Callable[[ServerController, Sighting, Outcome], Awaitable[None]]
_VERBS: dict[Action, _Verb] = {
    Action.START: ServerController._start,  # noqa: SLF001 - the table of this class's own verbs
    Action.FETCH: ServerController._fetch,  # noqa: SLF001
    Action.REBUILD: ServerController._rebuild,  # noqa: SLF001
    Action.COPY_DISK: ServerController._copy_disk,  # noqa: SLF001
    Action.SET_PASSWORD: ServerController._set_password,  # noqa: SLF001
    Action.PAUSE: ServerController._pause,  # noqa: SLF001
    Action.RESUME: ServerController._resume,  # noqa: SLF001
    Action.SAVE: ServerController._save,  # noqa: SLF001
    Action.NOTE_WISH: ServerController._note_wish,  # noqa: SLF001
    Action.PRESS_FOR_ACTION: ServerController._press_for_action,  # noqa: SLF001
    Action.FORGET_FAILURES: ServerController._forget_failures,  # noqa: SLF001
    Action.DISCARD_MEMORY: ServerController._forget_shutdown,  # noqa: SLF001
    Action.CARRY: ServerController._carry,  # noqa: SLF001
    Action.ATTACH: ServerController._attach,  # noqa: SLF001
    Action.DETACH: ServerController._detach,  # noqa: SLF001
    Action.GROW: ServerController._grow,  # noqa: SLF001
    Action.LIMIT: ServerController._limit,  # noqa: SLF001
    Action.PLUG: ServerController._plug,  # noqa: SLF001
    Action.PRESS_POWER_BUTTON: ServerController._press,  # noqa: SLF001
    Action.SWITCH_OFF: ServerController._switch_off,  # noqa: SLF001
    Action.FORGET_SHUTDOWN: ServerController._forget_shutdown,  # noqa: SLF001
    Action.GIVE_BACK: ServerController._give_back,  # noqa: SLF001
    Action.RECORD_SHUTDOWN: ServerController._record_shutdown,  # noqa: SLF001
    Action.UNPLUG: ServerController._unplug,  # noqa: SLF001
    Action.REMOVE: ServerController._remove,  # noqa: SLF001
    Action.RELEASE: ServerController._release,  # noqa: SLF001
    Action.REPORT: ServerController._report,  # noqa: SLF001
}


def _key_of(sighting: Sighting) -> Key:
    return sighting.desired.key if sighting.desired is not None else ("", "")


def _name(sighting: Sighting) -> str:
    key = sighting.desired.key if sighting.desired else None
    if key is None and sighting.state is not None:
        key = (sighting.state.namespace, sighting.state.name)
    return "/".join(key) if key else sighting.instance_id
