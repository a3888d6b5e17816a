"""Plan what a Router joins (pure): which addresses it is to have, what of it must stay, what it says."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import Any

from kumulus_api import Network, Reference, Router
from kumulus_api.network import Subnet
from kumulus_api.router import AssignedGateway, AssignedInterface, ExternalGateway, RouterInterface, RouterReason
from kumulus_operator.bodies import counted
from kumulus_operator.faults import ready_status
from kumulus_operator.ipam.plan import fixed_address_fault
from kumulus_operator.refusal import Refusal, Refused, refuse
from kumulus_operator.servers.resolve import Catalog, ready_network
from kumulus_operator.views import Key
from kumulus_operator.waiting import CAPACITY, STANDBY, Need, quota

Range = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Joint:
    """A subnet that the router is to join, with its address there."""

    name: str
    network: Network
    subnet: Subnet
    address: str


@dataclass(frozen=True)
class Joined:
    """What became of the interfaces.

    Attributes:
        joints: those to be had, in the spec's order.
        kept: assigned ones that stay as they are, though they cannot be had anew or are not asked for.
        faults: why others are not there, or should not be.
    """

    joints: tuple[Joint, ...] = ()
    kept: tuple[AssignedInterface, ...] = ()
    faults: tuple[Refusal, ...] = ()


@dataclass(frozen=True)
class Way:
    """An external network that the router is to lead out to.

    Attributes:
        network: which.
        wanted: of each family the subnet, and the address to have there; None for a free one.
    """

    network: Network
    wanted: tuple[tuple[Subnet, str | None], ...]
    snat: bool
    snat_ipv6: bool = False


@dataclass(frozen=True)
class Needed:
    """What floating IPs need of a router: the fixed addresses that they lead to, with the floating IPs' names."""

    by_address: dict[str, list[str]] = field(default_factory=dict)

    def within(self, interface: AssignedInterface) -> list[str]:
        """Give the floating IPs that lead into the subnet of an interface."""
        ranges = ranges_of(interface.addresses)
        found = {
            name
            for address, names in self.by_address.items()
            if any(ip_address(address) in item for item in ranges)
            for name in names
        }
        return sorted(found)

    def all(self) -> list[str]:
        """Give all floating IPs."""
        return sorted({name for names in self.by_address.values() for name in names})


def ranges_of(addresses: Sequence[str]) -> list[Range]:
    """Give the subnets of addresses that have their prefix length."""
    return [ip_interface(item).network for item in addresses]


def with_prefix(address: str, subnet: Subnet) -> str:
    """Give an address with the prefix length of its subnet."""
    return f"{address}/{ip_network(subnet.cidr).prefixlen}"


def network_of(owner: Key, reference: Reference) -> Key:
    """Give the network that an object refers to."""
    return reference.namespace or owner[0], reference.name


def interests(router: Router) -> frozenset[Need]:
    """Give everything whose change may help a router that lacks something."""
    own, spec = router.key[0], router.spec
    references = [item.network for item in spec.interfaces]
    needs: set[Need] = {quota(own)}
    if spec.gateway is not None:
        needs.add(CAPACITY)
        references.append(spec.gateway.network)
    return frozenset(needs | {("Network", *network_of(router.key, item)) for item in references})


def join(router: Router, catalog: Catalog, needed: Needed) -> Joined:
    """Look at all interfaces.

    What is assigned stays while the spec says it, though its network is being deleted, and while floating IPs need it.
    Of two that overlap the one that is assigned stays.

    Args:
        router: as it is.
        catalog: where networks are.
        needed: by floating IPs.
    """
    given = router.spec.assignment
    assigned = {item.name: item for item in given.interfaces} if given is not None else {}
    taken: list[Range] = []
    way = given.gateway if given is not None else None
    if way is not None and router.spec.gateway is not None:
        stays = network_of(router.key, router.spec.gateway.network) == (way.network_namespace, way.network)
        taken += ranges_of(way.addresses) if stays else []
    joints: dict[str, Joint] = {}
    kept: list[AssignedInterface] = []
    faults: list[Refusal] = []
    for wanted in sorted(router.spec.interfaces, key=lambda item: not _same_network(router, item, assigned)):
        former = assigned.get(wanted.name)
        try:
            joint = _joint(router, wanted, catalog, taken)
        except Refused as refused:
            faults.append(refused.refusal)
            lasting = (RouterReason.NETWORK_NOT_READY, RouterReason.SUBNET_UNKNOWN)
            if former is not None and refused.refusal.reason in lasting and _same_network(router, wanted, assigned):
                kept.append(former)
                taken += ranges_of(former.addresses)
            continue
        if former is not None and not _same_subnet(former, joint) and (names := needed.within(former)):
            faults.append(in_use(f"interface {former.name}", names))
            kept.append(former)
            taken += ranges_of(former.addresses)
            continue
        joints[wanted.name] = joint
        taken.append(ip_network(joint.subnet.cidr))
    left = joints.keys() | {item.name for item in kept}
    for former in assigned.values():
        if former.name not in left and (names := needed.within(former)):
            faults.append(in_use(f"interface {former.name}", names))
            kept.append(former)
    order = [item.name for item in router.spec.interfaces if item.name in joints]
    return Joined(tuple(joints[name] for name in order), tuple(kept), tuple(faults))


