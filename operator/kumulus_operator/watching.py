"""Watch by our own client what comes by the ten thousand.

kopf keeps a task and a memory for each object, makes loggers and asks all handlers at each event: five times the time
that taking the event in needs. After a start with ten thousand servers it is busy for half a minute before it watches.
"""

from __future__ import annotations

import asyncio

from kumulus_api import Kind
from kumulus_operator.cloud import Cloud
from kumulus_runtime import kopf_watching


def follow(cloud: Cloud, kind: type[Kind], group: asyncio.TaskGroup, listed: asyncio.Event) -> asyncio.Task[None]:
    """Take in all objects of a kind from now on; `listed` is set when those are taken in that were there."""
    plural = kind.definition.plural

    def again() -> None:
        # What was made by a write of ours and deleted in between, neither the watch nor its list has ever shown.
        cloud.queues.relists.add(("", plural))

    async def watch() -> None:
        async for event, body in cloud.client.watch(kind, listed_again=again):
            if event == "SYNCED":
                listed.set()
            else:
                cloud.take(kind, body, deleted=event == "DELETED")

    return group.create_task(watch(), name=kopf_watching.name_of(plural))
