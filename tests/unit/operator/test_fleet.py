"""The fleet: the ledger's index decides as looking at all hosts would, and hard groups hold for all in flight."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from kumulus_api import Server
from kumulus_api.server_group import GroupPolicy
from kumulus_api.tenancy import Quota
from kumulus_operator.ledger.fleet import Fleet
from kumulus_operator.ledger.ledger import Ledger
from kumulus_operator.ledger.plan import Request
from kumulus_operator.placement.choice import choose, judge
from kumulus_operator.placement.facts import Amounts, Group, HostFacts, Terms, Weights, Wish
from kumulus_operator.placement.filters import passing

NAMES = [f"h{number}" for number in range(6)]


def make_host(name, total, **overrides):
    """Give the facts of a host."""
    fields = {"fresh": True, "schedulable": True, "maintenance": False, "decommissioned": False, "tunnel": True}
    return HostFacts(name, **(fields | {"ready": True, "total": total} | overrides))


amounts = st.builds(Amounts, st.integers(0, 8), st.integers(0, 8), st.integers(0, 8))
hosts = st.builds(
    make_host,
    st.sampled_from(NAMES),
    amounts,
    ready=st.sampled_from([True, True, True, False]),
    maintenance=st.sampled_from([False, False, True]),
    zones=st.sampled_from([frozenset(), frozenset({"a"}), frozenset({"a", "b"})]),
    traits=st.frozensets(st.sampled_from("XY")),
)
wishes = st.builds(
    Wish,
    st.builds(Amounts, st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)),
    only_host=st.sampled_from([None, None, None, *NAMES]),
    terms=st.builds(
        Terms,
        zone=st.sampled_from([None, None, "a"]),
        required=st.frozensets(st.sampled_from("XY"), max_size=1),
        forbidden=st.frozensets(st.sampled_from("XY"), max_size=1),
    ),
    group=st.none() | st.builds(Group, st.sampled_from("pq"), st.sampled_from(GroupPolicy), st.integers(1, 2)),
)
steps = st.one_of(
    st.tuples(st.just("host"), hosts),
    st.tuples(st.just("gone"), st.sampled_from(NAMES)),
    st.tuples(st.just("silent"), st.frozensets(st.sampled_from(NAMES), max_size=3)),
    st.tuples(st.just("place"), wishes),
    st.tuples(st.just("place"), wishes),
    st.tuples(st.just("free"), st.integers(0, 99)),
)
weights = st.builds(Weights, *[st.sampled_from([-1.0, 0.0, 0.5, 1.0])] * 3)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=40), weights)
def test_the_index_decides_as_a_look_at_all_hosts_does(course, weights):
    """Whatever happened before, the fleet's choice is that of the pure functions."""
    fleet, known, silent, placed = Fleet(weights), {}, frozenset(), []
    crowds = {"p": {}, "q": {}, None: {}}
    for act, what in course:
        match act:
            case "host":
                fleet.put(what)
                known[what.name] = what
            case "gone":
                fleet.drop(what)
                known.pop(what, None)
            case "silent":
                silent = what
            case "free" if placed:
                name, wish, group = placed.pop(what % len(placed))
                fleet.take_back(name, wish.amounts)
                crowds[group][name] -= 1
            case "place":
                group = what.group.name if what.group else None
                crowd = crowds[group] if group else {}
                seen = [
                    make_host(
                        host.name,
                        host.total,
                        fresh=host.name not in silent,
                        ready=host.ready,
                        maintenance=host.maintenance,
                        zones=host.zones,
                        traits=host.traits,
                    )
                    for host in known.values()
                ]
                expected = choose(judge(seen, fleet.used, crowd, what, weights))
                found = fleet.choose(what, crowd, lambda name, silent=silent: name not in silent)
                assert found == expected
                if found is None:
                    counts = fleet.refused(what, crowd, lambda name, silent=silent: name not in silent)
                    assert counts == passing(seen, fleet.used, what, crowd)[1]
                if found is not None:
                    fleet.give(found, what.amounts)
                    crowds[group][found] = crowds[group].get(found, 0) + 1
                    placed.append((found, what, group))


async def test_hard_anti_affinity_holds_for_hundreds_in_flight():
    """Of 400 servers of a group asked for at once, each host gets one and the others are refused."""
    ledger = Ledger(lambda _: Quota(), lambda _: True)
    for number in range(300):
        ledger.host_seen(make_host(f"h{number}", Amounts(64, 64, 64)))
    wish = Wish(Amounts(1, 1, 1), group=Group("web", GroupPolicy.ANTI_AFFINITY))
    task = asyncio.create_task(ledger.run())
    verdicts = await asyncio.gather(*(ledger.admit(Request("demo", f"s{number}", wish)) for number in range(400)))
    task.cancel()
    taken = [verdict for verdict in verdicts if isinstance(verdict, str)]
    assert len(taken) == len(set(taken)) == 300
    ledger.withdraw(("demo", "s0"))
    assert ledger.decide(Request("demo", "again", wish)) == taken[0]


async def test_hard_affinity_holds_for_many_in_flight():
    """Servers of a group that are asked for at once all get the first one's host, until it is full."""
    ledger = Ledger(lambda _: Quota(), lambda _: True)
    for number in range(10):
        ledger.host_seen(make_host(f"h{number}", Amounts(8, 8, 8)))
    wish = Wish(Amounts(1, 1, 1), group=Group("web", GroupPolicy.AFFINITY))
    task = asyncio.create_task(ledger.run())
    verdicts = await asyncio.gather(*(ledger.admit(Request("demo", f"s{number}", wish)) for number in range(12)))
    task.cancel()
    assert [verdict for verdict in verdicts if isinstance(verdict, str)] == ["h0"] * 8
    refusal = verdicts[-1]
    assert "9 without the servers of group web (Affinity), 1 without enough memory" in refusal.message


