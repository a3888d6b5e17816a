"""Keys of VPN connections: the operator hands them to the hosts of a router's gateway."""

from __future__ import annotations

from kumulus_agent.servers.boot_data import BootDataSource, fetch_vpn_key
from kumulus_agent.servers.errors import StepFailed
from kumulus_agent.vpn.here import KeyMissing
from kumulus_runtime.api_client import KubeClient


class KeySource:
    """Asks the operator.

    Args:
        client: to reach the API server, which tells whom to trust.
        source: where to ask.
    """

    def __init__(self, client: KubeClient, source: BootDataSource) -> None:
        self._client = client
        self._source = source

    async def fetch(self, namespace: str, name: str) -> bytes:
        """Give the key of a VPN connection.

        Raises:
            KeyMissing: the operator does not give it, or cannot be asked now.
        """
        try:
            return await fetch_vpn_key(self._client, self._source, (namespace, name))
        except StepFailed as error:
            raise KeyMissing(str(error)) from error
