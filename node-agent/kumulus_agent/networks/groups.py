"""The security groups that ports on this host are in: each is watched while one is, and read as rules.

Of the groups that rules speak of nothing is watched: their members' addresses stand in NetworkEndpoints.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final, Literal

import structlog

from kumulus_agent.network.groups import ICMP, Direction, GroupKey, GroupRule
from kumulus_api import SecurityGroup
from kumulus_api.security_group import EtherType, Protocol, SecurityGroupRule
from kumulus_runtime.api_client import KubeClient

_log = structlog.stdlib.get_logger(__name__)
_NUMBERS: Final = {
    Protocol.TCP: 6,
    Protocol.UDP: 17,
    Protocol.DCCP: 33,
    Protocol.SCTP: 132,
    Protocol.UDPLITE: 136,
}

Rules = frozenset[GroupRule]


def read_rules(group: SecurityGroup) -> Rules:
    """Give a group's rules as the datapath has them."""
    return frozenset(
        [*_read(group, "ingress", group.spec.ingress), *_read(group, "egress", group.spec.egress)],
    )


def _read(group: SecurityGroup, direction: Direction, rules: list[SecurityGroupRule]) -> Iterator[GroupRule]:
    for rule in rules:
        family: Literal[4, 6] = 6 if rule.ether_type is EtherType.IPV6 else 4
        remote: IPv4Network | IPv6Network | GroupKey | None = None
        if rule.remote_group is not None:
            remote = (group.key[0], rule.remote_group.name)
        elif rule.remote_cidr is not None:
            remote = ip_network(rule.remote_cidr)
        yield GroupRule(
            direction,
            _number(rule, family),
            (rule.port, rule.end_port or rule.port) if rule.port is not None else None,
            (rule.icmp_type, rule.icmp_code) if rule.icmp_type is not None else None,
            remote,
            family,
            group.spec.stateful,
        )


def _number(rule: SecurityGroupRule, family: Literal[4, 6]) -> int | None:
    if rule.protocol is Protocol.ICMP:
        return ICMP[family]
    return _NUMBERS[rule.protocol] if rule.protocol is not None else rule.protocol_number


@dataclass
class _Watched:
    """What is known of a group."""

    watch: asyncio.Task[None] | None = None
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    rules: Rules | None = None


class WatchedGroups:
    """The rules of some groups, as the API says them now.

    A group that is not there, or was not read yet, is in no answer: a port that is in it alone takes and makes no
    connection. One that has left the watch keeps its rules: its ports have left it, or it comes again.

    Args:
        client: to reach the API server.
        changed: is told of a group whose rules are others now.
    """

    def __init__(self, client: KubeClient, changed: Callable[[GroupKey], None]) -> None:
        self._client = client
        self._changed = changed
        self._watched: dict[GroupKey, _Watched] = {}
        self._given: dict[GroupKey, Rules] = {}
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def rules(self) -> dict[GroupKey, Rules]:
        """The rules of the groups that were read."""
        read = {key: found.rules for key, found in self._watched.items() if found.rules is not None}
        return read | self._given

    def give(self, rules: Mapping[GroupKey, Rules]) -> None:
        """Take the rules of groups that are no objects: these have no namespace, and go when nobody follows them."""
        for key, said in rules.items():
            if self._given.get(key) != said:
                self._given[key] = said
                self._changed(key)

    def follow(self, keys: Collection[GroupKey]) -> None:
        """Watch these groups and no others, as far as they are objects."""
        self._given = {key: said for key, said in self._given.items() if key in keys}
        keys = {key for key in keys if key[0]}
        for key in self._watched.keys() - keys:
            watch = self._watched.pop(key).watch
            if watch is not None:
                self._ending.add(watch)
                watch.add_done_callback(self._ending.discard)
                watch.cancel()
        for key in sorted(keys - self._watched.keys()):
            found = self._watched[key] = _Watched()
            found.watch = asyncio.create_task(self._follow(key, found), name=f"watch-group-{key[0]}-{key[1]}")

    async def read(self, keys: Collection[GroupKey]) -> None:
        """Wait until the API has said what it knows of these groups, as far as they are followed."""
        for found in [self._watched[key] for key in sorted(keys) if key in self._watched]:
            await found.synced.wait()

    async def close(self) -> None:
        """Stop watching."""
        self.follow(())
        for task in tuple(self._ending):
            with suppress(asyncio.CancelledError):
                await task

    async def _follow(self, key: GroupKey, found: _Watched) -> None:
        namespace, name = key
        events = self._client.watch(SecurityGroup, namespace=namespace, field_selector=f"metadata.name={name}")
        async for event, body in events:
            if event == "SYNCED":
                found.synced.set()
                self._changed(key)
            elif event != "DELETED":
                self._take(key, found, body)

    def _take(self, key: GroupKey, found: _Watched, body: dict[str, Any]) -> None:
        try:
            rules = read_rules(SecurityGroup.model_validate(body))
        except ValueError as error:  # made under another version's schema
            _log.error("a security group cannot be read", namespace=key[0], name=key[1], error=str(error))
            return
        if rules != found.rules:
            found.rules = rules
            if found.synced.is_set():
                self._changed(key)
