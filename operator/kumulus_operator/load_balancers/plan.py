"""Plan what a LoadBalancer leads to, and on which hosts it is (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Any

from kumulus_api import Condition, LoadBalancer, Network, Server
from kumulus_api.load_balancer import (
    AssignedListener,
    AssignedMember,
    Listener,
    ListenerProtocol,
    Pool,
)
from kumulus_api.load_balancer_status import LoadBalancerConditionType, LoadBalancerReason
from kumulus_operator.faults import ready_status
from kumulus_operator.ipam.plan import subnet_of
from kumulus_operator.load_balancers.hosts import Standing
from kumulus_operator.refusal import Refusal
from kumulus_operator.views import Key
from kumulus_operator.waiting import CAPACITY
from kumulus_runtime.conditions import set_condition

MOST_MEMBERS = 256
"""Of a listener, those included that labels find."""


@dataclass(frozen=True)
class Members:
    """Where members are looked up.

    Attributes:
        network: of the load balancer, namespace and name.
        version: of its first address: 4 or 6; members' addresses are of that family if they have one.
        server: gives a Server of the project by its name.
        servers: gives all Servers of the project.
        own: the load balancer's addresses: they are no members.
        certificates: by the names of listeners of protocol HTTPS, the versions of their certificates; one without is
            left out.
    """

    network: Key
    version: int
    server: Callable[[str], Server | None]
    servers: Callable[[], Iterable[Server]]
    own: frozenset[str] = frozenset()
    certificates: Mapping[str, str] = field(default_factory=dict)


def listeners_of(balancer: LoadBalancer, found: Members) -> tuple[list[AssignedListener], list[Refusal]]:
    """Give the listeners with the members that they have now, and what of them is left out."""
    listeners, faults = [], []
    for listener in balancer.spec.listeners:
        if listener.protocol is ListenerProtocol.HTTPS and listener.name not in found.certificates:
            continue
        members = _members(listener, found)
        faults += [_itself(listener, member) for member in members if member.address in found.own]
        members = [member for member in members if member.address not in found.own]
        if listener.protocol is ListenerProtocol.UDP:
            faults += [_out_of_reach(listener, member, found) for member in members if not _reached(member, found)]
        if len(members) > MOST_MEMBERS:
            faults.append(_too_many(listener, len(members)))
        listeners.append(_assigned(listener, members[:MOST_MEMBERS], found.certificates.get(listener.name)))
    return listeners, faults


def _assigned(listener: Listener, members: Sequence[AssignedMember], version: str | None) -> AssignedListener:
    said = listener.model_dump(exclude={"pool"})
    pool = listener.pool
    return AssignedListener(
        **said,
        algorithm=pool.algorithm,
        members=list(members),
        health_check=pool.health_check,
        session_persistence=pool.session_persistence,
        certificate_version=version if listener.tls is not None else None,
    )


def former_version(balancer: LoadBalancer, listener: Listener) -> str | None:
    """Give the version of the certificate that a listener serves with already; None if it has none of that Secret."""
    given = balancer.spec.assignment
    found = (item for item in given.listeners if item.name == listener.name) if given is not None else ()
    return next((item.certificate_version for item in found if item.tls == listener.tls), None)


def _too_many(listener: Listener, count: int) -> Refusal:
    message = (
        f"listener {listener.name}: {count} servers have the labels of its memberSelector, it has {MOST_MEMBERS} "
        "members at most, the first by name; transient: goes on when there are fewer"
    )
    return Refusal(LoadBalancerReason.TOO_MANY_MEMBERS.value, message)


def _itself(listener: Listener, member: AssignedMember) -> Refusal:
    message = (
        f"listener {listener.name}: member {member.name} is the load balancer itself, whose connections would "
        "come back to it for ever; permanent: give the member another address"
    )
    return Refusal(LoadBalancerReason.MEMBER_INVALID.value, message)


def _reached(member: AssignedMember, found: Members) -> bool:
    """Whether a member that has addresses has one of a family in which datagrams come."""
    versions = {ip_address(item).version for item in found.own} if found.own else {found.version}
    given = [item for item in (member.address, member.second_address) if item is not None]
    return not given or any(ip_address(item).version in versions for item in given)


def _out_of_reach(listener: Listener, member: AssignedMember, found: Members) -> Refusal:
    message = (
        f"listener {listener.name}: member {member.name} is at {member.address}, and datagrams, which stay of the "
        f"family in which they come, come by IPv{found.version} alone; permanent: give the member an address of that"
    )
    return Refusal(LoadBalancerReason.MEMBER_INVALID.value, message)


def _members(listener: Listener, found: Members) -> list[AssignedMember]:
    members = _of_pool(listener.pool, found)
    both = len({ip_address(item).version for item in found.own}) > 1
    if listener.protocol is not ListenerProtocol.UDP or not both:
        return members
    named = {item.name: item.server.name for item in listener.pool.members if item.server is not None}
    fixed = {item.name for item in listener.pool.members if item.address is not None}
    other = replace(found, version=10 - found.version)
    return [
        item if item.name in fixed else item.model_copy(update={"second_address": second})
        for item in members
        for second in [_second(item, found.server(named.get(item.name, item.name)), other)]
    ]


def _second(member: AssignedMember, server: Server | None, other: Members) -> str | None:
    found = _address(server, other) if server is not None else None
    return found if found != member.address else None


def _of_pool(pool: Pool, found: Members) -> list[AssignedMember]:
    members = [
        AssignedMember(
            name=member.name,
            address=str(ip_address(member.address)) if member.address else _address_by_name(member.server, found),
            port=member.port,
            weight=member.weight,
            backup=member.backup,
        )
        for member in pool.members
    ]
    named = {member.name for member in pool.members}
    named |= {member.server.name for member in pool.members if member.server is not None}
    return members + [member for member in _selected(pool, found) if member.name not in named]


def _selected(pool: Pool, found: Members) -> Iterator[AssignedMember]:
    selector = pool.member_selector
    if selector is None:
        return
    for server in sorted(found.servers(), key=lambda item: item.metadata.name):
        if matches(selector.match_labels, server):
            address = _address(server, found)
            yield AssignedMember(name=server.metadata.name, address=address, port=selector.port, weight=selector.weight)


def matches(labels: Mapping[str, str], server: Server) -> bool:
    """Give whether a server has all of the labels."""
    return labels.items() <= server.metadata.labels.items()


def _address_by_name(reference: Any, found: Members) -> str | None:
    server = found.server(reference.name)
    return _address(server, found) if server is not None else None


def _address(server: Server, found: Members) -> str | None:
    """Give a server's address in the load balancer's network; one that is being deleted gets no connections."""
    given = server.spec.assignment
    if given is None or server.deleting:
        return None
    ports = [port for port in given.ports if (port.network_namespace, port.network) == found.network]
    addresses = [address for port in ports for address in port.addresses]
    return min(addresses, key=lambda text: ip_address(text).version != found.version, default=None)


def addresses_with(network: Network, addresses: Iterable[str]) -> list[str]:
    """Give addresses of a network with the prefix lengths of their subnets; IPv4 first."""
    out = []
    for text in sorted(addresses, key=lambda item: ip_address(item).version):
        subnet = subnet_of(network.spec.subnets, text)
        length = ip_network(subnet.cidr).prefixlen if subnet is not None else ip_address(text).max_prefixlen
        out.append(f"{text}/{length}")
    return out


def next_hops(network: Network, addresses: Iterable[str]) -> list[str]:
    """Give the gateways of the subnets that addresses lie in: one for each family."""
    found: dict[int, str] = {}
    for text in addresses:
        subnet = subnet_of(network.spec.subnets, text)
        if subnet is not None and subnet.gateway is not None:
            found.setdefault(ip_address(text).version, str(ip_address(subnet.gateway)))
    return [found[version] for version in sorted(found)]


def no_host(network: str, current: str | None, objections: Counter[str]) -> Refusal:
    """Say that no host can have a load balancer."""
    told = ", ".join(f"{count} {text}" for text, count in sorted(objections.items()))
    found = f"of {objections.total()} hosts none can ({told})" if objections else "there is no host"
    stays = f"; host {current} keeps it meanwhile" if current is not None else ""
    message = (
        f"host: a Ready host is asked for that reaches network {network}, {found}{stays}; "
        "transient: goes on when a host can"
    )
    return Refusal(LoadBalancerReason.NO_HOST.value, message, frozenset({CAPACITY}))


def unheard(balancer: LoadBalancer) -> Refusal | None:
    """Say that the host of a load balancer does not serve it as far as its agent has told, or None."""
    given, status = balancer.spec.assignment, balancer.status
    if given is None:
        return None
    told = _condition(status.conditions if status is not None else [], LoadBalancerConditionType.SERVING)
    # The one of two that has the addresses tells.
    speakers = {given.host, given.standby if given.takeover is not None else None}
    if told is None or status is None or status.host is None or status.host not in speakers:
        message = f"host: {given.host} has not told yet that it serves; transient: goes on when it has"
        return Refusal(LoadBalancerReason.WAITING_FOR_HOST.value, message)
    if told.status != "True":
        return Refusal(LoadBalancerReason.NOT_SERVING.value, f"host: {status.host}: {told.message}")
    return None


def _condition(conditions: Iterable[Condition], name: str) -> Condition | None:
    return next((item for item in conditions if item.type == name), None)


def load_balancer_status(
    balancer: LoadBalancer, faults: Sequence[Refusal], now: datetime, standing: Standing | None = None
) -> dict[str, Any] | None:
    """Give the operator's part of the status, or None if it says so already.

    Args:
        balancer: as it is, with its assignment.
        faults: what is not as its spec says; the first is told.
        now: the present.
        standing: what is to be told of its standby; None as it was.
    """
    found = _own_part(balancer)
    wanted = ready_status(balancer, found, faults, (LoadBalancerReason.BALANCING, _shown(balancer)), now)
    given = balancer.spec.assignment
    if standing is not None:
        told = (standing.holds, standing.reason, standing.message, balancer.metadata.generation, now)
        wanted["conditions"] = set_condition(wanted["conditions"], LoadBalancerConditionType.STANDBY, *told)
    if given is not None:
        wanted["address"] = given.addresses[0].partition("/")[0]
    return None if wanted == found else wanted


def _own_part(balancer: LoadBalancer) -> dict[str, Any]:
    """Give what the operator wrote of the status: the rest is the agent's."""
    found = balancer.status.dump() if balancer.status is not None else {}
    conditions = [item for item in found.get("conditions", []) if item["type"] in ("Ready", "Standby")]
    own = {name: found[name] for name in ("observedGeneration", "address") if name in found}
    return own | ({"conditions": conditions} if conditions else {})


def _shown(balancer: LoadBalancer) -> str:
    given = balancer.spec.assignment
    count = len(given.listeners) if given is not None else 0
    where = f" on host {given.host}" if given is not None else ""
    return f"{count} listener{'' if count == 1 else 's'}{where}"
