"""The source's part: carry a guest over, and find out where it is when nobody knows."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import libvirt
import structlog

from kumulus_agent.compute.errors import HypervisorError, InstanceNotFound
from kumulus_agent.host.tpm_state import tpm_state
from kumulus_agent.migration.channels import Denied
from kumulus_agent.migration.console_log import send_log
from kumulus_agent.migration.domains import (
    FIRST_DOWNTIME,
    LAST_DOWNTIME,
    Done,
    Progress,
    Wish,
    allow_downtime,
    ask,
    carry_over,
    progress,
    start_post_copy,
    stored_xml,
    view_of,
)
from kumulus_agent.migration.plan import State, Verdict, View, settle
from kumulus_agent.migration.reports import Word
from kumulus_agent.migration.target import DOMAIN_FILE
from kumulus_agent.migration.tunnel import Tunnel
from kumulus_agent.servers.desired import Desired
from kumulus_agent.servers.start import Actuators
from kumulus_api.server_action import ActionPhase, ActionReason

PATIENCE_SECONDS: Final = 15.0
"""How long the target's libvirtd is given to end a guest that did not arrive: it does by itself."""
_LOOK_SECONDS: Final = 0.5
_PASSES: Final = 2
"""Over the memory, after which post-copy begins where it is asked for: what is left changes faster than it goes."""
_MORE_DOWNTIME_SECONDS: Final = 10.0
_ASK_SECONDS: Final = 10.0
_REPAIR_SECONDS: Final = 60.0
_OFF_LOOKS: Final = 0.2

_SETTLED: Final = frozenset({Verdict.STAYED, Verdict.ARRIVED, Verdict.LOST})

Tell = Callable[[Word], Awaitable[None]]
_log = structlog.stdlib.get_logger(__name__)


class NotCarriedOver(Exception):
    """The migration failed; where the guest is has to be found out."""


@dataclass(frozen=True)
class Elsewhere:
    """How the target of a migration is reached.

    Attributes:
        look: looks at the guest there, and clears away what is half there if it is given True; unreachable is an
            answer.
        repair: takes a post-copy up that broke, if it can.
    """

    look: Callable[[bool], Awaitable[View]]
    repair: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Found:
    """Where a guest is after a migration whose end nobody had heard.

    Attributes:
        here: it has not left.
        memory_lost: it starts anew from its disk.
    """

    here: bool
    memory_lost: bool


