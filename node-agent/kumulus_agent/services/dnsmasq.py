"""DHCP and DNS of a network for its ports on this host: one dnsmasq in the network's service namespace.

It gives each port its own address and nothing to strangers. The files are written whole; dnsmasq re-reads them at a
SIGHUP, which also forgets what was taken away (its inotify mode only adds).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from kumulus_agent.network.state import NetworkDesired, SubnetDesired
from kumulus_agent.services.host_service import HostServices, ServiceSpec

LEASE_SECONDS = 3600
"""How long a guest keeps its address without asking again; it gets the same one then."""


@dataclass(frozen=True)
class Files:
    """The files of one network's server."""

    directory: Path

    @property
    def hosts(self) -> Path:
        """MAC, address and name per local port."""
        return self.directory / "hosts"

    @property
    def records(self) -> Path:
        """Names of all ports of the network, as /etc/hosts."""
        return self.directory / "records"

    @property
    def leases(self) -> Path:
        """The leases that were given, kept by dnsmasq."""
        return self.directory / "leases"


def unit(vni: int) -> str:
    """Return the name of the network's service."""
    return f"kumulus-dns-{vni:06x}"


def vni_of(service: str) -> int | None:
    """Return the network whose service this is; None if it is none of ours."""
    prefix, _, number = service.rpartition("-")
    return int(number, 16) if prefix == "kumulus-dns" else None


def host_lines(network: NetworkDesired) -> tuple[str, ...]:
    """Return the lines of `hosts`: one per port with an address in the subnet."""
    subnet = network.subnet
    if subnet is None:
        return ()
    lines = []
    for port in network.ports:
        address = next((address for address in port.addresses if address in subnet.cidr), None)
        if address is not None:
            lines.append(
                ",".join((port.mac, str(address), *((port.hostname,) if port.hostname else ()), f"{LEASE_SECONDS}"))
            )
    return tuple(sorted(lines))


def record_lines(network: NetworkDesired) -> tuple[str, ...]:
    """Return the lines of `records`: address, then name, with the domain if there is one."""
    domain = network.subnet.domain if network.subnet else ""

    def line(name: str, address: object) -> str:
        return f"{address} {name}.{domain} {name}" if domain else f"{address} {name}"

    return tuple(sorted(line(record.name, record.address) for record in network.records))


def argv(network: NetworkDesired, subnet: SubnetDesired, files: Files) -> tuple[str, ...]:
    """Return dnsmasq's command line."""
    return (
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file",
        "--log-facility=-",
        "--quiet-dhcp",
        "--no-hosts",
        "--no-resolv",
        "--domain-needed",
        "--bind-interfaces",
        "--interface=eth0",
        "--except-interface=lo",
        f"--listen-address={subnet.service_address}",
        f"--addn-hosts={files.records}",
        f"--dhcp-hostsfile={files.hosts}",
        f"--dhcp-leasefile={files.leases}",
        f"--dhcp-range={subnet.cidr.network_address},static,{subnet.cidr.netmask},{LEASE_SECONDS}",
        "--dhcp-authoritative",
        "--dhcp-ignore=tag:!known",
        "--no-ping",
        f"--dhcp-option=option:mtu,{network.mtu}",
        f"--dhcp-option=option:dns-server,{','.join(map(str, told_servers(subnet)))}",
        *_options(subnet),
    )


def told_servers(subnet: SubnetDesired) -> tuple[IPv4Address, ...]:
    """Give the DNS servers that guests are told: the network's own, unless that reaches no others and others are given.

    On a provider network it has no way out: its address is the same on every host.
    """
    return subnet.dns_servers if subnet.dns_servers and not subnet.forwards else (subnet.service_address,)


def _options(subnet: SubnetDesired) -> Iterator[str]:
    # Without a value the option is withheld: dnsmasq would name itself as the router.
    yield f"--dhcp-option=option:router,{subnet.gateway}" if subnet.gateway else "--dhcp-option=option:router"
    if subnet.routes:
        # Who is given classless routes ignores the router option (RFC 3442).
        default = (("0.0.0.0/0", str(subnet.gateway)),) if subnet.gateway else ()
        routes = (*((str(target), str(via)) for target, via in subnet.routes), *default)
        yield "--dhcp-option=option:classless-static-route," + ",".join(part for route in routes for part in route)
    if subnet.domain:
        yield f"--domain={subnet.domain}"
        yield f"--local=/{subnet.domain}/"
    for server in subnet.dns_servers:
        yield f"--server={server}"


def conflicting_leases(leases: str, hosts: tuple[str, ...]) -> bool:
    """Tell whether an address that a port is to have is still leased to another MAC.

    Args:
        leases: the text of dnsmasq's list: expiry, MAC, address, name and client id per line.
        hosts: the lines of `hosts`.
    """
    owner = {address: mac for mac, address, *_ in (line.split(",") for line in hosts)}
    held = (line.split() for line in leases.splitlines())
    return any(len(lease) > 2 and owner.get(lease[2], lease[1]) != lease[1] for lease in held)


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

    async def ensure(
        self, network: NetworkDesired, subnet: SubnetDesired, netns: Path, *, restart: bool
    ) -> tuple[str, ...]:
        """Have the network's server run with its present ports and names.

        Args:
            network: the network, with at least one port.
            subnet: its subnet.
            netns: the file of the namespace to run in.
            restart: the namespace's interface is a new one.

        Returns:
            What was done; empty if all was so already.
        """
        files = self._files(network.vni)
        files.directory.mkdir(parents=True, exist_ok=True)
        hosts, records = host_lines(network), record_lines(network)
        changed = [file.name for file, lines in ((files.hosts, hosts), (files.records, records)) if _write(file, lines)]
        if changed and files.leases.exists() and conflicting_leases(files.leases.read_text(), hosts):
            # dnsmasq gives a leased address to nobody else, and keeps leases in memory.
            await self._services.absent(unit(network.vni))
            files.leases.unlink()
        spec = ServiceSpec(unit(network.vni), argv(network, subnet, files), str(netns))
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
