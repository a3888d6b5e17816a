"""The placement engine alone: 10,000 servers on 1,000 hosts, decided by the ledger without an API server."""

from __future__ import annotations

import random
import time

from kumulus_api.server_group import GroupPolicy
from kumulus_api.tenancy import Quota
from kumulus_operator.ledger.ledger import Ledger
from kumulus_operator.ledger.plan import Request
from kumulus_operator.placement.facts import Amounts, Group, HostFacts, Terms, Wish

HOSTS = 1_000
SERVERS = 10_000
GIB = 2**30
_SIZES = [Amounts(1, GIB, 10 * GIB), Amounts(2, 4 * GIB, 20 * GIB), Amounts(4, 8 * GIB, 40 * GIB)]
_TERMS = [
    Terms(),
    Terms(zone="z1"),
    Terms(required=frozenset({"HW_CPU_X86_AVX2"})),
    Terms(specs=frozenset({("ssd", "true")}), architecture="x86_64"),
]


def make_fleet() -> list[HostFacts]:
    """Give hosts of two sizes in four zones, of which each third has fast disks."""
    return [
        HostFacts(
            f"h{number:04}",
            ready=True,
            fresh=True,
            schedulable=True,
            maintenance=False,
            decommissioned=False,
            tunnel=True,
            total=Amounts(256, (128 if number % 2 else 256) * GIB, 4000 * GIB),
            architecture="x86_64",
            traits=frozenset({"HW_CPU_X86_AVX2"} if number % 5 else ()),
            zones=frozenset({f"z{number % 4}"}),
            metadata={"ssd": frozenset({"true"})} if number % 3 == 0 else {},
        )
        for number in range(HOSTS)
    ]


def make_requests() -> list[Request]:
    """Give servers of all sizes and demands, every tenth in a group of fifty; the order is the same each time."""
    chance = random.Random(1)
    policies = list(GroupPolicy)
    requests = []
    for number in range(SERVERS):
        group = None
        if number % 10 == 0:
            index = number // 500
            # One host has no room for fifty of a hard affinity group, so those are small.
            group = Group(f"g{index}", policies[index % len(policies)])
        size = _SIZES[0] if group else chance.choice(_SIZES)
        wish = Wish(size, terms=chance.choice(_TERMS) if group is None else Terms(), group=group)
        requests.append(Request(f"p{number % 50}" if group is None else "groups", f"s{number}", wish))
    return requests


def decide_all() -> list[float]:
    """Decide on all servers, and give how many seconds each decision took.

    Raises:
        RuntimeError: one was refused, though there is room for all.
    """
    ledger = Ledger(lambda _: Quota(servers=SERVERS, memory="1000Ti"), lambda _: True)
    for host in make_fleet():
        ledger.host_seen(host)
    times = []
    for request in make_requests():
        started = time.perf_counter()
        verdict = ledger.decide(request)
        times.append(time.perf_counter() - started)
        if not isinstance(verdict, str):
            raise RuntimeError(f"{request.name} was refused: {verdict.message}")  # noqa: TRY004 - no programming error
    return times
