"""What a network's DHCP and DNS server is told (pure): its command line, and the lines of its files.

Router advertisements tell of prefixes, MTU and DNS; that there is a way out (a router lifetime) only a router itself
can tell, as the sender of an advertisement is the router.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from itertools import chain
from pathlib import Path

from kumulus_agent.network.metadata_link import ADDRESS as METADATA_ADDRESS
from kumulus_agent.network.state import NetworkDesired, PortDesired, SubnetDesired

LEASE_SECONDS = 3600
"""How long a guest keeps its address without asking again; it gets the same one then."""
PREFIX_SECONDS = 86400
"""How long a guest keeps an address that it made itself without hearing of its prefix again."""
ADVERTISE_SECONDS = 600
Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Files:
    """The files of one network's server."""

    directory: Path

    @property
    def hosts(self) -> Path:
        """MAC, addresses and name per local port."""
        return self.directory / "hosts"

    @property
    def records(self) -> Path:
        """Names of all ports of the network, as /etc/hosts."""
        return self.directory / "records"

    @property
    def leases(self) -> Path:
        """The leases that were given, kept by dnsmasq."""
        return self.directory / "leases"


def host_lines(network: NetworkDesired) -> tuple[str, ...]:
    """Return the lines of `hosts`: one per port with an address in a subnet that is served.

    DHCP gives the first IPv4 address, DHCPv6 all addresses of its subnets; who is known by its MAC may ask for the
    rest.
    """
    lines = []
    for port in network.ports:
        given, known = _given(port, network)
        if given or known:
            names = [name for name in (port.dns_name, port.hostname) if name]
            lines.append(",".join((port.mac, *given, *names[:1], f"{LEASE_SECONDS}")))
    return tuple(sorted(lines))


def _given(port: PortDesired, network: NetworkDesired) -> tuple[list[str], bool]:
    """Give the addresses that a port is given, and whether there are others that it is told of."""
    first, others, known = [], [], False
    for address in port.addresses:
        subnet = next((subnet for subnet in network.served if address in subnet.cidr), None)
        if subnet is None:
            continue
        if isinstance(address, IPv4Address):
            first.append(str(address))
        elif subnet.mode == "DHCPv6Stateful":
            others.append(f"[{address}]")
        else:
            known = True
    return [*first[:1], *others], known


def record_lines(network: NetworkDesired) -> tuple[str, ...]:
    """Return the lines of `records`: address, then name, with the domain if there is one."""
    domain = network.domain

    def line(name: str, address: object) -> str:
        return f"{address} {name}.{domain} {name}" if domain else f"{address} {name}"

    return tuple(sorted(line(record.name, record.address) for record in network.records))


def argv(network: NetworkDesired, files: Files) -> tuple[str, ...]:
    """Return dnsmasq's command line."""
    return (
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file",
        "--log-facility=-",
        "--quiet-dhcp",
        "--quiet-dhcp6",
        "--quiet-ra",
        "--no-hosts",
        "--no-resolv",
        "--domain-needed",
        "--bind-interfaces",
        "--interface=eth0",
        "--except-interface=lo",
        f"--addn-hosts={files.records}",
        f"--dhcp-hostsfile={files.hosts}",
        f"--dhcp-leasefile={files.leases}",
        "--dhcp-authoritative",
        "--dhcp-ignore=tag:!known",
        "--no-ping",
        f"--dhcp-option=option:mtu,{network.mtu}",
        *_of_network(network),
        *(line for number, subnet in enumerate(network.served) for line in _of_subnet(f"s{number}", subnet, network)),
    )


def _of_network(network: NetworkDesired) -> Iterator[str]:
    if any(subnet.mode for subnet in network.served):
        yield "--enable-ra"
        yield f"--ra-param=eth0,mtu:{network.mtu},{ADVERTISE_SECONDS},0"
    if network.domain:
        yield f"--domain={network.domain}"
        yield f"--local=/{network.domain}/"
        yield f"--dhcp-option=option6:domain-search,{network.domain}"
    servers = dict.fromkeys(server for subnet in network.served for server in subnet.dns_servers)
    for server in servers:
        yield f"--server={server}"