def _same_network(router: Router, wanted: RouterInterface, assigned: dict[str, AssignedInterface]) -> bool:
    found = assigned.get(wanted.name)
    return found is not None and (found.network_namespace, found.network) == network_of(router.key, wanted.network)


def _same_subnet(assigned: AssignedInterface, joint: Joint) -> bool:
    network = (assigned.network_namespace, assigned.network)
    return network == joint.network.key and ranges_of(assigned.addresses) == [ip_network(joint.subnet.cidr)]


def _joint(router: Router, wanted: RouterInterface, catalog: Catalog, taken: Collection[Range]) -> Joint:
    where = f"interface {wanted.name}"
    network = _network(router.key[0], wanted.network, catalog, where)
    need: Need = ("Network", *network.key)
    subnets = network.spec.subnets
    subnet = next((item for item in subnets if wanted.subnet in (None, item.name)), None)
    if subnet is None:
        known = ", ".join(item.name for item in subnets)
        fault = f"network {network.metadata.name} has no subnet {wanted.subnet} but {known}"
        message = f"{where}: {fault}; transient: goes on when it has it, or name another"
        raise refuse(RouterReason.SUBNET_UNKNOWN, message, need)
    address = _address(router.key[0], wanted, network, subnet)
    cidr = ip_network(subnet.cidr)
    other = next((item for item in taken if item.version == cidr.version and item.overlaps(cidr)), None)
    if other is not None:
        message = f"{where}: {cidr} overlaps {other}, which the router has already; permanent: remove one of the two"
        raise refuse(RouterReason.OVERLAPPING_SUBNETS, message)
    return Joint(wanted.name, network, subnet, address)


def _address(own: str, wanted: RouterInterface, network: Network, subnet: Subnet) -> str:
    where, need = f"interface {wanted.name}", ("Network", *network.key)
    address = wanted.address or subnet.gateway
    if address is None:
        message = f"{where}: subnet {subnet.name} has no gateway; transient: give it one, or the interface an address"
        raise refuse(RouterReason.NO_GATEWAY_ADDRESS, message, need)
    if subnet.gateway is not None and ip_address(address) == ip_address(subnet.gateway):
        if network.key[0] != own:
            message = (
                f"{where}: {address} is the gateway of a subnet of another project, for its own routers; "
                "permanent: give the interface another address"
            )
            raise refuse(RouterReason.FOREIGN_GATEWAY, message, need)
        return str(ip_address(address))
    fault = fixed_address_fault(subnet, address)
    if fault is not None:
        raise refuse(RouterReason.ADDRESS_INVALID, f"{where}: {fault}; permanent: choose another", need)
    return str(ip_address(address))


def _network(own: str, reference: Reference, catalog: Catalog, where: str) -> Network:
    try:
        return ready_network(own, reference, catalog)
    except Refused as refused:
        reason, message = RouterReason.NETWORK_NOT_READY, f"{where}: {refused.refusal.message}"
        raise Refused(Refusal(reason.value, message, refused.refusal.needs)) from refused


def lead_out(router: Router, wanted: ExternalGateway, catalog: Catalog, inside: Collection[Range]) -> Way:
    """Look at the way out.

    Args:
        router: as it is.
        wanted: its gateway.
        catalog: where networks are.
        inside: the subnets of its interfaces.

    Raises:
        Refused: its network cannot be had.
    """
    network = _network(router.key[0], wanted.network, catalog, "gateway")
    need: Need = ("Network", *network.key)
    name = network.metadata.name
    if not network.spec.external:
        message = f"gateway: network {name} is not external; transient: goes on when its spec.external is true"
        raise refuse(RouterReason.NOT_EXTERNAL, message, need)
    given = router.spec.assignment.gateway if router.spec.assignment is not None else None
    same = given is not None and (given.network_namespace, given.network) == network.key
    had = [str(ip_interface(item).ip) for item in given.addresses] if given is not None and same else []
    subnets = _by_family(network, wanted.address)
    for subnet in subnets:
        cidr = ip_network(subnet.cidr)
        other = next((item for item in inside if item.version == cidr.version and item.overlaps(cidr)), None)
        if other is not None:
            message = f"gateway: {cidr} of network {name} overlaps {other} inside; permanent: remove one of the two"
            raise refuse(RouterReason.OVERLAPPING_SUBNETS, message, need)
    if wanted.address is not None:
        faults = [fixed_address_fault(subnet, wanted.address) for subnet in subnets]
        if all(faults):
            message = f"gateway: {faults[0]}; permanent: choose another address, or none"
            raise refuse(RouterReason.ADDRESS_INVALID, message, need)
    addresses = tuple((item, _wanted_in(item, [wanted.address or "", *had])) for item in subnets)
    return Way(network, addresses, wanted.snat, wanted.snat_ipv6)


