"""Where this host gets the keys of encrypted volumes: from the operator, each time that one is needed."""

from __future__ import annotations

from kumulus_agent.servers.boot_data import BootDataRefused, BootDataSource, fetch_volume_key
from kumulus_agent.servers.errors import StepFailed
from kumulus_agent.storage.errors import Retryable
from kumulus_agent.volumes.drivers.keys import KeyMissing
from kumulus_runtime.api_client import KubeClient

_SELDOM = 30.0


async def volume_key(client: KubeClient, source: BootDataSource, volume: tuple[str, str]) -> bytes:
    """Give the key of a Volume by its namespace and name.

    Raises:
        KeyMissing: it is not there, or not for this host.
        Retryable: the operator cannot be asked now.
    """
    try:
        return await fetch_volume_key(client, source, volume)
    except BootDataRefused as refused:
        raise KeyMissing(f"the key of volume {volume[1]} cannot be had: {refused.message}", _SELDOM) from None
    except StepFailed as failed:
        raise Retryable(failed.message) from None
