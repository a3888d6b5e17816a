"""What the two agents tell of a migration: in the action, and in the server's status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kumulus_agent.migration.domains import Done
from kumulus_api import Server, ServerAction
from kumulus_api.server_action import ActionPhase, ActionReason
from kumulus_runtime.api_client import KubeClient, NotFound

Object = dict[str, Any]

SOURCE = "source"
TARGET = "target"
_REPORTS = {SOURCE: "report", TARGET: "targetReport"}
_MANAGERS = {SOURCE: "kumulus-agent", TARGET: "kumulus-agent-target"}


@dataclass(frozen=True, slots=True)
class Word:
    """What is told.

    Attributes:
        outcome: Running, Succeeded or Failed.
        reason: one word.
        message: a sentence, or nothing.
        progress: per cent.
        downtime: milliseconds, once they are known.
        total: milliseconds, likewise.
    """

    outcome: ActionPhase
    reason: str
    message: str = ""
    progress: int | None = None
    downtime: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class MigrationReporter:
    """Writes the words of this host.

    Attributes:
        client: to reach the API server.
        host: this host's name.
    """

    client: KubeClient
    host: str

    async def tell(self, action: Object, role: str, word: Word) -> Object | None:
        """Write a word; the server's status first, for it cannot be written any more when the host is another.

        Returns:
            The action as it is then; None if it is gone.
        """
        if word.reason != _told(action, role):
            await self._tell_server(action, role, word)
        report: Object = {"outcome": word.outcome.value, "reason": word.reason, "message": word.message[:2048]}
        if word.progress is not None:
            report["progress"] = word.progress
        metadata = action["metadata"]
        body = {
            "metadata": {name: metadata[name] for name in ("name", "namespace", "uid")},
            "status": {_REPORTS[role]: report},
        }
        try:
            return await self.client.apply_status(ServerAction, body, manager=_MANAGERS[role])
        except NotFound:
            return None

    async def _tell_server(self, action: Object, role: str, word: Word) -> None:
        part: Object = {"host": self.host, "action": action["metadata"]["name"], "state": word.reason}
        for name, value in (
            ("message", word.message[:2048] or None),
            ("downtimeMilliseconds", word.downtime),
            ("totalMilliseconds", word.total),
        ):
            if value is not None:
                part[name] = value
        body = {
            "metadata": {"name": action["spec"]["server"]["name"], "namespace": action["metadata"]["namespace"]},
            "status": {"migration": {role: part}},
        }
        try:
            await self.client.apply_status(Server, body, manager=f"kumulus-agent-migration-{role}")
        except NotFound:
            return


def report_of(action: Object, role: str) -> Object:
    """Give what was told last; empty if nothing was."""
    return dict((action.get("status") or {}).get(_REPORTS[role]) or {})


def _told(action: Object, role: str) -> str:
    return str(report_of(action, role).get("reason", ""))


def handed_over(done: Done) -> Word:
    """Say that the guest has left, and how long it took."""
    parts = [f"{name} {value} ms" for name, value in (("downtime", done.downtime), ("total", done.total)) if value]
    return Word(
        ActionPhase.SUCCEEDED,
        ActionReason.HANDED_OVER,
        ", ".join(parts),
        downtime=done.downtime,
        total=done.total,
    )


def memory_lost(host: str, why: str, *, moved: bool) -> Word:
    """Say that the guest's memory is whole on neither host, and where it starts anew."""
    message = f"post-copy: {why}; its memory was lost on the way: the server starts anew from its disk on host {host}"
    return Word(ActionPhase.SUCCEEDED if moved else ActionPhase.FAILED, ActionReason.MEMORY_LOST, message)


def aborted(why: str) -> Word:
    """Say that the migration was given up as asked."""
    return Word(ActionPhase.FAILED, ActionReason.ABORTED, f"given up as asked: {why}; the server stays on its host")


def not_carried(why: str, host: str) -> Word:
    """Say that the migration failed and that the server stays on its host."""
    message = f"migration: {why}; the server stays on host {host}; transient: ask again"
    return Word(ActionPhase.FAILED, ActionReason.MIGRATION_FAILED, message)