def _by_family(network: Network, address: str | None) -> list[Subnet]:
    """Give one subnet of each family: the one with the address, else the first."""
    chosen: dict[int, Subnet] = {}
    for subnet in network.spec.subnets:
        cidr = ip_network(subnet.cidr)
        if cidr.version not in chosen or (address is not None and ip_address(address) in cidr):
            chosen[cidr.version] = subnet
    return [chosen[version] for version in sorted(chosen)]


def _wanted_in(subnet: Subnet, addresses: Sequence[str]) -> str | None:
    cidr = ip_network(subnet.cidr)
    return next((str(ip_address(item)) for item in addresses if item and ip_address(item) in cidr), None)


def gateway_needed(router: Router, needed: Needed) -> Refusal | None:
    """Say that floating IPs need the way out that the spec has no more, or None."""
    given = router.spec.assignment.gateway if router.spec.assignment is not None else None
    if given is None or not (names := needed.all()):
        return None
    wanted = router.spec.gateway
    if wanted is not None and network_of(router.key, wanted.network) == (given.network_namespace, given.network):
        return None
    return in_use("gateway", names)


def in_use(what: str, floating: Collection[str]) -> Refusal:
    """Say that floating IPs need a part of a router."""
    many = len(floating) > 1
    message = (
        f"{what}: {counted('floating IP', floating)} still {'need' if many else 'needs'} it; "
        f"transient: goes when {'they lead' if many else 'it leads'} elsewhere"
    )
    return Refusal(RouterReason.IN_USE.value, message)


def reachable_routes(
    router: Router, interfaces: Sequence[AssignedInterface], gateway: AssignedGateway | None
) -> tuple[list[dict[str, Any]], list[Refusal]]:
    """Give the static routes whose next hop the router reaches, and why others are left out."""
    addresses = [address for item in interfaces for address in item.addresses]
    addresses += gateway.addresses if gateway is not None else []
    own = {ip_interface(item).ip for item in addresses}
    ranges = ranges_of(addresses)
    routes, faults = [], []
    for route in router.spec.routes:
        hop, where = ip_address(route.next_hop), f"route to {route.destination}"
        if ip_network(route.destination, strict=False).version != hop.version:
            fault = f"{where}: next hop {hop} is of another family; permanent: choose another"
        elif hop in own:
            fault = f"{where}: next hop {hop} is the router itself; permanent: choose another"
        elif not any(hop in item for item in ranges if item.version == hop.version):
            fault = f"{where}: next hop {hop} is in no subnet of the router; transient: goes on when it has that subnet"
        else:
            routes.append(route.dump())
            continue
        faults.append(Refusal(RouterReason.NEXT_HOP_UNREACHABLE.value, fault))
    return routes, faults


def standby_needed(router: Router) -> set[Need]:
    """Give what a router waits for whose gateway no other host can take over."""
    gateway = router.spec.assignment.gateway if router.spec.assignment is not None else None
    takeover = gateway.takeover if gateway is not None else None
    return {STANDBY} if takeover is not None and takeover.standby is None else set()


def router_status(router: Router, faults: Sequence[Refusal], now: datetime) -> dict[str, Any] | None:
    """Give the status to write, or None if it says so already.

    Args:
        router: as it is, with its assignment.
        faults: what is not as the spec says; the first is told.
        now: the present.
    """
    found = router.status.dump() if router.status else {}
    wanted = ready_status(router, found, faults, (RouterReason.ROUTING, _shown(router)), now)
    return None if wanted == found else wanted


def _shown(router: Router) -> str:
    given = router.spec.assignment
    count = len(given.interfaces) if given is not None else 0
    text = f"joins {count} subnet{'' if count == 1 else 's'}"
    if given is None or given.gateway is None:
        return text
    standby = given.gateway.takeover.standby if given.gateway.takeover is not None else None
    behind = f", host {standby.host} takes over" if standby is not None else ""
    routed = f"; {', '.join(given.gateway.routed)} goes out as it is" if given.gateway.routed else ""
    return f"{text}, leads out on host {given.gateway.host}{behind}{routed}"
