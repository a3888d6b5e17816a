"""The datagrams of this host's load balancers, passed on as they should be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from kumulus_agent.load_balancers.desired import HereBalancer
from kumulus_agent.load_balancers.haproxy_config import checked_by_haproxy
from kumulus_agent.load_balancers.udp import flows, rules
from kumulus_agent.load_balancers.udp.checks import Checks, asked_of
from kumulus_agent.load_balancers.udp.plan import States, Way, datagram_listeners, ways
from kumulus_agent.network import namespace
from kumulus_agent.network.command import run
from kumulus_api.load_balancer_status import MemberState


class Datagrams:
    """What this host does with the datagrams of load balancers.

    Args:
        changed: called with a load balancer's id when one of its members is well, or no longer.
    """

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._checks = Checks(changed)
        self._made: dict[str, tuple[Way, ...]] = {}

    def ask(self, balancer: HereBalancer, netns: Path, down: frozenset[tuple[str, str]]) -> None:
        """Have members asked as it is said; `down` are those, by listener and name, that were told to be so."""
        listeners = datagram_listeners(balancer.assignment)
        self._checks.ask(balancer.balancer_id, netns.name, listeners, down)

    def states(self, balancer: HereBalancer) -> dict[tuple[str, str], MemberState]:
        """Give what is known of members that get datagrams, but for those that HAProxy asks."""
        known = self._checks.states(balancer.balancer_id)
        return {
            (listener.name, member.name): known.get((listener.name, member.name), MemberState.UP)
            if asked_of("", listener) is not None
            else MemberState.NOT_CHECKED
            for listener in datagram_listeners(balancer.assignment)
            if not checked_by_haproxy(listener)
            for member in listener.members
        }

    def differs(self, balancer: HereBalancer, states: States) -> bool:
        """Whether datagrams would go elsewhere if this were reconciled."""
        return ways(balancer.assignment, states) != self._made.get(balancer.balancer_id, ())

    async def ensure(self, balancer: HereBalancer, netns: Path, states: States) -> tuple[str, ...]:
        """Have datagrams go where they should; what goes to members that are gone or down ends.

        Args:
            balancer: what was decided.
            netns: the file of its namespace.
            states: of all its members.

        Returns:
            What was done; empty if all was so already.

        Raises:
            NetworkError: the kernel refused.
        """
        wanted, name = ways(balancer.assignment, states), netns.name
        done = await _apply(name, wanted)
        if wanted:
            ipv6 = any(way.version == 6 for way in wanted)
            for item in await flows.end(name, wanted, ipv6=ipv6):
                done.append(f"ended datagrams to {item.target.address} port {item.target.port}")
        self._made[balancer.balancer_id] = wanted
        return tuple(done)

    def forget(self, balancer_id: str) -> None:
        """Have nothing to do with a load balancer; its rules go with its namespace."""
        self._checks.forget(balancer_id)
        self._made.pop(balancer_id, None)

    def close(self) -> None:
        """Ask nobody any more; datagrams go on."""
        self._checks.close()


async def _apply(name: str, wanted: tuple[Way, ...]) -> list[str]:
    entering = namespace.entering(name)
    listed = json.loads(await run((*entering, "nft", "--json", "list", "chains", "inet")))
    there = rules.versions(listed["nftables"])
    tables = rules.tables(wanted) if wanted else {}
    commands = [
        command
        for table, objects in tables.items()
        if there.get(table) != rules.version(objects)
        for command in rules.replacing(table, objects)
    ]
    commands += [command for table in there.keys() - tables.keys() for command in rules.removing(table)]
    if not wanted and there:
        namespace.choose_forwarding(name, wanted=False)
    if commands:
        transaction = json.dumps({"nftables": commands}).encode()
        await run((*entering, "nft", "--json", "--file", "-"), stdin=transaction)
    if wanted:
        # Not before the rules: they say what is not passed on.
        namespace.choose_forwarding(name, wanted=True)
    return ["datagrams passed on as they should be"] if commands else []
