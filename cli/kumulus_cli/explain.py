"""Why a server is on its host or on none: what placement thinks of each host now.

The objects are read with the user's own rights and judged by the operator's pure functions, so the answer is what the
operator would decide; decisions that it has not written yet are the only thing it knows more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from kumulus_api import (
    Flavor,
    Host,
    HostAggregate,
    Image,
    Kind,
    Network,
    Port,
    Server,
    ServerGroup,
    Volume,
    VolumeClass,
)
from kumulus_api.base import GROUP
from kumulus_api.quantities import format_quantity
from kumulus_cli import kubectl
from kumulus_operator.placement.choice import Judgement, judge
from kumulus_operator.placement.facts import Amounts, HostFacts, Terms, Wish
from kumulus_operator.placement.inventory import host_facts
from kumulus_operator.placement.tuning import Tuning, tuning_of
from kumulus_operator.placement.usage import crowd_of, given_out, group_name
from kumulus_operator.placement.wish import wish_for
from kumulus_operator.refusal import Refused

SYSTEM_NAMESPACE = "kumulus-system"
_KindT = TypeVar("_KindT", bound=Kind)


@dataclass(frozen=True)
class Picture:
    """What placement looks at.

    Attributes:
        server: which is to be placed, or was.
        wish: what it asks for.
        hosts: all hosts.
        used: what other servers, and volumes, take of each.
        crowd: other servers of its group by host.
        tuning: ratios and weights.
        notes: what could not be read.
    """

    server: Server
    wish: Wish
    hosts: Sequence[HostFacts]
    used: dict[str, Amounts]
    crowd: dict[str, int]
    tuning: Tuning
    notes: tuple[str, ...] = field(default=())


def explain_placement(name: str, namespace: str | None) -> str:
    """Give the explanation as a text of several lines.

    Args:
        name: the Server.
        namespace: its namespace; None for that of the current context.

    Raises:
        KubectlError: something that it takes does not exist or may not be read.
    """
    try:
        return text_of(read(name, namespace))
    except Refused as refused:
        return refused.refusal.message + "\n"


def read(name: str, namespace: str | None) -> Picture:
    """Read what placement looks at.

    Raises:
        KubectlError: something does not exist or may not be read.
        Refused: no host could ever do.
    """
    server = _one(Server, name, namespace)
    own = server.metadata.namespace
    flavor = _one(Flavor, server.spec.flavor.name, None)
    image = _one(Image, server.spec.image.name, server.spec.image.namespace or own)
    group = group_name(server)
    volumes, classes = _all(Volume), _all(VolumeClass)
    attached = {item.volume.name for item in server.spec.volumes}
    wish = wish_for(
        server,
        flavor,
        image,
        _one(ServerGroup, group, own) if group is not None else None,
        [volume for volume in volumes if volume.key[0] == own and volume.metadata.name in attached],
        networks=_networks(server),
        classes=_classes_of(volumes, classes),
    )
    others = [item for item in _all(Server) if item.key != server.key]
    tuning, notes = _tuning()
    fresh, more = _fresh(tuning)
    aggregates, hosts = _all(HostAggregate), _all(Host)
    facts = [
        host_facts(host, aggregates, tuning, fresh=fresh is None or host.metadata.name in fresh, classes=classes)
        for host in hosts
    ]
    crowd = crowd_of(others, own or "", group) if group is not None else {}
    return Picture(server, wish, facts, given_out(others, volumes), crowd, tuning, (*notes, *more))


def _one(kind: type[_KindT], name: str, namespace: str | None) -> _KindT:
    return kind.model_validate(kubectl.get(f"{kind.definition.plural}.{GROUP}", name, namespace))


def _classes_of(volumes: Sequence[Volume], classes: Sequence[VolumeClass]) -> dict[tuple[str, str], str]:
    """Give the classes of volumes that are not bound, the default one where none is named."""
    names = sorted(item.metadata.name for item in classes if item.spec.default and not item.deleting)
    found = {}
    for volume in volumes:
        wanted = volume.spec.volume_class
        name = wanted.name if wanted is not None else next(iter(names), None)
        if volume.spec.assignment is None and name is not None:
            found[volume.key] = name
    return found


def _networks(server: Server) -> list[Network]:
    """Read the networks of a server's interfaces; the project's only one if it names none."""
    own = server.metadata.namespace
    if server.spec.networks is None:
        listed = kubectl.listed(f"{Network.definition.plural}.{GROUP}", own)
        return [Network.model_validate(body) for body in listed]
    found = []
    for interface in server.spec.networks:
        reference = interface.network
        if interface.port is not None:
            reference = _one(Port, interface.port.name, own).spec.network
        if reference is not None:
            found.append(_one(Network, reference.name, reference.namespace or own))
    return found


def _all(kind: type[_KindT]) -> list[_KindT]:
    return [kind.model_validate(body) for body in kubectl.listed(f"{kind.definition.plural}.{GROUP}")]


def _tuning() -> tuple[Tuning, tuple[str, ...]]:
    """Read what the operator was told to place by."""
    try:
        body = kubectl.get("deployments.apps", "kumulus-operator", SYSTEM_NAMESPACE)
    except kubectl.KubectlError as error:
        return Tuning(), (
            f"the defaults of weights and overcommit are taken, for the operator's cannot be read: {error}",
        )
    variables = body["spec"]["template"]["spec"]["containers"][0].get("env", [])
    return tuning_of({item["name"]: item["value"] for item in variables if "value" in item}), ()


def _fresh(tuning: Tuning) -> tuple[frozenset[str] | None, tuple[str, ...]]:
    """Give the hosts that renew their Leases; None if these cannot be read."""
    try:
        leases = kubectl.listed("leases.coordination.k8s.io", SYSTEM_NAMESPACE)
    except kubectl.KubectlError as error:
        return None, (f"all hosts are taken to speak, for their Leases cannot be read: {error}",)
    now = datetime.now(UTC)
    return frozenset(_host(item) for item in leases if _age(item, now) < tuning.host_silence), ()


def _host(lease: dict[str, Any]) -> str:
    name: str = lease["metadata"]["name"]
    return name.removeprefix("host-")


def _age(lease: dict[str, Any], now: datetime) -> float:
    renewed = lease["spec"].get("renewTime")
    return (now - datetime.fromisoformat(renewed)).total_seconds() if renewed else float("inf")


def text_of(picture: Picture) -> str:
    """Write what placement thinks (pure)."""
    server = picture.server
    judged = judge(picture.hosts, picture.used, picture.crowd, picture.wish, picture.tuning.weights)
    lines = [_asked(server, picture.wish)]
    placed = server.spec.assignment.host if server.spec.assignment is not None else None
    if placed is not None:
        lines.append(f"It is on host {placed}; below, each host is judged as if it were placed now.")
    for condition in server.status.conditions if server.status is not None else []:
        if condition.type == "Scheduled" and condition.status != "True":
            lines.append(f"The operator says {condition.reason}: {condition.message}")
    lines += [f"Note: {note}" for note in picture.notes]
    fitting = [item for item in judged if not item.objections]
    lines += ["", *_table([_row(item, fitting[:1] == [item], placed, picture.wish) for item in judged]), ""]
    if not judged:
        lines[-2:] = ["There is no Host yet."]
    elif fitting:
        lines.append(f"{len(fitting)} of {len(judged)} hosts fit; {fitting[0].host} weighs most.")
    else:
        lines.append(f"None of {len(judged)} hosts fits.")
    return "\n".join(lines) + "\n"


def _asked(server: Server, wish: Wish) -> str:
    amounts, terms = wish.amounts, wish.terms
    disk = format_quantity(int(amounts.disk + sum(size for _, size in amounts.volumes)))
    memory = format_quantity(int(amounts.memory))
    parts = [
        f"{_vcpus(amounts)}, {memory} memory, {disk} disk",
        ", ".join(f"{count:g} {name}" for name, count in amounts.custom),
        f"zone {terms.zone}" if terms.zone else "",
        f"traits {', '.join(sorted(terms.required))}" if terms.required else "",
        f"without traits {', '.join(sorted(terms.forbidden))}" if terms.forbidden else "",
        f"aggregates with {', '.join(f'{key}={value}' for key, value in sorted(terms.specs))}" if terms.specs else "",
        f"architecture {terms.architecture}" if terms.architecture else "",
        f"{terms.numa_nodes} NUMA nodes" if terms.numa_nodes else "",
        f"huge pages{_page_size(terms.page_size)}" if terms.huge_pages else "",
        f"physical network {', '.join(_segments(terms))}" if terms.segments else "",
        f"group {wish.group.name} ({wish.group.policy.value})" if wish.group else "",
        f"host {wish.only_host} ({wish.only_reason})" if wish.only_host else "",
    ]
    return f"Server {server.key[0]}/{server.key[1]} asks for " + "; ".join(part for part in parts if part)


def _vcpus(amounts: Amounts) -> str:
    return f"{amounts.dedicated:g} dedicated CPUs" if amounts.dedicated else f"{amounts.vcpus:g} vCPUs"


def _segments(terms: Terms) -> list[str]:
    return [f"{name} ({kind}, MTU {mtu})" for name, kind, mtu in sorted(terms.segments)]


def _page_size(kib: int) -> str:
    return f" of {format_quantity(kib << 10)}" if kib else ""


def _row(item: Judgement, taken: bool, placed: str | None, wish: Wish) -> tuple[str, ...]:
    name = f"{item.host} (here)" if item.host == placed else item.host
    if item.objections:
        return name, "no", "", "; ".join(_why(objection.why, item.free, wish) for objection in item.objections)
    weights = ", ".join(f"{part} {value:.2f}" for part, value in item.weights.items() if part != "group" or value)
    return name, "best" if taken else "yes", f"{item.weight:.2f}", weights


def _why(why: str, free: Amounts, wish: Wish) -> str:
    """Add what there is and what is asked for, where it is a matter of amounts."""
    asked = wish.amounts
    match why:
        case "without enough memory":
            return f"{why} ({_bytes(free.memory)} free, {_bytes(asked.memory)} asked for)"
        case "without enough vCPUs":
            return f"{why} ({free.vcpus:g} free, {asked.vcpus:g} asked for)"
        case "without enough dedicated CPUs":
            return f"{why} ({max(free.dedicated, 0):g} free, {asked.dedicated:g} asked for)"
        case "without enough disk":
            size = asked.disk + sum(amount for _, amount in asked.volumes)
            return f"{why} ({_bytes(free.disk)} free, {_bytes(size)} asked for)"
    return why


def _bytes(size: float) -> str:
    whole = max(int(size), 0)
    return format_quantity(whole if whole < 2**20 else whole // 2**20 * 2**20)


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    table = [("HOST", "FITS", "WEIGHT", "WHY"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    return ["  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]).rstrip() for row in table]
