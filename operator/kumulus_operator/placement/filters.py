"""Filters: named checks, each a pure function; the first that fails names the host's refusal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from kumulus_operator.placement.facts import Amounts, HostFacts, Wish

Filter = Callable[[HostFacts, Amounts, Wish], str | None]
"""Takes a host, what is free on it and the wish; gives why not, or None."""


def existing(host: HostFacts, _free: Amounts, _wish: Wish) -> str | None:
    """A decommissioned host never returns."""
    return "decommissioned" if host.decommissioned else None


def wanted(host: HostFacts, _free: Amounts, wish: Wish) -> str | None:
    """A server that is bound to a host fits nowhere else."""
    if wish.only_host is None or wish.only_host == host.name:
        return None
    return f"not the host {wish.only_host} ({wish.only_reason})"


def speaking(host: HostFacts, _free: Amounts, _wish: Wish) -> str | None:
    """A host whose Lease is not renewed may be dead."""
    return None if host.fresh else "silent"


def healthy(host: HostFacts, _free: Amounts, _wish: Wish) -> str | None:
    """A host says itself whether it can run guests."""
    return None if host.ready else "not Ready"


def open_to_new(host: HostFacts, _free: Amounts, _wish: Wish) -> str | None:
    """Administrators keep servers away from a host."""
    if host.maintenance:
        return "in maintenance"
    return None if host.schedulable else "not schedulable"


def reachable(host: HostFacts, _free: Amounts, _wish: Wish) -> str | None:
    """Without a tunnel address other hosts cannot send to it."""
    return None if host.tunnel else "without a tunnel address"


def enough_memory(_host: HostFacts, free: Amounts, wish: Wish) -> str | None:
    """Memory is needed at once."""
    return None if wish.amounts.memory <= free.memory else "without enough memory"


def enough_vcpus(_host: HostFacts, free: Amounts, wish: Wish) -> str | None:
    """VCPUs are shared up to the overcommit ratio."""
    return None if wish.amounts.vcpus <= free.vcpus else "without enough vCPUs"


def enough_disk(_host: HostFacts, free: Amounts, wish: Wish) -> str | None:
    """Disks grow to their full size one day."""
    return None if wish.amounts.disk <= free.disk else "without enough disk"


FILTERS: tuple[Filter, ...] = (
    existing,
    wanted,
    speaking,
    healthy,
    open_to_new,
    reachable,
    enough_memory,
    enough_vcpus,
    enough_disk,
)


def passing(
    hosts: Iterable[HostFacts], used: Mapping[str, Amounts], wish: Wish
) -> tuple[list[HostFacts], Counter[str]]:
    """Split hosts into those that pass, and counts of why the others do not."""
    good: list[HostFacts] = []
    refused: Counter[str] = Counter()
    for host in hosts:
        free = host.total.minus(used.get(host.name, Amounts()))
        reason = next((why for check in FILTERS if (why := check(host, free, wish))), None)
        if reason is None:
            good.append(host)
        else:
            refused[reason] += 1
    return good, refused


def refusal_text(refused: Counter[str]) -> str:
    """Give a sentence such as `no valid host out of 3: 2 without enough memory, 1 not Ready`."""
    total = refused.total()
    if not total:
        return "no valid host: there is no Host yet"
    parts = ", ".join(f"{count} {why}" for why, count in sorted(refused.items(), key=lambda item: (-item[1], item[0])))
    return f"no valid host out of {total}: {parts}"
