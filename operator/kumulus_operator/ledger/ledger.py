"""Keep the books: what hosts and projects have given out, decided or only assumed."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from kumulus_api import Port, Server, Volume
from kumulus_api.quantities import parse_quantity
from kumulus_api.tenancy import Quota
from kumulus_operator.ledger.fleet import Fleet
from kumulus_operator.ledger.plan import (
    Hold,
    Position,
    Request,
    Usage,
    no_valid_host,
    refusal_of,
    refusal_of_devices,
    volume_excess,
)
from kumulus_operator.ledger.promises import Promises
from kumulus_operator.ledger.shares import ShareBook
from kumulus_operator.ledger.snapshots import SnapshotBook
from kumulus_operator.ledger.volumes import (
    growth_over_quota,
    growth_without_room,
    move_without_room,
    volume_growth_excess,
)
from kumulus_operator.placement.facts import Amounts, HostFacts, Weights, Wish
from kumulus_operator.placement.usage import attached_amounts, bytes_of, group_name, server_amounts
from kumulus_operator.refusal import Refusal
from kumulus_operator.views import Key

_REMEMBERED = 1024
"""How many different wishes that no host can meet are remembered."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One server in the books; `assumed` until the watch shows its assignment."""

    host: str
    amounts: Amounts
    holds: frozenset[Hold]
    assumed: bool
    new_ports: frozenset[str] = frozenset()
    group: str | None = None
    target: str | None = None
    """Where it migrates to: it takes its room there too."""

    volumes: Amounts = field(default_factory=Amounts)
    """What its volumes take: they are counted on the host where they lie, and on the target too."""

    @property
    def places(self) -> tuple[tuple[str, Amounts], ...]:
        """The hosts on which it takes room, and what."""
        here = (self.host, self.amounts)
        return (here,) if self.target is None else (here, (self.target, self.amounts.plus(self.volumes)))


def entry_of(server: Server) -> Entry | None:
    """Give what an assigned server takes, or None if it is not assigned."""
    assignment = server.spec.assignment
    if assignment is None:
        return None
    namespace = server.metadata.namespace or ""
    ports = {("Port", namespace, port.port) for port in assignment.ports}
    volumes = {("Volume", namespace, volume.volume) for volume in assignment.volumes if not volume.multi_attach}
    holds = frozenset(ports | volumes)
    return Entry(
        assignment.host,
        server_amounts(server),
        holds,
        assumed=False,
        group=group_name(server),
        target=assignment.target,
        volumes=attached_amounts(assignment),
    )