async def test_groups_of_two_projects_do_not_meet():
    """A group of the same name in another project is another group."""
    ledger = Ledger(lambda _: Quota(), lambda _: True)
    ledger.host_seen(make_host("h1", Amounts(8, 8, 8)))
    wish = Wish(Amounts(1, 1, 1), group=Group("web", GroupPolicy.ANTI_AFFINITY))
    assert ledger.decide(Request("one", "a", wish)) == "h1"
    assert ledger.decide(Request("two", "a", wish)) == "h1"


def test_usage_counts_each_server_once():
    """What a project uses is the sum of what is placed or just being placed, whoever asks how often."""
    told = []
    ledger = Ledger(lambda _: Quota(), lambda _: True, changed=told.append)
    ledger.host_seen(make_host("h1", Amounts(8, 8, 8)))
    for name in ("a", "b", "a"):
        ledger.decide(Request("demo", name, Wish(Amounts(2, 3, 1)), new_ports=frozenset({f"{name}-nic"})))
    usage = ledger.usage("demo")
    assert (usage.servers, usage.vcpus, usage.memory, usage.ports) == (2, 4, 6, 2)
    ledger.withdraw(("demo", "a"))
    usage = ledger.usage("demo")
    assert (usage.servers, usage.vcpus, usage.memory, usage.ports) == (1, 2, 3, 1)
    assert set(told) == {"demo"}


def test_what_was_refused_is_looked_at_again_when_there_may_be_room():
    """The same wish is refused in the same words until a host changes, speaks again, or loses a server."""
    silent = {"h2"}
    ledger = Ledger(lambda _: Quota(), lambda name: name not in silent)
    for name in ("h1", "h2"):
        ledger.host_seen(make_host(name, Amounts(2, 2, 2)))
    wish = Wish(Amounts(2, 2, 2))
    assert ledger.decide(Request("demo", "a", wish)) == "h1"
    first = ledger.decide(Request("demo", "b", wish))
    assert "1 silent, 1 without enough memory" in first.message
    silent.clear()
    assert ledger.decide(Request("demo", "c", wish)) is first
    ledger.more_room()
    assert ledger.decide(Request("demo", "c", wish)) == "h2"
    assert "2 without enough memory" in ledger.decide(Request("demo", "b", wish)).message
    ledger.withdraw(("demo", "a"))
    assert ledger.decide(Request("demo", "b", wish)) == "h1"


def make_placed(name, host, target=None):
    """Give a server of group `web` that is on a host."""
    resources = {"vcpus": 1, "memory": "1", "rootDisk": "1"}
    assignment = {"instanceID": "11111111-2222-4333-8444-555555555555", "host": host, "epoch": 1} | (
        {"target": target} if target else {}
    )
    spec = {"flavor": {"name": "f"}, "image": {"name": "i"}, "placement": {"group": {"name": "web"}}}
    metadata = {"name": name, "namespace": "demo", "uid": name}
    return Server.model_validate(
        {"metadata": metadata, "spec": spec | {"assignment": assignment | {"resources": resources}}}
    )


async def test_a_server_that_moves_keeps_its_groups_policy():
    """Of three hosts two are taken by the group: a member moves to the third, and then nobody else fits anywhere."""
    ledger = Ledger(lambda _: Quota(), lambda _: True)
    for name in ("h1", "h2", "h3"):
        ledger.host_seen(make_host(name, Amounts(8, 8, 8)))
    ledger.server_seen(make_placed("a", "h1"))
    ledger.server_seen(make_placed("b", "h2"))
    wish = Wish(Amounts(1, 1, 1), group=Group("web", GroupPolicy.ANTI_AFFINITY))
    task = asyncio.create_task(ledger.run())
    assert await ledger.move(("demo", "a"), "h1", wish) == "h3"
    assert ledger.used_on("h1") == ledger.used_on("h3") == Amounts(1, 1, 1)
    refusal = await ledger.move(("demo", "b"), "h2", wish)
    assert "1 the host that it leaves, 2 with a server of group web" not in refusal.message
    assert "2 with a server of group web (AntiAffinity), 1 the host that it leaves" in refusal.message
    assert not isinstance(await ledger.admit(Request("demo", "c", wish)), str)
    ledger.server_seen(make_placed("a", "h1", "h3"))
    ledger.server_seen(make_placed("a", "h3"))
    assert await ledger.admit(Request("demo", "c", wish)) == "h1"
    task.cancel()


async def test_a_member_leaves_an_affinity_group_only_alone():
    """A server moves away from an affinity group if it is the only one; with others it has no other host."""
    ledger = Ledger(lambda _: Quota(), lambda _: True)
    for name in ("h1", "h2"):
        ledger.host_seen(make_host(name, Amounts(8, 8, 8)))
    ledger.server_seen(make_placed("a", "h1"))
    wish = Wish(Amounts(1, 1, 1), group=Group("web", GroupPolicy.AFFINITY))
    task = asyncio.create_task(ledger.run())
    assert await ledger.move(("demo", "a"), "h1", wish) == "h2"
    ledger.stay(("demo", "a"))
    assert ledger.used_on("h2") == Amounts()
    ledger.server_seen(make_placed("b", "h1"))
    refusal = await ledger.move(("demo", "a"), "h1", wish)
    assert "1 without the servers of group web (Affinity)" in refusal.message
    task.cancel()