@dataclass(frozen=True)
class Source:
    """What sends guests away.

    Attributes:
        actuators: as for starting servers.
    """

    actuators: Actuators

    async def look(self, instance_id: str) -> View:
        """Look at the instance here; unreachable is an answer."""
        asked = f"look at instance {instance_id}"
        try:
            found: View = await self.actuators.hypervisor.call(asked, lambda conn: view_of(conn, instance_id))
        except HypervisorError:
            return View(State.UNREACHABLE)
        return found

    async def repair(self, tunnel: Tunnel, instance_id: str, wish: Wish) -> None:
        """Take a post-copy up that broke; when this returns the guest is whole at the target and gone here.

        Raises:
            NotCarriedOver: not yet.
        """
        try:
            await asyncio.to_thread(partial(carry_over, again=True), tunnel.sockets, instance_id, wish)
        except (libvirt.libvirtError, ValueError) as error:
            # libvirt may look before QEMU has begun and say that it has failed; QEMU goes on while it has the tunnel.
            await self._until_whole(tunnel, instance_id)
            raise NotCarriedOver(tunnel.refusal or str(error)) from error

    async def _until_whole(self, tunnel: Tunnel, instance_id: str) -> None:
        deadline = time.monotonic() + _REPAIR_SECONDS
        while time.monotonic() < deadline:
            source, target = await self.look(instance_id), await ask_target(tunnel, instance_id)
            if State.TORN not in (source.state, target.state):
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def live(self, tunnel: Tunnel, desired: Desired, wish: Wish, tell: Tell) -> Done:
        """Carry a running guest over; when this returns it runs at the target and is gone here.

        Raises:
            NotCarriedOver: libvirt said no, or nothing.
        """
        files = self.actuators.files(desired.instance_id)
        if files.thaw_owed.exists():
            raise NotCarriedOver("its file systems stand still for an image until the guest's agent lets them go on")
        try:
            if files.seed.exists():
                await tunnel.send_file(files.seed, files.seed.name)
            await send_log(tunnel, files.console_log, ended=False)
            watching = asyncio.create_task(self._watch(desired.instance_id, tell, post_copy=wish.post_copy))
            try:
                done = await asyncio.to_thread(carry_over, tunnel.sockets, desired.instance_id, wish)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        except (libvirt.libvirtError, Denied, OSError, TimeoutError, ValueError) as error:
            why = tunnel.refusal or str(error) or type(error).__name__
            raise NotCarriedOver(why) from error
        await self.send_last_words(tunnel, desired.instance_id)
        return done

    async def send_last_words(self, tunnel: Tunnel, instance_id: str) -> None:
        """Have the target know what a guest that runs there has written here."""
        await send_log(tunnel, self.actuators.files(instance_id).console_log, ended=True)

    async def _watch(self, instance_id: str, tell: Tell, *, post_copy: bool) -> None:
        last, downtime, since, reason = 0, FIRST_DOWNTIME, time.monotonic(), ActionReason.COPYING
        asked = f"look at the migration of instance {instance_id}"
        while True:
            await asyncio.sleep(2.0)
            look = partial(_followed, instance_id=instance_id, downtime=downtime)
            try:
                found: Progress | None = await self.actuators.hypervisor.call(asked, look)
            except HypervisorError:
                continue
            if found is None or found.passes < 2:
                since = time.monotonic()  # the disks and the first pass take as long as they take
            elif time.monotonic() - since > _MORE_DOWNTIME_SECONDS:
                downtime, since = min(2 * downtime, LAST_DOWNTIME), time.monotonic()
            switching = post_copy and reason is ActionReason.COPYING and found is not None and found.passes > _PASSES
            if switching:
                reason = ActionReason.POST_COPY
            if found is not None and (switching or found.percent >= last + 10):
                last = max(last, found.percent)
                await tell(Word(ActionPhase.RUNNING, reason, progress=last))
            if switching:
                await self._start_post_copy(instance_id)

    async def _start_post_copy(self, instance_id: str) -> None:
        asked = f"begin the post-copy of instance {instance_id}"
        with contextlib.suppress(HypervisorError):  # it is over
            await self.actuators.hypervisor.call(
                asked, lambda conn: start_post_copy(conn.lookupByUUIDString(instance_id))
            )

    async def abort(self, instance_id: str) -> None:
        """Have libvirt give up what it is at; nothing to give up is success."""
        asked = f"abort the migration of instance {instance_id}"
        try:
            await self.actuators.hypervisor.call(asked, lambda conn: conn.lookupByUUIDString(instance_id).abortJob())
        except HypervisorError as error:
            _log.info("nothing to abort", instance=instance_id, error=str(error))

    async def cold(self, tunnel: Tunnel, desired: Desired, epoch: int) -> None:
        """Switch the guest off and copy its disk.

        Raises:
            NotCarriedOver: the copy failed; the guest is off and here.
        """
        held = await self._volumes(desired)
        await self._switch_off(desired)
        files = self.actuators.files(desired.instance_id)
        definition = files.directory / DOMAIN_FILE
        try:
            stored = await self._stored(desired.instance_id, epoch)
            for path, name in ((files.root_disk, files.root_disk.name), *held, *named(files.seed, files.nvram)):
                if path.exists():
                    await tunnel.send_file(path, name)
            await self.send_last_words(tunnel, desired.instance_id)
            tpm = tpm_state(desired.instance_id, desired.hardware)
            if tpm is not None and tpm.exists():
                await tunnel.send_file(tpm, tpm.name)
            if stored:
                await asyncio.to_thread(definition.write_text, stored)
                await tunnel.send_file(definition, DOMAIN_FILE)
            await self.actuators.hypervisor.undefine(desired.instance_id)
        except (HypervisorError, Denied, OSError, TimeoutError, ValueError) as error:
            raise NotCarriedOver(tunnel.refusal or str(error) or type(error).__name__) from error
        finally:
            definition.unlink(missing_ok=True)

    async def _volumes(self, desired: Desired) -> list[tuple[Path, str]]:
        """Give the files of an instance's volumes, and what the target knows them by.

        Raises:
            NotCarriedOver: one has more than its file.
        """
        driver = self.actuators.shelves.driver(self.actuators.settings.state_dir, None, "")
        found: list[tuple[Path, str]] = []
        for volume in desired.all_volumes:
            there = await driver.look(volume.volume_id) if not volume.shared else None
            if there is None:
                continue
            if there.layers > 1 or there.snapshots or there.pending:
                raise NotCarriedOver(
                    f"volume {volume.name} has snapshots or copies on this host: delete them, and detach it for a while"
                )
            found.append((there.path, f"{volume.volume_id}.{there.format}"))
        return found

    async def _stored(self, instance_id: str, epoch: int) -> str:
        """Give the definition for the target: what it records, such as that the guest shut itself down, goes along."""
        try:
            return str(
                await self.actuators.hypervisor.call(
                    f"read the definition of instance {instance_id}",
                    lambda conn: stored_xml(conn.lookupByUUIDString(instance_id), epoch),
                )
            )
        except InstanceNotFound:
            return ""

    async def _switch_off(self, desired: Desired) -> None:
        hypervisor, instance_id = self.actuators.hypervisor, desired.instance_id
        seconds = self.actuators.settings.stop_seconds
        if (await self.look(instance_id)).state is State.RUNNING and seconds > 0:
            await hypervisor.shutdown_graceful(instance_id)
            await self._until_off(instance_id, seconds)
        while not await self._until_off(instance_id, _OFF_LOOKS):
            await hypervisor.switch_off(instance_id)

    async def _until_off(self, instance_id: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (await self.look(instance_id)).state not in (State.OFF, State.ABSENT):
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_OFF_LOOKS)
        return True

    async def find_out(self, instance_id: str, elsewhere: Elsewhere, tell: Tell, why: str) -> Found:
        """Ask both hypervisors until it is known where the guest is; see `settle`.

        Args:
            instance_id: of the guest.
            elsewhere: how to reach the target.
            tell: how to say that it is not known yet.
            why: what is said then.

        Returns:
            Where the guest is; if it has left, nothing of it is at the source any more.
        """
        begun, told, lost = time.monotonic(), False, False
        while True:
            patient = time.monotonic() - begun < PATIENCE_SECONDS
            source, target, verdict = await self._judge(instance_id, elsewhere, patient=patient)
            lost = lost or verdict in (Verdict.LOST, Verdict.END)
            lost = lost or (verdict is Verdict.CLEAR and target.state is State.TORN)
            if verdict in _SETTLED:
                if verdict is not Verdict.STAYED:
                    await self._forget(instance_id)
                return Found(here=verdict is Verdict.STAYED, memory_lost=lost)
            if verdict in (Verdict.RESUME, Verdict.END):
                end = self.actuators.hypervisor.destroy
                await (self._resume if verdict is Verdict.RESUME else end)(instance_id)
                continue
            await self._further(instance_id, elsewhere, verdict, busy=source.busy)
            if not told and time.monotonic() - begun > 2 * _LOOK_SECONDS:
                told = True
                await tell(Word(ActionPhase.RUNNING, ActionReason.OUTCOME_UNKNOWN, f"{verdict}: {why}"))
            await asyncio.sleep(min(_LOOK_SECONDS + 0.1 * (time.monotonic() - begun), _ASK_SECONDS))

    async def _judge(self, instance_id: str, elsewhere: Elsewhere, *, patient: bool) -> tuple[View, View, Verdict]:
        source, target = await self.look(instance_id), View(State.UNREACHABLE)
        verdict = settle(source)
        if verdict is Verdict.WAIT and not source.busy and source.state is not State.UNREACHABLE:
            target = await elsewhere.look(False)
            verdict = settle(source, target, patient=patient)
        return source, target, verdict

    async def _further(self, instance_id: str, elsewhere: Elsewhere, verdict: Verdict, *, busy: bool) -> None:
        """Do what a verdict asks for that leaves the outcome open."""
        if verdict is Verdict.REPAIR:
            await elsewhere.repair()
        if verdict is Verdict.CLEAR:
            await elsewhere.look(True)
        if busy:
            await self.abort(instance_id)

    async def _resume(self, instance_id: str) -> None:
        asked = f"resume instance {instance_id}"
        try:
            await self.actuators.hypervisor.call(asked, lambda conn: conn.lookupByUUIDString(instance_id).resume())
        except InstanceNotFound:
            return
        except HypervisorError as error:
            if (await self.look(instance_id)).state is not State.STILL:
                return
            _log.warning("the guest cannot go on and is ended", instance=instance_id, error=str(error))
            await self.actuators.hypervisor.switch_off(instance_id)

    async def _forget(self, instance_id: str) -> None:
        await self.actuators.hypervisor.destroy(instance_id)
        await self.actuators.hypervisor.undefine(instance_id)


