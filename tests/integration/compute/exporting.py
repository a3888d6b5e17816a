"""Two hosts, of which one exports volumes to the other: certificates, an API that tells what is assigned, both ends."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kumulus_agent.migration.certificate_request import make_request
from kumulus_agent.services.host_service import HostServices
from kumulus_agent.volumes.drivers.protocol import VolumeDriver
from kumulus_agent.volumes.drivers.testing import Made
from kumulus_agent.volumes.exports.distant import Distant, DistantVolumes
from kumulus_agent.volumes.exports.serving import TLS, Exports
from kumulus_agent.volumes.exports.tls import tls_folder
from kumulus_agent.volumes.shelves import Shelves
from kumulus_api import Kind, Volume
from kumulus_operator.migration.authority import make_authority, sign
from kumulus_runtime.errors import Retryable

ADDRESS = "127.0.0.1"
KEY = ("demo", "data")


class Authority:
    """Makes out the certificates of hosts."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made = make_authority(datetime.now(UTC))
        self._given: dict[str, TLS] = {}

    def tls(self, host: str) -> TLS:
        """Give what gives a host's folder of certificates."""
        if host in self._given:
            return self._given[host]
        asked = make_request(host)
        given = {"authority": self._made["authority"], "key": self._made["key"], "node": host}
        pem = asked["key"] + sign({**given, "request": asked["request"]}, datetime.now(UTC))
        folder = tls_folder(self._root / host, pem.encode(), self._made["authority"].encode())

        async def give() -> Path:
            return folder

        self._given[host] = give
        return give


@dataclass
class API:
    """Tells where a volume lies, who is to have it, and what its host has said."""

    volume_id: str
    exported_to: list[str] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    away: bool = False

    async def get(self, kind: type[Kind], name: str, namespace: str | None = None) -> dict[str, Any]:
        """Give an object as the API server has it.

        Raises:
            Retryable: it does not answer.
        """
        if self.away:
            raise Retryable(503, "ServiceUnavailable", "the API server is away")
        if kind is not Volume:
            return {"status": {"tunnelAddress": ADDRESS}}
        given = {"volumeID": self.volume_id, "host": "h1", "exportedTo": self.exported_to}
        return {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"assignment": given},
            "status": self.status,
        }


@dataclass
class Exporting:
    """Host h1 with a volume, and other hosts that it may be exported to."""

    root: Path
    api: API
    authority: Authority
    driver: VolumeDriver
    exports: Exports
    opened: list[HostServices]

    async def export_to(self, *hosts: str) -> None:
        """Do what the operator and the agent of h1 do: name the hosts, let them in, and say so."""
        self.api.exported_to = list(hosts)
        found = await self.driver.look(self.api.volume_id)
        assert found is not None
        port = await self.exports.ensure(self.api.volume_id, found, frozenset(hosts))
        self.api.status = {"sizeBytes": found.size, "export": {"port": port, "hosts": list(hosts)}}

    async def grow(self, size: int) -> None:
        """Do what the agent of h1 does with a volume that was given more room."""
        await self.exports.pause(self.api.volume_id)
        await self.driver.grow(self.api.volume_id, size)
        await self.export_to(*self.api.exported_to)

    def host(self, name: str, guests: Any) -> DistantVolumes:
        """Give another host's end."""
        services = HostServices(self.root / name / "services", init_pid=None)
        self.opened.append(services)
        run_dir, tls = self.root / name, self.authority.tls(name)
        return DistantVolumes(name, self.api, services, run_dir, tls, guests, Shelves().held, self.root / "nobody")  # type: ignore[arg-type]

    @property
    def distant(self) -> Distant:
        """The volume as another host is told of it."""
        return Distant(KEY, self.api.volume_id, "h1")

    async def close(self) -> None:
        """End all processes."""
        for services in self.opened:
            for unit in services.observe():
                await services.absent(unit)
            services.exits.close()


def exporting_at(root: Path, volume_id: str, kind: str = "local") -> Exporting:
    """Have a host with nothing on it yet; `kind` is that of the driver."""
    services = HostServices(root / "h1" / "services", init_pid=None)
    authority = Authority(root / "pki")
    exports = Exports(services, root / "h1" / "exports", ADDRESS, free_ports(), authority.tls("h1"))
    driver = Made(kind, root / "h1").driver()
    return Exporting(root, API(volume_id), authority, driver, exports, [services])


def free_ports() -> range:
    """Give a port that is free now."""
    with socket.create_server((ADDRESS, 0)) as taken:
        port = int(taken.getsockname()[1])
    return range(port, port + 1)


MakeExporting = Callable[[str], Exporting]
