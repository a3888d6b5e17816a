"""Both ends of exported volumes, put together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kumulus_agent.host.inventory import HOST_ROOT
from kumulus_agent.migration.credentials import Credentials, NoCredentials
from kumulus_agent.services.host_service import HostServices
from kumulus_agent.settings import AgentSettings
from kumulus_agent.volumes.exports.distant import DistantVolumes
from kumulus_agent.volumes.exports.serving import ExportFailed, Exports
from kumulus_agent.volumes.exports.tls import tls_folder
from kumulus_agent.volumes.guests import VolumeGuests
from kumulus_agent.volumes.shelves import Shelves
from kumulus_runtime.api_client import KubeClient

_QEMU_HOME: Final = "var/lib/libvirt/qemu"


@dataclass(frozen=True)
class Exporting:
    """What exports volumes of this host, and what has those of others."""

    exports: Exports
    distant: DistantVolumes
    services: tuple[HostServices, ...]

    def close(self) -> None:
        """Hear of no process's end any more; the processes go on."""
        for services in self.services:
            services.exits.close()


def exporting_of(
    settings: AgentSettings, client: KubeClient, credentials: Credentials, shelves: Shelves, guests: VolumeGuests
) -> Exporting:
    """Put both together.

    Args:
        settings: of the agent.
        client: to reach the API server.
        credentials: by which hosts know each other.
        shelves: say who is at work on a volume.
        guests: know who has it.
    """

    async def tls() -> Path:
        try:
            pem, authorities = await credentials.pem()
        except NoCredentials as error:
            raise ExportFailed(f"there are no certificates for the way between the hosts: {error}") from error
        return await asyncio.to_thread(tls_folder, settings.state_dir / "pki" / "nbd", pem, authorities)

    # Each hears of its own processes.
    out, in_ = HostServices(settings.run_dir / "exports"), HostServices(settings.run_dir / "imports")
    ports = range(settings.export_port, min(settings.export_port + settings.exports, 1 << 16))
    exports = Exports(out, settings.state_dir / "exports", settings.underlay_address, ports, tls)
    distant = DistantVolumes(
        settings.node_name, client, in_, settings.run_dir, tls, guests, shelves.held, HOST_ROOT / _QEMU_HOME
    )
    return Exporting(exports, distant, (out, in_))
