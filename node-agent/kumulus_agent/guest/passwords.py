"""Passwords that guests' agents set, for SetPassword: beside everything else, since a guest may be slow to answer.

A password is fetched when it is needed and kept nowhere: no log, Event or status, nor any error, has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from kumulus_agent.compute.errors import HypervisorError, HypervisorUnavailable, InstanceNotFound
from kumulus_agent.compute.guest_agent import Answer, set_password
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.servers.boot_data import BootDataRefused, BootDataSource, fetch_password
from kumulus_agent.servers.desired import Key
from kumulus_agent.servers.errors import StepFailed
from kumulus_agent.servers.instance_files import instance_files
from kumulus_agent.servers.terms import Attempt, Report
from kumulus_api.server_action import ActionPhase, ActionReason
from kumulus_runtime.api_client import KubeClient

_PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between attempts to reach operator or libvirtd, either of which may be about to start."""
_REASONS: Final = {404: ActionReason.SECRET_NOT_FOUND, 422: ActionReason.PASSWORD_INVALID}
"""By the operator's answer."""
_AGAIN: Final = "permanent: ask again when it is Active"
_FAILED: Final = {
    Answer.ABSENT: (
        ActionReason.NO_GUEST_AGENT,
        "no guest agent is there; permanent: install qemu-guest-agent in the guest and start it, then ask again",
    ),
    Answer.SILENT: (
        ActionReason.GUEST_SILENT,
        "the guest agent has not answered in time, so that the password may be set or not; transient: ask again",
    ),
    Answer.REFUSED: (
        ActionReason.GUEST_REFUSED,
        "the guest agent has refused; permanent: see that the guest has this user and lets its agent set passwords",
    ),
    Answer.FROZEN: (
        ActionReason.GUEST_FROZEN,
        "the guest's file systems may stand still for a copy, it is asked to go on; transient: ask again then",
    ),
    Answer.NOT_RUNNING: (ActionReason.ILLEGAL_STATE, f"the guest does not run any more; {_AGAIN}"),
}

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Errand:
    """Whose password to set, for whom.

    Attributes:
        server: its namespace and name.
        instance_id: the guest.
        action: uid of the ServerAction.
        name: of the action.
        user: whom the guest knows.
    """

    server: Key
    instance_id: str
    action: str
    name: str
    user: str


class Passwords:
    """What goes on here, by the uid of its action.

    Args:
        client: to reach the API server.
        source: where passwords are asked for.
        hypervisor: libvirtd.
        instances: directory of all instances.
        changed: has a Server looked at.
    """

    def __init__(
        self,
        client: KubeClient,
        source: BootDataSource,
        hypervisor: Hypervisor,
        instances: Path,
        changed: Callable[[Key], None],
    ) -> None:
        self._client = client
        self._source = source
        self._hypervisor = hypervisor
        self._instances = instances
        self._changed = changed
        self._errands: dict[str, Errand] = {}
        self._reports: dict[str, Report] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def of(self, action: str) -> Attempt | None:
        """Give how far an action is; None if it was not begun by this agent."""
        return Attempt(self._reports.get(action)) if action in self._errands else None

    def begin(self, errand: Errand) -> None:
        """Begin, unless it was begun. Done once more, by the next agent, it changes nothing."""
        if errand.action not in self._errands:
            self._errands[errand.action] = errand
            self._tasks[errand.action] = asyncio.create_task(self._run(errand))

    def forget(self, namespace: str, name: str) -> None:
        """Give an action up that is not open any more."""
        for uid, errand in list(self._errands.items()):
            if (errand.server[0], errand.name) == (namespace, name):
                self._tasks.pop(uid).cancel()
                del self._errands[uid]
                self._reports.pop(uid, None)

    async def close(self) -> None:
        """End what goes on; the next agent begins it anew."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _run(self, errand: Errand) -> None:
        try:
            answer = await self._ask(errand, await self._fetched(errand))
            reason, message = _FAILED.get(answer, (ActionReason.COMPLETED, f"set for {errand.user}"))
        except BootDataRefused as error:
            reason, message = _REASONS.get(error.status, ActionReason.BOOT_DATA_FAILED), error.message
        except StepFailed as error:
            reason, message = ActionReason.BOOT_DATA_FAILED, f"{error.message}; transient: ask again"
        except InstanceNotFound:
            reason, message = ActionReason.ILLEGAL_STATE, f"the guest is not here any more; {_AGAIN}"
        except HypervisorError as error:  # its text may be the guest's
            reason, message = ActionReason.GUEST_SILENT, f"libvirt: {type(error).__name__}; transient: ask again"
        done = reason is ActionReason.COMPLETED
        outcome = ActionPhase.SUCCEEDED if done else ActionPhase.FAILED
        text = message if done else f"SetPassword: {message}"
        self._reports[errand.action] = Report(outcome, reason.value, text)
        _log.info("password", server="/".join(errand.server), user=errand.user, outcome=outcome, reason=reason)
        self._changed(errand.server)

    async def _fetched(self, errand: Errand) -> str:
        action = (errand.server[0], errand.name)
        for pause in _PAUSES:
            try:
                return await fetch_password(self._client, self._source, action)
            except BootDataRefused:
                raise
            except StepFailed as error:
                _log.info("password not fetched", server="/".join(errand.server), error=error.message)
            await asyncio.sleep(pause)
        return await fetch_password(self._client, self._source, action)

    async def _ask(self, errand: Errand, password: str) -> Answer:
        owed = instance_files(self._instances, errand.instance_id).thaw_owed
        asked = f"have a password set in instance {errand.instance_id}"

        def verb(conn: Any) -> Answer:
            domain = conn.lookupByUUIDString(errand.instance_id)
            return set_password(domain, errand.user, password, owed)

        for pause in _PAUSES:
            try:
                answer: Answer = await self._hypervisor.call(asked, verb)
            except HypervisorUnavailable:
                await asyncio.sleep(pause)
            else:
                return answer
        return Answer(await self._hypervisor.call(asked, verb))
