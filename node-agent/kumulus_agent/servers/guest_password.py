"""The password that a guest has made for itself, encrypted for its user (Nova's get-password).

The guest tells it once, to the metadata service. It stands in the Server's status, in a field of its own manager: no
Secret is written, on which agents have no verb, and only the holder of the private key can read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from kumulus_agent import metrics
from kumulus_agent.servers.desired import Desired, Key
from kumulus_api import Server
from kumulus_api.server_status import is_guest_password
from kumulus_runtime.api_client import ApiError, KubeClient
from kumulus_runtime.store import Store

_MANAGER = "kumulus-agent-password"


class Kept(Enum):
    """What became of a password."""

    WRITTEN = "written"
    TOLD_BEFORE = "told before"
    UNFIT = "not base64 of a usual length"
    NOT_NOW = "the API cannot be told now"


@dataclass(frozen=True)
class GuestPasswords:
    """Writes them into the status of Servers.

    Attributes:
        client: to reach the API server.
        store: what the watch has shown; takes what was written.
    """

    client: KubeClient
    store: Store
    _writing: set[Key] = field(default_factory=set)

    async def keep(self, key: Key, instance_id: str, text: str) -> Kept:
        """Write what a guest has told, the first time after its server was made or rebuilt.

        Args:
            key: its Server's namespace and name.
            instance_id: the guest.
            text: the password, encrypted and in base64.
        """
        if not is_guest_password(text):
            return Kept.UNFIT
        body = self.store.get(Server, key[1], key[0])
        assignment = (body or {}).get("spec", {}).get("assignment") or {}
        if body is None or assignment.get("instanceID") != instance_id:
            return Kept.NOT_NOW
        if key in self._writing or (body.get("status") or {}).get("guestPassword"):
            return Kept.TOLD_BEFORE
        self._writing.add(key)
        try:
            await self._write(key, body["metadata"]["uid"], {"guestPassword": text})
        except ApiError:
            return Kept.NOT_NOW
        finally:
            self._writing.discard(key)
        return Kept.WRITTEN

    async def forget(self, desired: Desired) -> None:
        """Let the guest tell another: its disk is made anew.

        Raises:
            ApiError: it could not be removed.
        """
        namespace, name = desired.key
        status = (self.store.get(Server, name, namespace) or {}).get("status") or {}
        if "guestPassword" in status:
            await self._write(desired.key, desired.uid, {})

    async def _write(self, key: Key, uid: str, status: dict[str, Any]) -> None:
        metadata = {"name": key[1], "namespace": key[0], "uid": uid}
        body = await self.client.apply_status(Server, {"metadata": metadata, "status": status}, manager=_MANAGER)
        metrics.STATUS_WRITES.labels(kind="Server").inc()
        self.store.apply("MODIFIED", body)