def _followed(conn: Any, *, instance_id: str, downtime: int) -> Progress | None:
    domain = conn.lookupByUUIDString(instance_id)
    if downtime > FIRST_DOWNTIME:
        allow_downtime(domain, downtime)
    return progress(domain)


async def ask_target(tunnel: Tunnel, instance_id: str, *, clear: bool = False) -> View:
    """Look at the instance at the target through the tunnel; unreachable is an answer.

    Args:
        tunnel: to the target.
        instance_id: of the guest.
        clear: end what is half there; it stands still, and so does the guest here or it runs; or the other half of its
            memory is gone.
    """

    def look(conn: Any) -> View:
        found = view_of(conn, instance_id)
        half = found.state in (State.STILL, State.PAUSED) and not found.persistent
        if clear and (half or found.state is State.TORN):
            conn.lookupByUUIDString(instance_id).destroy()
            return view_of(conn, instance_id)
        return found

    try:
        async with asyncio.timeout(_ASK_SECONDS):
            found: View = await asyncio.to_thread(ask, tunnel.sockets, look)
    except (libvirt.libvirtError, TimeoutError) as error:
        _log.info("the target cannot be asked", instance=instance_id, error=tunnel.refusal or str(error))
        return View(State.UNREACHABLE)
    return found


def named(*paths: Path) -> list[tuple[Path, str]]:
    """Give files with their own names."""
    return [(path, path.name) for path in paths]