class Ledger:
    """Admits servers and volumes, one after the other.

    Args:
        quota_of: gives the limits of a project.
        fresh: gives whether a host renews its Lease.
        weights: what counts how much when several hosts fit.
        changed: is told of a project whose usage is another now.
        class_changed: is told of a volume class whose volumes take more or less.

    Attributes:
        snapshots: of volumes, by their bytes.
        shares: of volume classes.
        promises: what volumes take of hosts and shares.
    """

    def __init__(
        self,
        quota_of: Callable[[str], Quota],
        fresh: Callable[[str], bool],
        weights: Weights | None = None,
        changed: Callable[[str], None] = lambda _: None,
        class_changed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.snapshots = SnapshotBook(quota_of, changed)
        self._quota_of = quota_of
        self._fresh = fresh
        self._changed = changed
        self._fleet = Fleet(weights or Weights())
        self.shares = ShareBook(fresh)
        self.promises = Promises(self._fleet, self.shares, class_changed)
        self._entries: dict[Key, Entry] = {}
        self._servers: Counter[str] = Counter()
        self._taken: defaultdict[str, Amounts] = defaultdict(Amounts)
        self._crowds: defaultdict[Key, Counter[str]] = defaultdict(Counter)
        self._held: dict[Hold, str] = {}
        self._hopeless: dict[Wish, Refusal] = {}
        self._ports: defaultdict[str, set[str]] = defaultdict(set)
        self._volumes: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._amending: set[Key] = set()
        self._moving: dict[Key, str] = {}
        self._desk: asyncio.Queue[tuple[Callable[[], str | Refusal], asyncio.Future[str | Refusal]]] = asyncio.Queue()

    async def run(self) -> None:
        """Admit until cancelled: the only task that decides."""
        while True:
            decide, answer = await self._desk.get()
            if answer.cancelled():
                continue
            answer.set_result(decide())

    async def admit(self, request: Request) -> str | Refusal:
        """Give the host for a server, and count it there from now on; or say why there is none."""
        return await self._ask(lambda: self.decide(request))

    async def move(self, key: Key, source: str, wish: Wish) -> str | Refusal:
        """Give another host for a placed server, and count it on both from now on; or say why there is none."""
        return await self._ask(lambda: self._decide_move(key, replace(wish, leaving=source)))

    def stay(self, key: Key) -> None:
        """Forget the target of a server, because it could not be written."""
        entry = self._entries.get(key)
        if entry is not None and self._moving.pop(key, None) is not None:
            self._strike(key)
            self._enter(key, replace(entry, target=None))

    async def _ask(self, decide: Callable[[], str | Refusal]) -> str | Refusal:
        answer: asyncio.Future[str | Refusal] = asyncio.get_running_loop().create_future()
        self._desk.put_nowait((decide, answer))
        return await answer

    def _decide_move(self, key: Key, wish: Wish) -> str | Refusal:
        self.stay(key)
        entry = self._strike(key)
        crowd = self._crowd(key[0], wish)
        host = self._fleet.choose(wish, crowd, self._fresh)
        if host is None:
            refusal = no_valid_host(self._fleet.refused(wish, crowd, self._fresh), moving=True)
        if entry is not None:
            self._enter(key, replace(entry, target=host))
            if host is not None:
                self._moving[key] = host
        return host if host is not None else refusal

    def _crowd(self, namespace: str, wish: Wish) -> Mapping[str, int]:
        """Give the servers of a wish's group by host."""
        return self._crowds.get((namespace, wish.group.name), {}) if wish.group is not None else {}

    def decide(self, request: Request) -> str | Refusal:
        """Decide at once; for the one task that decides. See `admit`."""
        key, namespace = (request.namespace, request.name), request.namespace
        self.withdraw(key)
        position = Position(usage=self.usage(namespace), quota=self._quota_of(namespace), held=self._held)
        refusal = refusal_of(request, position)
        if refusal is not None:
            return refusal
        group = request.wish.group
        host = request.adopted_host or self._choose(request.wish, self._crowd(namespace, request.wish))
        if isinstance(host, Refusal):
            return host
        new_ports = request.new_ports - self._ports[namespace]
        self._ports[namespace] |= new_ports
        name = group.name if group is not None else None
        self._enter(key, Entry(host, request.wish.amounts, request.holds, True, new_ports, name))
        return host

    def _choose(self, wish: Wish, crowd: Mapping[str, int]) -> str | Refusal:
        """Choose a host; what was refused is refused again in the same words until there may be more room.

        However many servers wait for the same, an event that wakes them all costs one look at all hosts.
        """
        hopeless = self._hopeless.get(wish)
        if hopeless is not None:
            return hopeless
        host = self._fleet.choose(wish, crowd, self._fresh)
        if host is not None:
            return host
        refusal = no_valid_host(self._fleet.refused(wish, crowd, self._fresh))
        if wish.group is None and len(self._hopeless) < _REMEMBERED:
            self._hopeless[wish] = refusal
        return refusal

    def hand_over(self, key: Key, amounts: Amounts) -> None:
        """Count no more with a server that is being placed what from now on counts as a volume of its own."""
        entry = self._entries.get(key)
        if entry is not None and entry.assumed:
            self._strike(key)
            self._enter(key, replace(entry, amounts=entry.amounts.minus(amounts)))

    def more_room(self) -> None:
        """Note that a host may take what was refused: it changed, speaks again, or lost a server."""
        self._hopeless.clear()

    def withdraw(self, key: Key) -> None:
        """Forget an assumption, because it could not be carried out."""
        entry = self._entries.get(key)
        if entry is not None and entry.assumed:
            self._strike(key)
            self._ports[key[0]] -= entry.new_ports

    def host_seen(self, host: HostFacts) -> None:
        """Take a host in; whether it is fresh is asked when it counts."""
        if self._fleet.put(host):
            self.more_room()

    def host_gone(self, name: str) -> None:
        """Take a host out."""
        self._fleet.drop(name)
        self.more_room()

    def amend(self, request: Request) -> Refusal | None:
        """Have a placed server take other amounts on its host from now on, or say why it cannot.

        What a watch shows of it is left aside until `amended`: it may be older than the decision.
        """
        key = (request.namespace, request.name)
        known = self._strike(key)
        if known is not None:
            wish = replace(request.wish, lying=known.amounts.disk)
            request = replace(request, holds=known.holds, wish=wish)
        verdict = self.decide(request)
        if known is not None:
            admitted = self._strike(key) is not None
            amounts = request.wish.amounts if admitted else known.amounts
            self._enter(key, replace(known, amounts=amounts, assumed=admitted))
        if isinstance(verdict, Refusal):
            return verdict
        self._amending.add(key)
        return None

    def attach(self, request: Request) -> Refusal | None:
        """Have a placed server hold more ports and volumes from now on, or say why it cannot; see `amend`."""
        key, namespace = (request.namespace, request.name), request.namespace
        new_ports = request.new_ports - self._ports[namespace]
        position = Position(usage=self.usage(namespace), quota=self._quota_of(namespace), held=self._held)
        refusal = refusal_of_devices(replace(request, new_ports=new_ports), position)
        wish = request.wish
        asks = wish.amounts.disk or wish.amounts.volumes or wish.terms.segments
        if refusal is None and asks and self._fleet.choose(wish, {}, self._fresh) is None:
            refusal = no_valid_host(self._fleet.refused(wish, {}, self._fresh))
        known = self._entries.get(key)
        if refusal is not None or known is None:
            return refusal
        self._amending.add(key)
        self._strike(key)
        self._enter(key, replace(known, holds=known.holds | request.holds))
        self._ports[namespace] |= new_ports
        return None

    def not_attached(self, server: Server, new_ports: frozenset[str]) -> None:
        """Take back what `attach` has admitted: it could not be carried out, and these ports were not made."""
        self._ports[server.key[0]] -= new_ports
        self.amended(server)

    def amended(self, server: Server) -> None:
        """Take a server's state as the answer to what `amend` has admitted."""
        self._amending.discard(server.key)
        self.server_seen(server)

    def server_seen(self, server: Server) -> bool:
        """Take a server's state; give whether its room changed. An assumption stays until an assignment is shown."""
        if server.key in self._amending:
            return False
        entry, known = entry_of(server), self._entries.get(server.key)
        if entry is None:
            return False
        if entry == known:
            self._moving.pop(server.key, None)
            return False
        if server.key in self._moving and known is not None and (entry.host, entry.target) == (known.host, None):
            return False  # older than the decision to move it
        self._moving.pop(server.key, None)
        if known is not None:
            self._strike(server.key)
        self._enter(server.key, entry)
        return known is None or not known.assumed

    def server_gone(self, key: Key) -> bool:
        """Take a server out; give whether it held anything."""
        self._amending.discard(key)
        return self._strike(key) is not None

    def port_seen(self, port: Port) -> None:
        """Count a port."""
        namespace, name = port.key
        if name not in self._ports[namespace]:
            self._ports[namespace].add(name)
            self._changed(namespace)

    def port_gone(self, port: Port) -> None:
        """Count a port no more."""
        self._ports[port.key[0]].discard(port.key[1])
        self._changed(port.key[0])

    def volume_seen(self, volume: Volume) -> None:
        """Count a volume on the host that it is bound to."""
        self.promises.seen(volume)

    def volume_gone(self, volume: Volume) -> None:
        """Count a volume no more."""
        self._volumes[volume.key[0]].pop(volume.key[1], None)
        if self.promises.gone(volume.key):
            self.more_room()
        self._changed(volume.key[0])

    def admit_volume(self, volume: Volume, *, counted: bool) -> str | None:
        """Count a volume against its project's quota, or say by what it would exceed it.

        Args:
            volume: which.
            counted: it was admitted before this process started.
        """
        namespace, name = volume.key
        volumes = self._volumes[namespace]
        place = volume.spec.assignment
        size = parse_quantity(volume.spec.size if place is None else place.size or volume.spec.size)
        if name in volumes:
            if place is not None or size <= volumes[name]:
                return None
            del volumes[name]  # It has grown before anybody used it.
            counted = False
        used = self.stored(namespace)
        excess = None if counted else volume_excess(size, len(volumes), used, self._quota_of(namespace))
        if excess is None:
            volumes[name] = size
            self._changed(namespace)
        return excess

    def grow_volume(self, volume: Volume, size: int) -> Refusal | None:
        """Count a bound volume with more bytes against quota and its host's room, or say why it cannot."""
        (namespace, name), place = volume.key, volume.spec.assignment
        volumes = self._volumes[namespace]
        known = volumes.get(name, 0)
        more, quota = size - known, self._quota_of(namespace)
        excess = volume_growth_excess(more, self.stored(namespace), quota)
        if excess is not None:
            return growth_over_quota(namespace, excess)
        if place is not None and place.folder is None:
            amounts = bytes_of(place.volume_class, more)
            wish = Wish(amounts, only_host=place.host, only_reason="where the volume lies")
            if self._fleet.choose(wish, {}, lambda _: True) is None:
                return self.promises.no_room(place.host, amounts) or growth_without_room(place.host, more)
        refusal = self.promises.growth(volume, more)
        if refusal is not None:
            return refusal
        volumes[name] = size
        self._changed(namespace)
        return None

    def lacks_room(self, volume: Volume, volume_class: str | None) -> Refusal | None:
        """Say why a bound volume that lies elsewhere cannot come to its host's own disk, in a class; None if it can."""
        place = volume.spec.assignment
        if place is None:
            return None
        size = parse_quantity(place.size or volume.spec.size)
        wish = Wish(bytes_of(volume_class, size), only_host=place.host, only_reason="where the volume goes")
        fits = self._fleet.choose(wish, {}, lambda _: True) is not None
        return None if fits else move_without_room(place.host, size)

    def stored(self, namespace: str) -> int:
        """Give the bytes of a project's volumes and their snapshots."""
        return sum(self._volumes[namespace].values()) + self.snapshots.used(namespace)[1]

    def volume_admitted(self, key: Key) -> bool:
        """Give whether a volume was counted against the quota."""
        return key[1] in self._volumes[key[0]]

    def held_by(self, hold: Hold) -> str | None:
        """Give the name of the server that holds a port or volume, or None."""
        return self._held.get(hold)

    def assumed(self, key: Key) -> bool:
        """Give whether a server is being placed at this moment."""
        entry = self._entries.get(key)
        return entry is not None and entry.assumed

    def used_on(self, host: str) -> Amounts:
        """Give what is given out on a host."""
        return self._fleet.used.get(host, Amounts())

    def free_on(self, host: str) -> Amounts:
        """Give what is left of a host."""
        return self._fleet.free_on(host)

    def usage(self, namespace: str) -> Usage:
        """Give what a project uses, what is just being placed included."""
        taken, volumes = self._taken[namespace], self._volumes[namespace]
        return Usage(
            servers=self._servers[namespace],
            vcpus=taken.vcpus + taken.dedicated,
            memory=taken.memory,
            ports=len(self._ports[namespace]),
            volumes=len(volumes),
            volume_bytes=self.stored(namespace),
        )

    def _enter(self, key: Key, entry: Entry) -> None:
        namespace, name = key
        self._entries[key] = entry
        self._servers[namespace] += 1
        self._taken[namespace] = self._taken[namespace].plus(entry.amounts)
        for place, amounts in entry.places:
            self._fleet.give(place, amounts)
            if entry.group is not None:
                self._crowds[namespace, entry.group][place] += 1
        self._held.update(dict.fromkeys(entry.holds, name))
        self._changed(namespace)

    def _strike(self, key: Key) -> Entry | None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        namespace, name = key
        self._servers[namespace] -= 1
        self._taken[namespace] = self._taken[namespace].minus(entry.amounts)
        for place, amounts in entry.places:
            self._fleet.take_back(place, amounts)
            if entry.group is not None:
                self._leave(namespace, entry.group, place)
        self.more_room()
        for hold in entry.holds:
            if self._held.get(hold) == name:
                del self._held[hold]
        self._changed(namespace)
        return entry

    def _leave(self, namespace: str, group: str, host: str) -> None:
        """Count a server of a group less on a host; what is at nought is forgotten."""
        crowd = self._crowds[namespace, group]
        crowd[host] -= 1
        if not crowd[host]:
            del crowd[host]
        if not crowd:
            del self._crowds[namespace, group]
