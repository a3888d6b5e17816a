"""The ledger and placement: capacity, quota, and exclusive holds."""

import asyncio
import contextlib

import pytest

from kumulus_api import Server
from kumulus_api.tenancy import Quota
from kumulus_operator.ledger.ledger import Ledger
from kumulus_operator.ledger.plan import Request, quota_excess, volume_excess
from kumulus_operator.placement.facts import Amounts, HostFacts, Wish
from kumulus_operator.placement.filters import passing, refusal_text
from kumulus_operator.placement.weigh import best
from kumulus_operator.refusal import Refusal

GIB = 2**30


def make_host(name="h1", **overrides):
    """Give the facts of a host for two servers."""
    facts = {
        "ready": True,
        "fresh": True,
        "schedulable": True,
        "maintenance": False,
        "decommissioned": False,
        "tunnel": True,
        "total": Amounts(8, 2 * GIB, 100 * GIB),
    }
    return HostFacts(name, **(facts | overrides))


def make_request(name, **overrides):
    """Give a request of a small server."""
    fields = {"namespace": "demo", "name": name, "wish": Wish(Amounts(1, GIB, GIB))}
    return Request(**(fields | overrides))


def make_server(name, host="h1", **metadata):
    """Give an assigned server."""
    return Server.model_validate(
        {
            "metadata": {"name": name, "namespace": "demo", "uid": name, **metadata},
            "spec": {
                "flavor": {"name": "small"},
                "image": {"name": "tiny"},
                "assignment": {
                    "instanceID": "11111111-2222-4333-8444-555555555555",
                    "host": host,
                    "epoch": 1,
                    "resources": {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi"},
                },
            },
        }
    )


@contextlib.asynccontextmanager
async def running(hosts, quota=None):
    """Give a ledger whose task runs."""
    fresh = {host.name: host.fresh for host in hosts}
    ledger = Ledger(lambda _: quota or Quota(), lambda name: fresh[name])
    for host in hosts:
        ledger.host_seen(host)
    task = asyncio.create_task(ledger.run())
    try:
        yield ledger
    finally:
        task.cancel()


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"decommissioned": True}, "decommissioned"),
        ({"fresh": False}, "silent"),
        ({"ready": False}, "not Ready"),
        ({"maintenance": True}, "in maintenance"),
        ({"schedulable": False}, "not schedulable"),
        ({"tunnel": False}, "without a tunnel address"),
        ({"total": Amounts(8, GIB - 1, 100 * GIB)}, "without enough memory"),
        ({"total": Amounts(0.5, 2 * GIB, 100 * GIB)}, "without enough vCPUs"),
        ({"total": Amounts(8, 2 * GIB, GIB - 1)}, "without enough disk"),
    ],
)
def test_each_filter_names_its_reason(overrides, why):
    """A host that fails one check is refused with the words of that check."""
    good, refused = passing([make_host(**overrides)], {}, make_request("a").wish)
    assert not good
    assert [(objection.why, count) for objection, count in refused.items()] == [(why, 1)]


def test_the_refusal_counts_hosts_by_reason():
    """The message sums up all hosts, the most frequent reason first."""
    small = Amounts(8, 1, 1)
    hosts = [make_host("a", total=small), make_host("b", total=small), make_host("c", ready=False)]
    _, refused = passing(hosts, {}, make_request("a").wish)
    assert refusal_text(refused) == "no valid host out of 3: 2 without enough memory, 1 not Ready"


def test_servers_spread_by_free_memory():
    """Of equal hosts the one that has given out less is chosen; a tie goes by name."""
    hosts = [make_host("a"), make_host("b")]
    assert best(hosts, {"a": Amounts(memory=1)}).name == "b"
    assert best(hosts, {}).name == "a"
    assert best([], {}) is None


async def test_simultaneous_requests_never_overbook():
    """Of many requests at once only as many are admitted as there is room for."""
    async with running([make_host()]) as ledger:
        verdicts = await asyncio.gather(*(ledger.admit(make_request(f"s{number}")) for number in range(5)))
    assert [verdict for verdict in verdicts if isinstance(verdict, str)] == ["h1", "h1"]
    assert {verdict.reason for verdict in verdicts if isinstance(verdict, Refusal)} == {"NoValidHost"}


async def test_an_assumption_is_counted_once_when_it_is_shown():
    """What was assumed and is then seen takes its room once; when it goes the room is back."""
    async with running([make_host()]) as ledger:
        await ledger.admit(make_request("a"))
        assert ledger.server_seen(make_server("a")) is False
        assert ledger.used_on("h1") == Amounts(1, GIB, GIB)
        ledger.withdraw(("demo", "a"))
        assert ledger.used_on("h1") == Amounts(1, GIB, GIB)
        assert ledger.server_gone(("demo", "a"))
        assert ledger.used_on("h1") == Amounts()


async def test_a_withdrawn_assumption_frees_its_room_and_ports():
    """A decision that could not be carried out leaves nothing behind."""
    async with running([make_host()], Quota(ports=1)) as ledger:
        assert await ledger.admit(make_request("a", new_ports=frozenset({"a-nic"}))) == "h1"
        ledger.withdraw(("demo", "a"))
        assert await ledger.admit(make_request("b", new_ports=frozenset({"b-nic"}))) == "h1"


async def test_a_volume_or_port_has_one_holder():
    """Two servers that want the same volume at once: one gets it, the other is told who has it."""
    hold = frozenset({("Volume", "demo", "data")})
    async with running([make_host()]) as ledger:
        first, second = await asyncio.gather(*(ledger.admit(make_request(name, holds=hold)) for name in "ab"))
        assert first == "h1"
        assert isinstance(second, Refusal)
        assert second.reason == "VolumeInUse"
        ledger.server_gone(("demo", "a"))
        assert await ledger.admit(make_request("b", holds=hold)) == "h1"


async def test_an_adopted_instance_is_never_refused_for_room():
    """What runs already is counted, though it exceeds capacity and quota."""
    async with running([], Quota(servers=0)) as ledger:
        assert await ledger.admit(make_request("a", adopted_host="h9")) == "h9"
        assert ledger.used_on("h9").memory == GIB


@pytest.mark.parametrize(
    ("quota", "word"),
    [
        (Quota(servers=0), "servers"),
        (Quota(vcpus=0), "vCPUs"),
        (Quota(memory="512Mi"), "memory"),
        (Quota(ports=0), "ports"),
    ],
)
async def test_each_quota_refuses(quota, word):
    """A server that exceeds one limit is refused with that limit, and waits for the project's quota."""
    async with running([make_host()], quota) as ledger:
        verdict = await ledger.admit(make_request("a", new_ports=frozenset({"a-nic"})))
    assert isinstance(verdict, Refusal)
    assert verdict.reason == "QuotaExceeded"
    assert word in verdict.message
    assert ("Quota", "demo", "") in verdict.needs


def test_no_quota_is_no_limit():
    """What is not given is not limited."""
    request = make_request("a", wish=Wish(Amounts(1e6, 1e18, 1e18)))
    async_usage = Ledger(lambda _: Quota(), lambda _: True).usage("demo")
    assert quota_excess(request, async_usage, Quota()) is None
    assert volume_excess(2**60, 10**6, 2**60, Quota()) is None
    assert volume_excess(1, 0, GIB, Quota(gigabytes=1)) is not None