def _of_subnet(tag: str, subnet: SubnetDesired, network: NetworkDesired) -> Iterator[str]:
    if isinstance(subnet.cidr, IPv6Network):
        first, bits = subnet.cidr.network_address, subnet.cidr.prefixlen
        ranges = {
            "SLAAC": f"ra-only,{bits},{PREFIX_SECONDS}",
            "DHCPv6Stateless": f"ra-stateless,{bits},{PREFIX_SECONDS}",
            "DHCPv6Stateful": f"static,{bits},{LEASE_SECONDS}",
        }
        yield f"--dhcp-range=set:{tag},{first},{ranges[subnet.mode or 'SLAAC']}"
        servers = ",".join(f"[{server}]" for server in told_servers(subnet, network))
        yield f"--dhcp-option=tag:{tag},option6:dns-server,{servers}"
        return
    yield f"--dhcp-range=set:{tag},{subnet.cidr.network_address},static,{subnet.cidr.netmask},{LEASE_SECONDS}"
    yield f"--dhcp-option=tag:{tag},option:dns-server,{','.join(map(str, told_servers(subnet, network)))}"
    # Without a value the option is withheld: dnsmasq would name itself as the router.
    yield f"--dhcp-option=tag:{tag},option:router" + (f",{subnet.gateway}" if subnet.gateway else "")
    told = ",".join(chain.from_iterable(classless_routes(subnet)))
    yield f"--dhcp-option=tag:{tag},option:classless-static-route,{told}"


def classless_routes(subnet: SubnetDesired) -> Iterator[tuple[str, str]]:
    """Yield the routes that guests are told: to the metadata service, the subnet's own, and the default route.

    Who is given classless routes ignores the router option (RFC 3442).
    """
    yield f"{METADATA_ADDRESS}/32", str(subnet.service_address)
    for target, via in subnet.routes:
        yield str(target), str(via)
    if subnet.gateway:
        yield "0.0.0.0/0", str(subnet.gateway)


def told_servers(subnet: SubnetDesired, network: NetworkDesired) -> tuple[Address, ...]:
    """Give the DNS servers that guests are told: the network's own, unless that reaches no others and others are given.

    On a provider network it has no way out: its address is the same on every host.
    """
    given = tuple(server for server in subnet.dns_servers if server.version == subnet.cidr.version)
    return given if given and network.provider else (subnet.service_address,)


_ADDRESS = 2


def conflicting_leases(leases: str, former: tuple[str, ...], hosts: tuple[str, ...]) -> bool:
    """Tell whether an address that a port is to have may still be leased to another.

    Args:
        leases: the text of dnsmasq's list: expiry, MAC (of DHCPv6 the number that the client gave), address, name and
            client id per line.
        former: the lines of `hosts` as they were.
        hosts: as they are now.
    """
    held = {lease[2]: lease[1] for lease in map(str.split, leases.splitlines()) if len(lease) > _ADDRESS}
    owners = {address: mac for mac, *given in _parts(hosts) for address in given}
    if any(held[address] != mac for address, mac in owners.items() if address in held and ":" not in address):
        return True
    # Whose a lease of DHCPv6 is cannot be told: its client need not say its MAC (RFC 8415, section 11).
    new = {address for _, *given in _parts(set(hosts) - set(former)) for address in given if ":" in address}
    return not new.isdisjoint(held)


def _parts(hosts: Iterable[str]) -> Iterator[list[str]]:
    """Yield of each line the MAC, and its other parts without brackets."""
    for line in hosts:
        mac, *given = line.split(",")
        yield [mac, *(part.strip("[]") for part in given)]
