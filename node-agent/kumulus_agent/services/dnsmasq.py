"""DHCP and DNS of a network for its ports on this host: one dnsmasq in the network's service namespace.

It gives each port its own addresses and nothing to strangers. The files are written whole; dnsmasq re-reads them at a
SIGHUP, which also forgets what was taken away (its inotify mode only adds).
"""

from __future__ import annotations

from pathlib import Path

from kumulus_agent.network.state import NetworkDesired
from kumulus_agent.services.dnsmasq_files import Files, argv, conflicting_leases, host_lines, record_lines
from kumulus_agent.services.host_service import HostServices, ServiceSpec


def unit(vni: int) -> str:
    """Return the name of the network's service."""
    return f"kumulus-dns-{vni:06x}"


def vni_of(service: str) -> int | None:
    """Return the network whose service this is; None if it is none of ours."""
    prefix, _, number = service.rpartition("-")
    return int(number, 16) if prefix == "kumulus-dns" else None


class Dnsmasq:
    """The DHCP and DNS servers of this host's networks.

    Args:
        services: where they are started.
        directory: their files are in a folder per network below it.
    """

    def __init__(self, services: HostServices, directory: Path) -> None:
        self._services = services
        self._directory = directory

    def _files(self, vni: int) -> Files:
        return Files(self._directory / f"{vni:06x}")

    async def ensure(self, network: NetworkDesired, netns: Path, *, restart: bool) -> tuple[str, ...]:
        """Have the network's server run with its present ports and names.

        Args:
            network: the network, with at least one port and one subnet that is served.
            netns: the file of the namespace to run in.
            restart: the namespace's interface is a new one.

        Returns:
            What was done; empty if all was so already.
        """
        files = self._files(network.vni)
        files.directory.mkdir(parents=True, exist_ok=True)
        hosts, records = host_lines(network), record_lines(network)
        former = tuple(files.hosts.read_text().splitlines()) if files.hosts.exists() else ()
        changed = [file.name for file, lines in ((files.hosts, hosts), (files.records, records)) if _write(file, lines)]
        if changed and files.leases.exists() and conflicting_leases(files.leases.read_text(), former, hosts):
            # dnsmasq gives a leased address to nobody else, and keeps leases in memory.
            await self._services.absent(unit(network.vni))
            files.leases.unlink()
        spec = ServiceSpec(unit(network.vni), argv(network, files), str(netns))
        if await self._services.ensure(spec, restart=restart):
            return (f"started {spec.unit}",)
        if changed:
            self._services.reload(spec.unit)
        return tuple(f"wrote {name}" for name in changed)

    def runs(self, vni: int) -> bool:
        """Whether the network's server is alive."""
        return self._services.runs(unit(vni))

    async def absent(self, vni: int) -> bool:
        """End the network's server and remove its files; False if there was none."""
        gone = await self._services.absent(unit(vni))
        files = self._files(vni)
        if files.directory.exists():
            for file in files.directory.iterdir():
                file.unlink()
            files.directory.rmdir()
            gone = True
        return gone


def _write(file: Path, lines: tuple[str, ...]) -> bool:
    """Replace the file's text if it differs; False if it did not."""
    text = "".join(f"{line}\n" for line in lines)
    if file.exists() and file.read_text() == text:
        return False
    draft = file.with_suffix(".draft")
    draft.write_text(text)
    # dnsmasq reads as an unprivileged user.
    draft.chmod(0o644)
    draft.rename(file)
    return True
