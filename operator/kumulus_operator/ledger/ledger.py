"""Keep the books: what hosts and projects have given out, decided or only assumed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kumulus_api import Port, Server, Volume
from kumulus_api.quantities import parse_quantity
from kumulus_api.tenancy import Quota
from kumulus_operator.ledger.plan import Hold, Position, Request, Usage, decide, volume_excess
from kumulus_operator.placement.facts import Amounts, HostFacts
from kumulus_operator.refusal import Refusal
from kumulus_operator.views import Key


@dataclass(frozen=True)
class Entry:
    """One server in the books; `assumed` until the watch shows its assignment."""

    host: str
    amounts: Amounts
    holds: frozenset[Hold]
    assumed: bool
    new_ports: frozenset[str] = frozenset()


def entry_of(server: Server) -> Entry | None:
    """Give what an assigned server takes, or None if it is not assigned."""
    assignment = server.spec.assignment
    if assignment is None:
        return None
    namespace = server.metadata.namespace or ""
    resources = assignment.resources
    amounts = Amounts(resources.vcpus, parse_quantity(resources.memory), parse_quantity(resources.root_disk))
    ports = {("Port", namespace, port.port) for port in assignment.ports}
    volumes = {("Volume", namespace, volume.volume) for volume in assignment.volumes}
    return Entry(assignment.host, amounts, frozenset(ports | volumes), assumed=False)


class Ledger:
    """Admits servers and volumes, one after the other.

    Args:
        hosts: gives all hosts as they are now.
        quota_of: gives the limits of a project.
    """

    def __init__(self, hosts: Callable[[], Iterable[HostFacts]], quota_of: Callable[[str], Quota]) -> None:
        self._hosts = hosts
        self._quota_of = quota_of
        self._entries: dict[Key, Entry] = {}
        self._used: dict[str, Amounts] = defaultdict(Amounts)
        self._projects: dict[str, dict[Key, Entry]] = defaultdict(dict)
        self._held: dict[Hold, str] = {}
        self._ports: dict[str, set[str]] = defaultdict(set)
        self._volumes: dict[str, dict[str, int]] = defaultdict(dict)
        self._volume_places: dict[Key, tuple[str, int]] = {}
        self._desk: asyncio.Queue[tuple[Request, asyncio.Future[str | Refusal]]] = asyncio.Queue()

    async def run(self) -> None:
        """Admit until cancelled: the only task that decides."""
        while True:
            request, answer = await self._desk.get()
            if answer.cancelled():
                continue
            answer.set_result(self._decide(request))

    async def admit(self, request: Request) -> str | Refusal:
        """Give the host for a server, and count it there from now on; or say why there is none."""
        answer: asyncio.Future[str | Refusal] = asyncio.get_running_loop().create_future()
        self._desk.put_nowait((request, answer))
        return await answer

    def _decide(self, request: Request) -> str | Refusal:
        key = (request.namespace, request.name)
        self.withdraw(key)
        position = Position(
            hosts=list(self._hosts()),
            used=self._used,
            usage=self._usage(request.namespace),
            quota=self._quota_of(request.namespace),
            held=self._held,
        )
        verdict = decide(request, position)
        if isinstance(verdict, str):
            known = self._ports[request.namespace]
            new_ports = frozenset(name for name in request.new_ports if name not in known)
            known |= new_ports
            self._enter(key, Entry(verdict, request.wish.amounts, request.holds, assumed=True, new_ports=new_ports))
        return verdict

    def withdraw(self, key: Key) -> None:
        """Forget an assumption, because it could not be carried out."""
        entry = self._entries.get(key)
        if entry is not None and entry.assumed:
            self._strike(key)
            self._ports[key[0]] -= entry.new_ports

    def server_seen(self, server: Server) -> bool:
        """Take a server's state; give whether its room changed. An assumption stays until an assignment is shown."""
        entry, known = entry_of(server), self._entries.get(server.key)
        if entry is None or entry == known:
            return False
        if known is not None:
            self._strike(server.key)
        self._enter(server.key, entry)
        return known is None or not known.assumed

    def server_gone(self, key: Key) -> bool:
        """Take a server out; give whether it held anything."""
        return self._strike(key) is not None

    def port_seen(self, port: Port) -> None:
        """Count a port."""
        self._ports[port.key[0]].add(port.key[1])

    def port_gone(self, port: Port) -> None:
        """Count a port no more."""
        self._ports[port.key[0]].discard(port.key[1])

    def volume_seen(self, volume: Volume) -> None:
        """Count a volume on the host that it is bound to."""
        assignment = volume.spec.assignment
        if assignment is None or volume.key in self._volume_places:
            return
        size = parse_quantity(volume.spec.size)
        self._volume_places[volume.key] = (assignment.host, size)
        self._used[assignment.host] = self._used[assignment.host].plus(Amounts(disk=size))

    def volume_gone(self, volume: Volume) -> None:
        """Count a volume no more."""
        self._volumes[volume.key[0]].pop(volume.key[1], None)
        place = self._volume_places.pop(volume.key, None)
        if place is not None:
            self._used[place[0]] = self._used[place[0]].minus(Amounts(disk=place[1]))

    def admit_volume(self, volume: Volume, *, counted: bool) -> str | None:
        """Count a volume against its project's quota, or say by what it would exceed it.

        Args:
            volume: which.
            counted: it was admitted before this process started.
        """
        namespace, name = volume.key
        volumes = self._volumes[namespace]
        if name in volumes:
            return None
        size = parse_quantity(volume.spec.size)
        excess = (
            None if counted else volume_excess(size, len(volumes), sum(volumes.values()), self._quota_of(namespace))
        )
        if excess is None:
            volumes[name] = size
        return excess

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
        return self._used[host]

    def _usage(self, namespace: str) -> Usage:
        entries = self._projects[namespace].values()
        return Usage(
            servers=len(entries),
            vcpus=sum(entry.amounts.vcpus for entry in entries),
            memory=sum(entry.amounts.memory for entry in entries),
            ports=len(self._ports[namespace]),
        )

    def _enter(self, key: Key, entry: Entry) -> None:
        self._entries[key] = entry
        self._projects[key[0]][key] = entry
        self._used[entry.host] = self._used[entry.host].plus(entry.amounts)
        self._held.update(dict.fromkeys(entry.holds, key[1]))

    def _strike(self, key: Key) -> Entry | None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self._projects[key[0]].pop(key, None)
        self._used[entry.host] = self._used[entry.host].minus(entry.amounts)
        for hold in entry.holds:
            if self._held.get(hold) == key[1]:
                del self._held[hold]
        return entry
