"""Members of a VRRP instance: real keepalived processes in two namespaces with a cable between them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kumulus_agent.failover.config import Instance, Tracked, VirtualAddress, VirtualRule
from kumulus_agent.failover.keepalived import Keepalived
from kumulus_agent.failover.notices import Role
from kumulus_agent.network.command import run
from kumulus_agent.services.host_service import HostServices
from kumulus_lab.testing.routed import eventually

NAME = "gateway"
SHARED = "203.0.113.2"
SLEEP = Path(shutil.which("sleep") or "").resolve()


@dataclass
class Member:
    """A host that is a member, and its agent's part."""

    namespace: str
    directory: Path
    instance: Instance
    agent: Keepalived | None = None
    told: asyncio.Event | None = None

    def begin(self) -> Keepalived:
        """Begin as an agent does."""
        services = HostServices(self.directory / "services", init_pid=None)
        self.agent, self.told = Keepalived(services, self.directory / "vrrp"), asyncio.Event()
        self.agent.changed = lambda _name: self.told.set() if self.told else None
        return self.agent

    async def ensure(self, **changes: object) -> tuple[str, ...]:
        """Be a member."""
        self.instance = replace(self.instance, **changes)  # type: ignore[arg-type]
        return await (self.agent or self.begin()).ensure(NAME, self.instance, Path("/run/netns") / self.namespace)

    @property
    def pid(self) -> int:
        """The process that runs."""
        (record,) = HostServices(self.directory / "services", init_pid=None).observe().values()
        return record.process.pid

    async def leads(self) -> bool:
        """Whether it has the address, and its rule."""
        addresses = await run(("ip", "-netns", self.namespace, "address", "show", "dev", "ext"))
        rules = await run(("ip", "-netns", self.namespace, "rule", "show"))
        found = {SHARED.encode() in addresses, b"lookup 10" in rules}
        assert len(found) == 1, (addresses, rules)
        return found.pop()


@pytest.fixture
async def members(prefix: str, tmp_path: Path) -> AsyncIterator[tuple[Member, Member]]:
    """Two members; the second is of greater priority."""
    made = []
    for number, name in ((1, f"{prefix}-a"), (2, f"{prefix}-b")):
        await run(("ip", "netns", "add", name))
        await run(("ip", "-netns", name, "link", "add", "ext", "type", "veth", "peer", "name", "out"))
        for link in ("ext", "out", "lo"):
            await run(("ip", "-netns", name, "link", "set", link, "up"))
        addresses = frozenset({VirtualAddress("ha", "fe80::ff"), VirtualAddress("ext", SHARED)})
        rules = frozenset({VirtualRule(34000, 10)})
        instance = Instance(
            "ha", f"fe80::{number}", (f"fe80::{3 - number}",), 99 + number, addresses, rules, advert_seconds=0.1
        )
        made.append(Member(name, tmp_path / name, instance))
    a, b = made
    await run(("ip", "-netns", a.namespace, "link", "add", "ha", "type", "veth", "peer", "ha", "netns", b.namespace))
    for member in made:
        await run(("ip", "-netns", member.namespace, "link", "set", "ha", "up"))
        address = ("address", "add", f"{member.instance.source}/64", "dev", "ha", "nodad")
        await run(("ip", "-netns", member.namespace, *address))
    yield a, b
    for member in made:
        await (member.agent or member.begin()).absent(NAME)
        member.agent.close()
        await run(("ip", "netns", "delete", member.namespace))


async def until(member: Member, role: Role | None) -> None:
    """Wait until a member's agent was told of a state."""
    assert member.agent is not None
    assert member.told is not None
    async with asyncio.timeout(10):
        while member.agent.role(NAME) is not role:
            await member.told.wait()
            member.told.clear()


async def led_by_first(a: Member, b: Member) -> None:
    """Have the first member lead, the second wait."""
    await a.ensure()
    await until(a, Role.MASTER)
    await b.ensure()
    await until(b, Role.BACKUP)
    assert (await a.leads(), await b.leads()) == (True, False)


async def nft(member: Member, *words: str) -> None:
    """Change the rules of a member's namespace."""
    await run(("ip", "netns", "exec", member.namespace, "nft", *words))


async def cut_off(member: Member) -> None:
    """Have nothing come from a member or reach it; its cable and the other's stay up, as with switches between."""
    await nft(member, "add", "table", "inet", "cut")
    for hook in ("input", "output"):
        base = f"{{ type filter hook {hook} priority 0; policy drop; }}"
        await nft(member, "add", "chain", "inet", "cut", hook, base)


