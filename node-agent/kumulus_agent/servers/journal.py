"""What was begun for ServerActions, beside the instance: an agent that starts anew neither repeats nor forgets it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, dataclass

from kumulus_agent.servers.instance_files import InstanceFiles
from kumulus_agent.storage.atomic import write_file

_KEPT = 8
"""Entries: actions of one server come one after the other."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What was done for one action.

    Attributes:
        pressed: when the power button was pressed (seconds since 1970), or None.
        rebuilt: the root disk has been made anew.
    """

    pressed: float | None = None
    rebuilt: bool = False

    @property
    def pressed_for(self) -> float | None:
        """Seconds since the power button was pressed; a clock that was set back counts as the time being over."""
        if self.pressed is None:
            return None
        since = time.time() - self.pressed
        return since if since >= 0 else float("inf")


async def read_entry(files: InstanceFiles, uid: str) -> Entry:
    """Give what was done for the action of a uid; nothing if nothing readable was written."""
    return (await asyncio.to_thread(_read, files)).get(uid, Entry())


async def write_entry(files: InstanceFiles, uid: str, entry: Entry) -> None:
    """Note what was done for an action; it is on the disk when this returns."""

    def write() -> None:
        entries = _read(files)
        entries.pop(uid, None)
        entries[uid] = entry
        newest = list(entries)[-_KEPT:]
        document = {name: asdict(entries[name]) for name in newest}
        files.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        write_file(files.journal, json.dumps(document).encode())

    await asyncio.to_thread(write)


def _read(files: InstanceFiles) -> dict[str, Entry]:
    try:
        document = json.loads(files.journal.read_bytes())
        return {str(uid): Entry(item["pressed"], bool(item["rebuilt"])) for uid, item in document.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
