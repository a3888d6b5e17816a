"""Which ServerAction is open for an instance, as the API server says it now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from kumulus_agent.servers.desired import Key, read_image
from kumulus_agent.servers.terms import Act
from kumulus_api import ServerAction
from kumulus_api.server_action import ENDED, MIGRATIONS, ActionPhase, RebootType
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.store import Store


def is_open(body: Mapping[str, Any], host: str) -> bool:
    """Say whether a host's agent has something to do for an action: it is open, and the agent has not told its end."""
    status = body.get("status") or {}
    said = (status.get("report") or {}).get("outcome")
    return status.get("phase") == ActionPhase.RUNNING.value and status.get("host") == host and said not in ENDED


def read_act(body: Mapping[str, Any]) -> Act | None:
    """Read an action; None if it is not for the agent's plan of a single instance, or of a newer version than ours."""
    try:
        action = ServerAction.model_validate(body)
    except ValidationError:
        return None
    if action.spec.type in MIGRATIONS:
        return None
    reboot = action.spec.reboot
    return Act(
        name=action.metadata.name,
        uid=action.metadata.uid,
        type=action.spec.type,
        hard=reboot is not None and reboot.type is RebootType.HARD,
        image=read_image(action.status.image if action.status is not None else None),
        image_name=action.spec.create_image.name if action.spec.create_image is not None else "",
        user=action.spec.set_password.user if action.spec.set_password is not None else "",
    )


@dataclass(frozen=True)
class OpenActions:
    """Finds them: the watch names the candidates, a live read decides."""

    client: KubeClient
    store: Store
    host: str

    async def of(self, key: Key, instance_id: str) -> Act | None:
        """Give the act that is under way for an instance."""
        for seen in self.store.list(ServerAction, key[0]):
            if seen["spec"]["server"]["name"] != key[1] or not self._is_for(seen, instance_id):
                continue
            body = await self.client.get(ServerAction, seen["metadata"]["name"], key[0])
            if body is None:
                self.store.apply("DELETED", seen)
            elif self._is_for(body, instance_id) and (act := read_act(body)) is not None:
                return act
        return None

    def _is_for(self, body: Mapping[str, Any], instance_id: str) -> bool:
        return is_open(body, self.host) and (body["status"].get("instanceID") == instance_id)