async def test_one_leads_and_the_other_takes_over(members) -> None:
    """The first leads, though of less priority; when it is cut off the other does; when it is back it waits."""
    a, b = members
    await led_by_first(a, b)
    await cut_off(a)
    await until(b, Role.MASTER)
    assert await b.leads()
    await nft(a, "delete", "table", "inet", "cut")
    await until(a, Role.BACKUP)
    assert (await a.leads(), await b.leads()) == (False, True)


async def test_an_agent_finds_what_another_has_started(members) -> None:
    """A new agent knows who leads, what was said meanwhile included; nothing is started again, nobody else leads."""
    a, b = members
    await led_by_first(a, b)
    before = a.pid, b.pid
    for member in members:
        member.agent.close()
        member.agent = None
        assert await member.ensure() == ()
    assert (a.agent.role(NAME), b.agent.role(NAME)) == (Role.MASTER, Role.BACKUP)
    b.agent.close()
    await a.agent.absent(NAME)
    await eventually(b.leads)
    assert await b.ensure() == ()
    b.begin()
    await b.ensure()
    assert b.agent.role(NAME) is Role.MASTER
    assert b.pid == before[1]


async def test_a_change_is_taken_while_it_leads(members) -> None:
    """Other priorities, and an address that comes, change nothing of who leads; an address that goes is gone."""
    a, b = members
    await led_by_first(a, b)
    more = VirtualAddress("ext", "203.0.113.9")
    before = a.pid, b.pid
    for member, priority in ((a, 102), (b, 103)):
        assert await member.ensure(addresses=member.instance.addresses | {more}, priority=priority)

    async def has_more() -> bool:
        return more.address.encode() in await run(("ip", "-netns", a.namespace, "address", "show", "dev", "ext"))

    async def has_less() -> bool:
        return not await has_more()

    await eventually(has_more)
    for member in members:
        assert await member.ensure(addresses=member.instance.addresses - {more})
    await eventually(has_less)
    assert (a.agent.role(NAME), b.agent.role(NAME)) == (Role.MASTER, Role.BACKUP)
    assert (a.pid, b.pid) == before
    assert (await a.leads(), await b.leads()) == (True, False)


async def test_one_that_is_killed_gives_up_and_is_started_again(members) -> None:
    """When keepalived is killed the other leads, the former has no address left, and waits as one that is back."""
    a, b = members
    await led_by_first(a, b)
    former = a.pid
    os.kill(former, signal.SIGKILL)
    await until(a, None)
    await until(b, Role.MASTER)
    await until(a, Role.BACKUP)
    assert a.pid != former
    assert (await a.leads(), await b.leads()) == (False, True)


async def test_one_that_leaves_says_so_and_leaves_nothing(members) -> None:
    """The other leads at once; no address, process or file of the former is left."""
    a, b = members
    await led_by_first(a, b)
    assert await a.agent.absent(NAME)
    await until(b, Role.MASTER)
    assert not await a.leads()
    assert a.agent.names() == frozenset()
    assert not list((a.directory / "vrrp").iterdir())
    assert not await a.agent.absent(NAME)


async def test_one_without_its_program_gives_up_without_an_agent(members, tmp_path) -> None:
    """What begins to look at a program that runs goes on leading; when that ends, noticed by nobody, the other leads.

    One that has the program again waits.
    """
    a, b = members
    await led_by_first(a, b)
    tracked = Tracked(tmp_path / "pid", SLEEP)
    program = subprocess.Popen(["sleep", "100"])  # noqa: ASYNC220 - it stays unnoticed when it ends
    tracked.pid_file.write_text(str(program.pid))
    try:
        b.told.clear()
        assert await a.ensure(tracked=tracked)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(b.told.wait(), 3)
        assert await a.leads()
        a.agent.close()
        program.kill()
        await until(b, Role.MASTER)
        assert not await a.leads()
        a.begin()
        await a.ensure()
        assert a.agent.role(NAME) is Role.FAULT
    finally:
        program.wait()
    with subprocess.Popen(["sleep", "100"]) as again:  # noqa: ASYNC220 - as above
        tracked.pid_file.write_text(str(again.pid))
        await until(a, Role.BACKUP)
        again.kill()
    assert (await a.leads(), await b.leads()) == (False, True)
